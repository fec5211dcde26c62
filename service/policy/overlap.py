"""Which policies decide in another's place, for pods that both select. Pure and incremental.

The rule is the datapath's (`rule_set`): of a pod's policies the longest prefix counts, of equal prefixes the older
policy's. A policy is overlapped where, for some pod of its own, a destination that it lists goes by another policy. It
follows from the combination of policies alone, of which real clusters have a handful, however many pods and policies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

from service.model.objects import EgressPolicy, ObjectKey

NAMES_MAX = 3
"""So many of the others are named; that there are more is said."""
_KEPT = NAMES_MAX + 2
"""Of each prefix: one of them may be the policy itself, and one says that there are more."""
_BITS = 32


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
class _Prefix:
    """One destination of a combination, while what lies within it is looked at."""

    first: int
    size: int
    owners: list[int]
    """Positions of the policies that list it; the first of them is the oldest."""
    covered: int = 0
    """Addresses within it that longer prefixes take."""
    deciders: dict[str, None] = field(default_factory=dict)


def find_overlaps(policies: Sequence[EgressPolicy]) -> dict[ObjectKey, Overlap]:
    """Return the overlapped ones of the policies that one pod has, given in precedence order.

    The work is that of sorting their destinations.
    """
    if len(policies) < 2:
        return {}
    by: list[dict[str, None]] = [{} for _ in policies]
    decides = [False] * len(policies)
    for prefix in _closed(_prefixes(policies)):
        if prefix.covered < prefix.size:
            winner = prefix.owners[0]
            decides[winner] = True
            prefix.deciders[policies[winner].key.name] = None
        prefix.deciders = _few(prefix.deciders)
        for owner in prefix.owners:
            by[owner] = _few(by[owner] | prefix.deciders)
    found = {}
    for policy, names, is_deciding in zip(policies, by, decides, strict=True):
        others = [name for name in names if name != policy.key.name]
        if others:
            found[policy.key] = Overlap(tuple(others[:NAMES_MAX]), len(others) > NAMES_MAX, not is_deciding)
    return found


def _prefixes(policies: Sequence[EgressPolicy]) -> list[_Prefix]:
    """Every destination once, each before those that lie within it."""
    owners: dict[tuple[int, int], list[int]] = {}
    for position, policy in enumerate(policies):
        for network in policy.destinations:
            owners.setdefault((int(network.network_address), network.prefixlen), []).append(position)
    return [_Prefix(first, 1 << (_BITS - length), listed) for (first, length), listed in sorted(owners.items())]


def _closed(prefixes: Sequence[_Prefix]) -> Iterator[_Prefix]:
    """Yield each prefix when all that lie within it have been yielded; what they say has come up to it by then."""
    within: list[_Prefix] = []
    for prefix in prefixes:
        while within and within[-1].first + within[-1].size <= prefix.first:
            yield from _close(within)
        within.append(prefix)
    while within:
        yield from _close(within)


def _close(within: list[_Prefix]) -> Iterator[_Prefix]:
    prefix = within.pop()
    yield prefix
    if within:
        within[-1].covered += prefix.size
        within[-1].deciders |= prefix.deciders


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
