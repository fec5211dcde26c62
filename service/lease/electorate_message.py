"""The datagrams that change the electorate (leases.md, Electorate): who decides, how far each is, what it promised.

Electorate is sent to whoever is found to be in an older epoch, so one keeper that knows is enough. Survey and Standing
tell whether an epoch is in force. TransferQuery and Transfer hand the promises of one epoch over to the next.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.lease.codec import BOOT_ID_BYTES, Reader, cut, framed, key_name, key_number, unframed
from service.lease.message import MessageKind, kind_of
from service.lease.promise import Identity, Instant, Promise
from service.model.errors import PeerError
from service.model.lease import Elector, Electorate, Token

ELECTORS_MAX = 8
"""Seven, and the one that replaces one of them."""
_ELECTOR = struct.Struct("!B4sQB")  # sets, host, memory, length of the name
_MEMBER, _PREVIOUS = 1, 2
_SEQUENCE = struct.Struct("!Q")
_STANDING = struct.Struct("!QBQ")  # sequence, flags, memory
_VOTING, _SETTLED, _ELECTOR_FLAG, _MISSING = 1, 2, 4, 8
_TRANSFER = struct.Struct("!QHHBBB")  # sequence, part, parts, flags, identities, rows
_ROW = struct.Struct("!IIIIQQB")  # key, token, remaining ns, start id, identity or 255
_NOBODY = 255
_TRANSFER_BYTES = 1000
_PARTS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Survey:
    """To any keeper: how far are you? Answered in every epoch."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Standing:
    """From a keeper: the epoch it has on disk, and whether it decides in it."""

    epoch: int
    sequence: int
    memory: int
    voting: bool
    """It is out of the silence of rule P2."""
    settled: bool
    elector: bool
    """It is the member that its epoch names, with the disk that was meant (rule M7)."""
    misses_other: bool = False
    """It was one of two electors, and does not hear the other."""


@dataclass(frozen=True, slots=True)
class TransferQuery:
    """From an elector of the new epoch: what did you promise before it?"""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One key as an elector knows it, with the identity of whom it is promised to."""

    key: str
    token: Token
    holder: Identity | None
    remaining_ns: int
    start_id: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """The answer of an elector that has left the epoch before, in as many parts as it takes."""

    epoch: int
    sequence: int
    part: int
    parts: int
    voting: bool
    settled: bool
    rows: tuple[TransferRow, ...]


ElectorateMessage = Electorate | Survey | Standing | TransferQuery | Transfer


def encode_electorate_message(message: ElectorateMessage) -> bytes:
    """The datagram; bounded as ELECTORS_MAX and the parts of transfers are."""
    match message:
        case Electorate():
            return framed(MessageKind.ELECTORATE, message.epoch, _encode_electorate(message))
        case Survey():
            return framed(MessageKind.SURVEY, message.epoch, _SEQUENCE.pack(message.sequence))
        case TransferQuery():
            return framed(MessageKind.TRANSFER_QUERY, message.epoch, _SEQUENCE.pack(message.sequence))
        case Standing():
            return framed(MessageKind.STANDING, message.epoch, _encode_standing(message))
        case Transfer():
            return framed(MessageKind.TRANSFER, message.epoch, _encode_transfer(message))


def decode_electorate_message(payload: bytes) -> ElectorateMessage:
    """The message of a datagram. Raises PeerError where it is malformed, or not one of these."""
    kind = kind_of(payload)
    parse = _PARSERS.get(kind)
    if parse is None:
        raise PeerError(f"lease datagram: {kind.name} is not of the electorate")
    return unframed(payload, parse)


def transfers(
    epoch: int, sequence: int, *, voting: bool, settled: bool, promises: Mapping[str, Promise], now: Instant
) -> list[Transfer]:
    """Everything an elector promised, cut into parts that fit a datagram; at least one."""
    rows = []
    for key, promise in promises.items():
        holder, left_ns = None, 0
        if not promise.is_over(now):
            holder = promise.holder
            # On both clocks (T3): whoever takes the promise over must not end it before the one who made it.
            left_ns = max(promise.until.left_ns(now), 1)
        rows.append(TransferRow(key, promise.token, holder, left_ns, promise.start_id))
    cuts = cut(
        rows,
        room=_TRANSFER_BYTES,
        row_bytes=_ROW.size,
        name_of=lambda row: row.holder,
        name_bytes=lambda holder: BOOT_ID_BYTES + 1 + len(holder.node.encode()),
    )
    return [Transfer(epoch, sequence, part, len(cuts), voting, settled, rows) for part, rows in enumerate(cuts)]


def _flags(voting: bool, settled: bool) -> int:
    return (_VOTING if voting else 0) | (_SETTLED if settled else 0)


def _encode_electorate(electorate: Electorate) -> bytes:
    members = {member.name for member in electorate.members}
    previous = {elector.name for elector in electorate.previous}
    parts = [bytes([len(electorate.contacts)])]
    for elector in electorate.contacts:
        sets = (_MEMBER if elector.name in members else 0) | (_PREVIOUS if elector.name in previous else 0)
        name = elector.name.encode()
        parts.append(_ELECTOR.pack(sets, IPv4Address(elector.host).packed, elector.memory, len(name)) + name)
    return b"".join(parts)


def _decode_electorate(reader: Reader, epoch: int) -> Electorate:
    (count,) = reader.take_bytes(1)
    if count > 2 * ELECTORS_MAX:
        raise ValueError(f"{count} electors")
    members, previous = [], []
    for _ in range(count):
        sets, host, memory, length = reader.take_mixed(_ELECTOR)
        elector = Elector(reader.take_bytes(length).decode(), str(IPv4Address(host)), memory)
        if sets & _MEMBER:
            members.append(elector)
        if sets & _PREVIOUS:
            previous.append(elector)
    return Electorate(epoch, tuple(members), tuple(previous))


def _encode_transfer(message: Transfer) -> bytes:
    identities: dict[Identity, int] = {}
    rows = []
    for row in message.rows:
        index = _NOBODY if row.holder is None else identities.setdefault(row.holder, len(identities))
        rows.append(_ROW.pack(key_number(row.key), *row.token, row.remaining_ns, row.start_id, index))
    flags = _flags(message.voting, message.settled)
    parts = [_TRANSFER.pack(message.sequence, message.part, message.parts, flags, len(identities), len(rows))]
    for identity in identities:
        name = identity.node.encode()
        parts.append(identity.boot_id + bytes([len(name)]) + name)
    return b"".join(parts + rows)


def _decode_transfer(reader: Reader, epoch: int) -> Transfer:
    sequence, part, parts, flags, identity_count, row_count = reader.take(_TRANSFER)
    if part >= parts or parts > _PARTS_MAX:
        raise ValueError("a part beyond the last")
    identities = []
    for _ in range(identity_count):
        boot_id = reader.take_bytes(BOOT_ID_BYTES)
        identities.append(Identity(reader.take_text(), boot_id))
    rows = []
    for _ in range(row_count):
        key, term, version, counter, remaining_ns, start_id, index = reader.take(_ROW)
        holder = None if index == _NOBODY else identities[index]
        rows.append(TransferRow(key_name(key), Token.checked(term, version, counter), holder, remaining_ns, start_id))
    voting, settled = bool(flags & _VOTING), bool(flags & _SETTLED)
    return Transfer(epoch, sequence, part, parts, voting, settled, tuple(rows))


def _encode_standing(message: Standing) -> bytes:
    flags = _flags(message.voting, message.settled) | (_ELECTOR_FLAG if message.elector else 0)
    flags |= _MISSING if message.misses_other else 0
    return _STANDING.pack(message.sequence, flags, message.memory)


def _decode_standing(reader: Reader, epoch: int) -> Standing:
    sequence, flags, memory = reader.take(_STANDING)
    voting, settled = bool(flags & _VOTING), bool(flags & _SETTLED)
    return Standing(epoch, sequence, memory, voting, settled, bool(flags & _ELECTOR_FLAG), bool(flags & _MISSING))


def _decode_survey(reader: Reader, epoch: int) -> Survey:
    return Survey(epoch, *reader.take(_SEQUENCE))


def _decode_transfer_query(reader: Reader, epoch: int) -> TransferQuery:
    return TransferQuery(epoch, *reader.take(_SEQUENCE))


_PARSERS: Mapping[MessageKind, Callable[[Reader, int], ElectorateMessage]] = {
    MessageKind.ELECTORATE: _decode_electorate,
    MessageKind.SURVEY: _decode_survey,
    MessageKind.STANDING: _decode_standing,
    MessageKind.TRANSFER_QUERY: _decode_transfer_query,
    MessageKind.TRANSFER: _decode_transfer,
}
ELECTORATE_KINDS = tuple(_PARSERS)
"""The kinds of datagram that this module reads."""
