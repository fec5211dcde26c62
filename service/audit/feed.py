"""One outbox as the publisher sees it: where it stands, what comes next, and how much is behind. Synchronous."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.audit.cloud_event import parse_time
from service.audit.cursor import BEGIN, Cursor, Position
from service.audit.segment_reader import Chunk, SegmentReader, unpublished_bytes

_log = logging.getLogger(__name__)

_STORE_S = 0.25
"""How old the durable cursor may be while records are published: after a crash so much is published twice."""
_MEASURE_S = 1.0
_COUNT_RECORDS_MAX = 20_000
"""Counted in one go; a long backlog is counted over several."""
_FILL_MAX = 0.8
_SET_ASIDE_BYTES_MAX = 8 << 20


class Event(NamedTuple):
    """One record, ready to be sent as it is."""

    key: bytes
    """What orders it: the floating IP, or else the subject, or else the node."""
    id: str
    time: str
    payload: bytes


class _Head(msgspec.Struct):
    # Unknown members and versions pass: what is on record is published, whoever wrote it.
    id: str = ""
    subject: str = ""
    time: str = ""


_DECODER = msgspec.json.Decoder(_Head)


class Feed:
    """The records of one folder behind the cursor.

    `durable` says how far the folder's writer has synced; None where another process writes. Every method but `advance`
    may block on the disk; the attributes may be read from any thread.
    """

    def __init__(
        self, folder: Path, *, node: str, cap_bytes: int, durable: Callable[[], Position | None] | None = None
    ) -> None:
        self.folder = folder
        self.is_own = durable is not None
        self.position = BEGIN
        """Everything in front of it is acknowledged."""
        self.failure = ""
        """What the disk does not let us do now."""
        self.damaged = self.unpublishable = 0
        self.fill = 0.0
        """How much of the size cap is taken by what is not published."""
        self.lag_records = 0
        self.has_set_aside = False
        """The file of records set aside is there, from this run or one before."""
        self._oldest_ns = 0
        self._key = node.encode()
        self._cap_bytes = cap_bytes
        self._durable = durable or _unknown
        self._cursor = Cursor(folder)
        self._reader = SegmentReader(folder)
        self._counter = SegmentReader(folder)
        self._counted = BEGIN
        """How far `lag_records` has been counted; never behind the position."""
        self._is_open = False
        self._stored_s = self._measured_s = 0.0

    @property
    def set_aside_path(self) -> Path:
        """A line of JSON for each record that the brokers never take; of at most 8 MiB."""
        return self.folder / "unpublishable"

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest record that is durable and not acknowledged."""
        return max(0.0, (time.time_ns() - self._oldest_ns) / 1e9) if self._oldest_ns else 0.0

    @property
    def is_nearly_full(self) -> bool:
        """Whether so little of the cap is left that somebody should look before records are lost."""
        return self.fill > _FILL_MAX

    def read(self, records_max: int) -> tuple[Sequence[Event], Position]:
        """The next records, at most so many, and where to go on behind them. Raises OSError."""
        if not self._is_open:
            self.position = self._counted = self._cursor.load()
            self._is_open = True
        self.measure()
        chunk = self._reader.read(self.position, self._durable(), records_max=records_max)
        self._note(chunk)
        events = [self._event(payload) for payload in chunk.payloads]
        self._oldest_ns = _time_ns(events[0]) if events else 0
        if time.monotonic() - self._stored_s > _STORE_S or not events:
            self.store()
        return events, chunk.end

    def advance(self, records: int, end: Position) -> None:
        """So many records up to `end` are acknowledged or set aside."""
        self.position = end
        self.lag_records = max(0, self.lag_records - records)
        if self._counted <= end:
            self._counted, self.lag_records = end, 0

    def store(self) -> None:
        """Make the position durable; where that fails it is tried again, and publishing goes on."""
        self._stored_s = time.monotonic()
        try:
            self._cursor.store(self.position)
        except OSError as error:
            self._fail(f"the cursor cannot be written, after a restart records are published again: {error}")
        else:
            self.failure = ""

    def measure(self) -> None:
        """See how far behind the brokers are; at most once a second. Raises OSError."""
        now_s = time.monotonic()
        if now_s - self._measured_s < _MEASURE_S:
            return
        self._measured_s = now_s
        was_nearly_full = self.is_nearly_full
        self.fill = unpublished_bytes(self.folder, self.position) / self._cap_bytes
        if self.is_nearly_full and not was_nearly_full:
            _log.error("audit publisher: %.0f%% of %s is not published yet", 100 * self.fill, self.folder)
        self.has_set_aside = self.set_aside_path.exists()
        self._count()

    def set_aside(self, event: Event, reason: str) -> None:
        """Keep a record that the brokers never take, with the reason, for somebody to read."""
        self.unpublishable += 1
        self.has_set_aside = True
        _log.error("audit publisher: record %s cannot be published and is set aside: %s", event.id, reason)
        line = json.dumps({"reason": reason, "event": event.payload.decode("utf-8", "replace")}).encode() + b"\n"
        try:
            fd = os.open(self.set_aside_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            try:
                if os.fstat(fd).st_size + len(line) <= _SET_ASIDE_BYTES_MAX:
                    os.write(fd, line)
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            self._fail(f"{self.set_aside_path} cannot be written: {error}")

    def close(self) -> None:
        """Store the position and give the files back."""
        if self._is_open:
            self.store()
        self._reader.close()
        self._counter.close()

    def _event(self, payload: bytes) -> Event:
        try:
            head = _DECODER.decode(payload)
        except msgspec.MsgspecError:
            head = _Head()
        return Event(head.subject.encode() or self._key, head.id, head.time, payload)

    def _note(self, chunk: Chunk) -> None:
        if chunk.damaged:
            self.damaged += chunk.damaged
            _log.error("audit publisher: %s: damage in front of %s was passed over", self.folder, chunk.end)
        if chunk.has_jumped:
            # Segments are gone (a gap record counts them): what was counted of them no longer waits.
            self.position = self._counted = Position((*chunk.ends, chunk.end)[0].segment, 0)
            self.lag_records = 0
            self._count()

    def _count(self) -> None:
        durable = self._durable()
        counted = 0
        while counted < _COUNT_RECORDS_MAX:
            chunk = self._counter.read(self._counted, durable, records_max=_COUNT_RECORDS_MAX)
            if chunk.end == self._counted:
                break
            self._counted = chunk.end
            counted += len(chunk.payloads)
        self.lag_records += counted

    def _fail(self, reason: str) -> None:
        if self.failure != reason:
            _log.error("audit publisher: %s", reason)
        self.failure = reason


def _unknown() -> None:
    """The writer is another process: nothing is known of its syncs."""


def _time_ns(event: Event) -> int:
    try:
        return parse_time(event.time)
    except ValueError:
        return time.time_ns()
