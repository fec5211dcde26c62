"""Which floating IPs rule sets name, counted: one set more costs that set, and not all of them. Pure."""

from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address

from service.policy.rule_set import RuleSet


class UsedAddresses:
    """Follows a mapping of rule sets by their identities, which are of their content."""

    def __init__(self) -> None:
        self._rule_sets: Mapping[int, RuleSet] = {}
        self._counts = Counter[IPv4Address]()
        """How many of them name it; none that nobody does."""
        self._addresses: tuple[IPv4Address, ...] = ()

    def of(self, rule_sets: Mapping[int, RuleSet]) -> tuple[IPv4Address, ...]:
        """In order; the same object until they are others. The mapping is replaced by the caller, never changed."""
        if rule_sets is self._rule_sets:
            return self._addresses
        before, self._rule_sets = self._rule_sets, rule_sets
        named = len(self._counts)
        for identity in rule_sets.keys() - before.keys():
            self._counts.update(rule_sets[identity].addresses())
        is_other = len(self._counts) != named
        for identity in before.keys() - rule_sets.keys():
            for address in before[identity].addresses():
                self._counts[address] -= 1
                if not self._counts[address]:
                    del self._counts[address]
                    is_other = True
        if is_other:
            self._addresses = tuple(sorted(self._counts, key=int))
        return self._addresses
