"""How records lie in a segment of the outbox: framing and recovery. Pure.

A segment is a 16-byte head, then frames: mark, length, CRC32C (RFC 3720, of length and payload), payload. Segments are
preallocated, so zeros follow the last frame. The mark begins with 0xF5, a byte that UTF-8 never has: it cannot occur in
a payload, so the frame after a damaged one is found again whatever the damage did to the length.
"""

import struct
from dataclasses import dataclass

import google_crc32c

HEAD = struct.pack(">8sII", b"EGWAUDIT", 1, 0)
"""Name and layout version, so that another version's segment is reported and not cut."""
MARK = b"\xf5EGW"
PAYLOAD_BYTES_MAX = 64 * 1024
"""A longer length in a frame is damage: it bounds what recovery reads for one candidate."""

_LENGTH = struct.Struct(">I")
_FRAME = struct.Struct(">4sII")
FRAME_BYTES_MAX = _FRAME.size + PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Frame:
    """One sound frame; `offset` and `length` are those of the whole frame in its segment."""

    offset: int
    length: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes between sound frames (or the head) that are not one."""

    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds. Behind `end` there is nothing sound: zeros, or a torn tail of `torn_bytes`."""

    items: tuple[Frame | Damage, ...]
    end: int
    torn_bytes: int


def frame(payload: bytes) -> bytes:
    """Return the frame of one payload of at most PAYLOAD_BYTES_MAX bytes."""
    assert 0 < len(payload) <= PAYLOAD_BYTES_MAX
    return _FRAME.pack(MARK, len(payload), _checksum(payload)) + payload


def scan(data: bytes) -> Scan:
    """Find every sound frame. What follows the last one is a tail, never damage: a live writer may be at it."""
    items: list[Frame | Damage] = []
    end = len(HEAD) if data.startswith(HEAD) else 0
    while True:
        found = frame_at(data, end)
        if found is None:
            found = next_frame(data, end + 1)
            if found is None:
                break
            # Bytes before a sound frame were written before it, so they are a damaged record and not a torn tail.
            items.append(Damage(end, found.offset - end, "checksum or length is wrong" if end else "no segment head"))
        items.append(found)
        end = found.offset + found.length
    return Scan(tuple(items), end, len(data[end:].rstrip(b"\0")))


def frame_at(data: bytes, offset: int) -> Frame | None:
    """The sound frame that begins at `offset`, if one does and all of it is in `data`."""
    if not data.startswith(MARK, offset) or len(data) < offset + _FRAME.size:
        return None
    _, length, checksum = _FRAME.unpack_from(data, offset)
    start = offset + _FRAME.size
    if not 0 < length <= PAYLOAD_BYTES_MAX or start + length > len(data):
        return None
    payload = data[start : start + length]
    return Frame(offset, _FRAME.size + length, payload) if _checksum(payload) == checksum else None


def next_frame(data: bytes, offset: int) -> Frame | None:
    """The first sound frame at `offset` or behind it."""
    while (offset := data.find(MARK, offset)) >= 0:
        found = frame_at(data, offset)
        if found is not None:
            return found
        offset += 1
    return None


def _checksum(payload: bytes) -> int:
    # The length is covered too, or a flipped length bit over zeros could pass for a shorter record.
    return int(google_crc32c.extend(google_crc32c.value(_LENGTH.pack(len(payload))), payload))
