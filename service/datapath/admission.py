"""Which rule sets and pods are in the maps: each whole, or not at all (rule I1).

By half of a rule set a pod would get the address of a shorter prefix, which is a wrong one. So a set is written only
where all of it fits, and pods are steered only by sets that are whole in the kernel. And
a set that nobody wants any more stays until no row in the kernel can name it. A pod of this node needs two rows, and of
two pods that have one each, none is served.

What changes costs in proportion to itself: of the other sets nothing is asked, unless there is no room for all of them.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol

from service.datapath import desired, layout
from service.datapath.desired import Rows
from service.datapath.layout import MapName
from service.datapath.worker_pool import Wishes
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

    def take_news(self, name: str) -> Collection[bytes] | None:
        """Keys for which the above may be otherwise than at the last call; None: any."""

    def is_settled(self, name: str) -> bool:
        """All that can be written of this map is written."""

    def waiting(self) -> dict[str, dict[bytes, str]]:
        """By map, the keys that the kernel refuses, and why."""

    def room(self, name: str) -> int:
        """How many entries the map takes."""

    def wanted(self, name: str) -> Mapping[bytes, bytes]:
        """What the map shall contain."""


@dataclass(slots=True)
class Admitted:
    """What a call of `admit` has changed."""

    rows: Wishes = field(default_factory=dict)
    """Of `rules`."""
    turned: dict[int, None] = field(default_factory=dict)
    """Sets that became whole in the kernel, or are not any more."""
    sets: dict[int, RuleSet | None] = field(default_factory=dict)
    """Sets that rows in the kernel may name from now on; None: not any more."""


@dataclass(slots=True)
class _Entry:
    rule_set: RuleSet
    rows: Rows
    is_present: bool = False
    """All of its rows are in the kernel."""


class Admission:
    """Say what is wanted, then `admit`. What this says is as of the last `admit` and `admit_pods`."""

    def __init__(self) -> None:
        self.whole: set[int] = set()
        """Sets all of whose rows are in the kernel."""
        self.unfit: frozenset[int] = frozenset()
        """Wanted sets for which the map has no room."""
        self.unfit_pods: frozenset[IPv4Address] = frozenset()
        """Selected pods of this node for which there is no room."""
        self._entries: dict[int, _Entry] = {}
        """Of sets that are wanted or retiring."""
        self._size = 0
        """Rows of all of them."""
        self._retiring: dict[int, bool] = {}
        """Sets that nobody wants any more, and whether they were so at the last `admit`."""
        self._admitted: dict[int, Rows] = {}
        """What is wished for of each set that fits."""
        self._moved: dict[int, None] = {}
        """Sets that came, went or changed."""
        self._room = 0
        self._is_tight = False
        """Not all of them found room at the last `admit`."""

    def want(self, identity: int, rule_set: RuleSet | None) -> None:
        """Have a set in the kernel; None: nobody wants it any more, and it goes as soon as nothing can name it."""
        known = self._entries.get(identity)
        if rule_set is None:
            if known is not None and identity not in self._retiring:
                self._retiring[identity], self._moved[identity] = False, None
            return
        if self._retiring.pop(identity, None) is not None:
            self._moved[identity] = None
        # A name is of contents; but of an inherited set only that is known which had come into the kernel.
        if known is None or known.rule_set != rule_set:
            self._put(identity, _Entry(rule_set, desired.rule_rows(rule_set)))

    def admit(self, maps: MapView) -> Admitted:
        """Sets that are in the kernel come first, then in the order in which they were wanted, while they fit."""
        self._retire(maps)
        admitted = Admitted(sets={identity: self._rule_set(identity) for identity in self._moved})
        moved, self._moved = self._moved | dict.fromkeys(self._look(maps)), {}
        room, fit = maps.room(MapName.RULES), frozenset(moved)
        if self._size > room or self._is_tight:
            # Where there is no room for all of them, each may depend on every other one.
            if not moved and room == self._room:
                return admitted
            moved, fit = dict.fromkeys((*self._admitted, *self._entries)), frozenset(self._fitting(room))
            self._tell(frozenset(self._entries.keys() - fit - self._retiring.keys()), room)
        self._room, self._is_tight = room, self._size > room
        for identity in moved:
            self._admit(identity, self._entries.get(identity) if identity in fit else None, admitted)
        return admitted

    def sets(self) -> Collection[RuleSet]:
        """Those that rows in the kernel may name: what was wanted at the last `admit`, and what retires."""
        return [entry.rule_set for entry in self._entries.values()]

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

    def _put(self, identity: int, entry: _Entry | None) -> None:
        former = self._entries.get(identity)
        if entry is not None:
            self._entries[identity] = entry
        else:
            self._entries.pop(identity, None)
        self._size += (len(entry.rows) if entry is not None else 0) - (len(former.rows) if former is not None else 0)
        self._moved[identity] = None

    def _rule_set(self, identity: int) -> RuleSet | None:
        entry = self._entries.get(identity)
        return entry.rule_set if entry is not None else None

    def _retire(self, maps: MapView) -> None:
        if not self._retiring:
            return
        is_settled = maps.is_settled(MapName.SELECTED)
        for identity, is_over in tuple(self._retiring.items()):
            # What is let go now may still be named by rows that are written with this very content.
            if is_over and is_settled:
                del self._retiring[identity]
                self._put(identity, None)
            else:
                self._retiring[identity] = True

    def _look(self, maps: MapView) -> list[int]:
        """Which sets are in the kernel now; those of which that is news."""
        news = maps.take_news(MapName.RULES)
        looked: Iterable[int] = self._entries if news is None else self._concerned(news)
        changed = []
        for identity in tuple(looked):
            entry = self._entries[identity]
            is_present = maps.contains(MapName.RULES, entry.rows)
            if is_present != entry.is_present:
                entry.is_present = is_present
                changed.append(identity)
        return changed

    def _concerned(self, news: Collection[bytes]) -> dict[int, None]:
        found = dict.fromkeys(layout.rule_set_of(key) for key in news) | self._moved
        return {identity: None for identity in found if identity in self._entries}

    def _fitting(self, room: int) -> dict[int, None]:
        present = {identity: entry for identity, entry in self._entries.items() if entry.is_present}
        fit, taken = dict[int, None](), 0
        for identity, entry in (present | self._entries).items():
            if taken + len(entry.rows) <= room:
                fit[identity] = None
                taken += len(entry.rows)
        return fit

    def _admit(self, identity: int, entry: _Entry | None, admitted: Admitted) -> None:
        former, rows = self._admitted.get(identity, {}), entry.rows if entry is not None else {}
        if rows is not former:
            admitted.rows |= dict.fromkeys(key for key in former if key not in rows)
            admitted.rows |= rows
        if entry is not None:
            self._admitted[identity] = rows
        else:
            self._admitted.pop(identity, None)
        is_whole = entry is not None and entry.is_present
        if is_whole != (identity in self.whole):
            admitted.turned[identity] = None
            (self.whole.add if is_whole else self.whole.discard)(identity)

    def _tell(self, unfit: frozenset[int], room: int) -> None:
        if unfit - self.unfit:
            _log.warning("map rules has room for %d entries: %d rule sets do not fit", room, len(unfit))
        self.unfit = unfit

    # -- the review --

    def ids(self) -> tuple[int, ...]:
        """Of all sets that are wanted or retire."""
        return tuple(self._entries)

    def compare(self, ids: Iterable[int], maps: MapView) -> tuple[int, Wishes]:
        """How many of these sets are wished for otherwise than they should be, or are not whole in the kernel though
        they count as such; and what puts the wishes right. Right after an `admit`."""
        wanted, wrong, wishes = maps.wanted(MapName.RULES), 0, Wishes()
        for identity in ids:
            rows, entry = self._admitted.get(identity, {}), self._entries.get(identity)
            is_wished = rows.items() <= wanted.items()
            if not is_wished:
                wishes |= {key: value for key, value in rows.items() if wanted.get(key) != value}
            is_present = entry is not None and maps.contains(MapName.RULES, entry.rows)
            if entry is not None and entry.is_present != is_present:
                # It is looked at anew at the next `admit`.
                self._moved[identity] = None
            wrong += not is_wished or (identity in self.whole and not is_present)
        return wrong, wishes

    def compare_keys(self, keys: Iterable[bytes], maps: MapView) -> Wishes:
        """Those that are wished for and should not be, to be absent."""
        wanted = maps.wanted(MapName.RULES)
        return {
            key: None for key in keys if key in wanted and key not in self._admitted.get(layout.rule_set_of(key), ())
        }
