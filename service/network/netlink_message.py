"""Netlink messages and their attributes as bytes (netlink(7), linux/netlink.h), where a decoder takes too long.

What is cut off ends a walk: nothing beyond it is read, and nothing is raised.
"""

import os
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
"""The protocol of the socket; Python has no name for it."""
HEADER = struct.Struct("=IHHII")  # length, kind, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")
ERROR, DONE = 2, 3
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300
EXCLUSIVE, CREATE = 0x200, 0x400
INTERRUPTED = 0x10
"""On a message of a dump: what it tells of has changed since the dump began."""
NESTED = 0x8000
_KIND_BITS = 0x3FFF
"""Without the bits that say how an attribute is coded."""
_CODE = struct.Struct("=i")


def split_messages(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Kind, flags, sequence and body of each whole message of a datagram."""
    view = memoryview(data)
    at = 0
    while at + HEADER.size <= len(view):
        length, kind, flags, sequence, _ = HEADER.unpack_from(view, at)
        if length < HEADER.size or at + length > len(view):
            return
        yield kind, flags, sequence, view[at + HEADER.size : at + length]
        at += length + 3 & ~3


def split_attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kind and whole bytes, header and padding included, of each attribute: as it is sent back to the kernel."""
    at = 0
    while at + ATTRIBUTE.size <= len(view):
        length, kind = ATTRIBUTE.unpack_from(view, at)
        if length < ATTRIBUTE.size or at + length > len(view):
            return
        end = at + (length + 3 & ~3)
        yield kind & _KIND_BITS, view[at:end]
        at = end


def attribute_values(data: bytes | memoryview) -> dict[int, bytes]:
    """Kind -> value, without header and padding. Of two of one kind, the last."""
    values = {}
    for kind, whole in split_attributes(memoryview(data)):
        length, _ = ATTRIBUTE.unpack_from(whole)
        values[kind] = bytes(whole[ATTRIBUTE.size : length])
    return values


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def error_code(body: memoryview) -> int:
    """Of an ERROR or DONE message: an errno; 0 where it is an acknowledgement, or says none."""
    return -int(_CODE.unpack_from(body)[0]) if len(body) >= _CODE.size else 0


def raise_error(body: memoryview) -> None:
    """Raise OSError where the message tells of an error."""
    if code := error_code(body):
        raise OSError(code, os.strerror(code))
