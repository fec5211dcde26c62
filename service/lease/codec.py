"""The frame that every datagram of leases shares: a header, and a body of fixed binary layout (leases.md, Wire).

Network byte order throughout. The header is one byte of kind, one of format, and the epoch of the electorate in
force at the sender (M4). Who sent a datagram is never in it: the envelope authenticates node name and start id.

What does not fit its layout to the last byte is refused with PeerError before anything of it is used, so a machine that
receives it has not changed.
"""

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any, TypeVar

from service.model.errors import PeerError
from service.model.lease import LEADER_KEY

M = TypeVar("M")
R = TypeVar("R")
N = TypeVar("N")

DATAGRAM_BYTES_MAX = 1200
"""With the envelope around it: below the MTU of every network that carries IPv6, so nothing is fragmented."""
FORMAT = 1
"""Raised when a layout changes. Keepers of two formats do not understand each other, as if they were cut off."""
BOOT_ID_BYTES = 16
_HEADER = struct.Struct("!BBI")  # kind, format, epoch


class Reader:
    """A position in a datagram. Every `take` raises ValueError or struct.error where too little is left."""

    __slots__ = ("offset", "payload")

    def __init__(self, payload: bytes, offset: int) -> None:
        self.payload = payload
        self.offset = offset

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        """The next fields, of a layout that has only numbers in it."""
        values = layout.unpack_from(self.payload, self.offset)
        self.offset += layout.size
        return values

    def take_mixed(self, layout: struct.Struct) -> tuple[Any, ...]:
        """As `take`, for a layout that has more than numbers in it."""
        return self.take(layout)

    def take_bytes(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = self.payload[self.offset : self.offset + count]
        if len(data) != count:
            raise ValueError("too short")
        self.offset += count
        return data

    def take_text(self) -> str:
        """A text of up to 255 bytes behind its length. Raises UnicodeDecodeError, a ValueError, where it is none."""
        return self.take_bytes(self.take_bytes(1)[0]).decode()


def framed(kind: int, epoch: int, *body: bytes) -> bytes:
    """A datagram of this kind, as said by somebody in this epoch."""
    return b"".join((_HEADER.pack(kind, FORMAT, epoch), *body))


def kind_number(payload: bytes) -> int:
    """Which kind the header names. Raises PeerError where there is no header of this format."""
    if len(payload) < _HEADER.size or payload[1] != FORMAT:
        raise PeerError("lease datagram: too short or of an unknown format")
    return payload[0]


def epoch_number(payload: bytes) -> int:
    """The epoch of a datagram that has a header."""
    return int(_HEADER.unpack_from(payload)[2])


def unframed(payload: bytes, parse: Callable[[Reader, int], M]) -> M:
    """What `parse` makes of body and epoch. Raises PeerError where it cannot, or leaves bytes behind."""
    reader = Reader(payload, _HEADER.size)
    try:
        message = parse(reader, epoch_number(payload))
    except (struct.error, ValueError, IndexError) as error:
        raise PeerError(f"lease datagram: {error}") from error
    if reader.offset != len(payload):
        raise PeerError("lease datagram: trailing bytes")
    return message


@lru_cache(maxsize=65536)
def key_number(key: str) -> int:
    """The key as u32: an IPv4 address, or 0 for leadership."""
    return 0 if key == LEADER_KEY else int(IPv4Address(key))


def is_floating_ip(key: str) -> bool:
    """Whether a lease can be asked for under this key, for an address: it is one, and not the number of leadership."""
    try:
        return key != LEADER_KEY and key_number(key) != 0
    except ValueError:
        return False


@lru_cache(maxsize=65536)
def key_name(number: int) -> str:
    """The key of a u32; the inverse of `key_number`."""
    return LEADER_KEY if number == 0 else str(IPv4Address(number))


def cut(
    rows: Iterable[R],
    *,
    room: int,
    row_bytes: int,
    name_of: Callable[[R], N | None],
    name_bytes: Callable[[N], int],
) -> list[tuple[R, ...]]:
    """Rows in parts of at most `room` bytes, in order; at least one part, so that an empty table is an answer too.

    A part lists each name that its rows refer to once. It names them anew, so that each part can be read by itself.
    """
    parts: list[list[R]] = [[]]
    named: dict[N, None] = {}
    left = room
    for row in rows:
        name = name_of(row)
        cost = row_bytes + (0 if name is None or name in named else name_bytes(name))
        if cost > left:
            parts.append([])
            named, left = {}, room
            cost = row_bytes + (0 if name is None else name_bytes(name))
        left -= cost
        parts[-1].append(row)
        if name is not None:
            named[name] = None
    return [tuple(part) for part in parts]
