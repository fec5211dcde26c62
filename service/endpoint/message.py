"""Wire form of the endpoint channel: MessagePack arrays behind one channel byte.

The announcing node is never on the wire: it is the authenticated sender. Revisions grow over everything one process
sends, so a revision names one version of one row for the whole life of its sender.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.model.errors import PeerError
from service.model.lease import COUNTER_MAX, TERM_MAX, VERSION_MAX

CHANNEL = b"E"
"""First byte of every payload; other traffic of the state socket begins with another one."""
BATCH_BYTES_MAX = 1250
"""Payload bytes per datagram; a row that is larger alone goes alone."""
ACKS_PER_DATAGRAM = 128

Count = Annotated[int, Meta(ge=0)]
AddressNumber = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Mac = Annotated[bytes, Meta(min_length=6, max_length=6)]


class EndpointRow(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A pod that the receiver is to serve. Numbers of addresses in host order."""

    revision: Count
    pod_ip: AddressNumber
    pod_uid: Annotated[str, Meta(max_length=128)]
    macs: Annotated[tuple[Mac, ...], Meta(max_length=64)]
    rule_set: Count
    policies: Annotated[tuple[Count, ...], Meta(max_length=4096)]
    sequence: Count


class WithdrawnRow(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The receiver need serve this pod no more."""

    revision: Count
    pod_ip: AddressNumber


class LocationRow(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sender holds the floating IP under this token."""

    revision: Count
    floating_ip: AddressNumber
    term: Annotated[int, Meta(ge=0, le=TERM_MAX)]
    version: Annotated[int, Meta(ge=0, le=VERSION_MAX)]
    counter: Annotated[int, Meta(ge=0, le=COUNTER_MAX)]


Row = EndpointRow | WithdrawnRow | LocationRow


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Part of what the sender wants the receiver to hold; a row of a higher revision replaces one of a lower."""

    epoch: Count
    """A higher epoch starts the table anew: rows of lower ones that are not said again are void."""
    rows: tuple[Row, ...]


class _EncodedRows(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Rows, on the way out."""

    epoch: int
    rows: list[msgspec.Raw]


class Acks(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Rows that are in the kernel of the sender, or gone from it."""

    start_id: Count
    """The process whose revisions these are; to any other they mean nothing."""
    revisions: tuple[Count, ...]


class Status(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What the sender has for the receiver, and what it holds from it: digests that show divergence."""

    epoch: Count
    complete: bool
    """The sender has announced its full state in this life; before, a row not said means nothing."""
    count: Count
    digest: Count
    held_start_id: Count
    """The receiver's process the held rows are from; 0 for none."""
    held_epoch: Count
    held_count: Count
    held_digest: Count
    wants_reply: bool


Message = Rows | Acks | Status

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_row(row: Row) -> bytes:
    """One row, kept so that a resend costs nothing."""
    return _encoder.encode(row)


def encode_rows(epoch: int, rows: list[bytes]) -> bytes:
    """A datagram of encoded rows; BATCH_BYTES_MAX of them fit."""
    return CHANNEL + _encoder.encode(_EncodedRows(epoch, [msgspec.Raw(row) for row in rows]))


def encode(message: Acks | Status) -> bytes:
    """A whole datagram, with the byte that tells the channel."""
    return CHANNEL + _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """Raises PeerError where it is not a message of this channel."""
    if payload[:1] != CHANNEL:
        raise PeerError("not of the endpoint channel")
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise PeerError("malformed endpoint message") from None
