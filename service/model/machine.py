"""The contract of every pure state machine, and the two values all of them share.

A machine is fed inputs and time, and asked for what it wants done. It never does anything itself, so that the whole
control plane runs in a deterministic simulator. The driver executes outputs strictly in the order given; an output
that must be durable before another is sent (Persist before Send) precedes it.

After every call the driver drains the machine and looks at its deadline anew: any call may have changed either. Which
clock `now_ns` is of, the machine says; it must be read after the datagram was received, and before anything is sent.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Address(NamedTuple):
    """Where a datagram goes to or comes from."""

    host: str
    """Dotted-quad IPv4 address."""
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Source:
    """Who sent a datagram: authenticated by the envelope, not claimed by the payload."""

    address: Address
    node: str
    """Name of the sending member (node name, or `controller-...`)."""
    start_id: int
    """64-bit number drawn at the start of the sending process; another process of the same node has another."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send one datagram. Loss is allowed: machines resend what matters."""

    to: Address
    payload: bytes
    """In clear; the socket seals it (service.wire.envelope)."""


class Machine(Protocol):
    """What a driver calls. Time is integer nanoseconds and never goes backwards (asserted by the machine)."""

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError, with no state changed, where it is malformed."""

    def advance(self, *, now_ns: int) -> None:
        """Let time pass: run every timer that is due at `now_ns`."""

    def deadline_ns(self) -> int | None:
        """When `advance` has something to do next; None where only input can wake the machine."""

    def drain(self) -> list[Any]:
        """Return the outputs since the last call, in order, and forget them."""
