"""Wire form of what holders tell directly: MessagePack arrays behind one channel byte.

Whose word it is, is never on the wire: it is the authenticated sender. Revisions grow over all that one process sends.
Members of releases before NAT on the pod's node tell their pods in the same datagrams: that is read over, and not
acknowledged, since nobody serves them here (rule U1).
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from service.model.errors import PeerError
from service.model.lease import COUNTER_MAX, TERM_MAX, VERSION_MAX

CHANNEL = b"E"
"""First byte of every payload; other traffic of the state socket begins with another one."""
ROWS_MAX = 40
"""Of one datagram, which stays below what a network carries unfragmented."""

Count = Annotated[int, Meta(ge=0)]


class LocationRow(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sender holds the floating IP under this token."""

    revision: Count
    floating_ip: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
    term: Annotated[int, Meta(ge=0, le=TERM_MAX)]
    version: Annotated[int, Meta(ge=0, le=VERSION_MAX)]
    counter: Annotated[int, Meta(ge=0, le=COUNTER_MAX)]


class _FormerRow(msgspec.Struct, frozen=True, array_like=True, tag=1):
    revision: Count


class _FormerEnd(msgspec.Struct, frozen=True, array_like=True, tag=2):
    revision: Count


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Words of the sender."""

    epoch: Count
    """Of a table of pods that was before; always 1."""
    rows: tuple[LocationRow | _FormerRow | _FormerEnd, ...]

    def locations(self) -> list[LocationRow]:
        """Those that are of this release."""
        return [row for row in self.rows if isinstance(row, LocationRow)]


class Acks(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """These words were heard."""

    start_id: Count
    """The process whose revisions these are; to any other they mean nothing."""
    revisions: tuple[Count, ...]


class _FormerStatus(msgspec.Struct, frozen=True, array_like=True, tag=3):
    epoch: Count


Message = Rows | Acks | _FormerStatus
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_rows(rows: Iterable[LocationRow]) -> bytes:
    """One datagram of at most ROWS_MAX words."""
    return CHANNEL + _encoder.encode(Rows(1, tuple(rows)))


def encode_acks(start_id: int, revisions: Iterable[int]) -> bytes:
    """One datagram."""
    return CHANNEL + _encoder.encode(Acks(start_id, tuple(revisions)))


def decode(payload: bytes) -> Message:
    """Raises PeerError where it is malformed, or of another channel."""
    if payload[:1] != CHANNEL:
        raise PeerError("location message of another channel")
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise PeerError("malformed location message") from None
