"""What an operator has ordered of floating IPs: nodes that are drained, and moves of one address (rules O3, O4)."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import NamedTuple

OrderId = tuple[int, int]
"""Unix seconds, counted on where that has been used, and who wrote it down: of two orders the higher one counts."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The last word on whether a node is drained. One that is not is on record as long as the node is a member."""

    node: str
    is_drained: bool
    id: OrderId


class MoveState(StrEnum):
    """How far an order to move one address is."""

    ASKED = "asked"
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Nothing more will be done about it."""
        return self in (MoveState.DONE, MoveState.FAILED)


@dataclass(frozen=True, slots=True)
class MoveOrder:
    """One order, and what became of it."""

    floating_ip: IPv4Address
    id: OrderId
    target: str = ""
    """Node that is to have it; empty for any other than the present one, until a leader has chosen."""
    state: MoveState = MoveState.ASKED
    source: str = ""
    """Node that had it when the move began."""
    reason: str = ""
    """How it ended."""


class Relocation(NamedTuple):
    """One step of a rebalance."""

    floating_ip: IPv4Address
    source: str
    target: str
