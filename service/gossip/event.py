"""Outputs of the membership machine beside Send: what others made known. Our own changes are not echoed."""

from dataclasses import dataclass

from service.gossip.member import Member, MemberState
from service.model.machine import Address, Send


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """State, address or metadata of another member changed. Alive and suspect both mean up."""

    member: Member
    previous_state: MemberState | None
    """None where the member was unknown."""


@dataclass(frozen=True, slots=True)
class RowChanged:
    """Another member's newer version of a row was accepted."""

    table: str
    key: str
    version: tuple[int, int, int]
    value: bytes
    """As its writer put it; what it means is not known here."""


@dataclass(frozen=True, slots=True)
class RowForgotten:
    """A row ended while we were away, and nobody remembers any more that it did."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Another living process uses our name. Both stay members in name only until an operator renames one."""

    name: str
    address: Address
    """Where the other one is."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An item of an authentic datagram was not taken over: too many of them, or its contents cannot be."""

    reason: str
    """One of those in `admission`."""
    origin: Address
    """Whose datagram it was; it may only have passed the item on."""
    detail: str = ""
    """What is wrong with it, where the reason alone does not say so."""


Output = Send | MemberChanged | RowChanged | RowForgotten | NameConflict | Refused
"""All that the machine can want done, in the order in which it came about."""
