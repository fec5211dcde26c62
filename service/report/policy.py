"""What is true of a policy now: whether it is in force, its packets leave, what others decide of it, what is exempt,
and whether its pods get new flows."""

from typing import Any

from service.gateway.exemption import Exempted
from service.policy.acceptance import PolicyReason, PolicyState
from service.policy.overlap import Overlap
from service.report.absence import Absence
from service.report.condition import condition
from service.report.exemption import NOTHING_EXEMPT, exempt_message, exempt_reason
from service.report.exhaustion import NOT_EXHAUSTED, Exhaustion, refusals_of

_RULE = "of two policies of a pod the longer prefix counts, of equal ones the older policy's"


def policy_status(
    state: PolicyState,
    holder: str | None,
    absence: Absence | None,
    unplaced: str,
    refused: str,
    exempted: Exempted = NOTHING_EXEMPT,
    exhaustion: Exhaustion = NOT_EXHAUSTED,
) -> dict[str, Any]:
    """The status of an accepted or refused policy, without term and times.

    `holder` has its address now, else `absence` says why none does; `unplaced` is why the leader has no node for it.
    `refused`: what is wrong with the object's present version, where an earlier one is in force; else empty.
    """
    reason, message = str(state.reason), state.message
    if state.reason == PolicyReason.ACCEPTED and unplaced:
        reason, message = str(PolicyReason.UNKNOWN_EGRESS_IP), unplaced
    conditions = [
        condition("Accepted", reason, message, is_true=state.accepted),
        _ready(state, holder, absence),
    ]
    if state.accepted:
        conditions += [_overlapped(state.overlap), _exempt(exempted)]
        refusals = refusals_of(state.egress_source_ip, exhaustion)
        conditions += [condition(refusal.reason, refusal.reason, refusal.message) for refusal in refusals]
    if refused:
        conditions.append(condition("Outdated", "InvalidObject", f"the last good version is in force: {refused}"))
    status = {"accepted": state.accepted, "matchedPods": state.matched_pods, "conditions": conditions}
    return status | ({"holder": holder} if holder and state.accepted else {})


def refused_policy_status(message: str) -> dict[str, Any]:
    """Of a policy of which no version could ever be used."""
    kinds = ("Accepted", "Ready")
    conditions = [condition(kind, "InvalidObject", message, is_true=False) for kind in kinds]
    return {"accepted": False, "matchedPods": 0, "conditions": conditions}


def shadow_message(overlap: Overlap) -> str:
    """Why a policy that is accepted does nothing; empty where it does something."""
    if not (overlap.by and overlap.is_whole):
        return ""
    return f"for each of its pods, other policies decide for all of its destinations: {_names(overlap)}; {_RULE}"


def _ready(state: PolicyState, holder: str | None, absence: Absence | None) -> dict[str, str]:
    if not state.accepted or state.reason != PolicyReason.ACCEPTED:
        return condition("Ready", str(state.reason), state.message, is_true=False)
    if holder is not None:
        return condition("Ready", "Held", f"{state.egress_source_ip} is held by node {holder}")
    assert absence is not None
    return condition("Ready", absence.reason, f"matching packets are dropped: {absence.message}", is_true=False)


def _overlapped(overlap: Overlap) -> dict[str, str]:
    if not overlap.by:
        return condition("Overlapped", "NoOverlap", is_true=False)
    if message := shadow_message(overlap):
        return condition("Overlapped", "Shadowed", message)
    names = _names(overlap)
    message = f"for some of its pods, other policies decide for all or some of its destinations: {names}; {_RULE}"
    return condition("Overlapped", "PartlyOverlapped", message)


def _exempt(exempted: Exempted) -> dict[str, str]:
    message = exempt_message(exempted)
    return condition("Exempt", exempt_reason(exempted), message, is_true=bool(message))


def _names(overlap: Overlap) -> str:
    return ", ".join(overlap.by) + (" and others" if overlap.has_more else "")
