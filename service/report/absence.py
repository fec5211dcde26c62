"""Why a floating IP is on no node, as one reason and one sentence. Pure; the same facts give the same words."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.gateway.validation import address_fault
from service.model.gateway_node import NodeState
from service.report.facts import Sightings


@dataclass(frozen=True, slots=True)
class Absence:
    """Why nobody holds an address."""

    reason: str
    """One word in CamelCase, for conditions."""
    message: str


def find_absence(floating_ip: IPv4Address, seen: Sightings, conflicts: Mapping[IPv4Address, bytes]) -> Absence | None:
    """The gravest reason; None where a node holds the address. The holders of `seen` must be a majority's word."""
    if floating_ip in seen.holders:
        return None
    if fault := address_fault(floating_ip, seen.nodes):
        return Absence("InvalidFloatingIP", fault)
    if (mac := conflicts.get(floating_ip)) is not None:
        return Absence("FloatingIPConflict", f"{mac.hex(':')} answers for {floating_ip}; free it or list another")
    row = seen.assignments.get(floating_ip)
    if row is None:
        return Absence("NotAssigned", f"no leader has assigned {floating_ip} to a node yet")
    if row.holder is None:
        return Absence("NoEligibleNode", row.reason)
    return Absence("NotHeld", f"node {row.holder} is to take {floating_ip}, and has not{_state(row.holder, seen)}")


def _state(name: str, seen: Sightings) -> str:
    found = next((node for node in seen.nodes if node.name == name), None)
    if found is None:
        return ": it is not known"
    if found.state is NodeState.DOWN:
        return ": it is down"
    return "" if found.ready else ": it is not ready"
