"""Which rule sets and pods are in the maps: each whole, or not at all (rule C1).

By half of a rule set a pod would get the address of a shorter prefix, which is a wrong one. So a set is written only
where all of it fits, and pods are steered only by sets that are whole in the kernel. And
a set that nobody wants any more stays until no row in the kernel can name it. A pod of this node needs two rows, and of
two pods that have one each, none is served.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Protocol

from service.datapath import desired, layout
from service.datapath.desired import Rows
from service.datapath.layout import MapName
from service.policy.rule_set import RuleSet

_log = logging.getLogger(__name__)

POD_ROWS = 2
"""Of the `selected` map, for each pod: with its device, which may still be looked for, and with none."""


class MapView(Protocol):
    """What is known of the maps in the kernel."""

    def contains(self, name: str, rows: Mapping[bytes, bytes]) -> bool:
        """All of these rows are in the kernel."""

    def has(self, name: str, key: bytes) -> bool:
        """The kernel has a row for `key`, whichever."""

    def is_settled(self, name: str) -> bool:
        """All that can be written of this map is written."""

    def waiting(self) -> dict[str, dict[bytes, str]]:
        """By map, the keys that the kernel refuses, and why."""

    def room(self, name: str) -> int:
        """How many entries the map takes."""


class Admission:
    """Remembers which sets were wanted at the last time. What it says is as of the last `admit` and `admit_pods`."""

    def __init__(self) -> None:
        self.whole: frozenset[int] = frozenset()
        """Sets all of whose rows are in the kernel."""
        self.unfit: frozenset[int] = frozenset()
        """Wanted sets for which the map has no room."""
        self.unfit_pods: frozenset[IPv4Address] = frozenset()
        """Selected pods of this node for which there is no room."""
        self._sets: dict[int, RuleSet] = {}
        """Those that are wanted or retiring."""
        self._rows: dict[int, Rows] = {}
        """Of each of them."""
        self._retiring: frozenset[int] = frozenset()

    def admit(self, wanted: Mapping[int, RuleSet], maps: MapView) -> Rows:
        """The content of `rules`. Sets that are in the kernel come first, then in the order given, while they fit."""
        self._retire(frozenset(wanted), maps)
        for identity, rule_set in wanted.items():
            # A name is of contents; but of an inherited set only that is known which had come into the kernel.
            if self._sets.get(identity) != rule_set:
                self._sets[identity], self._rows[identity] = rule_set, desired.rule_rows(rule_set)
        present = {identity: rows for identity, rows in self._rows.items() if maps.contains(MapName.RULES, rows)}
        admitted, room, left_out = Rows(), maps.room(MapName.RULES), set()
        for identity, rows in (present | self._rows).items():
            if len(admitted) + len(rows) <= room:
                admitted |= rows
            else:
                left_out.add(identity)
        self.whole = frozenset(present) - left_out
        self._tell(frozenset(left_out & wanted.keys()), room)
        return admitted

    def sets(self) -> Collection[RuleSet]:
        """Those that rows in the kernel may name: what was wanted at the last `admit`, and what retires."""
        return self._sets.values()

    def admit_pods(self, pods: Iterable[IPv4Address], maps: MapView) -> tuple[IPv4Address, ...]:
        """Those that get their rows: pods that have one come first, then in the order given, while they fit."""
        room = maps.room(MapName.SELECTED) // POD_ROWS
        # The sort is stable.
        known = sorted(pods, key=lambda pod_ip: not maps.has(MapName.SELECTED, layout.selected_key(pod_ip, 0)))
        unfit = frozenset(known[room:])
        if unfit - self.unfit_pods:
            _log.warning("map selected has room for %d pods: %d do not fit", room, len(unfit))
        self.unfit_pods = unfit
        return tuple(known[:room])

    def _retire(self, wanted: frozenset[int], maps: MapView) -> None:
        is_settled = maps.is_settled(MapName.SELECTED)
        gone = self._rows.keys() - wanted
        # What is let go now may still be named by rows that are written with this very content.
        over = gone & self._retiring if is_settled else set[int]()
        self._retiring = frozenset(gone - over)
        for identity in over:
            del self._sets[identity], self._rows[identity]

    def _tell(self, unfit: frozenset[int], room: int) -> None:
        if unfit - self.unfit:
            _log.warning("map rules has room for %d entries: %d rule sets do not fit", room, len(unfit))
        self.unfit = unfit
