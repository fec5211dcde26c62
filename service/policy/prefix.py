"""Which of a pod's policies decides for an address (rule W14). Pure.

Each policy is asked by itself first: of its own destinations and exclusions the longest prefix counts. Of the policies
that do not leave the address alone, the one with the longest destination decides, of equal ones the older. So what one
policy excludes it takes from nobody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.model.objects import EgressPolicy

_BITS = 32


@dataclass(slots=True)
class Prefix:
    """One network that some policy of a combination lists."""

    first: int
    """Its network address, as a number."""
    length: int
    owners: list[int] = field(default_factory=list)
    """Positions of the policies that list it as a destination; the first of them is the oldest."""
    excluders: list[int] = field(default_factory=list)
    """Positions of those that exclude it."""

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (_BITS - self.length)

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.first + self.size


def prefixes_of(policies: Sequence[EgressPolicy]) -> list[Prefix]:
    """Every prefix once, each before those that lie within it. The policies are given in precedence order."""
    found: dict[tuple[int, int], Prefix] = {}
    for position, policy in enumerate(policies):
        for networks, is_excluded in ((policy.destinations, False), (policy.excluded, True)):
            for network in networks:
                place = int(network.network_address), network.prefixlen
                prefix = found.setdefault(place, Prefix(*place))
                (prefix.excluders if is_excluded else prefix.owners).append(position)
    return [found[place] for place in sorted(found)]


def decider(within: Sequence[Prefix]) -> int | None:
    """Position of the policy that decides for addresses whose prefixes are exactly `within`, the longest last.

    None where none does: each policy that lists them excludes them too.
    """
    silent: set[int] = set()
    for prefix in reversed(within):
        silent.update(prefix.excluders)
        for owner in prefix.owners:
            if owner not in silent:
                return owner
    return None
