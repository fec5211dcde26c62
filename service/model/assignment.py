"""The leader's table: who shall hold each floating IP, and who comes next. It directs claims; it grants nothing."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.lease import Stamp, Token


@dataclass(frozen=True, slots=True)
class Assignment:
    """One row of the table, for one floating IP."""

    floating_ip: IPv4Address
    holder: str | None
    """Node name; None where no node can hold it."""
    successor: str | None
    """Node that keeps the standing claim; None where there is only one candidate."""
    stamp: Stamp
    """(leader term, version) of the last change of this row; higher wins."""
    reason: str = ""
    """Why it is unassigned, for the condition; or why it stays on a node that should give it up. Else empty."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """An address that is to go from a living holder to another node, on purpose (rule O1)."""

    floating_ip: IPv4Address
    source: str
    """Node name of who holds it."""
    heir: str
    """Node name of who is told first, and takes it then."""
    reason: str
    """Why, as part of a sentence."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a floating IP really is, said by its holder (rule W2). The higher token wins."""

    floating_ip: IPv4Address
    node: str
    """Name of the holder."""
    token: Token
    """Of the lease it is held by, so that a former holder's word never covers its successor's."""
