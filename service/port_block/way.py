"""What a leader is told of nodes and addresses, and what it tells for the record."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.machine import Address
from service.port_block.block import Row


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


@dataclass(frozen=True, slots=True)
class BlockMoved:
    """For the record: from now on this is true of the block. `former` had it until now."""

    floating_ip: IPv4Address
    block: int
    former: str | None
    row: Row
