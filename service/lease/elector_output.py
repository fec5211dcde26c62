"""What an elector wants done: answers, and records that must be written before them."""

from dataclasses import dataclass

from service.model.lease import Token
from service.model.machine import Address, Send


@dataclass(frozen=True, slots=True)
class Persist:
    """Write, and only then answer."""

    data: bytes
    durable: bool
    """False: the promises, to shared memory, before anything that follows. True: the highest tokens, to disk with
    fsync, before any SendPersisted that follows (rule K1)."""


@dataclass(frozen=True, slots=True)
class SendPersisted:
    """Send, but only when every durable Persist before it is on disk. What follows need not wait for it.

    A disk may take longer than a lease. Only the leader waits for it, not the renewal of every floating IP.
    """

    to: Address
    payload: bytes


@dataclass(frozen=True, slots=True)
class Remember:
    """Write the highest tokens to disk soon; nothing waits for it. A later one replaces an earlier."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Promised:
    """A floating IP was promised under a token of its own: for the record. Nothing waits for it."""

    key: str
    node: str
    token: Token


@dataclass(frozen=True, slots=True)
class Settled:
    """All that was promised before this epoch is known (M3).

    Write the tokens to disk with fsync, then that the epoch is settled, then call `confirm_settled`.
    """

    epoch: int
    tokens: bytes


ElectorOutput = Send | SendPersisted | Persist | Remember | Promised | Settled
