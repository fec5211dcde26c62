"""What is true of each object now: its status, and what is wrong with it as Events. Read from the controller's view."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Token
from service.model.object_event import ObjectEvent
from service.model.objects import GATEWAY_NAME, GATEWAY_NAMESPACE, Kind, ObjectKey
from service.policy.acceptance import PolicyReason, PolicyState
from service.report.condition import condition
from service.report.gateway import gateway_problems, gateway_status
from service.report.node import node_status

if TYPE_CHECKING:
    from service.controller.controller import Controller

GATEWAY = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)
_ORIGIN = "kubernetes"
_POLICY_WARNINGS = (PolicyReason.UNKNOWN_EGRESS_IP, PolicyReason.EGRESS_IP_CONFLICT, PolicyReason.CLUSTER_CIDRS_UNKNOWN)


def object_status(controller: "Controller") -> dict[ObjectKey, dict[str, Any]]:
    """The status of every object, without term and times."""
    nodes = controller.nodes()
    # Also of a node that gossip thinks dead: its lease lives, and a node under a planned restart forwards on.
    holders = controller.holders()
    refused = _refused(controller.intake.errors)
    statuses = {
        key: _policy_status(state, _unplaced(controller, state), holders, refused.pop(key, ""))
        for key, state in controller.index.policy_states().items()
    }
    for key, message in refused.items():
        if key.kind is Kind.POLICY:
            accepted = condition("Accepted", "InvalidObject", message, is_true=False)
            statuses[key] = {"accepted": False, "matchedPods": 0, "conditions": [accepted]}
    gateway = controller.index.gateway()
    if gateway is not None:
        statuses[GATEWAY] = gateway_status(controller, gateway, nodes, holders, refused.get(GATEWAY, ""))
    members = controller.cluster.members()
    for node in nodes:
        key = ObjectKey(Kind.NODE, GATEWAY_NAMESPACE, node.name)
        statuses[key] = node_status(node, members.get(node.name), holders, controller.intake.inventory)
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
        ObjectEvent(GATEWAY, problem.reason, problem.message, "Assign", True, subject=problem.subject)
        for problem in gateway_problems(controller, controller.nodes())
    ]
    for key, message in _refused(controller.intake.errors).items():
        problems.append(ObjectEvent(key, "InvalidObject", message, "Judge", True))
    return problems


def move_event(
    floating_ip: IPv4Address,
    before: str,
    after: str,
    nodes: Iterable[GatewayNode],
    *,
    is_succession: bool,
    gap_ns: int,
) -> ObjectEvent:
    """A floating IP has changed its holder; `is_succession`: by the standing claim of the successor, not by a new row.

    `gap_ns` is the time from the last renewal of the old holder that any elector reported to the first report of the
    new one: no less than nobody held the address, but more by up to the interval at which the leader asks.
    """
    found = next((node for node in nodes if node.name == before), None)
    if found is None:
        reason = f"node {before} has left"
    elif found.state is NodeState.DOWN:
        reason = f"node {before} is down"
    elif not found.schedulable:
        reason = f"node {before} is cordoned or draining"
    elif is_succession:
        reason = f"the lease of {before} ended, and its successor took over"
    elif not found.ready:
        reason = f"node {before} is not ready"
    else:
        reason = "reassigned"
    gap = f"gap at most {max(gap_ns, 0) / 1e9:.2f} s, from the last renewal seen there to the first seen here"
    note = f"{floating_ip} moved from {before} to {after}: {reason}; {gap}"
    return ObjectEvent(GATEWAY, "FloatingIPMoved", note, "Move", False, subject=str(floating_ip))


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
    conditions = [condition("Accepted", reason, message, is_true=state.accepted)]
    if refused:
        conditions.append(condition("Outdated", "InvalidObject", f"the last good version is in force: {refused}"))
    status = {"accepted": state.accepted, "matchedPods": state.matched_pods, "conditions": conditions}
    held = holders.get(state.egress_source_ip)
    return status | ({"holder": held[0]} if held and state.accepted else {})


def _refused(errors: Iterable[ObjectError]) -> dict[ObjectKey, str]:
    """Objects of the API server whose present version cannot be used, with what is wrong. Files have no status."""
    found: dict[ObjectKey, list[str]] = {}
    for error in errors:
        if error.origin == _ORIGIN and error.kind in tuple(Kind) and error.name:
            namespace, _, name = error.name.rpartition("/")
            key = ObjectKey(Kind(error.kind), namespace, name)
            found.setdefault(key, []).append(f"{error.field}: {error.message}")
    return {key: "; ".join(messages) for key, messages in found.items()}
