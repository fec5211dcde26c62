"""What is true of each object now: its status, and what is wrong with it as Events. Read from the controller's view."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from service.gateway.row import MemberMetadata
from service.gateway.validation import node_address_errors
from service.gossip.member import Member
from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Token
from service.model.objects import GATEWAY_NAME, GATEWAY_NAMESPACE, Kind, ObjectKey
from service.policy.acceptance import PolicyReason, PolicyState
from service.sources.event_recorder import ObjectEvent

if TYPE_CHECKING:
    from service.controller import Controller

GATEWAY = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)
_ORIGIN = "kubernetes"
_POLICY_WARNINGS = (PolicyReason.UNKNOWN_EGRESS_IP, PolicyReason.EGRESS_IP_CONFLICT, PolicyReason.CLUSTER_CIDRS_UNKNOWN)


def object_status(controller: "Controller") -> dict[ObjectKey, dict[str, Any]]:
    """The status of every object, without term and times."""
    nodes = controller.nodes()
    holders = _living_holders(controller, nodes)
    refused = _refused(controller.intake.errors)
    statuses = {
        key: _policy_status(state, _unplaced(controller, state), holders, refused.pop(key, ""))
        for key, state in controller.index.policy_states().items()
    }
    for key, message in refused.items():
        if key.kind is Kind.POLICY:
            condition = _condition("Accepted", "InvalidObject", message, is_true=False)
            statuses[key] = {"accepted": False, "matchedPods": 0, "conditions": [condition]}
    if controller.index.gateway() is not None:
        statuses[GATEWAY] = _gateway_status(controller, nodes, holders, refused.get(GATEWAY, ""))
    members = controller.cluster.members()
    for node in nodes:
        key = ObjectKey(Kind.NODE, GATEWAY_NAMESPACE, node.name)
        statuses[key] = _node_status(node, members.get(node.name), holders)
    return statuses


def object_problems(controller: "Controller") -> list[ObjectEvent]:
    """Everything that is wrong now, as Events on the object whose owner can mend it."""
    problems = []
    for key, state in controller.index.policy_states().items():
        if state.reason in _POLICY_WARNINGS:
            problems.append(ObjectEvent(key, str(state.reason), state.message, "Judge", True))
        elif state.accepted and (message := _unplaced(controller, state)):
            problems.append(ObjectEvent(key, PolicyReason.UNKNOWN_EGRESS_IP, message, "Judge", True))
    problems += [
        ObjectEvent(GATEWAY, reason, message, "Assign", True, subject=subject)
        for reason, subject, message in _gateway_problems(controller, controller.nodes())
    ]
    for key, message in _refused(controller.intake.errors).items():
        problems.append(ObjectEvent(key, "InvalidObject", message, "Judge", True))
    return problems


def move_event(floating_ip: IPv4Address, before: str, after: str, nodes: Iterable[GatewayNode]) -> ObjectEvent:
    """A floating IP has changed its holder."""
    found = next((node for node in nodes if node.name == before), None)
    if found is None:
        reason = f"node {before} has left"
    elif found.state is NodeState.DOWN:
        reason = f"node {before} is down"
    elif not found.schedulable:
        reason = f"node {before} is draining"
    elif not found.ready:
        reason = f"node {before} is not ready"
    else:
        reason = "reassigned"
    note = f"{floating_ip} moved from {before} to {after}: {reason}"
    return ObjectEvent(GATEWAY, "FloatingIPMoved", note, "Move", False, subject=str(floating_ip))


def _living_holders(controller: "Controller", nodes: Iterable[GatewayNode]) -> dict[IPv4Address, tuple[str, Token]]:
    up = {node.name for node in nodes if node.state is NodeState.UP}
    return {floating_ip: held for floating_ip, held in controller.holders().items() if held[0] in up}


def _unplaced(controller: "Controller", state: PolicyState) -> str:
    """Why the policy's address is on no node, though it is a floating IP; empty where it is on one."""
    row = controller.cluster.assignments().get(state.egress_source_ip)
    if row is None or row.holder is not None:
        return ""
    return f"egressSourceIP {row.floating_ip} is not assigned to a node, so matching packets are dropped: {row.reason}"


def _policy_status(
    state: PolicyState, unplaced: str, holders: Mapping[IPv4Address, tuple[str, Token]], refused: str
) -> dict[str, Any]:
    reason, message = str(state.reason), state.message
    if state.reason == PolicyReason.ACCEPTED and unplaced:
        reason, message = str(PolicyReason.UNKNOWN_EGRESS_IP), unplaced
    conditions = [_condition("Accepted", reason, message, is_true=state.accepted)]
    if refused:
        conditions.append(_condition("Outdated", "InvalidObject", f"the last good version is in force: {refused}"))
    status = {"accepted": state.accepted, "matchedPods": state.matched_pods, "conditions": conditions}
    held = holders.get(state.egress_source_ip)
    return status | ({"holder": held[0]} if held and state.accepted else {})


def _gateway_status(
    controller: "Controller",
    nodes: tuple[GatewayNode, ...],
    holders: Mapping[IPv4Address, tuple[str, Token]],
    refused: str,
) -> dict[str, Any]:
    """`nodes` and `floatingIPs` as users read them; an address that nobody holds is in `conditions` with why."""
    gateway = controller.index.gateway()
    assert gateway is not None
    # A type has one condition, so addresses with the same fault share it.
    problems: dict[str, list[str]] = {}
    for reason, _, message in _gateway_problems(controller, nodes):
        problems.setdefault(reason, []).append(message)
    if refused:
        problems["Outdated"] = [f"the last good version is in force: {refused}"]
    return {
        "nodes": {node.name: node.state.value for node in nodes},
        "floatingIPs": {
            str(floating_ip): holders[floating_ip][0] for floating_ip in gateway.floating_ips if floating_ip in holders
        },
        "conditions": [_condition(reason, reason, "; ".join(messages)) for reason, messages in problems.items()],
    }


def _gateway_problems(controller: "Controller", nodes: tuple[GatewayNode, ...]) -> list[tuple[str, str, str]]:
    """(reason, floating IP or field, message) each."""
    gateway = controller.index.gateway()
    if gateway is None:
        return []
    table = controller.cluster.assignments()
    problems = [
        ("NoEligibleNode", str(floating_ip), f"{floating_ip}: {table[floating_ip].reason}")
        for floating_ip in gateway.floating_ips
        if floating_ip in table and table[floating_ip].holder is None
    ]
    for floating_ip, mac in controller.cluster.conflicts().items():
        if floating_ip in gateway.floating_ips:
            message = f"{mac.hex(':')} answers for {floating_ip}"
            problems.append(("FloatingIPConflict", str(floating_ip), message))
    for error in node_address_errors(gateway, nodes):
        problems.append(("InvalidFloatingIP", error.field, f"{error.field}: {error.message}"))
    return problems


def _node_status(
    node: GatewayNode,
    member: tuple[Member, MemberMetadata] | None,
    holders: Mapping[IPv4Address, tuple[str, Token]],
) -> dict[str, Any]:
    reason, message = _readiness(node)
    status: dict[str, Any] = {
        "state": node.state.value,
        "role": node.role.value,
        "schedulable": node.schedulable,
        "segments": [
            {"subnet": str(segment.network), "address": str(segment.address), "mac": segment.mac.hex(":")}
            for segment in node.segments
        ],
        "floatingIPs": [
            {"address": str(floating_ip), "token": ".".join(map(str, token))}
            for floating_ip, (name, token) in sorted(holders.items())
            if name == node.name
        ],
        "conditions": [_condition("Ready", reason, message, is_true=reason == "Ready")],
    }
    if member is not None:
        status |= {"agentVersion": member[1].version, "tunnelEndpoint": member[0].address.host}
    return status


def _readiness(node: GatewayNode) -> tuple[str, str]:
    if node.state is NodeState.DOWN:
        return "Down", "the node does not answer"
    if not node.ready:
        return "NotReady", "the agent has not loaded the datapath, or its lease keeper is gone"
    if not node.schedulable:
        return "Draining", "the node is cordoned or draining"
    return "Ready", ""


def _refused(errors: Iterable[ObjectError]) -> dict[ObjectKey, str]:
    """Objects of the API server whose present version cannot be used, with what is wrong. Files have no status."""
    found: dict[ObjectKey, list[str]] = {}
    for error in errors:
        if error.origin == _ORIGIN and error.kind in tuple(Kind) and error.name:
            namespace, _, name = error.name.rpartition("/")
            key = ObjectKey(Kind(error.kind), namespace, name)
            found.setdefault(key, []).append(f"{error.field}: {error.message}")
    return {key: "; ".join(messages) for key, messages in found.items()}


def _condition(kind: str, reason: str, message: str, *, is_true: bool = True) -> dict[str, str]:
    return {"type": kind, "status": "True" if is_true else "False", "reason": reason, "message": message}
