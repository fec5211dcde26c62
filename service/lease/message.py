"""The datagrams of the lease protocol: Renew and its Ack, Query and its Report (leases.md, Wire).

Those that change the electorate are in `electorate_message`.

Their frame, and what they have in common with those, is in `codec`.

A session's keys are split into *groups* of at most `GROUP_KEYS`, each renewed by its own datagram, so that neither a
list nor the details of its acknowledgement ever outgrow a datagram, and the number of keys has no bound but 255 groups.
The list of a group is named by a number that its holder raises with every change. A number cannot collide, as a hash
could: two lists taken for each other would be two holders.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from service.lease.codec import (
    BOOT_ID_BYTES,
    Reader,
    cut,
    epoch_number,
    framed,
    key_name,
    key_number,
    kind_number,
    unframed,
)
from service.model.errors import PeerError
from service.model.lease import Stamp, Token

GROUP_KEYS = 47
"""Keys of one group: 47 details of 22 bytes and the header stay below 1200 bytes with the envelope around them."""
GROUPS_MAX = 255
_REPORT_BYTES = 1060
"""Rows and names of one part of a report."""
_REPORT_PARTS_MAX = 255
"""Some 12,000 keys; a report beyond that says what it can rather than nothing."""

_U32_MAX = 0xFFFFFFFF
_RENEW = struct.Struct(
    "!QQQBIB"
)  # after the boot id: sequence, lease, renew interval, group, list number, entries or 255
_ENTRY = struct.Struct("!IBIII")  # key, role and held, token
_HELD = 0x80
_ACK = struct.Struct("!QQBBIB")  # start id, sequence, group, flags, list number, entries
_DETAIL = struct.Struct("!BBIIIII")  # index, flags, highest token, stamp of the best rival
_QUERY = struct.Struct("!Q")
_REPORT = struct.Struct("!QBBBBB")  # sequence, part, parts, voting, names, rows
_ROW = struct.Struct("!IIIIBI")  # key, token, name or 255, remaining ms
_NO_LIST = 255
_NO_NAME = 255
_NEEDS_LIST, _VOTING, _UNSETTLED = 1, 1, 2


class MessageKind(IntEnum):
    """First byte of a datagram. A number that was used once is never given to another message."""

    RENEW = 1
    ACK = 2
    QUERY = 3
    REPORT = 4
    ELECTORATE = 5
    SURVEY = 6
    STANDING = 7
    TRANSFER_QUERY = 8
    TRANSFER = 9


_KINDS = {int(kind): kind for kind in MessageKind}


class ClaimRole(IntEnum):
    """What a session says of one key. Higher ranks first among claims of one stamp."""

    RELEASED = 0
    """The fence is closed already; the elector may forget the promise (rule P1)."""
    STANDING = 1
    """The successor's standing claim (rule S1); also every claim to leadership."""
    HOLDER = 2
    """The holder named by the assignment, whether it holds the key yet or not."""


class Verdict(IntFlag):
    """What an elector answers for one key."""

    NONE = 0
    GRANTED = 1
    STALE = 2
    """The proposed token is not above the highest that this elector has granted."""
    CONTESTED = 4
    """Another session also claims the key; its stamp is in the detail."""
    OUTRANKED = 8
    """That rival goes first by (stamp, role, name)."""
    RIVAL_IS_HOLDER = 16
    """That rival is the holder named by its assignment (rule P4)."""
    PROMISED = 32
    """The key is promised to another session at present."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a session's list."""

    key: str
    role: ClaimRole
    token: Token
    held: bool = False
    """A majority has granted it under this token, perhaps to an earlier process of this boot (rule S8)."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Holder to elector: the session lives. `entries` is None where the elector has confirmed this list number."""

    epoch: int
    boot_id: bytes
    sequence: int
    """Grows with every datagram to this elector."""
    lease_ns: int
    renew_ns: int
    group: int
    list_number: int
    entries: tuple[Entry, ...] | None


@dataclass(frozen=True, slots=True)
class Detail:
    """What a plain `granted` bit cannot say of one key."""

    verdict: Verdict
    highest: Token
    rival: Stamp


@dataclass(frozen=True, slots=True)
class Ack:
    """Elector to holder: what is promised, counted from the sending of `sequence` (rule P5)."""

    epoch: int
    start_id: int
    """Of the process that is answered. Sequences of two processes at one address are not to be confused: an elector
    that was stopped in mid-answer, or grants of its own accord, may not know that it now speaks to another process."""
    sequence: int
    group: int
    list_number: int
    needs_list: bool
    """The elector does not know this list; nothing is promised by this acknowledgement."""
    granted: tuple[bool, ...]
    """One per entry of the list; for a RELEASED entry it says that the release is done."""
    details: Mapping[int, Detail] = field(default_factory=dict)
    settled: bool = True
    """The elector knows what was promised before this epoch (rule M3)."""


@dataclass(frozen=True, slots=True)
class Query:
    """Observer to elector: who holds what?"""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Row:
    """One key as an elector knows it; `node` None where nobody has a promise."""

    key: str
    token: Token
    node: str | None
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Report:
    """Elector to observer, in as many parts as it takes."""

    epoch: int
    sequence: int
    part: int
    parts: int
    voting: bool
    rows: tuple[Row, ...]
    settled: bool = True


Message = Renew | Ack | Query | Report


def encode(message: Message) -> bytes:
    """The datagram. Never more than DATAGRAM_BYTES_MAX, because groups and report parts are bounded."""
    match message:
        case Renew():
            return _encode_renew(message)
        case Ack():
            return _encode_ack(message)
        case Query():
            return framed(MessageKind.QUERY, message.epoch, _QUERY.pack(message.sequence))
        case Report():
            return _encode_report(message)


def kind_of(payload: bytes) -> MessageKind:
    """Which message it is, for whoever shares one socket between machines. Raises PeerError."""
    number = kind_number(payload)
    kind = _KINDS.get(number)
    if kind is None:
        raise PeerError(f"lease datagram: unknown kind {number}")
    return kind


def epoch_of(payload: bytes) -> int:
    """The epoch of a datagram whose kind is known."""
    return epoch_number(payload)


def decode(payload: bytes) -> Message:
    """The message of a datagram. Raises PeerError where it is malformed, or not one of these."""
    kind = kind_of(payload)
    parse = _PARSERS.get(kind)
    if parse is None:
        raise PeerError(f"lease datagram: {kind.name} is not of leases")
    return unframed(payload, parse)


def _encode_renew(message: Renew) -> bytes:
    entries = message.entries
    count = _NO_LIST if entries is None else len(entries)
    session = _RENEW.pack(
        message.sequence, message.lease_ns, message.renew_ns, message.group, message.list_number, count
    )
    listed = [_encode_entry(entry) for entry in entries or ()]
    return framed(MessageKind.RENEW, message.epoch, message.boot_id, session, *listed)


def _encode_entry(entry: Entry) -> bytes:
    return _ENTRY.pack(key_number(entry.key), entry.role | (_HELD if entry.held else 0), *entry.token)


def _decode_renew(reader: Reader, epoch: int) -> Renew:
    boot_id = reader.take_bytes(BOOT_ID_BYTES)
    sequence, lease_ns, renew_ns, group, list_number, count = reader.take(_RENEW)
    if lease_ns <= 0 or renew_ns <= 0:
        raise ValueError("a lease and a renew interval above zero are needed")
    if count == _NO_LIST:
        return Renew(epoch, boot_id, sequence, lease_ns, renew_ns, group, list_number, None)
    if count > GROUP_KEYS:
        raise ValueError(f"{count} keys in one group")
    entries = []
    for _ in range(count):
        key, role, *token = reader.take(_ENTRY)
        entries.append(Entry(key_name(key), ClaimRole(role & ~_HELD), Token.checked(*token), bool(role & _HELD)))
    if len({entry.key for entry in entries}) != count:
        raise ValueError("a key is listed twice")
    return Renew(epoch, boot_id, sequence, lease_ns, renew_ns, group, list_number, tuple(entries))


def _encode_ack(message: Ack) -> bytes:
    bits = sum(1 << index for index, granted in enumerate(message.granted) if granted)
    count = len(message.granted)
    flags = (_NEEDS_LIST if message.needs_list else 0) | (0 if message.settled else _UNSETTLED)
    return framed(
        MessageKind.ACK,
        message.epoch,
        _ACK.pack(message.start_id, message.sequence, message.group, flags, message.list_number, count),
        bits.to_bytes((count + 7) // 8, "little"),
        bytes([len(message.details)]),
        *(_DETAIL.pack(index, one.verdict, *one.highest, *one.rival) for index, one in message.details.items()),
    )


def _decode_ack(reader: Reader, epoch: int) -> Ack:
    start_id, sequence, group, flags, list_number, count = reader.take(_ACK)
    bits = int.from_bytes(reader.take_bytes((count + 7) // 8), "little")
    details = {}
    for _ in range(reader.take_bytes(1)[0]):
        index, verdict, term, version, counter, *rival = reader.take(_DETAIL)
        if index >= count:
            raise ValueError("a detail of no entry")
        details[index] = Detail(Verdict(verdict), Token.checked(term, version, counter), Stamp(*rival))
    granted = tuple(bool(bits >> index & 1) for index in range(count))
    needs_list, settled = bool(flags & _NEEDS_LIST), not flags & _UNSETTLED
    return Ack(epoch, start_id, sequence, group, list_number, needs_list, granted, details, settled)


def reports(epoch: int, sequence: int, *, voting: bool, rows: Iterable[Row], settled: bool = True) -> list[Report]:
    """The table in as many reports as fit a datagram each; at least one."""
    cuts = cut(
        rows,
        room=_REPORT_BYTES,
        row_bytes=_ROW.size,
        name_of=lambda row: row.node,
        name_bytes=lambda name: 1 + len(name.encode()),
    )[:_REPORT_PARTS_MAX]
    return [Report(epoch, sequence, part, len(cuts), voting, rows, settled) for part, rows in enumerate(cuts)]


def _encode_report(message: Report) -> bytes:
    names: dict[str, int] = {}
    for row in message.rows:
        if row.node is not None:
            names.setdefault(row.node, len(names))
    flags = (_VOTING if message.voting else 0) | (0 if message.settled else _UNSETTLED)
    parts = [_REPORT.pack(message.sequence, message.part, message.parts, flags, len(names), len(message.rows))]
    for name in names:
        text = name.encode()[:255]
        parts.append(bytes([len(text)]) + text)
    for row in message.rows:
        name_index = _NO_NAME if row.node is None else names[row.node]
        parts.append(_ROW.pack(key_number(row.key), *row.token, name_index, min(row.remaining_ms, _U32_MAX)))
    return framed(MessageKind.REPORT, message.epoch, *parts)


def _decode_report(reader: Reader, epoch: int) -> Report:
    sequence, part, parts, flags, name_count, row_count = reader.take(_REPORT)
    if part >= parts:
        raise ValueError("a part beyond the last")
    names = [reader.take_text() for _ in range(name_count)]
    rows = []
    for _ in range(row_count):
        key, term, version, counter, name, remaining_ms = reader.take(_ROW)
        node = None if name == _NO_NAME else names[name]
        rows.append(Row(key_name(key), Token.checked(term, version, counter), node, remaining_ms))
    voting, settled = bool(flags & _VOTING), not flags & _UNSETTLED
    return Report(epoch, sequence, part, parts, voting, tuple(rows), settled)


def _decode_query(reader: Reader, epoch: int) -> Query:
    return Query(epoch, *reader.take(_QUERY))


_PARSERS: Mapping[MessageKind, Callable[[Reader, int], Message]] = {
    MessageKind.RENEW: _decode_renew,
    MessageKind.ACK: _decode_ack,
    MessageKind.QUERY: _decode_query,
    MessageKind.REPORT: _decode_report,
}
