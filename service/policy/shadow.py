"""Policies that decide nothing, whatever pods there are: others take every pod and every destination of them. Pure.

Judged from the policies alone, for a person who writes them, so rather too seldom than wrongly: another policy stands
in the way where each rule of this one says at least all that a rule of the other says. Of the destinations the rule is
the datapath's (`rule_set`): the longest prefix counts, of equal prefixes the older policy's.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, collapse_addresses

from service.model.objects import EgressPolicy, EgressRule, LabelSelector
from service.policy.acceptance import precedence


def shadows(policies: Sequence[EgressPolicy]) -> dict[str, tuple[str, ...]]:
    """Each policy that decides nothing, with those that decide in its place; by name. Give it those in force."""
    ordered = sorted(policies, key=precedence)
    found = {}
    for place, policy in enumerate(ordered):
        older = [other for other in ordered[:place] if _takes_its_pods(other, policy)]
        younger = [other for other in ordered[place + 1 :] if _takes_its_pods(other, policy)]
        if all(_is_taken(network, policy, older, younger) for network in policy.destinations):
            deciding = [other for other in (*older, *younger) if _is_near(other, policy)]
            found[policy.key.name] = tuple(sorted(other.key.name for other in deciding))
    return {name: others for name, others in found.items() if others}


def idle_exclusions(policy: EgressPolicy) -> tuple[IPv4Network, ...]:
    """What a policy excludes that lies in none of its destinations: it does nothing (rule W14)."""
    return tuple(hole for hole in policy.excluded if not any(map(hole.subnet_of, policy.destinations)))


def _takes_its_pods(other: EgressPolicy, policy: EgressPolicy) -> bool:
    """Whether every pod of the policy is surely one of the other's."""
    return all(any(_is_wider(wider, rule) for wider in other.rules) for rule in policy.rules)


def _is_wider(wider: EgressRule, rule: EgressRule) -> bool:
    return _asks_no_more(wider.namespace_selector, rule.namespace_selector) and _asks_no_more(
        wider.pod_selector, rule.pod_selector
    )


def _asks_no_more(selector: LabelSelector, of: LabelSelector) -> bool:
    labels, expressions = set(of.match_labels), set(of.match_expressions)
    return labels.issuperset(selector.match_labels) and expressions.issuperset(selector.match_expressions)


def _is_taken(
    network: IPv4Network, policy: EgressPolicy, older: Sequence[EgressPolicy], younger: Sequence[EgressPolicy]
) -> bool:
    """Whether others decide for all of a destination: the same one of an older policy, or longer ones of any.

    For what the policy itself excludes there is nothing to decide. Of the others only destinations count of which they
    exclude nothing.
    """
    if any(network in _unbroken(other) for other in older):
        return True
    longer = [
        inner
        for networks in (policy.excluded, *(_unbroken(other) for other in (*older, *younger)))
        for inner in networks
        if inner.prefixlen > network.prefixlen and inner.subnet_of(network)
    ]
    return network in collapse_addresses(longer)


def _unbroken(policy: EgressPolicy) -> list[IPv4Network]:
    excluded = policy.excluded
    return [one for one in policy.destinations if not any(hole.subnet_of(one) for hole in excluded)]


def _is_near(other: EgressPolicy, policy: EgressPolicy) -> bool:
    return any(mine.overlaps(theirs) for mine in policy.destinations for theirs in other.destinations)
