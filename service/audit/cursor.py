"""How far an outbox has been published: a place in its segments, kept durably in its folder. Synchronous.

The publisher moves it, after the brokers have acknowledged; the outbox's writer reads it, to know which segments may go
without a gap. Two slots are written in turn and in place, so a torn write leaves the one before, and a full disk has
room for it. Where it is lost, everything that is still on disk is published again: copies collapse on their id.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

_NAME = "cursor"
_MARK = b"EGWCURS1"
_SLOT = struct.Struct(">8sQQQ")
_CHECKSUM = struct.Struct(">I")
_SLOT_BYTES = 512
"""A slot to a sector: one is never torn by a write of the other."""


class Position(NamedTuple):
    """Everything in front of it is meant; positions compare in the order in which records were written."""

    segment: int
    offset: int


BEGIN = Position(0, 0)


class Cursor:
    """The one writer of a folder's cursor. `load` first."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._serial = 0
        self._stored: Position | None = None

    def load(self) -> Position:
        """What was stored last; BEGIN where there is nothing readable. Raises OSError."""
        self._serial, position = _newest(self._path) or (0, BEGIN)
        self._stored = position
        return position

    def store(self, position: Position) -> None:
        """Make it durable. Raises OSError; the position stored before is then still readable."""
        if position == self._stored:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            serial = self._serial + 1
            body = _SLOT.pack(_MARK, serial, *position)
            slot = (body + _CHECKSUM.pack(zlib.crc32(body))).ljust(_SLOT_BYTES, b"\0")
            os.pwrite(fd, slot, serial % 2 * _SLOT_BYTES)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._serial, self._stored = serial, position


def read_cursor(folder: Path) -> Position | None:
    """What the publisher stored last; None where nothing was ever published from this folder. Raises OSError."""
    newest = _newest(folder / _NAME)
    return newest[1] if newest else None


def _newest(path: Path) -> tuple[int, Position] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    found = []
    for start in (0, _SLOT_BYTES):
        body, checksum = data[start : start + _SLOT.size], data[start + _SLOT.size : start + _SLOT.size + 4]
        if len(checksum) == _CHECKSUM.size and _CHECKSUM.unpack(checksum)[0] == zlib.crc32(body):
            mark, serial, segment, offset = _SLOT.unpack(body)
            if mark == _MARK:
                found.append((serial, Position(segment, offset)))
    return max(found, default=None)
