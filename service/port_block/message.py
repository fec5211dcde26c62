"""The datagrams of port blocks: MessagePack arrays behind two bytes that say for which machine (docs/port-blocks.md).

Who sent one is never in it: the envelope authenticates the node name. What does not fit its layout, names a block that
does not exist or one twice, or carries a stamp that tokens have no room for, is refused whole with PeerError.

A row names its owner by an index into the names of its datagram, so a name is told once. `cut` makes datagrams of rows
and keeps each below the size of what a network carries unfragmented.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from service.model.errors import PeerError
from service.model.lease import TERM_MAX, VERSION_MAX, Stamp
from service.port_block.block import BLOCKS, Row

DATAGRAM_BYTES_MAX = 1250
_ROWS_BYTES = 1100
"""What the rows and names of one datagram may take; the rest is for its head."""
_ROW_BYTES = 26
"""A row at its longest."""
ROWS_MAX = _ROWS_BYTES // _ROW_BYTES
PARTS_MAX = 512
POLLED_MAX = 75
"""Floating IPs that one poll asks about."""

Count = Annotated[int, Meta(ge=0)]
AddressNumber = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
BlockNumber = Annotated[int, Meta(ge=0, lt=BLOCKS)]
Term = Annotated[int, Meta(ge=0, le=TERM_MAX)]
Version = Annotated[int, Meta(ge=0, le=VERSION_MAX)]
Name = Annotated[str, Meta(max_length=253)]
Names = Annotated[tuple[Name, ...], Meta(max_length=ROWS_MAX)]
OwnerIndex = Annotated[int, Meta(ge=0, lt=ROWS_MAX)]
Part = Annotated[int, Meta(ge=0, lt=PARTS_MAX)]
Parts = Annotated[int, Meta(ge=0, le=PARTS_MAX)]
Blocks = Annotated[int, Meta(ge=0, le=BLOCKS)]
Addresses = Annotated[tuple[AddressNumber, ...], Meta(max_length=POLLED_MAX)]
Sessions = Annotated[tuple[Count, ...], Meta(max_length=POLLED_MAX)]


class Receiver(Enum):
    """Which machine a datagram is for: agents run two on one socket."""

    LEADER = b"BL"
    OWNER = b"BO"
    GATEWAY = b"BG"


class WireRow(msgspec.Struct, frozen=True, array_like=True):
    """One row. In the leader's word to a gateway also what the gateway is known to have."""

    block: BlockNumber
    term: Term
    version: Version
    owner: OwnerIndex | None
    is_resting: bool = False
    if_idle: bool = False
    """Only where no packet of the block was seen for long (Q5)."""
    after_term: Term = 0
    after_version: Version = 0


class HeldRow(msgspec.Struct, frozen=True, array_like=True):
    """A block of the sender's own, and the stamp it has it by."""

    floating_ip: AddressNumber
    block: BlockNumber
    term: Term
    version: Version
    is_acknowledged: bool = False
    """A holder has confirmed it, not long ago (Q9)."""


Rows = Annotated[tuple[WireRow, ...], Meta(max_length=ROWS_MAX)]
HeldRows = Annotated[tuple[HeldRow, ...], Meta(max_length=ROWS_MAX)]


class Read(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Leader to gateway, of one floating IP; to owner, of all that it has (then the address is 0)."""

    term: Term
    sequence: Count
    floating_ip: AddressNumber
    session: Count
    edition: Count
    """Of the table that the leader has already; an answer without parts says that it is still the same."""


class Table(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A gateway's answer, in as many parts as it takes; those of one session and edition belong together."""

    term: Term
    sequence: Count
    """Of the Read."""
    session: Count
    edition: Count
    part: Part
    parts: Parts
    floating_ip: AddressNumber
    holds: bool
    is_whole: bool
    names: Names
    rows: Rows


class Holdings(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """An owner's answer, likewise."""

    term: Term
    sequence: Count
    edition: Count
    age_ns: Count
    """For how long the owner has remembered what it has: a reboot makes it forget (Q7)."""
    part: Part
    parts: Parts
    rows: HeldRows


class Grant(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The leader's word: rows that are true from now on."""

    term: Term
    sequence: Count
    session: Count
    """Of the gateway, as it answered; to an owner the start id of its process, so that no later one takes it."""
    floating_ip: AddressNumber
    successor: Name
    """Whose acknowledgement an owner has to wait for; empty where there is none."""
    names: Names
    rows: Rows


class Push(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Owner to gateway: these are mine, do you have it so? All are of one floating IP."""

    sequence: Count
    rows: HeldRows


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """What became of the rows of a Grant or a Push, in their order, and what the answerer has instead."""

    sequence: Count
    session: Count
    """The gateway's present one: another than the Grant's says that nothing of it was taken. 0 from an owner."""
    floating_ip: AddressNumber
    holds: bool
    taken: Annotated[tuple[bool, ...], Meta(max_length=ROWS_MAX)]
    names: Names = ()
    rows: Rows = ()


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Owner to leader: so many blocks I need in all."""

    floating_ip: AddressNumber
    wanted: Blocks


class Return(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Owner to leader: these I have let go of (Q5). Said again until a newer row is heard."""

    rows: HeldRows


class Recall(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Leader to owner: give back so many that you do not use (Q2)."""

    term: Term
    floating_ip: AddressNumber
    count: Blocks


class Poll(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Gateway to leader: do I have every row of these, in these sessions?"""

    sequence: Count
    floating_ips: Addresses
    sessions: Sessions


class Whole(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Leader to gateway: of these, yes (Q8)."""

    term: Term
    sequence: Count
    floating_ips: Addresses


class Correction(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Gateway to owner, after a packet or a Push: whose the block is here (Q3)."""

    floating_ip: AddressNumber
    names: Names
    rows: Rows


Message = Read | Table | Holdings | Grant | Push | Ack | Ask | Return | Recall | Poll | Whole | Correction

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(receiver: Receiver, message: Message) -> bytes:
    """A whole datagram."""
    return receiver.value + _encoder.encode(message)


def receiver_of(payload: bytes) -> Receiver:
    """Which machine to hand a datagram to. Raises PeerError where it is for none."""
    try:
        return Receiver(bytes(payload[:2]))
    except ValueError:
        raise PeerError("port blocks: for no machine") from None


def decode(receiver: Receiver, payload: bytes) -> Message:
    """The message of a datagram. Raises PeerError where it is malformed, or for another machine."""
    if payload[:2] != receiver.value:
        raise PeerError("port blocks: for another machine")
    try:
        message = _decoder.decode(memoryview(payload)[2:])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise PeerError("port blocks: malformed") from None
    _check(message)
    return message


def _check(message: Message) -> None:
    match message:
        case Table() | Grant() | Correction() | Ack():
            _check_rows(message.names, message.rows)
        case Holdings() | Push() | Return():
            if len({(row.floating_ip, row.block) for row in message.rows}) != len(message.rows):
                raise PeerError("port blocks: a block is named twice")
    if isinstance(message, Poll) and len(message.sessions) != len(message.floating_ips):
        raise PeerError("port blocks: a session for each floating IP")
    if isinstance(message, Push) and len({row.floating_ip for row in message.rows}) != 1:
        raise PeerError("port blocks: a push is of one floating IP")
    if isinstance(message, Table | Holdings) and message.part >= max(1, message.parts):
        raise PeerError("port blocks: a part beyond the last")


def _check_rows(names: tuple[str, ...], rows: tuple[WireRow, ...]) -> None:
    if any(row.owner is not None and row.owner >= len(names) for row in rows):
        raise PeerError("port blocks: an owner without a name")
    if len({row.block for row in rows}) != len(rows):
        raise PeerError("port blocks: a block is named twice")
    if any(row.is_resting and row.owner is not None for row in rows):
        raise PeerError("port blocks: what rests has no owner")


class Entry(msgspec.Struct, frozen=True):
    """A row on its way into a datagram, or out of one."""

    block: int
    row: Row
    after: Stamp = Stamp(0, 0)
    if_idle: bool = False


Batch = tuple[tuple[str, ...], tuple[WireRow, ...]]
"""Names and rows of one datagram."""


def cut(entries: Iterable[Entry]) -> list[Batch]:
    """Rows in datagrams, in order; at least one, so that an empty table is an answer too."""
    batches: list[Batch] = []
    names: dict[str, int] = {}
    rows: list[WireRow] = []
    room = _ROWS_BYTES
    for entry in entries:
        owner = entry.row.owner
        cost = _ROW_BYTES + (0 if owner is None or owner in names else 3 + len(owner.encode()))
        if cost > room:
            batches.append((tuple(names), tuple(rows)))
            names, rows, room = {}, [], _ROWS_BYTES
            cost = _ROW_BYTES + (0 if owner is None else 3 + len(owner.encode()))
        room -= cost
        index = None if owner is None else names.setdefault(owner, len(names))
        rows.append(_wire_row(entry, index))
    return [*batches, (tuple(names), tuple(rows))]


def _wire_row(entry: Entry, owner: int | None) -> WireRow:
    row = entry.row
    return WireRow(entry.block, *row.stamp, owner, row.is_resting, entry.if_idle, *entry.after)


def entries_of(names: tuple[str, ...], rows: tuple[WireRow, ...]) -> Iterator[Entry]:
    """The rows of a decoded datagram."""
    for wire in rows:
        owner = None if wire.owner is None else names[wire.owner]
        row = Row(owner, Stamp(wire.term, wire.version), wire.is_resting)
        yield Entry(wire.block, row, Stamp(wire.after_term, wire.after_version), wire.if_idle)
