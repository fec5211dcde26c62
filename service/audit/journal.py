"""The outbox on disk: numbered segments in one folder, one writer, any number of readers. Synchronous.

A record is durable when `write` has returned. After a failed write or fsync nothing is known of the pages, so the
segment is given up and the batch written anew in the next; copies collapse on their id.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.audit.cloud_event import decode, digest
from service.audit.cursor import BEGIN, Position, read_cursor
from service.audit.segment import HEAD, Damage, Frame, Scan, frame, scan
from service.model.audit_record import AuditRecord
from service.model.errors import OperatorError, PeerError

_SUFFIX = ".audit"


@dataclass(frozen=True, slots=True)
class CorruptRecord:
    """Bytes of a segment that hold no readable record; the records around them are not affected."""

    path: Path
    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found."""

    last_sequence: int
    """Of this node and boot; 0 where there is none."""
    damaged: int
    torn_bytes: int
    outbox: str = ""
    """Name that the newest record carries; empty where there is none."""
    last_digest: str = ""
    """Of the newest record, of whatever boot: the next one is chained to it."""


@dataclass(frozen=True, slots=True)
class Excess:
    """The oldest segment, which the size cap says must go."""

    path: Path
    records: int
    """Of them those that are published nowhere, and go for good."""
    size: int
    ranges: tuple[str, ...] = ()
    """Which sequences those records have: `BOOT:FIRST-LAST` each."""


def read_outbox(folder: Path) -> Iterator[AuditRecord | CorruptRecord]:
    """Read every record of an outbox, oldest first, also while its writer is at work.

    Raises OperatorError where there is no such folder or it cannot be read.
    """
    try:
        segments = _segments(folder)
    except OSError as error:
        raise OperatorError(f"{folder}: no audit outbox can be read here: {error.strerror}") from error
    for position, path in enumerate(segments):
        is_newest = position == len(segments) - 1
        try:
            found = _scan_file(path)
            if is_newest and any(isinstance(item, Damage) for item in found.items):
                found = _scan_file(path)  # a write under our read can look like damage, but only once
        except OSError as error:
            yield CorruptRecord(path, 0, 0, f"cannot be read: {error.strerror}")
            continue
        for item in found.items:
            yield _record(path, item)
        # Only in the newest segment may a writer be at work; a tail in any other is a loss.
        if found.torn_bytes and not is_newest:
            yield CorruptRecord(path, found.end, found.torn_bytes, "the segment's tail is damaged")


def _record(path: Path, item: Frame | Damage) -> AuditRecord | CorruptRecord:
    if isinstance(item, Damage):
        return CorruptRecord(path, item.offset, item.length, item.reason)
    try:
        return decode(item.payload)
    except PeerError as error:
        return CorruptRecord(path, item.offset, item.length, str(error))


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX and path.stem.isdigit())


class Journal:
    """The one writer of a folder. Every method may raise OSError; a failed `open` or `write` may be tried again."""

    def __init__(self, folder: Path, *, segment_bytes: int, cap_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._cap_bytes = cap_bytes
        self._lock_fd: int | None = None
        self._fd: int | None = None
        self._offset = 0
        self._sizes: dict[Path, int] = {}
        """Every segment, oldest first, with its bytes on disk; the one being written is last and whole."""

    @property
    def is_open(self) -> bool:
        """Whether the folder is ours and recovered."""
        return self._lock_fd is not None

    @property
    def durable(self) -> Position:
        """Everything in front of it is on disk, once `open` or `write` has returned."""
        if not self._sizes:
            return BEGIN
        newest = next(reversed(self._sizes))
        return Position(int(newest.stem), self._offset if self._fd is not None else self._sizes[newest])

    def open(self, *, node: str, boot_id: str) -> Recovery:
        """Take the folder, cut the torn tail of the newest segment, and go on in it."""
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock_fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            recovery = self._recover(node, boot_id)
        except BaseException as error:
            os.close(lock_fd)
            if isinstance(error, BlockingIOError):
                raise OSError(error.errno, "another process writes this outbox") from error
            raise
        self._lock_fd = lock_fd
        return recovery

    def write(self, payloads: Sequence[bytes]) -> int:
        """Append as many as the segment has room for, at least one, and make them durable. Returns how many."""
        if self._fd is None or (self._offset > len(HEAD) and self._room() < len(frame(payloads[0]))):
            self._rotate()
        assert self._fd is not None
        block = bytearray()
        count = 0
        for payload in payloads:
            one = frame(payload)
            if block and len(block) + len(one) > self._room():
                break
            block += one
            count += 1
        try:
            _write_all(self._fd, block, self._offset)
            os.fdatasync(self._fd)
        except OSError:
            self._seal()
            raise
        self._offset += len(block)
        return count

    def excess(self) -> tuple[Excess, ...]:
        """The oldest segments that are over the cap, never the one being written.

        Publishing is in order, so what is published goes before what is not.
        """
        over = []
        published = _published(self._folder)
        total = sum(self._sizes.values())
        for path, size in list(self._sizes.items())[:-1]:
            if total <= self._cap_bytes:
                break
            items = _behind(published, path)
            over.append(Excess(path, len(items), size, _ranges(items)))
            total -= size
        return tuple(over)

    def remove(self, paths: Sequence[Path]) -> None:
        """Delete segments. One that cannot be deleted is no longer counted: its gap record must not repeat for ever."""
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()
            self._sizes.pop(path, None)

    def close(self) -> None:
        """Give back the preallocated space and the folder."""
        self._seal()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _recover(self, node: str, boot_id: str) -> Recovery:
        segments = _segments(self._folder)
        self._sizes = {path: path.stat().st_size for path in segments}
        newest = _scan_file(segments[-1]) if segments else Scan((), 0, 0)
        damaged = sum(isinstance(item, Damage) for item in newest.items)
        sequence, outbox, last_digest = _last_record(segments, node, boot_id)
        recovery = Recovery(sequence, damaged, newest.torn_bytes, outbox, last_digest)
        if segments:
            self._resume(segments[-1], newest)
        return recovery

    def _resume(self, path: Path, found: Scan) -> None:
        if found.end == 0 and found.torn_bytes == 0:
            self.remove([path])  # the machine went down before its head was on disk
            return
        with path.open("rb") as stream:
            if stream.read(len(HEAD)) != HEAD:
                return  # another layout, or a damaged head: it stays as it is, and writing goes on in the next
        if Position(int(path.stem), found.end) < _published(self._folder):
            return  # cut after the publisher read it: what is written in the place of what it read, it would not see
        fd = os.open(path, os.O_RDWR)
        try:
            if path.stat().st_size > found.end:
                os.ftruncate(fd, found.end)
            self._preallocate(fd)
            os.fsync(fd)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._offset = fd, found.end
        self._sizes[path] = max(self._segment_bytes, found.end)

    def _rotate(self) -> None:
        self._seal()
        number = int(next(reversed(self._sizes)).stem) + 1 if self._sizes else 1
        path = self._folder / f"{number:016d}{_SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            # Space is taken before it is needed: a disk that fills up is noticed here, and fdatasync writes no sizes.
            self._preallocate(fd)
            _write_all(fd, HEAD, 0)
            os.fsync(fd)
            self._sync_folder()
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._offset = fd, len(HEAD)
        self._sizes[path] = self._segment_bytes

    def _preallocate(self, fd: int) -> None:
        os.posix_fallocate(fd, 0, self._segment_bytes)

    def _seal(self) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        # What counts is durable already; this only gives space back, and cuts what a failed write may have left.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, self._offset)
            os.fsync(fd)
        with contextlib.suppress(OSError):
            os.close(fd)
        self._sizes[next(reversed(self._sizes))] = self._offset

    def _room(self) -> int:
        return self._segment_bytes - self._offset

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _published(folder: Path) -> Position:
    try:
        return read_cursor(folder) or BEGIN
    except OSError:
        return BEGIN  # nothing is known to be published


def _behind(published: Position, path: Path) -> Sequence[Frame | Damage]:
    """What the publisher's cursor has not passed of a segment."""
    number = int(path.stem)
    if number < published.segment:
        return ()
    offset = published.offset if number == published.segment else 0
    return [item for item in _scan_file(path).items if item.offset >= offset]


def _last_record(segments: Sequence[Path], node: str, boot_id: str) -> tuple[int, str, str]:
    """The sequence to go on from, and name and digest of the newest record of this node."""
    for path in reversed(segments):
        own = [(record, payload) for record, payload in _sound_records(_scan_file(path).items) if record.node == node]
        # Boots follow each other: where the newest records are of another boot, this one has none. Within a boot the
        # highest sequence is the newest: a gap record lies before records that were appended earlier.
        newest = [pair for pair in own if pair[0].boot_id == own[-1][0].boot_id]
        if newest:
            record, payload = max(newest, key=lambda pair: pair[0].sequence)
            return (record.sequence if record.boot_id == boot_id else 0, record.outbox, digest(payload))
    return 0, "", ""


def _ranges(items: Sequence[Frame | Damage]) -> tuple[str, ...]:
    ranges: dict[str, tuple[int, int]] = {}
    for record, _ in _sound_records(items):
        first, last = ranges.get(record.boot_id, (record.sequence, record.sequence))
        ranges[record.boot_id] = (min(first, record.sequence), max(last, record.sequence))
    return tuple(f"{boot_id}:{first}-{last}" for boot_id, (first, last) in ranges.items())


def _sound_records(items: Sequence[Frame | Damage]) -> Iterator[tuple[AuditRecord, bytes]]:
    for item in items:
        if isinstance(item, Frame):
            with contextlib.suppress(PeerError):
                yield decode(item.payload), item.payload


def _scan_file(path: Path) -> Scan:
    try:
        return scan(path.read_bytes())
    except FileNotFoundError:
        return Scan((), 0, 0)  # removed by the size cap under a reader


def _write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
