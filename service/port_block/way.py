"""What a leader is told of nodes and addresses."""

from dataclasses import dataclass

from service.model.machine import Address


@dataclass(frozen=True, slots=True)
class LeaderMember:
    """A node with an agent, also one that is Down."""

    address: Address
    is_up: bool


@dataclass(frozen=True, slots=True)
class Way:
    """Where a floating IP is, and who comes next; empty where it is nowhere, or nobody does."""

    holder: str
    successor: str
    is_new: bool = False
    """It was never a floating IP before: no node can have a block of it."""
