"""What an elector wants done: answers, and records that must be written before them."""

from dataclasses import dataclass

from service.model.lease import Token
from service.model.machine import Send


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the promises to shared memory before anything that follows is sent (P2)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Remember:
    """Write the highest tokens to disk with fsync, then call `confirm_durable` with the number (K1).

    Nothing that follows waits for it: the elector itself keeps back what must not be heard before. Each record is
    whole, so of several only the last need be written; its number counts for all before it.
    """

    data: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Promised:
    """A floating IP was promised under a token of its own: for the record. Nothing waits for it."""

    key: str
    node: str
    token: Token


@dataclass(frozen=True, slots=True)
class Settled:
    """All that was promised before this epoch is known (M3).

    When every Remember before it is on disk, write with fsync that the epoch is settled, then call `confirm_settled`.
    """

    epoch: int


ElectorOutput = Send | Persist | Remember | Promised | Settled
