"""Of which policies pods get no new flows on some nodes: for their quota, or for want of ports (rules B4, Q4). Pure.

A node says so of floating IPs, in its gossip metadata, for a minute after the last such packet. It is believed of
policies that have pods there, and while it is up: what it said before it went down is not true for ever.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.model.gateway_node import GatewayNode, NodeState
from service.model.objects import ObjectKey
from service.policy.acceptance import PolicyState

_NAMED_MAX = 3
"""Nodes in one message."""


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """Of one policy, the nodes on which new flows of its pods are dropped, in order of name."""

    over_quota: tuple[str, ...] = ()
    out_of_ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason for which new flows of a policy's pods are dropped: a condition of its status, and an Event."""

    reason: str
    message: str


NOT_EXHAUSTED = Exhaustion()


def find_exhaustions(
    policies: Mapping[ObjectKey, PolicyState],
    nodes: Iterable[GatewayNode],
    members: Mapping[str, tuple[Member, MemberMetadata]],
    nodes_of: Callable[[ObjectKey], Collection[str]],
) -> dict[ObjectKey, Exhaustion]:
    """Of the policies of which it is so. `nodes_of`: where a policy has pods; asked only of those."""
    up = sorted(node.name for node in nodes if node.state is NodeState.UP and node.name in members)
    over_quota = _by_address((name, members[name][1].over_quota) for name in up)
    out_of_ports = _by_address((name, members[name][1].out_of_ports) for name in up)
    found = {}
    for key, state in policies.items() if over_quota or out_of_ports else ():
        said = over_quota.get(state.egress_source_ip, ()), out_of_ports.get(state.egress_source_ip, ())
        if state.accepted and any(said):
            there = nodes_of(key)
            exhaustion = Exhaustion(*(tuple(name for name in names if name in there) for names in said))
            if exhaustion != NOT_EXHAUSTED:
                found[key] = exhaustion
    return found


def refusals_of(floating_ip: IPv4Address, exhaustion: Exhaustion) -> list[Refusal]:
    """What users are told of a policy that sends from `floating_ip`; nothing where nothing is refused."""
    found = []
    if exhaustion.over_quota:
        message = (
            f"pods on {_names(exhaustion.over_quota)} have as many flows as a pod may have, and what they open beyond "
            "that is dropped (quota); have them keep fewer connections, or raise datapath.flows_per_pod"
        )
        found.append(Refusal("QuotaReached", message))
    if exhaustion.out_of_ports:
        message = (
            f"on {_names(exhaustion.out_of_ports)} all ports of {floating_ip} that the node has are taken towards some "
            "server, and new connections there are dropped (ports_exhausted); have pods keep fewer connections to one "
            "server, or let a policy send some of them from another floating IP"
        )
        found.append(Refusal("PortsExhausted", message))
    return found


def _by_address(said: Iterable[tuple[str, Iterable[IPv4Address]]]) -> dict[IPv4Address, list[str]]:
    found: dict[IPv4Address, list[str]] = {}
    for name, floating_ips in said:
        for floating_ip in floating_ips:
            found.setdefault(floating_ip, []).append(name)
    return found


def _names(nodes: tuple[str, ...]) -> str:
    more = len(nodes) - _NAMED_MAX
    names = ", ".join(nodes[:_NAMED_MAX])
    return f"node{'s' if len(nodes) > 1 else ''} {names}" + (f" and {more} more" if more > 0 else "")
