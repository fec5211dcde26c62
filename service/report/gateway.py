"""What is true of the gateway object now, and everything that is wrong with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from service.gateway.validation import node_address_errors
from service.model.gateway_node import GatewayNode
from service.model.objects import NetworkGateway
from service.report.condition import condition
from service.report.facts import Facts

_UNUSABLE = ("NoEligibleNode", "FloatingIPConflict", "InvalidFloatingIP")
_FEW = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the gateway: a condition of its status, and an Event."""

    reason: str
    subject: str
    """The address, field or range concerned; tells Events of one reason apart."""
    message: str


def gateway_status(facts: Facts, gateway: NetworkGateway, refused: str) -> dict[str, Any]:
    """`nodes` and `floatingIPs` as users read them; an address that nobody holds is in `conditions` with why.

    `refused`: what is wrong with the object's present version, where `gateway` is an earlier one; else empty.
    """
    # A type has one condition, so addresses with the same fault share it.
    messages: dict[str, list[str]] = {}
    for problem in gateway_problems(facts):
        messages.setdefault(problem.reason, []).append(problem.message)
    if refused:
        messages["Outdated"] = [f"the last good version is in force: {refused}"]
    held = {key: facts.holders[key].node for key in gateway.floating_ips if key in facts.holders}
    return {
        "nodes": {node.name: node.state.value for node in facts.nodes},
        "floatingIPs": {str(floating_ip): node for floating_ip, node in held.items()},
        "conditions": [
            _readiness(gateway, facts.holders, messages),
            *(condition(reason, reason, "; ".join(found)) for reason, found in messages.items()),
        ],
    }


def refused_gateway_status(facts: Facts, refused: str) -> dict[str, Any]:
    """Of an object of which no version could ever be used, `refused` says why; nothing else is in force instead."""
    nodes = {node.name: node.state.value for node in facts.nodes}
    return {"nodes": nodes, "conditions": [condition("Ready", "InvalidObject", refused, is_true=False)]}


def gateway_problems(facts: Facts) -> list[Problem]:
    """Everything that is wrong with the gateway in force, worst first; nothing where there is none."""
    gateway = facts.gateway
    if gateway is None:
        return []
    return [
        *_unplaced(facts, gateway),
        *_staying(facts, gateway),
        *_conflicts(facts, gateway),
        *(
            Problem("InvalidFloatingIP", error.field, f"{error.field}: {error.message}")
            for error in node_address_errors(gateway, facts.nodes)
        ),
        *_unrouted(facts, gateway),
        *_missed(facts, gateway),
        *_few(gateway, facts.nodes),
        *_few_ports(facts, gateway),
        *_strays(facts),
    ]


def _readiness(
    gateway: NetworkGateway, holders: Mapping[IPv4Address, object], messages: Mapping[str, list[str]]
) -> dict[str, str]:
    idle = [str(floating_ip) for floating_ip in gateway.floating_ips if floating_ip not in holders]
    if not idle:
        return condition("Ready", "AllHeld", f"each of {len(gateway.floating_ips)} floating IPs is held by a node")
    reason = next((reason for reason in _UNUSABLE if reason in messages), "NotHeld")
    return condition("Ready", reason, f"no node holds {', '.join(idle)}", is_true=False)


def _unplaced(facts: Facts, gateway: NetworkGateway) -> Iterator[Problem]:
    for floating_ip in gateway.floating_ips:
        row = facts.assignments.get(floating_ip)
        if row is not None and row.holder is None:
            yield Problem("NoEligibleNode", str(floating_ip), f"{floating_ip}: {row.reason}")


def _staying(facts: Facts, gateway: NetworkGateway) -> Iterator[Problem]:
    """On a node that should give it up, as nobody else can take it (rule O1)."""
    for floating_ip in gateway.floating_ips:
        row = facts.assignments.get(floating_ip)
        if row is not None and row.holder is not None and row.reason:
            yield Problem("FloatingIPStays", str(floating_ip), f"{floating_ip} stays on {row.holder}: {row.reason}")


def _conflicts(facts: Facts, gateway: NetworkGateway) -> Iterator[Problem]:
    for floating_ip, mac in facts.conflicts.items():
        if floating_ip in gateway.floating_ips:
            held = facts.holders.get(floating_ip)
            use = (
                f"uses {floating_ip} too, which {held.node} holds and defends" if held else f"answers for {floating_ip}"
            )
            message = f"{mac.hex(':')}, {_owner(facts, mac)}, {use}; free the address or list another"
            yield Problem("FloatingIPConflict", str(floating_ip), message)


def _owner(facts: Facts, mac: bytes) -> str:
    for node in facts.nodes:
        if any(segment.mac == mac for segment in node.segments):
            return f"the MAC of node {node.name}"
    return "which is no node's"


def _unrouted(facts: Facts, gateway: NetworkGateway) -> Iterator[Problem]:
    """Held, and yet of no use: by its holder's own word, which counts for nobody else's addresses."""
    for floating_ip in gateway.floating_ips:
        held = facts.holders.get(floating_ip)
        if held is None or held.node not in facts.members:
            continue
        _, metadata = facts.members[held.node]
        if floating_ip in metadata.unrouted:
            message = (
                f"{floating_ip}: its holder {held.node} drops packets from it, having no route by its uplink on that "
                "segment (no_route); give the node a route there, or list an address of a segment that leads outside"
            )
            yield Problem("NoRoute", str(floating_ip), message)


def _missed(facts: Facts, gateway: NetworkGateway) -> Iterator[Problem]:
    """Addresses that policies send from and that are not listed, or no longer."""
    users: dict[IPv4Address, list[str]] = {}
    for key, state in sorted(facts.policies.items()):
        if state.egress_source_ip not in gateway.floating_ips:
            users.setdefault(state.egress_source_ip, []).append(key.name)
    for address, names in sorted(users.items()):
        message = (
            f"{address} is in use by EgressNATPolicy {', '.join(names)} and not in spec.floatingIPs, so matching "
            "packets are dropped; list the address, or change the policy"
        )
        yield Problem("FloatingIPInUse", str(address), message)


def _few(gateway: NetworkGateway, nodes: tuple[GatewayNode, ...]) -> Iterator[Problem]:
    networks: dict[IPv4Network, None] = {segment.network: None for node in nodes for segment in node.segments}
    for network in sorted(networks):
        found = [floating_ip for floating_ip in gateway.floating_ips if floating_ip in network]
        if 0 < len(found) < _FEW:
            message = (
                f"only one floating IP, {found[0]}, is in {network}, so one node carries all egress traffic there; "
                "list a second one to spread it over two"
            )
            yield Problem("FewFloatingIPs", str(network), message)


def _few_ports(facts: Facts, gateway: NetworkGateway) -> Iterator[Problem]:
    for floating_ip, nodes in sorted(facts.lacking_ports.items()):
        if floating_ip in gateway.floating_ips:
            message = (
                f"{floating_ip}: too few ports are left for nodes {', '.join(sorted(nodes))}, so new connections of "
                "their pods may be dropped (no_ports); let some policies send from another floating IP"
            )
            yield Problem("FewPorts", str(floating_ip), message)


def _strays(facts: Facts) -> Iterator[Problem]:
    if not facts.strays:
        return
    key, address = min(facts.strays.items())
    message = (
        f"pod {key} has {address}, which is in none of the known pod ranges, so packets to it may be sent out by a "
        "policy; set datapath.pod_cidrs to all pod ranges of the cluster"
    )
    yield Problem("PodOutsideRanges", "", message)
