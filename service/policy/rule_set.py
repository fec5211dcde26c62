"""Rule sets and policies named by content, so that nodes can speak of them in eight bytes and never mean two things.

A pod's rule set is the union of its accepted policies. Its name depends on nothing else: an unrelated policy that
comes, goes or changes leaves it, and the datapath rows of the pod, alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from service.model.objects import NO_TIMEOUTS, EgressPolicy, FlowTimeouts, Pod
from service.model.span import networks_of
from service.policy.prefix import Prefix, decider, prefixes_of

Entries = tuple[tuple[IPv4Network, IPv4Address | None], ...]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Destination -> floating IP, longest prefix first in force (the datapath's LPM decides)."""

    id: int
    """64-bit hash of the entries and timeouts, never 0."""
    entries: Entries
    """Sorted by prefix, each prefix once: equal unions have equal entries, hence one name. No address: the destination
    is excluded, and lies within one that is not (rule W14)."""
    timeouts: FlowTimeouts = NO_TIMEOUTS
    """Of its flows; of several policies that say one, the oldest's."""
    steered: tuple[IPv4Network, ...] = field(init=False, repr=False, compare=False)
    """All destinations that get an address; they may overlap."""

    def __post_init__(self) -> None:
        # Made once: for each turn of an agent it would be too much work.
        object.__setattr__(self, "steered", _steered(self.entries))

    def addresses(self) -> tuple[IPv4Address, ...]:
        """Every floating IP of the set once, in the order of the entries."""
        return tuple(dict.fromkeys(address for _, address in self.entries if address is not None))


@dataclass(frozen=True, slots=True)
class Selection:
    """What selection says of one pod."""

    pod: Pod
    """In its version of now, with labels that may have changed without news."""
    rule_set: RuleSet
    policies: tuple[int, ...]
    """Content names of its accepted policies in precedence order: oldest first, ties by name."""


def network_order(network: IPv4Network) -> tuple[int, int]:
    """Networks sort by this as they do by themselves, ten times faster: a policy may have tens of thousands."""
    return int(network.network_address), network.prefixlen


def policy_content(policy: EgressPolicy) -> int:
    """Name a policy by what it sends where: (name, egressSourceIP, sorted CIDRs, those excluded, timeouts), as 64 bits,
    never 0.

    Selectors and age are left out: they decide which pods and in what order, which the announcing node says itself.
    """
    cidrs = ",".join(str(network) for network in sorted(policy.destinations, key=network_order))
    parts: tuple[str, ...] = (policy.key.name, str(policy.egress_source_ip), cidrs)
    # Without exclusions and timeouts the name is that of releases which know none.
    if policy.excluded:
        parts += (",".join(str(network) for network in sorted(policy.excluded)),)
    parts += _timeout_parts(policy.timeouts)
    return _content_hash("policy", parts)


def make_rule_set(policies: Sequence[EgressPolicy]) -> RuleSet:
    """Unite the policies, given in precedence order: of equal prefixes, the older policy's counts (rule W14)."""
    entries = _with_exclusions(policies) if any(policy.excluded for policy in policies) else _union(policies)
    parts = tuple(f"{network}>{address or 'excluded'}" for network, address in entries)
    timeouts = NO_TIMEOUTS
    for policy in policies:
        timeouts = timeouts.over(policy.timeouts)
    return RuleSet(_content_hash("rule-set", parts + _timeout_parts(timeouts)), entries, timeouts)


def _timeout_parts(timeouts: FlowTimeouts) -> tuple[str, ...]:
    return tuple(f"timeout {seconds}" for seconds in astuple(timeouts)) if timeouts != NO_TIMEOUTS else ()


def _union(policies: Sequence[EgressPolicy]) -> Entries:
    chosen: dict[IPv4Network, IPv4Address] = {}
    for policy in policies:
        for network in policy.destinations:
            chosen.setdefault(network, policy.egress_source_ip)
    return tuple(sorted(chosen.items(), key=lambda entry: network_order(entry[0])))


def _with_exclusions(policies: Sequence[EgressPolicy]) -> Entries:
    """Of each prefix what holds for the addresses that lie in no longer one."""
    entries: list[tuple[IPv4Network, IPv4Address | None]] = []
    within: list[Prefix] = []
    steering: list[bool] = []
    for prefix in prefixes_of(policies):
        while within and within[-1].end <= prefix.first:
            within.pop()
            steering.pop()
        within.append(prefix)
        position = decider(within)
        # An exclusion in what nobody steers anyway needs no row.
        if position is not None or any(steering[-1:]):
            address = policies[position].egress_source_ip if position is not None else None
            entries.append((IPv4Network((prefix.first, prefix.length)), address))
        steering.append(position is not None)
    return tuple(entries)


def _steered(entries: Entries) -> tuple[IPv4Network, ...]:
    if all(address is not None for _, address in entries):
        return tuple(network for network, _ in entries)
    found: list[IPv4Network] = []
    for first, end in _spans(entries):
        found += networks_of(first, end)
    return tuple(found)


def _spans(entries: Entries) -> Iterator[tuple[int, int]]:
    """[first, end) of addresses for which the longest prefix is no exclusion, in order."""
    return ((place, end) for (place, is_steered), (end, _) in pairwise(_edges(entries)) if is_steered and place < end)


def _edges(entries: Entries) -> Iterator[tuple[int, bool]]:
    """From which address on the longest prefix is another one, and whether that is no exclusion."""
    within = [(1 << 32, False)]
    for network, address in entries:
        first = int(network.network_address)
        while within[-1][0] <= first:
            yield within.pop()[0], within[-1][1]
        yield first, address is not None
        within.append((first + network.num_addresses, address is not None))
    while len(within) > 1:
        yield within.pop()[0], within[-1][1]


def _content_hash(kind: str, parts: Sequence[str]) -> int:
    # blake2b, not hash(): the name must be the same in every process and release. NUL cannot occur in a part.
    digest = hashlib.blake2b("\0".join((kind, *parts)).encode(), digest_size=8).digest()
    # Zero is "no rule set" in the datapath's maps.
    return int.from_bytes(digest, "big") or 1


_CACHE_MAX = 65536
"""Combinations kept resolved; real clusters use a handful, and a peer must not be able to fill the memory."""


class RuleSetCatalog:
    """The policies known here by content, and the rule sets made of their combinations.

    Refused policies are known too: the node that announces a pod has judged them, and may have seen an older policy go
    a moment before this one.
    """

    def __init__(self) -> None:
        self._policies: dict[int, EgressPolicy] = {}
        """By content name. One version of a policy each: a change of what it sends where is another name."""
        self._rule_sets: dict[tuple[int, ...], RuleSet] = {}
        """Cache of `resolve`, by combination in precedence order."""
        # Policy -> combinations it is part of, so that forgetting one costs what it was used for.
        self._combinations: dict[int, dict[tuple[int, ...], None]] = {}

    def learn(self, content: int, policy: EgressPolicy) -> None:
        """Make a policy known under its content name; combinations that name it can be resolved from now on."""
        self._policies[content] = policy

    def forget(self, content: int) -> None:
        """Forget a known policy, and every combination that it is part of."""
        del self._policies[content]
        for combination in self._combinations.pop(content, {}):
            self._rule_sets.pop(combination, None)
            for other in combination:
                if other in self._combinations:
                    self._combinations[other].pop(combination, None)

    def policies(self, combination: Sequence[int]) -> list[EgressPolicy]:
        """The policies of a combination that is resolved, in its order."""
        return [self._policies[content] for content in combination]

    def resolve(self, policies: Sequence[int]) -> RuleSet | None:
        """Return the rule set of a combination in precedence order; None where it is empty or one is not known."""
        combination = tuple(policies)
        # A hit needs no look at the policies: forgetting one has taken its combinations out.
        cached = self._rule_sets.get(combination)
        if cached is not None:
            return cached
        members = [self._policies[content] for content in combination if content in self._policies]
        if not members or len(members) != len(combination):
            return None
        rule_set = make_rule_set(members)
        # All at once rather than the oldest: what is still in use is resolved anew at its next use.
        if len(self._rule_sets) >= _CACHE_MAX:
            self._rule_sets.clear()
            self._combinations.clear()
        self._rule_sets[combination] = rule_set
        for content in combination:
            self._combinations.setdefault(content, {})[combination] = None
        return rule_set
