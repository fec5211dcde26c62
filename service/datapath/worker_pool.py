"""Desired state to BPF maps, through a pool of worker threads.

Callers say what a map shall contain, key by key, and never wait for the kernel. Wishes for one key coalesce: only the
newest is written. Each map has one writer at a time, so order per map is kept; different maps go in parallel. Upserts
go before deletes, so an update has no gap. Failures are tried again with back-off and counted.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from service.datapath.bpf_map import BpfMap
from service.model.errors import TransientError

_log = logging.getLogger(__name__)

_BATCH = 4096
_RETRY_FIRST_S = 0.05
_RETRY_LAST_S = 2.0


@dataclass(slots=True)
class PoolCounters:
    """Since the start of the process."""

    written: int = 0
    deleted: int = 0
    coalesced: int = 0
    """Wishes replaced by a newer one before they were written."""
    retries: int = 0
    full: int = 0
    """Batches cut short because the map was full."""


@dataclass(slots=True)
class _Lane:
    """One map: what it shall contain but does not yet, and the callers waiting for that."""

    target: BpfMap
    pending: dict[bytes, bytes | None] = field(default_factory=dict)
    writing: dict[bytes, bytes | None] = field(default_factory=dict)
    """What a worker thread writes at this moment: until it is done nobody knows what the map contains for these."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    content: dict[bytes, bytes] = field(default_factory=dict)
    """What was written by this pool: the base of `replace`."""


class WorkerPool:
    """Drives named maps. `run` belongs in the process's TaskGroup; the other methods are for the event loop only.

    The queue is bounded by nature: at most one pending wish per key, and a map's keys are bounded by its size.
    """

    def __init__(self, maps: Mapping[str, BpfMap], *, workers: int = 2) -> None:
        self.counters = PoolCounters()
        self._lanes = {name: _Lane(target) for name, target in maps.items()}
        for lane in self._lanes.values():
            lane.idle.set()
        self._workers = workers

    def upsert(self, name: str, key: bytes, value: bytes) -> None:
        """Wish for `key` to have `value`; returns at once."""
        lane = self._lanes[name]
        if lane.content.get(key) == value and key not in lane.pending and key not in lane.writing:
            return
        self._wish(lane, key, value)

    def delete(self, name: str, key: bytes) -> None:
        """Wish for `key` to be absent; returns at once."""
        lane = self._lanes[name]
        if key not in lane.content and key not in lane.pending and key not in lane.writing:
            return
        self._wish(lane, key, None)

    def replace(self, name: str, content: Mapping[bytes, bytes]) -> None:
        """Wish for the map to contain exactly `content`; only the difference is written."""
        lane = self._lanes[name]
        for key, value in content.items():
            self.upsert(name, key, value)
        stale = [key for key in lane.content.keys() | lane.pending.keys() | lane.writing.keys() if key not in content]
        for key in stale:
            self.delete(name, key)

    def adopt(self, name: str) -> None:
        """Take what the map contains now (pins of a former agent) as the base of differences. Blocks: start-up only."""
        lane = self._lanes[name]
        lane.content = lane.target.items()

    def pending(self) -> int:
        """How many keys still wait to be written, over all maps."""
        return sum(len(lane.pending) for lane in self._lanes.values())

    async def drained(self, names: Iterable[str], *, timeout_s: float = 5.0) -> None:
        """Wait until every wish so far for these maps is in the kernel. Raises TransientError after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                for name in names:
                    await self._lanes[name].idle.wait()
        except TimeoutError as error:
            raise TransientError(f"BPF maps not written within {timeout_s} s") from error

    async def run(self) -> None:
        """Serve all maps until cancelled. May be run again after an error: what was being written is written anew."""
        executor = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="bpf-worker")
        for lane in self._lanes.values():
            if lane.writing:
                lane.pending, lane.writing = lane.writing | lane.pending, {}
                lane.changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                for name, lane in self._lanes.items():
                    group.create_task(self._serve(name, lane, executor))
        finally:
            executor.shutdown(wait=False)

    def _wish(self, lane: _Lane, key: bytes, value: bytes | None) -> None:
        if key in lane.pending:
            self.counters.coalesced += 1
        lane.pending[key] = value
        lane.idle.clear()
        lane.changed.set()

    async def _serve(self, name: str, lane: _Lane, executor: ThreadPoolExecutor) -> None:
        retry_s = _RETRY_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            await lane.changed.wait()
            lane.changed.clear()
            batch = lane.writing = lane.pending
            lane.pending = {}
            try:
                written = await loop.run_in_executor(executor, _write, lane.target, batch)
            except OSError as error:
                _log.warning("map %s: %s; trying again in %.2f s", name, error, retry_s)
                written = None
            lane.writing = {}
            self._note(lane, written or {})
            left = {key: value for key, value in batch.items() if not written or key not in written}
            if left:
                if written is not None:
                    self.counters.full += 1
                    _log.warning("map %s is full: %d entries wait; trying again in %.2f s", name, len(left), retry_s)
                self.counters.retries += 1
                lane.pending = left | lane.pending
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _RETRY_LAST_S)
                lane.changed.set()
            else:
                retry_s = _RETRY_FIRST_S
            if not lane.pending:
                lane.idle.set()

    def _note(self, lane: _Lane, written: Mapping[bytes, bytes | None]) -> None:
        for key, value in written.items():
            if value is None:
                lane.content.pop(key, None)
                self.counters.deleted += 1
            else:
                lane.content[key] = value
                self.counters.written += 1


def _write(target: BpfMap, batch: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """In a worker thread: upserts, then deletes; returns what is in the kernel now, less than `batch` if it is full."""
    upserts = [(key, value) for key, value in batch.items() if value is not None]
    written: dict[bytes, bytes | None] = {}
    for start in range(0, len(upserts), _BATCH):
        chunk = upserts[start : start + _BATCH]
        done = target.update_many(chunk)
        written |= dict(chunk[:done])
        if done < len(chunk):
            break
    deletes = [key for key, value in batch.items() if value is None]
    target.delete_many(deletes)
    written |= dict.fromkeys(deletes)
    return written
