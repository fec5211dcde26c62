"""Reads an outbox record by record from a position on, while its writer is at work. Synchronous; for a thread.

What it gives out is durable: either the writer, in this process, says how far it has synced, or this reader syncs the
segment itself before it gives out what it read. So nothing is published that a power failure could still take back.
"""

import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from service.audit.cursor import Position
from service.audit.segment import FRAME_BYTES_MAX, HEAD, Frame, frame_at, next_frame

_READ_BYTES = 256 * 1024
_SECOND_LOOK_S = 0.02
_THOROUGH_EVERY = 64
"""Looks at a place where nothing is written yet; every so often the rest of the segment is searched all the same."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sound records in the order in which they were written."""

    payloads: tuple[bytes, ...]
    ends: tuple[Position, ...]
    """Behind each of them."""
    end: Position
    """Where to go on; behind damage and finished segments also where there was no record."""
    damaged: int = 0
    """Places passed over that held no sound record."""
    has_jumped: bool = False
    """The segment asked for is gone, and reading goes on in the next one that is there."""


class SegmentReader:
    """Any number may read one folder. `close` gives its file back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._number = 0
        self._idle_looks = 0

    def read(self, at: Position, durable: Position | None, *, records_max: int, bytes_max: int = _READ_BYTES) -> Chunk:
        """The records from `at` on, at most so many, of one segment; none where nothing new is durable.

        `durable` is how far the writer has synced; None where it is another process. Raises OSError.
        """
        numbers = segment_numbers(self._folder)
        if not numbers:
            return Chunk((), (), at)
        # A position behind the newest segment is of a folder that was removed since: all of this one is new.
        following = [number for number in numbers if number >= at.segment] or numbers
        number = following[0]
        offset = at.offset if number == at.segment else 0
        if durable is not None and (number, offset) >= durable:
            return Chunk((), (), at)
        try:
            fd = self._open(number)
        except FileNotFoundError:  # the size cap took it since the folder was listed; the next look finds its successor
            return Chunk((), (), at)
        limit = durable.offset if durable is not None and durable.segment == number else None
        is_newest = number == numbers[-1]
        chunk = self._sound(fd, number, offset, limit, records_max, bytes_max)
        if chunk is None:
            chunk = self._pass_over(fd, number, offset, limit, is_newest)
        elif durable is None:
            os.fdatasync(fd)
        return replace(chunk, has_jumped=True) if number != at.segment else chunk

    def close(self) -> None:
        """Give the file back; `read` opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self, number: int) -> int:
        if self._fd is None or self._number != number:
            self.close()
            self._fd = os.open(segment_path(self._folder, number), os.O_RDONLY)
            self._number = number
        return self._fd

    def _sound(
        self, fd: int, number: int, offset: int, limit: int | None, records_max: int, bytes_max: int
    ) -> Chunk | None:
        """The run of sound frames at `offset`; None where there is not one."""
        data = _read(fd, offset, max(bytes_max, FRAME_BYTES_MAX + len(HEAD)), limit)
        place = 0
        if offset == 0 and data.startswith(HEAD):
            place = len(HEAD)
        payloads: list[bytes] = []
        ends: list[Position] = []
        while len(payloads) < records_max and (found := frame_at(data, place)) is not None:
            place += found.length
            payloads.append(found.payload)
            ends.append(Position(number, offset + place))
        if not payloads:
            return None
        self._idle_looks = 0
        return Chunk(tuple(payloads), tuple(ends), ends[-1])

    def _pass_over(self, fd: int, number: int, offset: int, limit: int | None, is_newest: bool) -> Chunk:
        """No sound frame at `offset`: nothing written yet, damage, or the segment's end."""
        here = Position(number, offset)
        if is_newest and limit is None:
            self._idle_looks += 1
            if self._idle_looks % _THOROUGH_EVERY and not any(_read(fd, offset, 4, None)) and offset:
                return Chunk((), (), here)
        found, left = _search(fd, offset, limit)
        if found is not None and is_newest and limit is None:
            time.sleep(_SECOND_LOOK_S)  # a write under our read can look like damage, but only once
            found, left = _search(fd, offset, limit)
        if found is not None:
            is_head = offset == 0 and found.offset == len(HEAD)
            return Chunk((), (), Position(number, offset + found.offset), 0 if is_head else 1)
        if is_newest:
            return Chunk((), (), here)
        # Behind the last sound frame of a finished segment: on to the next one, whatever its number is.
        return Chunk((), (), Position(number + 1, 0), 1 if left else 0)


def segment_path(folder: Path, number: int) -> Path:
    """Return where a segment lies: sixteen digits, so that the order of names is the order of numbers."""
    return folder / f"{number:016d}.audit"


def segment_numbers(folder: Path) -> list[int]:
    """Of the segments in a folder, oldest first; none where the folder does not exist yet. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(folder)
        return sorted(int(name[:-6]) for name in names if name.endswith(".audit") and name[:-6].isdecimal())
    return []


def unpublished_bytes(folder: Path, at: Position) -> int:
    """What is on disk from `at` on, as the size cap counts it. Raises OSError."""
    total = 0
    for number in segment_numbers(folder):
        if number >= at.segment:
            with contextlib.suppress(FileNotFoundError):
                size = segment_path(folder, number).stat().st_size
                total += size - (min(size, at.offset) if number == at.segment else 0)
    return total


def _read(fd: int, offset: int, count: int, limit: int | None) -> bytes:
    if limit is not None:
        count = min(count, limit - offset)
    return os.pread(fd, count, offset) if count > 0 else b""


def _search(fd: int, offset: int, limit: int | None) -> tuple[Frame | None, bool]:
    """The next sound frame, with its place counted from `offset`, and whether anything but zeros is there."""
    data = _read(fd, offset, os.fstat(fd).st_size - offset, limit)
    skip = len(HEAD) if offset == 0 and data.startswith(HEAD) else 0
    return next_frame(data, skip), bool(data[skip:].rstrip(b"\0"))
