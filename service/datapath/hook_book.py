"""What became of our programs on the node's devices, for status; and which pods' devices are not touched yet. Pure."""

from collections.abc import Collection, Iterable

from service.network.hook import Attachment, HookKind

SETTLE_S = 2.0
"""How long a CNI may be at work on a new device; its plugins run one after the other in well under a second."""


class HookBook:
    """Per device: the kind of its hook, or why it has none, and whose programs run before ours."""

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[str, HookKind]] = {}
        self._refused: dict[int, tuple[str, str]] = {}
        self._overtaken: dict[int, str] = {}

    def attached(self, ifindex: int, name: str, kind: HookKind) -> None:
        """Ours are on the device."""
        self._kinds[ifindex] = name, kind
        self._refused.pop(ifindex, None)

    def refuse(self, ifindex: int, name: str, reason: str) -> bool:
        """Ours are not all on the device. False where that was so before: it has been told."""
        is_news = ifindex not in self._refused
        self._refused[ifindex] = name, reason
        self._kinds.pop(ifindex, None)
        return is_news

    def look(self, ifindex: int, name: str, found: Iterable[Attachment]) -> None:
        """What a check has found there."""
        before = [f"{item.direction} by {item.overtaken_by}" for item in found if item.overtaken_by]
        self._overtaken.pop(ifindex, None)
        if before:
            self._overtaken[ifindex] = f"{name}: programs of others run before ours ({', '.join(before)})"

    def keep(self, ifindexes: Collection[int]) -> None:
        """Forget all other devices: they are gone."""
        for known in (self._kinds, self._refused, self._overtaken):
            for gone in known.keys() - set(ifindexes):
                del known[gone]

    def kinds(self) -> dict[str, str]:
        """The kind of hook by name of device."""
        return {name: kind.value for name, kind in sorted(self._kinds.values())}

    def troubles(self) -> list[str]:
        """A line for each device that has not all of ours, and for each where others may take packets from them."""
        refused = [f"cannot attach to {name}: {reason}" for name, reason in sorted(self._refused.values())]
        return refused + sorted(self._overtaken.values())


class Newcomers:
    """Pods' devices on which a CNI may be at work still (rule W13).

    Without tcx a device has room for one owner's qdisc: where ours is first, the bandwidth plugin fails, and with it
    the start of the pod. A pod that is known has been through its CNI.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] | None = None

    def settled(self, ifindexes: Collection[int], occupied: Collection[int], *, now: float) -> set[int]:
        """Which of these may be touched. `now` in seconds; what the first call names was there before us."""
        if self._since is None:
            self._since = dict.fromkeys(ifindexes, now - SETTLE_S)
        self._since = {index: self._since.get(index, now) for index in ifindexes}
        return {index for index, since in self._since.items() if index in occupied or now - since >= SETTLE_S}
