"""What this node is fit for, and what its lease keeper is told of it. Functions of values; no clock, no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from service.datapath.desired import LocalUplink
from service.model.assignment import Assignment
from service.model.keeper_message import Claim, LeaseReport, Uplink


class Part(NamedTuple):
    """This node's part in one row of the leader's table."""

    role: str
    """`holder` or `successor`."""
    assignment: Assignment


def parts_of(node: str, assignments: Mapping[IPv4Address, Assignment]) -> dict[IPv4Address, Part]:
    """The node's part in each row that concerns it, by address in order."""
    parts = {}
    for floating_ip, assignment in sorted(assignments.items()):
        role = {assignment.holder: "holder", assignment.successor: "successor"}.get(node)
        if role is not None:
            parts[floating_ip] = Part(role, assignment)
    return parts


def claims_of(parts: Mapping[IPv4Address, Part]) -> dict[IPv4Address, Claim]:
    """What of its parts this node asks the keeper to take, but for an address that may still be another host's (RFC
    5227: ask before the first use)."""
    return {
        floating_ip: Claim(str(floating_ip), part.role, part.assignment.stamp.term, part.assignment.stamp.version)
        for floating_ip, part in parts.items()
    }


def uplinks_of(floating_ips: Iterable[IPv4Address], uplinks: Sequence[LocalUplink]) -> tuple[Uplink, ...]:
    """By which uplinks each floating IP that is known is served.

    Those without carrier too, and not only for claimed ones: what is held and no longer claimed has to be announced or
    given up by them as well (rule S5).
    """
    return tuple(
        Uplink(str(floating_ip), uplink.name, uplink.ifindex, uplink.mac.hex(), uplink.carrier)
        for floating_ip in floating_ips
        for uplink in uplinks
        if floating_ip in uplink.address.network
    )


def unserved(refused: Iterable[IPv4Address]) -> tuple[Uplink, ...]:
    """A member's own addresses, and others that no uplink is to serve: what of them is held is given up at once."""
    return tuple(Uplink(str(floating_ip), "", 0, "", False) for floating_ip in sorted(refused))


def unfit_reasons(*, is_synced: bool, is_keeper_alive: bool, uplinks: Iterable[LocalUplink]) -> list[str]:
    """Why this node should hold no floating IP now; what the leader is told as `ready` by gossip."""
    reasons = []
    if not is_synced:
        reasons.append("objects have not been read yet")
    if not is_keeper_alive:
        reasons.append("the lease keeper of this node does not report")
    if not any(uplink.carrier for uplink in uplinks):
        reasons.append("no uplink has a carrier")
    return reasons


def keeper_reasons(report: LeaseReport | None) -> list[str]:
    """What a living keeper says that keeps this node from its whole part: no other node should be restarted meanwhile.

    None: it has not said anything yet, which `unfit_reasons` tells.
    """
    reasons = []
    if report is not None and report.elector and not report.voting:
        reasons.append("the elector of this node has lost its memory, and keeps silent for the longest lease")
    if report is not None and not report.majority:
        reasons.append("the lease keeper sees no majority of electors")
    return reasons
