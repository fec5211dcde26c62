"""Our programs on a device's hooks, of whatever kind (rule W13): attached, replaced, moved to another kind, removed.

Moving to another kind, after an upgrade or a change of the setting, puts the new one in place before the old one goes:
for a moment a packet meets both, which is the same as one of them, and at no moment none. Synchronous: called in the
thread of the IPRoute socket.
"""

from typing import Any

from service.network.hook import DIRECTIONS, Attachment, Direction, HookKind, Occupancy, choose_hook
from service.network.tcx import TcxLinks, has_tcx
from service.network.traffic_control import (
    attach_filter,
    detach_filter,
    read_filters,
    read_occupancy,
    read_shared_qdiscs,
)


class Attachments:
    """`links` None: filters only."""

    def __init__(self, links: TcxLinks | None, *, wants_tcx: bool = True) -> None:
        """Without `wants_tcx`, links that are there are found and replaced by filters."""
        self._links = links
        self._wants_tcx = wants_tcx
        self.has_tcx = False
        """As of the last `look_around`."""
        self._filtered: frozenset[int] = frozenset()

    def look_around(self, ipr: Any) -> None:
        """Find out what the kernel has, and where a former agent may have left filters."""
        self.has_tcx = self._links is not None and self._wants_tcx and has_tcx()
        self._filtered = frozenset(read_shared_qdiscs(ipr)) if self.has_tcx else frozenset()

    def attach(self, ipr: Any, ifindex: int, direction: Direction, program_fd: int, name: str) -> HookKind:
        """Attach, or replace what we had there, without a gap. Raises TransientError where no hook sees all packets."""
        # On tcx it makes no difference who else is there: that spares a look at all qdiscs of the node.
        occupancy = Occupancy() if self.has_tcx else read_occupancy(ipr, ifindex, direction)
        kind = choose_hook(direction, occupancy, has_tcx=self.has_tcx)
        if self._links is not None and kind is HookKind.TCX:
            self._links.attach(ifindex, direction, program_fd)
            if ifindex in self._filtered:
                detach_filter(ipr, ifindex, direction)
            return kind
        if kind is HookKind.IFB:
            self._attach_behind(ipr, occupancy.redirect, program_fd, name)
        else:
            attach_filter(ipr, (ifindex, direction), occupancy.qdisc, program_fd, name)
        if self._links is not None:
            self._links.detach(ifindex, direction)
        return kind

    def _attach_behind(self, ipr: Any, ifindex: int, program_fd: int, name: str) -> None:
        occupancy = read_occupancy(ipr, ifindex, "egress")
        choose_hook("egress", occupancy, has_tcx=False)
        attach_filter(ipr, (ifindex, "egress"), occupancy.qdisc, program_fd, name)

    def detach(self, ipr: Any, ifindex: int, direction: Direction) -> bool:
        """Remove ours, of every kind, and nothing else; False where there was none."""
        had_link = self._links is not None and self._links.detach(ifindex, direction)
        return detach_filter(ipr, ifindex, direction) or had_link

    def read_attachments(self, ipr: Any, ifindex: int) -> tuple[Attachment, ...]:
        """Our programs on the hooks that they would get now."""
        if self._links is None or not self.has_tcx:
            return tuple(Attachment(direction, kind) for direction, kind in read_filters(ipr, ifindex).items())
        before = {direction: self._links.others_before(ifindex, direction) for direction in DIRECTIONS}
        return tuple(Attachment(side, HookKind.TCX, count) for side, count in before.items() if count is not None)

    def sweep_links(self, ipr: Any) -> None:
        """Forget links of devices that are gone."""
        if self._links is not None:
            self._links.sweep()

    def clear_links(self, ipr: Any) -> None:
        """Take away every link that is left."""
        if self._links is not None:
            self._links.clear()
