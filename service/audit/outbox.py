"""The write-ahead outbox: audit records reach local disk soon, and nobody waits for it.

`append` only queues; `run` writes what has gathered as one group and fdatasyncs it in a thread. No loss is silent:

- Over `cap_bytes` the oldest segments go first. Those that the publisher has published go silently; where others must
  go, because it is far behind or there is none, a `gap` record that counts their records is durable before they go.
- While the disk is full or read-only, records wait in a bounded queue, and `reason` says why; when
  the queue is full its oldest go, and a `gap` record that counts them is written as soon as writing works again.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, Unpack

from service.audit.chain import Chain, Facts, Origin
from service.audit.cursor import Position
from service.audit.journal import CorruptRecord, Excess, Journal, Recovery, read_outbox
from service.model.audit_record import AuditRecord, RecordKind

__all__ = ["CorruptRecord", "Origin", "Outbox", "OutboxState", "read_outbox"]

log = logging.getLogger(__name__)

_SECOND_NS = 1_000_000_000
_BATCH_RECORDS_MAX = 512
_RETRY_S_MIN = 0.1
_RETRY_S_MAX = 5.0
_STALL_NS = 5 * _SECOND_NS
"""A write that takes longer makes the outbox unhealthy, though it may still succeed."""
_OPEN_S_MAX = 5.0
_CLOSE_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class OutboxState:
    """For status and metrics. Counts are of records since the start of the process."""

    healthy: bool
    reason: str
    pending: int
    """Not yet durable."""
    written: int
    lost: int
    """Gave way in a full queue."""
    removed: int
    """Went with the oldest segments under the size cap without having been published."""
    damaged: int
    """Found unreadable in the newest segment at the start."""


class _Entry(NamedTuple):
    ordinal: int
    """Position among all appended records; 0 for gap records, which nobody waits for."""
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Stored:
    count: int
    excess: tuple[Excess, ...]
    durable: Position


class Outbox:
    """Enter it, then keep `run()` in a task group. Call `append` on the loop's thread only.

    One outbox per recording process, and per node name: records without a token are told apart by node, boot and
    sequence. `origin` says whose they are; `clock` and `context` are read at each record, as `Chain` says.
    """

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        *,
        clock: Callable[[], tuple[int, int]],
        context: Callable[[], tuple[int, int]] = lambda: (0, 0),
        segment_bytes: int = 4 << 20,
        cap_bytes: int = 64 << 20,
        queue_records: int = 10_000,
    ) -> None:
        """Segments are of `segment_bytes`, at least 1 KiB; `cap_bytes`, at least two of them, bounds all together."""
        assert segment_bytes >= 1024
        assert cap_bytes >= 2 * segment_bytes
        self.folder = folder
        self.cap_bytes = cap_bytes
        self.durable: Position | None = None
        """How far the segments are synced; None while that is not known."""
        self.on_durable: Callable[[], None] = _nobody
        """Called on the loop's thread when `durable` has moved."""
        self._origin = origin
        self._clock = clock
        self._chain = Chain(origin, secrets.token_hex(4), clock=clock, context=context)
        self._queue_records = queue_records
        self._journal = Journal(folder, segment_bytes=segment_bytes, cap_bytes=cap_bytes)
        # A thread of its own: the default pool must not fill up behind a disk that hangs.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
        self._queue: deque[_Entry] = deque()
        self._batch: list[_Entry] = []
        """Taken from the queue and not yet known to be durable."""
        self._writing: Future[_Stored] | None = None
        self._writing_since_ns = 0
        self._excess: tuple[Excess, ...] = ()
        self._doomed: tuple[Path, ...] = ()
        """Segments whose gap record is in the batch."""
        self._lost_unsaid: list[int] = []
        """First sequence, last sequence and count of lost records that no gap record counts yet."""
        self._accepted = 0
        self._done_to = 0
        """Ordinal of the last record that is durable or lost: `flush` waits for it."""
        self._failure = ""
        self._written = self._lost = self._removed = self._damaged = 0
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()

    @property
    def reason(self) -> str:
        """Why records do not reach the disk now; empty while they do."""
        if self._failure:
            return self._failure
        if self._writing is not None and (waited := self._clock()[1] - self._writing_since_ns) > _STALL_NS:
            return f"the disk has not answered for {waited // _SECOND_NS} s"
        return ""

    @property
    def state(self) -> OutboxState:
        """As it is now, for status and metrics."""
        reason = self.reason
        return OutboxState(
            healthy=not reason,
            reason=reason,
            pending=len(self._queue) + len(self._batch),
            written=self._written,
            lost=self._lost,
            removed=self._removed,
            damaged=self._damaged,
        )

    async def __aenter__(self) -> Self:
        """Recover what is on disk. A disk that cannot be used makes the outbox unhealthy; `run` tries it again."""
        # Replaced below where the old records can be read in time; else they are behind for good.
        self._chain.begin_unread()
        opening = asyncio.wrap_future(self._executor.submit(self._open))
        try:
            recovery = await asyncio.wait_for(opening, _OPEN_S_MAX)
        except TimeoutError:
            self._fail("the disk does not answer")
        except OSError as error:
            self._fail(_explain(error))
        else:
            self.durable = self._journal.durable
            self._chain.resume(recovery.last_sequence, recovery.outbox, recovery.last_digest)
            self._damaged = recovery.damaged
            if recovery.damaged or recovery.torn_bytes:
                log.warning(
                    "audit outbox: %d damaged records, a torn tail of %d bytes was cut",
                    recovery.damaged,
                    recovery.torn_bytes,
                )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left, within a bound; what does not reach the disk is logged as lost."""
        # wait_for and not timeout(), whose expiry looks like the cancellation that may have brought us here.
        with contextlib.suppress(OSError):  # includes TimeoutError
            await asyncio.wait_for(self._drain(), _CLOSE_S_MAX)
        self._executor.shutdown(wait=False, cancel_futures=True)
        if left := len(self._queue) + len(self._batch):
            log.error(
                "audit outbox: %d records were lost at the stop: %s", left, self.reason or "no time to write them"
            )

    def append(self, kind: RecordKind, **facts: Unpack[Facts]) -> AuditRecord:
        """Record an event with the next sequence and the time now. Returns at once; durable after `flush`.

        It never fails: where the queue is full, the oldest record in it is lost, counted and put on record as a gap.
        """
        record, payload = self._chain.next(kind, facts)
        if len(self._queue) >= self._queue_records:
            self._lose_oldest()
        self._accepted += 1
        self._queue.append(_Entry(self._accepted, record.sequence, payload))
        self._wake.set()
        return record

    async def run(self) -> None:
        """Write until cancelled. Failing writes are retried for ever, with back-off, and do not end it."""
        retry_s = _RETRY_S_MIN
        while True:
            await self._wake.wait()
            try:
                if not await self._write_batch():
                    self._wake.clear()
                retry_s = _RETRY_S_MIN
            except OSError as error:
                self._fail(_explain(error))
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _RETRY_S_MAX)

    async def flush(self, timeout: float) -> bool:
        """Wait until everything appended so far is durable; False where that takes longer or some of it was lost."""
        target, lost = self._accepted, self._lost
        try:
            async with asyncio.timeout(timeout):
                while self._done_to < target:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return self._lost == lost

    async def _drain(self) -> None:
        try:
            await self._finish_write()
            while await self._write_batch():
                pass
        finally:
            await asyncio.wrap_future(self._executor.submit(self._journal.close))

    async def _write_batch(self) -> bool:
        """Make one group durable; False where there is nothing to write. Raises OSError with the batch kept."""
        if not self._batch:
            self._take_batch()
        if not self._batch:
            return False
        payloads = [entry.payload for entry in self._batch]
        self._writing_since_ns = self._clock()[1]
        self._writing = self._executor.submit(self._store, payloads, self._doomed)
        await self._finish_write()
        return True

    async def _finish_write(self) -> None:
        """Wait for the write in the thread, if any, and take its result. Cancelled, it can be called again."""
        if self._writing is None:
            return
        # Shielded: a cancelled waiter must not take the write's result with it.
        try:
            stored = await asyncio.shield(asyncio.wrap_future(self._writing))
        except Exception:
            self._writing = None
            raise
        self._writing = None
        done, self._batch = self._batch[: stored.count], self._batch[stored.count :]
        self._done_to = max(self._done_to, *(entry.ordinal for entry in done))
        self._written += len(done)
        self._doomed = ()
        self._excess = stored.excess
        self.durable = stored.durable
        self.on_durable()
        if self._failure:
            log.warning("audit outbox: writing again, after: %s", self._failure)
            self._failure = ""
        self._progress.set()

    def _take_batch(self) -> None:
        records = sum(one.records for one in self._excess)
        if not self._queue and not records:
            return  # segments whose records are all published go along with the next write
        # Gap records come first in their batch: they are durable before the segments they count are removed.
        if records:
            size = sum(one.size for one in self._excess)
            ranges = ",".join(one for excess in self._excess for one in excess.ranges)
            detail = {"bytes": str(size), "ranges": ranges}
            self._batch.append(self._gap("size cap: oldest segments removed", records, detail))
            self._removed += records
        self._doomed = tuple(one.path for one in self._excess)
        self._excess = ()
        if self._lost_unsaid:
            first, last, count = self._lost_unsaid
            detail = {"firstSequence": str(first), "lastSequence": str(last)}
            self._batch.append(self._gap("queue full while the disk could not be written", count, detail))
            self._lost_unsaid = []
        while self._queue and len(self._batch) < _BATCH_RECORDS_MAX:
            self._batch.append(self._queue.popleft())

    def _gap(self, reason: str, records: int, detail: dict[str, str]) -> _Entry:
        log.error("audit outbox: gap of %d records: %s", records, reason)
        facts: Facts = {"reason": reason, "detail": {"records": str(records)} | detail}
        record, payload = self._chain.next(RecordKind.GAP, facts)
        return _Entry(0, record.sequence, payload)

    def _lose_oldest(self) -> None:
        entry = self._queue.popleft()
        self._lost += 1
        self._done_to = max(self._done_to, entry.ordinal)
        first, _, count = self._lost_unsaid or (entry.sequence, 0, 0)
        self._lost_unsaid = [first, entry.sequence, count + 1]
        self._progress.set()

    def _fail(self, reason: str) -> None:
        if self._failure != reason:
            log.error("audit outbox: cannot write, records wait in memory: %s", reason)
        self._failure = reason
        self._progress.set()

    # In the thread from here.

    def _open(self) -> Recovery:
        return self._journal.open(node=self._origin.node, boot_id=self._origin.boot_id)

    def _store(self, payloads: list[bytes], doomed: tuple[Path, ...]) -> _Stored:
        if not self._journal.is_open:
            self._open()
        count = self._journal.write(payloads)
        self._journal.remove(doomed)
        return _Stored(count, self._journal.excess(), self._journal.durable)


def _nobody() -> None:
    """Stands in until somebody wants to be called."""


def _explain(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)
