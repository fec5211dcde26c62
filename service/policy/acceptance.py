"""Which policies are in force. A refused policy selects nothing; its reason goes to its status and an Event."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from service.model.objects import GATEWAY_NAME, GATEWAY_NAMESPACE, EgressPolicy, NetworkGateway, ObjectKey
from service.policy.overlap import NO_OVERLAP, Overlap


class PolicyReason(StrEnum):
    """Reasons of the `Accepted` condition."""

    ACCEPTED = "Accepted"
    UNKNOWN_EGRESS_IP = "UnknownEgressIP"
    """Accepted, but no gateway lists the address: its packets are dropped, never sent from another."""
    EGRESS_IP_CONFLICT = "EgressIPConflict"
    """Refused: an older policy has the address, and the message names it."""
    CLUSTER_CIDRS_UNKNOWN = "ClusterCIDRsUnknown"
    """Refused: it takes every destination, and which of them are the cluster's own pods is not known (rule W12)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a policy is in force, from the policies of its address and the gateway alone: no pod bears on it."""

    accepted: bool
    reason: PolicyReason
    message: str
    """For people: what is wrong and what to do; empty where nothing is."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What is true of one policy now."""

    accepted: bool
    reason: str
    """A PolicyReason."""
    message: str
    """For people; empty where there is nothing to say."""
    matched_pods: int
    """Pods with an address that a rule matches, whether or not the policy is accepted."""
    egress_source_ip: IPv4Address
    overlap: Overlap = NO_OVERLAP
    """What other policies decide in its place, for pods of its own; nothing of a refused one."""


def precedence(policy: EgressPolicy) -> tuple[str, str]:
    """Sort key of policies: the older first, ties by name. `created` is of fixed width, so text order is age order."""
    return (policy.created, policy.key.name)


def judge(
    policies: Iterable[EgressPolicy], gateway: NetworkGateway | None, *, pod_cidrs_known: bool
) -> dict[ObjectKey, Verdict]:
    """Judge all policies that share one `egressSourceIP`."""
    # The oldest wins, so that nobody loses an address to a policy that came later, and every process agrees on who.
    verdicts: dict[ObjectKey, Verdict] = {}
    winner: EgressPolicy | None = None
    for policy in sorted(policies, key=precedence):
        # (Rule W12.) With no pod range known, a default route in a policy would take the cluster's own traffic with it.
        # Checked first, so that a policy which can never be in force does not stand in a younger one's way.
        if not pod_cidrs_known and any(network.prefixlen == 0 for network in policy.destinations):
            verdicts[policy.key] = _CIDRS_UNKNOWN
        elif winner is not None:
            verdicts[policy.key] = _conflict(policy, winner)
        else:
            winner = policy
            verdicts[policy.key] = _accept(policy, gateway)
    return verdicts


_CIDRS_UNKNOWN = Verdict(
    False,
    PolicyReason.CLUSTER_CIDRS_UNKNOWN,
    "0.0.0.0/0 needs the cluster's pod ranges, and none is known: set datapath.pod_cidrs, or list narrower CIDRs",
)


def _conflict(policy: EgressPolicy, winner: EgressPolicy) -> Verdict:
    message = (
        f"egressSourceIP {policy.egress_source_ip} belongs to the older policy {winner.key.name}: "
        "choose another floating IP, or add the rules to that policy"
    )
    return Verdict(False, PolicyReason.EGRESS_IP_CONFLICT, message)


def _accept(policy: EgressPolicy, gateway: NetworkGateway | None) -> Verdict:
    address = policy.egress_source_ip
    if gateway is not None and address in gateway.floating_ips:
        return Verdict(True, PolicyReason.ACCEPTED, "")
    # It stays in force on purpose: refusing it would let its packets leave with another source (promise 2).
    name = f"AnthosNetworkGateway {GATEWAY_NAMESPACE}/{GATEWAY_NAME}"
    where = f"not in spec.floatingIPs of {name}" if gateway is not None else f"not known: there is no {name}"
    message = f"egressSourceIP {address} is {where}; matching packets are dropped until it is listed there"
    return Verdict(True, PolicyReason.UNKNOWN_EGRESS_IP, message)
