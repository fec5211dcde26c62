"""Desired state to BPF maps, through a pool of worker threads. Level-triggered: what is wanted and what is known to be
in the kernel are two tables, and a key stays open until they agree.

Callers say what a map shall contain, key by key or as a whole, and never wait for the kernel; who depends on a row asks
`contains`, and `take_news` says for which keys the answer may be another one.
Wishes for one key coalesce: only the newest is written. Each map has one writer at a time, so order per map is kept;
different maps go in parallel. Upserts go before deletes, so an update has no gap.

Waiting is per key (rule I1): a key for which the map has no room, or that the kernel refuses, holds up no other key of
the map. It is told in `waiting`, and tried again with back-off, and as soon as a delete has made room.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from service.datapath.bpf_map import BpfMap, is_full

_log = logging.getLogger(__name__)

_BATCH = 4096
_RETRY_FIRST_S = 0.05
_RETRY_LAST_S = 2.0
_COMPARE_S = 1.0
"""Between two looks at what the kernel really has."""
_COMPARED_KEYS = 256
"""Of each map in one look: work per second is bounded, a large map is gone through in more looks."""
FULL = "no room"
"""Why a key waits, in a map that is full."""

Keys = dict[bytes, None]
"""In the order they came."""
Wishes = dict[bytes, bytes | None]
"""None: to be absent."""


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
    repaired: int = 0
    """Entries that were found to be other than written."""
    reviewed: int = 0
    """What was found to be wished for otherwise than what is known asks for (rule I2)."""


@dataclass(slots=True)
class _Outcome:
    """Of one batch."""

    done: Wishes
    waiting: dict[bytes, str]
    """Why these are not as wished."""


@dataclass(slots=True)
class _Lane:
    """One map: what it shall contain, what it is known to contain, and which keys are not yet compared."""

    target: BpfMap
    wanted: dict[bytes, bytes] = field(default_factory=dict)
    content: dict[bytes, bytes] = field(default_factory=dict)
    open: Keys = field(default_factory=dict)
    """To be written or deleted now."""
    writing: Wishes = field(default_factory=dict)
    """What a worker thread writes at this moment: until it is done nobody knows what the map contains for these."""
    waiting: dict[bytes, str] = field(default_factory=dict)
    """Refused by the kernel, and why."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    cursor: bytes | None = None
    """How far the look at the kernel's entries has come."""
    unseen: list[bytes] = field(default_factory=list)
    """Wanted keys whose turn at being looked at is still to come."""
    table: Mapping[bytes, bytes] | None = None
    """What was wished for as a whole; None where single keys were wished for since."""
    news: Keys | None = None
    """Keys of which something else is known than when it was last asked; None: nobody has asked, or of all."""


class WorkerPool:
    """Drives named maps. `run` belongs in the process's TaskGroup; the other methods are for the event loop only.

    The queue is bounded by nature: at most one pending wish per key, and callers wish for whole tables.
    """

    def __init__(self, maps: Mapping[str, BpfMap], *, workers: int = 2, awaited: Iterable[str] | None = None) -> None:
        """`awaited`: maps whose rows somebody waits for; None: all."""
        self.counters = PoolCounters()
        self.written = asyncio.Event()
        """An awaited map was written since it was last cleared: whoever waits for rows may ask again."""
        self._lanes = {name: _Lane(target) for name, target in maps.items()}
        self._awaited = frozenset(maps if awaited is None else awaited)
        self._workers = workers

    def upsert(self, name: str, key: bytes, value: bytes) -> None:
        """Wish for `key` to have `value`; returns at once."""
        lane = self._lanes[name]
        lane.table = None
        self._upsert(lane, key, value)

    def delete(self, name: str, key: bytes) -> None:
        """Wish for `key` to be absent; returns at once."""
        lane = self._lanes[name]
        lane.table = None
        self._delete(lane, key)

    def change(self, name: str, rows: Wishes) -> None:
        """Wish for these keys to be so, and for all others as before."""
        for key, value in rows.items():
            if value is None:
                self.delete(name, key)
            else:
                self.upsert(name, key, value)

    def replace(self, name: str, content: Mapping[bytes, bytes]) -> None:
        """Wish for the map to contain exactly `content`, which must not change; only the difference is written."""
        lane = self._lanes[name]
        if content is lane.table:
            return
        former = lane.wanted
        for key in [key for key, value in content.items() if former.get(key) != value]:
            self._upsert(lane, key, content[key])
        known = (former, lane.content, lane.open, lane.writing)
        for key in {key: None for keys in known for key in keys if key not in content}:
            if key in former or lane.writing.get(key) is not None or (key in lane.content and key not in lane.open):
                self._delete(lane, key)
        lane.table = content

    def drop_others(self, name: str) -> None:
        """Wish for all to be absent that the map is known to contain and nobody wishes for, as after `adopt`."""
        lane = self._lanes[name]
        for key in [key for key in lane.content if key not in lane.wanted]:
            self.delete(name, key)

    def wanted(self, name: str) -> Mapping[bytes, bytes]:
        """A live view of what is wished for."""
        return MappingProxyType(self._lanes[name].wanted)

    def take_news(self, name: str) -> Collection[bytes] | None:
        """Keys for which `contains` and `has` may say otherwise than at the last call; None: any."""
        lane = self._lanes[name]
        news, lane.news = lane.news, {}
        return news

    def adopt(self, name: str) -> None:
        """Take what the map contains now (pins of a former agent) as the base of differences. Blocks: start-up only."""
        lane = self._lanes[name]
        lane.content, lane.table, lane.news = lane.target.items(), None, None

    def contains(self, name: str, rows: Mapping[bytes, bytes]) -> bool:
        """All of these rows are in the kernel now, as far as is known, and none is just being written."""
        lane = self._lanes[name]
        return rows.items() <= lane.content.items() and lane.writing.keys().isdisjoint(rows)

    def has(self, name: str, key: bytes) -> bool:
        """The kernel has a row for `key`, whichever; also while another value is being written."""
        return key in self._lanes[name].content

    def is_settled(self, name: str) -> bool:
        """All that can be written of this map is written; what waits (`waiting`) does not count."""
        lane = self._lanes[name]
        return not lane.open and not lane.writing

    def room(self, name: str) -> int:
        """How many entries the map takes."""
        return self._lanes[name].target.info.max_entries

    def fill(self) -> dict[str, tuple[int, int]]:
        """Of each map, how many entries it contains as far as is known, and how many it takes."""
        return {name: (len(lane.content), self.room(name)) for name, lane in self._lanes.items()}

    def pending(self) -> int:
        """How many keys still are to be written, over all maps; those that wait are among them."""
        return sum(len(lane.open.keys() | lane.waiting.keys()) for lane in self._lanes.values())

    def waiting(self) -> dict[str, dict[bytes, str]]:
        """By map, the keys that the kernel refuses, and why; only maps that have any."""
        return {name: dict(lane.waiting) for name, lane in self._lanes.items() if lane.waiting}

    async def run(self) -> None:
        """Serve all maps until cancelled. May be run again after an error: what was being written is written anew."""
        executor = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="bpf-worker")
        for lane in self._lanes.values():
            lane.open |= dict.fromkeys(lane.writing)
            lane.writing = {}
            lane.changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                for name, lane in self._lanes.items():
                    group.create_task(self._serve(name, lane, executor))
                group.create_task(self._compare(executor))
        finally:
            executor.shutdown(wait=False)

    def _upsert(self, lane: _Lane, key: bytes, value: bytes) -> None:
        lane.wanted[key] = value
        is_settled = key not in lane.open and key not in lane.writing
        if key in lane.waiting or (is_settled and lane.content.get(key) == value):
            return
        self._wish(lane, key)

    def _delete(self, lane: _Lane, key: bytes) -> None:
        lane.wanted.pop(key, None)
        lane.waiting.pop(key, None)
        if key in lane.content or key in lane.open or key in lane.writing:
            self._wish(lane, key)

    def _wish(self, lane: _Lane, key: bytes) -> None:
        if key in lane.open:
            self.counters.coalesced += 1
        lane.open[key] = None
        lane.changed.set()

    async def _serve(self, name: str, lane: _Lane, executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        retry_s, retry_at = _RETRY_FIRST_S, loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(retry_at if lane.waiting else None):
                    await lane.changed.wait()
            lane.changed.clear()
            is_retry = bool(lane.waiting) and loop.time() >= retry_at
            if is_retry:
                self.counters.retries += 1
                lane.open |= dict.fromkeys(lane.waiting)
            if not lane.open:
                continue
            waited = set(lane.waiting.values())
            outcome = await self._write(lane, executor)
            if name in self._awaited:
                self.written.set()
            if is_retry or not waited:
                retry_s = min(retry_s * 2, _RETRY_LAST_S) if is_retry and outcome.waiting else _RETRY_FIRST_S
                retry_at = loop.time() + retry_s
            _tell(name, lane, waited)

    async def _write(self, lane: _Lane, executor: ThreadPoolExecutor) -> _Outcome:
        batch = lane.writing = {key: lane.wanted.get(key) for key in lane.open}
        lane.open = {}
        known = frozenset(key for key in batch if key in lane.content)
        outcome = await asyncio.get_running_loop().run_in_executor(executor, _write, lane.target, batch, known)
        lane.writing = {}
        self._note(lane, outcome)
        return outcome

    def _note(self, lane: _Lane, outcome: _Outcome) -> None:
        if lane.news is not None:
            lane.news |= dict.fromkeys(outcome.done) | dict.fromkeys(outcome.waiting)
        for key, value in outcome.done.items():
            lane.waiting.pop(key, None)
            if value is None:
                lane.content.pop(key, None)
                self.counters.deleted += 1
            else:
                lane.content[key] = value
                self.counters.written += 1
        # A key that was wished for otherwise meanwhile is open already, and tried at once.
        refused = {key: why for key, why in outcome.waiting.items() if key not in lane.open}
        lane.waiting |= {key: why for key, why in refused.items() if key in lane.wanted or key in lane.content}
        self.counters.full += any(why == FULL for why in outcome.waiting.values())
        if None in outcome.done.values():
            room = [key for key, why in lane.waiting.items() if why == FULL]
            lane.open |= dict.fromkeys(room)
            if room:
                lane.changed.set()

    async def _compare(self, executor: ThreadPoolExecutor) -> None:
        """What others deleted, changed or put into our maps is found in time, and put right (rule I2)."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_COMPARE_S)
            for name, lane in self._lanes.items():
                lane.unseen = lane.unseen or list(lane.wanted)
                keys, lane.unseen = lane.unseen[:_COMPARED_KEYS], lane.unseen[_COMPARED_KEYS:]
                try:
                    present, lane.cursor = await loop.run_in_executor(executor, _look, lane.target, keys, lane.cursor)
                    self._put_right(name, lane, present)
                except OSError as error:
                    _log.warning("map %s cannot be read: %s", name, error)

    def _put_right(self, name: str, lane: _Lane, present: Wishes) -> None:
        suspect = [
            key
            for key, value in present.items()
            if key not in lane.open and key not in lane.writing and lane.content.get(key) != value
        ]
        # Once more, and without an await: what was written since the look is as it should be. Counted as gone, rules
        # would have the pods dropped that go by them.
        found = {key: lane.target.lookup(key) for key in suspect}
        wrong = {key: value for key, value in found.items() if lane.content.get(key) != value}
        if lane.news is not None:
            lane.news |= dict.fromkeys(wrong)
        for key, value in wrong.items():
            lane.content.pop(key, None)
            if value is not None:
                lane.content[key] = value
            if lane.wanted.get(key) != value and key not in lane.waiting:
                self._wish(lane, key)
        if wrong:
            self.counters.repaired += len(wrong)
            _log.warning("map %s: %d entries were not as written; put right", name, len(wrong))


def _tell(name: str, lane: _Lane, waited: set[str]) -> None:
    """One line when something begins to wait for a new reason, and one when nothing waits any more."""
    reasons = set(lane.waiting.values())
    for reason in sorted(reasons - waited):
        _log.warning("map %s: %d entries wait: %s", name, len(lane.waiting), reason)
    if waited and not reasons:
        _log.info("map %s: nothing waits any more", name)


def _write(target: BpfMap, batch: Wishes, known: frozenset[bytes]) -> _Outcome:
    """In a worker thread: upserts, those of present keys first, for they need no room; then deletes; then once more
    what had no room before."""
    upserts = [(key, value) for key, value in batch.items() if value is not None]
    upserts.sort(key=lambda item: item[0] not in known)
    outcome = _Outcome({}, {})
    _upsert(target, upserts, outcome)
    _delete(target, [key for key, value in batch.items() if value is None], outcome)
    refused = {key for key, why in outcome.waiting.items() if why == FULL}
    if refused and None in outcome.done.values():
        _upsert(target, [item for item in upserts if item[0] in refused], outcome)
    return outcome


def _upsert(target: BpfMap, items: list[tuple[bytes, bytes]], outcome: _Outcome) -> None:
    for start in range(0, len(items), _BATCH):
        chunk = items[start : start + _BATCH]
        try:
            done = target.update_many(chunk)
        except OSError:
            # Which of them it was, only one at a time can tell; and the others shall not wait for it.
            _upsert_singly(target, chunk, outcome)
            continue
        _fulfil(outcome, dict(chunk[:done]))
        if done < len(chunk):
            outcome.waiting |= dict.fromkeys((key for key, _ in items[start + done :]), FULL)
            return


def _upsert_singly(target: BpfMap, chunk: list[tuple[bytes, bytes]], outcome: _Outcome) -> None:
    for key, value in chunk:
        try:
            target.update(key, value)
        except OSError as error:
            outcome.waiting[key] = FULL if is_full(error) else str(error)
        else:
            _fulfil(outcome, {key: value})


def _delete(target: BpfMap, keys: list[bytes], outcome: _Outcome) -> None:
    for key in keys:
        try:
            target.delete(key)
        except OSError as error:
            outcome.waiting[key] = str(error)
        else:
            _fulfil(outcome, {key: None})


def _fulfil(outcome: _Outcome, done: Mapping[bytes, bytes | None]) -> None:
    outcome.done |= done
    for key in done:
        outcome.waiting.pop(key, None)


def _look(target: BpfMap, keys: list[bytes], cursor: bytes | None) -> tuple[Wishes, bytes | None]:
    """In a worker thread: what the kernel has for these keys, and for the next ones after `cursor`, which moves on."""
    present: Wishes = {key: target.lookup(key) for key in keys}
    following = target.keys(after=cursor, count=_COMPARED_KEYS)
    present |= {key: value for key in following if (value := target.lookup(key)) is not None}
    return present, following[-1] if len(following) == _COMPARED_KEYS else None
