"""What members say to each other, and its form on the wire (msgpack arrays, one datagram each).

A datagram is `[version min, version max, version, [message, ...], tick]` and a message `[kind, field, ...]`. Two rules
keep members of different releases together: unknown kinds are skipped and counted, and fields are only ever appended
(surplus array items are ignored). Decoding is complete before anything is believed, so malformed input changes nothing.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from service.model.errors import PeerError
from service.model.machine import Address

# Range of protocol versions this release can read, and the one it writes.
VERSION_MIN = 1
VERSION_MAX = 1
VERSION = 1

METADATA_BYTES_MAX = 512
VALUE_BYTES_MAX = 512
# Array header, three versions, a 16-bit array header for the messages, and a tick of 64 bits.
PACKET_OVERHEAD_BYTES = 16
# Entries of 38 bytes at worst: a full digest still fits a datagram.
DIGEST_ENTRIES_MAX = 30

ALIVE: Final = 0
DEAD: Final = 1
LEFT: Final = 2
"""Wire states of a record, in the order in which one supersedes the other at equal incarnation. There is no suspect
among them: suspicion is an accusation by somebody, not a state of which there is one truth."""
WireState = Literal[0, 1, 2]

# Without leading zeros, as `ipaddress` reads them: to the C library 010 is eight, and one text must be one address.
_OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
TICK_MAX = 2**40
Tick = Annotated[int, Meta(ge=0, le=TICK_MAX)]
U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# As settings have them: a DNS label or several. So 63 characters are 63 bytes, and no name hides anything in a log.
_NAME = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
Name = Annotated[str, Meta(min_length=1, max_length=63, pattern=rf"^{_NAME}\Z")]
_name = re.compile(rf"^{_NAME}\Z")
NAME_LENGTH_MAX = 63
Host = Annotated[str, Meta(pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}\Z", max_length=15)]
Port = Annotated[int, Meta(ge=1, le=65535)]
TableName = Annotated[str, Meta(min_length=1, max_length=32)]
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Version = tuple[U63, U63, U63]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Fields in the order of the wire. A tag, once given, is never given to another kind."""


class Ping(_Message, frozen=True, tag=1):
    """Asks for an Ack (SWIM 3.1)."""

    sequence: U32
    """Chosen by the sender; the answer repeats it."""
    target: Annotated[str, Meta(max_length=63, pattern=rf"^({_NAME})?\Z")]
    """Who is meant: an address may have passed to another member. Empty where only the address is known (a seed)."""
    fingerprint: U32
    """Of the sender's whole state; one that differs starts anti-entropy."""


class Ack(_Message, frozen=True, tag=2):
    """Answers a Ping; a helper passes it on under the asker's sequence, with its own fingerprint."""

    sequence: U32
    fingerprint: U32


class Nack(_Message, frozen=True, tag=3):
    """A helper's word that it lives but has not reached the target (Lifeguard, local health)."""

    sequence: U32


class PingRequest(_Message, frozen=True, tag=4):
    """Asks a helper to probe a target (SWIM's ping-req)."""

    sequence: U32
    """Under which the asker wants the Ack or Nack."""
    target: Name
    host: Host
    """Where the asker knows the target."""
    port: Port


class Suspect(_Message, frozen=True, tag=5):
    """One accuser's word; different accusers are independent confirmations (Lifeguard)."""

    name: Name
    incarnation: U63
    """Of the accused as the accuser knew it: a higher one refutes."""
    accuser: Name
    """Who first said it, whoever passes it on."""


class Record(_Message, frozen=True, tag=6):
    """Everything known of a member: complete by itself, so that it needs no earlier message to be understood."""

    name: Name
    host: Host
    port: Port
    incarnation: U63
    state: WireState
    age_s: U32
    """Seconds since a dead or left member became so, as the sender counts: expiry in step without a clock in common."""
    metadata: Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)]

    @property
    def address(self) -> Address:
        """Where the member says it is; its datagrams may come from elsewhere (see probe.Origins)."""
        return Address(self.host, self.port)


class TableRow(_Message, frozen=True, tag=7):
    """One row, of which the highest version wins; what the value means is its table's affair."""

    table: TableName
    key: Key
    version: Version
    value: Annotated[bytes, Meta(max_length=VALUE_BYTES_MAX)]
    ended: Tick = 0
    """The tick in which the row became a tombstone (retention.py); 0 while it lives. Appended: others see a value that
    means nothing."""


class Range(_Message, frozen=True, tag=8):
    """Fingerprint of the sender's items whose hash lies in [low, high]."""

    low: U63
    high: U63
    fingerprint: U63


class Digest(_Message, frozen=True, tag=9):
    """All the sender's items in [low, high], as (hash, version); what is not listed it does not have."""

    low: U63
    high: U63
    entries: Annotated[tuple[tuple[U63, U63, U63, U63], ...], Meta(max_length=DIGEST_ENTRIES_MAX)]


class Want(_Message, frozen=True, tag=10):
    """Items, by hash, of which the receiver has a newer version."""

    hashes: Annotated[tuple[U63, ...], Meta(max_length=DIGEST_ENTRIES_MAX)]


class Delta(_Message, frozen=True, tag=11):
    """Items the sender has reason to think the receiver lacks. Old news, therefore hearsay about the dead."""

    records: tuple[Record, ...]
    rows: tuple[TableRow, ...]


Message = Ping | Ack | Nack | PingRequest | Suspect | Record | TableRow | Range | Digest | Want | Delta
KINDS = frozenset(range(1, 12))
"""Every tag of this release. A message with another one is a later release's, and skipped."""


class _Packet(msgspec.Struct, frozen=True, array_like=True):
    """The messages stay undecoded, so that one unknown kind does not cost the others."""

    version_min: U32
    version_max: U32
    version: U32
    messages: list[msgspec.Raw]
    tick: Tick = 0
    """The sender's (retention.py); 0 of one that knows none. Appended: of older members it is 0."""


class Packet(NamedTuple):
    """A datagram that was read."""

    messages: list[Message]
    unknown: int
    """Messages of kinds that this release does not know, which were skipped."""
    tick: int


# Text that is not UTF-8 escapes msgspec as a UnicodeDecodeError, nesting without end as a RecursionError.
_MALFORMED = (msgspec.DecodeError, ValueError, RecursionError)
_encoder = msgspec.msgpack.Encoder()
_packet_decoder = msgspec.msgpack.Decoder(_Packet)
_message_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_any_decoder = msgspec.msgpack.Decoder()


def is_name(text: str) -> bool:
    """Whether it can be a member's name, as every member reads it."""
    return len(text) <= NAME_LENGTH_MAX and _name.match(text) is not None


def encode_message(message: Message) -> bytes:
    """Encode one message. Bounds are not checked: what is built from decoded or checked values keeps them."""
    return _encoder.encode(message)


def encode_packet(messages: Sequence[bytes], *, tick: int = 0) -> bytes:
    """Join encoded messages into the payload of one datagram."""
    raws = [msgspec.Raw(message) for message in messages]
    return _encoder.encode(_Packet(VERSION_MIN, VERSION_MAX, VERSION, raws, tick))


def decode_packet(payload: bytes) -> Packet:
    """Read a whole datagram. Raises PeerError where anything is malformed."""
    try:
        packet = _packet_decoder.decode(payload)
    except _MALFORMED as error:
        raise PeerError(f"gossip: malformed datagram: {error}") from error
    _check_version(packet)
    messages: list[Message] = []
    unknown = 0
    for raw in packet.messages:
        try:
            messages.append(_message_decoder.decode(raw))
        except _MALFORMED as error:
            # Only now is it worth finding out whether a later release wrote it.
            if not _is_unknown_kind(raw):
                raise PeerError(f"gossip: malformed message: {error}") from error
            unknown += 1
    return Packet(messages, unknown, packet.tick)


def _check_version(packet: _Packet) -> None:
    # The range the peer reads is only for the message: there is one version so far, hence nothing to agree on.
    if not VERSION_MIN <= packet.version <= VERSION_MAX:
        raise PeerError(
            f"gossip: protocol version {packet.version} (peer reads {packet.version_min}-{packet.version_max}), "
            f"this member reads {VERSION_MIN}-{VERSION_MAX}"
        )


def _is_unknown_kind(raw: msgspec.Raw) -> bool:
    try:
        message = _any_decoder.decode(raw)
    except _MALFORMED:
        return False
    return isinstance(message, list) and bool(message) and type(message[0]) is int and message[0] not in KINDS
