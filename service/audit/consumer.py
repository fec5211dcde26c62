"""Reads audit records where they are: outbox folders and the Kafka topic, behind one interface.

Sources give out every record as often as it is there, with its exact bytes: `verification` needs both. Readers for
people drop copies with `Deduplicator`. Nothing here writes, commits offsets or joins a consumer group.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from service.audit.cloud_event import decode
from service.audit.cursor import read_cursor
from service.audit.segment import Damage, Frame, Scan, scan
from service.audit.segment_reader import segment_numbers, segment_path
from service.model.audit_record import AuditRecord
from service.model.errors import OperatorError, PeerError, TransientError
from service.settings import KafkaSettings

_POLL_S = 0.2
_FRESH_NS = 1_000_000_000
"""A file changed so recently may change again without a new timestamp."""
_FETCH_RECORDS_MAX = 2000
_FETCH_MS = 200
_START_S_MAX = 30.0
_SILENCE_S_MAX = 30.0
"""Without a record while some are due: the brokers are gone."""
_REMEMBERED_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in one place."""

    log: str
    """The outbox folder, or topic and partition: within it, records are in the order in which they were written."""
    place: str
    """Segment and offset, or partition and offset."""
    segment: int
    """Of an outbox; 0 in Kafka."""
    payload: bytes
    record: AuditRecord


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes that hold no record of ours."""

    log: str
    place: str
    reason: str


class CaughtUp:
    """Everything that was there when reading began has been given out; what follows is live."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How far back one log reaches."""

    log: str
    is_kafka: bool
    is_trimmed: bool
    """Older records were there and went as they should: by the topic's retention, or published from an outbox."""
    is_published: bool = True
    """An outbox: somebody publishes it."""


Item = Entry | Unreadable | CaughtUp


class AuditSource(Protocol):
    """`extents` is known once the first item is out."""

    extents: list[Extent]

    def items(self, *, follow: bool) -> AsyncIterator[Item]:
        """Every record from the oldest on; ends behind what there is now, or never if `follow`.

        Raises OperatorError where there is no such log, TransientError where it does not answer.
        """


@dataclass(slots=True)
class OutboxSource:
    """One outbox folder, also while its writer is at work."""

    folder: Path
    extents: list[Extent] = field(default_factory=list)
    _ends: dict[int, int] = field(default_factory=dict)
    """Segment -> how far it has been given out."""
    _stamps: dict[int, tuple[int, int, bool]] = field(default_factory=dict)

    async def items(self, *, follow: bool) -> AsyncIterator[Item]:
        """Segment by segment; of a finished one whose tail is damaged this is told once. See AuditSource."""
        for item in await asyncio.to_thread(self._read):
            yield item
        yield CaughtUp()
        while follow:
            await asyncio.sleep(_POLL_S)
            for item in await asyncio.to_thread(self._read):
                yield item

    def _read(self) -> list[Item]:
        """What is new since the last look."""
        try:
            if not self.folder.is_dir():
                raise OperatorError(f"{self.folder}: no audit outbox can be read here: no such folder")
            numbers = segment_numbers(self.folder)
            if not self.extents:
                is_published = read_cursor(self.folder) is not None
                is_trimmed = bool(numbers) and numbers[0] > 1 and is_published
                self.extents = [Extent(str(self.folder), False, is_trimmed, is_published)]
        except OSError as error:
            raise OperatorError(f"{self.folder}: no audit outbox can be read here: {error.strerror}") from error
        return [item for number in numbers for item in self._segment(number, is_newest=number == numbers[-1])]

    def _segment(self, number: int, *, is_newest: bool) -> Iterator[Item]:
        path = segment_path(self.folder, number)
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, is_newest)
            if self._stamps.get(number) == stamp:
                return
            found = scan(path.read_bytes())
            if is_newest and any(isinstance(item, Damage) for item in found.items):
                found = scan(path.read_bytes())  # a write under our read can look like damage, but only once
        except FileNotFoundError:
            return  # removed by the size cap
        except OSError as error:
            if number not in self._stamps:
                self._stamps[number] = (0, 0, False)
                yield Unreadable(str(self.folder), str(path), f"cannot be read: {error.strerror}")
            return
        yield from self._items(number, str(path), found, is_newest=is_newest)
        if time.time_ns() - stamp[0] > _FRESH_NS:
            self._stamps[number] = stamp

    def _items(self, number: int, name: str, found: Scan, *, is_newest: bool) -> Iterator[Item]:
        start = self._ends.get(number, 0)
        for item in found.items:
            if item.offset >= start:
                yield self._item(item, number, f"{name}+{item.offset}")
        end = max(start, found.end)
        # Only in the newest segment may a writer be at work; a tail in any other is a loss, and told once.
        if found.torn_bytes and not is_newest and end == found.end:
            yield Unreadable(str(self.folder), f"{name}+{found.end}", "the segment's tail is damaged")
            end = found.end + found.torn_bytes
        self._ends[number] = end

    def _item(self, item: Frame | Damage, number: int, place: str) -> Item:
        log = str(self.folder)
        if isinstance(item, Damage):
            return Unreadable(log, place, item.reason)
        try:
            return Entry(log, place, number, item.payload, decode(item.payload))
        except PeerError as error:
            return Unreadable(log, place, str(error))


@dataclass(slots=True)
class KafkaSource:
    """Every partition of the topic, from the oldest record on."""

    kafka: KafkaSettings
    extents: list[Extent] = field(default_factory=list)

    async def items(self, *, follow: bool) -> AsyncIterator[Item]:
        """In each partition's order; partitions come mixed. See AuditSource."""
        from aiokafka import AIOKafkaConsumer
        from aiokafka.errors import KafkaError

        from service.audit.kafka_connection import client_options, quiet_library

        quiet_library()
        consumer = AIOKafkaConsumer(
            **client_options(self.kafka, client_id="egressgw-audit"),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            group_id=None,
        )
        try:
            async with asyncio.timeout(_START_S_MAX):
                await consumer.start()
                ends = await self._assign(consumer)
            async for item in self._fetch(consumer, ends, follow=follow):
                yield item
        except TimeoutError as error:
            raise TransientError(f"Kafka at {self._brokers()} does not answer") from error
        except KafkaError as error:
            raise TransientError(f"Kafka at {self._brokers()}: {error}") from error
        finally:
            await consumer.stop()

    async def _assign(self, consumer: Any) -> dict[Any, int]:
        """Take all partitions from their beginnings, also those that are added; where each ends now."""
        topic = self.kafka.topic
        # Asked for by name, a broker may create it: so it is looked for among all.
        if topic not in await consumer.topics():
            raise OperatorError(f"Kafka at {self._brokers()} has no topic {topic!r}")
        consumer.subscribe([topic])
        while not consumer.assignment():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        partitions = sorted(consumer.assignment())
        begins = await consumer.beginning_offsets(partitions)
        ends: dict[Any, int] = await consumer.end_offsets(partitions)
        self.extents = [Extent(_log_name(one), True, begins[one] > 0) for one in partitions]
        return {one: end for one, end in ends.items() if end > begins[one]}

    async def _fetch(self, consumer: Any, ends: dict[Any, int], *, follow: bool) -> AsyncIterator[Item]:
        is_live = False
        heard = time.monotonic()
        while True:
            if not is_live and not ends:
                is_live = True
                yield CaughtUp()
                if not follow:
                    return
            batches = await consumer.getmany(timeout_ms=_FETCH_MS, max_records=_FETCH_RECORDS_MAX)
            if batches:
                heard = time.monotonic()
            elif not is_live and time.monotonic() - heard > _SILENCE_S_MAX:
                raise TransientError(f"Kafka at {self._brokers()} fell silent before the end of the topic")
            for partition, messages in batches.items():
                for message in messages:
                    if is_live or message.offset < ends.get(partition, 0):
                        yield _entry(partition, message)
            # By position and not by count: offsets may have holes.
            for partition in [one for one in ends if await consumer.position(one) >= ends[one]]:
                del ends[partition]

    def _brokers(self) -> str:
        return ", ".join(self.kafka.bootstrap_servers)


def _log_name(partition: Any) -> str:
    return f"{partition.topic}[{partition.partition}]"


def _entry(partition: Any, message: Any) -> Item:
    log = _log_name(partition)
    place = f"{log}@{message.offset}"
    try:
        return Entry(log, place, 0, message.value or b"", decode(message.value or b""))
    except PeerError as error:
        return Unreadable(log, place, str(error))


async def read_each(sources: Sequence[AuditSource], handle: Callable[[Entry | Unreadable], None]) -> None:
    """Give `handle` all there is now, source by source.

    Outboxes belong in front: what they hold is then in the topic, or not there yet.
    """
    for source in sources:
        async with aclosing(_generator(source, follow=False)) as items:
            async for item in items:
                if not isinstance(item, CaughtUp):
                    handle(item)


async def read_all(sources: Sequence[AuditSource]) -> list[Entry | Unreadable]:
    """Everything that is there now."""
    found: list[Entry | Unreadable] = []
    await read_each(sources, found.append)
    return found


async def follow_all(sources: Sequence[AuditSource], handle: Callable[[Item], None]) -> None:
    """Give every item of every source to `handle`, until cancelled; one CaughtUp when all of them have caught up."""
    behind = len(sources)

    async def pass_on(source: AuditSource) -> None:
        nonlocal behind
        async with aclosing(_generator(source, follow=True)) as items:
            async for item in items:
                if isinstance(item, CaughtUp):
                    behind -= 1
                    if behind:
                        continue
                handle(item)

    async with asyncio.TaskGroup() as group:
        for source in sources:
            group.create_task(pass_on(source))


def _generator(source: AuditSource, *, follow: bool) -> Any:
    """An async generator, which `aclosing` can close; the interface promises an iterator only."""
    return source.items(follow=follow)


class Deduplicator:
    """Tells whether an event is new. Remembers the last events only: copies come soon after each other."""

    def __init__(self, remembered_max: int = _REMEMBERED_MAX) -> None:
        self._known: OrderedDict[object, None] = OrderedDict()
        self._remembered_max = remembered_max

    def is_new(self, record: AuditRecord) -> bool:
        """Note the event; False where it is one of the last that were noted."""
        key = event_key(record)
        if key in self._known:
            return False
        self._known[key] = None
        if len(self._known) > self._remembered_max:
            self._known.popitem(last=False)
        return True


def event_key(record: AuditRecord) -> object:
    """Equal for copies of one event. Records of the first outboxes, which had no name, are told apart by more."""
    if record.token is not None or record.outbox or record.foreign_id:
        return record.id
    return (record.id, record.kind, record.wall_time_ns)
