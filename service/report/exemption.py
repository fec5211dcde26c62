"""Which policies name what is never steered (rules W12, W14): told in their status, and by `egressgw validate`."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, collapse_addresses

from service.gateway.exemption import Exempted, ExemptionMemo, Exemptions, ExemptRanges, Insiders
from service.model.cluster_range import ClusterRanges
from service.model.gateway_node import GatewayNode
from service.model.objects import EgressPolicy, ObjectKey
from service.policy.index import PolicyIndex
from service.policy.rule_set import make_rule_set

NOTHING_EXEMPT = Exempted()
_RULE = "pods, services, nodes, floating IPs and API servers are never steered, nor what is no host's"


class PolicyExemptions:
    """Remembers what it found until a policy or the cluster changes: it is asked several times a second."""

    def __init__(self) -> None:
        self._memo = ExemptionMemo()
        self._known: Exemptions = {}
        self._ranges = ExemptRanges(self._known)
        self._found: dict[ObjectKey, tuple[EgressPolicy, Exempted]] = {}

    def of(
        self, index: PolicyIndex, ranges: ClusterRanges, nodes: Iterable[GatewayNode], server: IPv4Address | None
    ) -> dict[ObjectKey, Exempted]:
        """For every policy of the index."""
        gateway = index.gateway()
        addresses = tuple(segment.address for node in nodes for segment in node.segments)
        known = self._memo.of(Insiders(ranges, addresses, gateway.floating_ips if gateway else (), server))
        if known is not self._known:
            self._known, self._ranges, self._found = known, ExemptRanges(known), {}
        policies = (policy for key in index.policy_states() if (policy := index.policy(key)) is not None)
        self._found = {policy.key: self._of(policy) for policy in policies}
        return {key: exempted for key, (_, exempted) in self._found.items()}

    def _of(self, policy: EgressPolicy) -> tuple[EgressPolicy, Exempted]:
        found = self._found.get(policy.key)
        return found if found is not None and found[0] is policy else (policy, exempted_of(policy, self._ranges))


def exempted_of(policy: EgressPolicy, ranges: ExemptRanges) -> Exempted:
    """What of its destinations is never steered, though it does not exclude it itself."""
    if not make_rule_set([policy]).steered:
        return Exempted(is_whole=True)
    # Who writes 0.0.0.0/0 means what is outside, and names nothing in the cluster.
    narrower = tuple(network for network in policy.destinations if network.prefixlen)
    steered = make_rule_set([replace(policy, destinations=narrower)]).steered
    is_everywhere = len(narrower) < len(policy.destinations)
    exempted = ranges.exempted(tuple(collapse_addresses(steered)))
    return replace(exempted, is_whole=False) if is_everywhere else exempted


def exempt_reason(exempted: Exempted) -> str:
    """Of the condition; of a policy that decides nothing for it, of the Event too."""
    if not exempted.parts:
        return "AllExcluded" if exempted.is_whole else "NothingExempt"
    return "AllExempt" if exempted.is_whole else "PartlyExempt"


def exempt_message(exempted: Exempted) -> str:
    """What it is, and why; empty where nothing is exempt."""
    match exempt_reason(exempted):
        case "AllExcluded":
            return "nothing is steered: excludedCIDRs covers all of destinationCIDRs"
        case "AllExempt":
            return f"nothing is steered: all of destinationCIDRs is exempt: {exempted}; {_RULE}"
        case "PartlyExempt":
            return f"of destinationCIDRs these are exempt: {exempted}; {_RULE}"
    return ""
