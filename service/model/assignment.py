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
    """Why it is unassigned, for the condition; empty where it has a holder."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a floating IP really is, said by its holder (rule W2). The higher token wins."""

    floating_ip: IPv4Address
    node: str
    """Name of the holder."""
    token: Token
    """Of the lease it is held by, so that a former holder's word never covers its successor's."""
