"""Which policies decide in another's place, for pods that both select. Pure and incremental.

The rule is the datapath's (`prefix`): of a pod's policies the longest prefix counts, of equal prefixes the older
policy's, and what a policy excludes is not its business. A policy is overlapped where, for some pod of its own, a
destination that it lists and does not exclude goes by another policy. It follows from the combination of policies
alone, of which real clusters have a handful, however many pods and policies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from ipaddress import IPv4Network

from service.model.objects import EgressPolicy, ObjectKey
from service.policy.prefix import Prefix, decider, prefixes_of

NAMES_MAX = 3
"""So many of the others are named; that there are more is said."""
_KEPT = NAMES_MAX + 2
"""Of each prefix: one of them may be the policy itself, and one says that there are more."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What others decide of one policy. Empty `by`: nothing."""

    by: tuple[str, ...] = ()
    """Names of policies that decide for some of its pods and destinations: the first NAMES_MAX in order of name."""
    has_more: bool = False
    is_whole: bool = False
    """It decides nothing at all: of each of its pods, every destination that it lists goes by others."""


NO_OVERLAP = Overlap()


@dataclass(slots=True)
class _Area:
    """One prefix of a combination, with what lies within it."""

    prefix: Prefix
    end: int = 0
    """Place of the first prefix behind those that lie within it."""
    covered: int = 0
    """Addresses within it that longer prefixes take."""
    winner: int | None = None
    """Who decides for the others; None where there are none, or nobody does."""


def find_overlaps(policies: Sequence[EgressPolicy]) -> dict[ObjectKey, Overlap]:
    """Return the overlapped ones of the policies that one pod has, given in precedence order.

    The work is that of sorting their destinations, and a look at what lies within those of each set of exclusions.
    """
    if len(policies) < 2:
        return {}
    areas = _areas(prefixes_of(policies))
    listed: list[list[int]] = [[] for _ in policies]
    for place, area in enumerate(areas):
        for owner in area.prefix.owners:
            listed[owner].append(place)
    names = [policy.key.name for policy in policies]
    by: list[dict[str, None]] = [{} for _ in policies]
    for members in _alike(policies):
        places = sorted({place for member in members for place in listed[member]})
        _collect(areas, places, members, names, by)
    decides = {area.winner for area in areas}
    found = {}
    for position, policy in enumerate(policies):
        others = [name for name in by[position] if name != names[position]]
        if others:
            found[policy.key] = Overlap(tuple(others[:NAMES_MAX]), len(others) > NAMES_MAX, position not in decides)
    return found


def _areas(prefixes: Sequence[Prefix]) -> list[_Area]:
    """In the order given, which is each before those within it."""
    areas = [_Area(prefix) for prefix in prefixes]
    within: list[_Area] = []
    path: list[Prefix] = []

    def close(place: int) -> None:
        area = within.pop()
        area.end = place
        if area.covered < area.prefix.size:
            area.winner = decider(path)
        path.pop()
        if within:
            within[-1].covered += area.prefix.size

    for place, area in enumerate(areas):
        while path and path[-1].end <= area.prefix.first:
            close(place)
        within.append(area)
        path.append(area.prefix)
    while path:
        close(len(areas))
    return areas


def _alike(policies: Sequence[EgressPolicy]) -> Iterable[frozenset[int]]:
    """Positions of policies that exclude the same: of what lies within a destination, the same goes up to each."""
    found: dict[tuple[IPv4Network, ...], list[int]] = {}
    for position, policy in enumerate(policies):
        found.setdefault(policy.excluded, []).append(position)
    return map(frozenset, found.values())


def _collect(
    areas: Sequence[_Area],
    places: Sequence[int],
    members: frozenset[int],
    names: Sequence[str],
    by: list[dict[str, None]],
) -> None:
    """Note for each of `members`, which exclude the same, who decides within its destinations, which are `places`."""
    done = 0
    for place in places:
        # What lies within another one has been looked at with that.
        if place >= done:
            done = areas[place].end
            _collect_within(areas, place, members, names, by)


def _collect_within(
    areas: Sequence[_Area], top: int, members: frozenset[int], names: Sequence[str], by: list[dict[str, None]]
) -> None:
    deciders: dict[int, dict[str, None]] = {}
    within: list[int] = []

    def close() -> None:
        place = within.pop()
        area, found = areas[place], deciders.pop(place)
        if area.winner is not None:
            found[names[area.winner]] = None
        found = _few(found)
        for owner in area.prefix.owners:
            if owner in members:
                by[owner] = _few(by[owner] | found)
        # What they exclude is not their business, but where they name it again.
        if within and members.isdisjoint(area.prefix.excluders):
            deciders[within[-1]] |= found

    for place in range(top, areas[top].end):
        while within and areas[within[-1]].end <= place:
            close()
        within.append(place)
        deciders[place] = {}
    while within:
        close()


def _few(names: dict[str, None]) -> dict[str, None]:
    return dict.fromkeys(nsmallest(_KEPT, names))


@dataclass(slots=True)
class _Tally:
    """Of one policy, over all combinations that it is part of."""

    combinations: int = 0
    whole: int = 0
    """In how many of them it decides nothing."""
    by: dict[str, int] = field(default_factory=dict)
    """Who decides in its place -> in how many combinations."""
    more: int = 0


class OverlapIndex:
    """(Rule V5.) Kept for the combinations that pods have. A pod more of a known combination costs nothing."""

    def __init__(self) -> None:
        self._pods: dict[tuple[int, ...], int] = {}
        """Combination, by content names -> how many pods have it."""
        self._members: dict[tuple[int, ...], tuple[ObjectKey, ...]] = {}
        self._found: dict[tuple[int, ...], dict[ObjectKey, Overlap]] = {}
        self._tallies: dict[ObjectKey, _Tally] = {}

    def of(self, policy: ObjectKey) -> Overlap:
        """What others decide of a policy now."""
        tally = self._tallies.get(policy)
        if tally is None or not tally.by:
            return NO_OVERLAP
        names = tuple(nsmallest(NAMES_MAX, tally.by))
        has_more = tally.more > 0 or len(tally.by) > NAMES_MAX
        return Overlap(names, has_more, tally.whole == tally.combinations)

    def add(self, combination: tuple[int, ...], policies: Sequence[EgressPolicy]) -> tuple[ObjectKey, ...]:
        """A pod has this combination from now on; return the policies of which another overlap may be told."""
        self._pods[combination] = self._pods.get(combination, 0) + 1
        if self._pods[combination] > 1:
            return ()
        self._members[combination] = tuple(policy.key for policy in policies)
        self._found[combination] = find_overlaps(policies)
        return self._count(combination, 1)

    def remove(self, combination: tuple[int, ...]) -> tuple[ObjectKey, ...]:
        """A pod has it no longer; return the policies of which another overlap may be told."""
        self._pods[combination] -= 1
        if self._pods[combination]:
            return ()
        touched = self._count(combination, -1)
        for table in (self._pods, self._members, self._found):
            del table[combination]
        return touched

    def _count(self, combination: tuple[int, ...], step: int) -> tuple[ObjectKey, ...]:
        touched = []
        found = self._found[combination]
        for key in self._members[combination]:
            tally = self._tallies.setdefault(key, _Tally())
            if tally.by or key in found:
                touched.append(key)
            _add(tally, found.get(key, NO_OVERLAP), step)
            if not tally.combinations:
                del self._tallies[key]
        return tuple(touched)


def _add(tally: _Tally, overlap: Overlap, step: int) -> None:
    tally.combinations += step
    tally.whole += step * overlap.is_whole
    tally.more += step * overlap.has_more
    for name in overlap.by:
        tally.by[name] = tally.by.get(name, 0) + step
        if not tally.by[name]:
            del tally.by[name]
