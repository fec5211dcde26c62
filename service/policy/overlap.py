"""Which policies decide in another's place, for pods that both select. Pure and incremental.

The rule is the datapath's (`prefix`): of a pod's policies the longest prefix counts, of equal prefixes the older
policy's, and what a policy excludes is not its business. A policy is overlapped where, for some pod of its own, a
destination that it lists and does not exclude goes by another policy. It follows from the combination of policies
alone, of which real clusters have a handful, however many pods and policies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

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
class _Open:
    """One prefix of a combination, while what lies within it is looked at."""

    prefix: Prefix
    covered: int = 0
    """Addresses within it that longer prefixes take."""
    deciders: dict[str, None] = field(default_factory=dict)


def find_overlaps(policies: Sequence[EgressPolicy]) -> dict[ObjectKey, Overlap]:
    """Return the overlapped ones of the policies that one pod has, given in precedence order.

    The work is that of sorting their destinations; of a policy with exclusions, a look at each prefix within its own.
    """
    if len(policies) < 2:
        return {}
    by: list[dict[str, None]] = [{} for _ in policies]
    decides = [False] * len(policies)
    excluding = {position for position, policy in enumerate(policies) if policy.excluded}
    for closed, within in _closed(prefixes_of(policies)):
        winner = decider(within) if closed.covered < closed.prefix.size else None
        if winner is not None:
            decides[winner] = True
            name = {policies[winner].key.name: None}
            closed.deciders |= name
            for position in _not_silent(within, excluding):
                by[position] = _few(by[position] | name)
        closed.deciders = _few(closed.deciders)
        for owner in closed.prefix.owners:
            if owner not in excluding:
                by[owner] = _few(by[owner] | closed.deciders)
    found = {}
    for policy, names, is_deciding in zip(policies, by, decides, strict=True):
        others = [name for name in names if name != policy.key.name]
        if others:
            found[policy.key] = Overlap(tuple(others[:NAMES_MAX]), len(others) > NAMES_MAX, not is_deciding)
    return found


def _not_silent(within: Sequence[Prefix], excluding: set[int]) -> set[int]:
    """Which of the policies with exclusions list the addresses of the last prefix and do not exclude them."""
    listing: set[int] = set()
    for prefix in within if excluding else ():
        listing.difference_update(prefix.excluders)
        listing.update(owner for owner in prefix.owners if owner in excluding)
    return listing


def _closed(prefixes: Sequence[Prefix]) -> Iterator[tuple[_Open, Sequence[Prefix]]]:
    """Yield each prefix when all that lie within it have been yielded; what they say has come up to it by then.

    With it those that it lies in, the longest last, which is itself.
    """
    within: list[_Open] = []
    path: list[Prefix] = []
    for prefix in prefixes:
        while path and path[-1].end <= prefix.first:
            yield from _close(within, path)
        within.append(_Open(prefix))
        path.append(prefix)
    while path:
        yield from _close(within, path)


def _close(within: list[_Open], path: list[Prefix]) -> Iterator[tuple[_Open, Sequence[Prefix]]]:
    closed = within.pop()
    yield closed, path
    path.pop()
    if within:
        within[-1].covered += closed.prefix.size
        within[-1].deciders |= closed.deciders


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
