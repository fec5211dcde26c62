"""What is true of each object now: its status, and what is wrong with it as Events."""

from collections.abc import Iterable
from typing import Any

from service.model.errors import ObjectError
from service.model.object_event import ObjectEvent
from service.model.objects import GATEWAY_NAME, GATEWAY_NAMESPACE, Kind, ObjectKey
from service.policy.acceptance import PolicyReason, PolicyState
from service.report.absence import find_absence
from service.report.exemption import NOTHING_EXEMPT, exempt_message, exempt_reason
from service.report.exhaustion import NOT_EXHAUSTED, refusals_of
from service.report.facts import Facts
from service.report.gateway import gateway_problems, gateway_status, refused_gateway_status
from service.report.node import node_status
from service.report.policy import policy_status, refused_policy_status, shadow_message

GATEWAY = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)
_ORIGIN = "kubernetes"
_POLICY_WARNINGS = (PolicyReason.UNKNOWN_EGRESS_IP, PolicyReason.EGRESS_IP_CONFLICT, PolicyReason.CLUSTER_CIDRS_UNKNOWN)


def object_status(facts: Facts) -> dict[ObjectKey, dict[str, Any]]:
    """The status of every object, without term and times."""
    refused = _refused(facts.refused)
    # Holders also where gossip thinks the node dead: its lease lives, and a node under a planned restart forwards on.
    statuses = {key: _policy_status(facts, key, state, refused.pop(key, "")) for key, state in facts.policies.items()}
    for key, message in refused.items():
        if key.kind is Kind.POLICY:
            statuses[key] = refused_policy_status(message)
    if facts.gateway is not None:
        statuses[GATEWAY] = gateway_status(facts, facts.gateway, refused.get(GATEWAY, ""))
    elif GATEWAY in refused:
        statuses[GATEWAY] = refused_gateway_status(facts, refused[GATEWAY])
    for node in facts.nodes:
        statuses[ObjectKey(Kind.NODE, GATEWAY_NAMESPACE, node.name)] = node_status(node, facts)
    return statuses


def object_problems(facts: Facts) -> list[ObjectEvent]:
    """Everything that is wrong now, as Events on the object whose owner can mend it."""
    problems = []
    for key, state in facts.policies.items():
        if state.reason in _POLICY_WARNINGS:
            problems.append(ObjectEvent(key, str(state.reason), state.message, "Judge", True))
        elif state.accepted and (message := _unplaced(facts, state)):
            problems.append(ObjectEvent(key, PolicyReason.UNKNOWN_EGRESS_IP, message, "Judge", True))
        if state.accepted and (message := shadow_message(state.overlap)):
            problems.append(ObjectEvent(key, "Shadowed", message, "Judge", True))
        exempted = facts.exempted.get(key, NOTHING_EXEMPT)
        if state.accepted and exempted.is_whole:
            problems.append(ObjectEvent(key, exempt_reason(exempted), exempt_message(exempted), "Judge", True))
        for refusal in refusals_of(state.egress_source_ip, facts.exhausted.get(key, NOT_EXHAUSTED)):
            problems.append(ObjectEvent(key, refusal.reason, refusal.message, "Judge", True))
    problems += [
        ObjectEvent(GATEWAY, problem.reason, problem.message, "Assign", True, subject=problem.subject)
        for problem in gateway_problems(facts)
    ]
    for key, message in _refused(facts.refused).items():
        problems.append(ObjectEvent(key, "InvalidObject", message, "Judge", True))
    return [*problems, *facts.problems]


def _unplaced(facts: Facts, state: PolicyState) -> str:
    """Why the policy's address is on no node, though it is a floating IP; empty where it is on one."""
    row = facts.assignments.get(state.egress_source_ip)
    if row is None or row.holder is not None:
        return ""
    return f"egressSourceIP {row.floating_ip} is not assigned to a node, so matching packets are dropped: {row.reason}"


def _policy_status(facts: Facts, key: ObjectKey, state: PolicyState, refused: str) -> dict[str, Any]:
    held = facts.holders.get(state.egress_source_ip)
    absence = find_absence(state.egress_source_ip, facts, facts.conflicts)
    exempted = facts.exempted.get(key, NOTHING_EXEMPT)
    exhaustion = facts.exhausted.get(key, NOT_EXHAUSTED)
    holder = held.node if held else None
    return policy_status(state, holder, absence, _unplaced(facts, state), refused, exempted, exhaustion)


def _refused(errors: Iterable[ObjectError]) -> dict[ObjectKey, str]:
    """Objects of the API server whose present version cannot be used, with what is wrong. Files have no status."""
    found: dict[ObjectKey, list[str]] = {}
    for error in errors:
        if error.origin == _ORIGIN and error.kind in tuple(Kind) and error.name:
            namespace, _, name = error.name.rpartition("/")
            key = ObjectKey(Kind(error.kind), namespace, name)
            found.setdefault(key, []).append(f"{error.field}: {error.message}")
    return {key: "; ".join(messages) for key, messages in found.items()}
