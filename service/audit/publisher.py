"""Publishes audit outboxes to Kafka: in order, at least once, and nobody in the failover path waits for it.

Each folder is published on its own, one round at a time: read what is durable, hand it over as one batch per partition,
wait until all of it is acknowledged by all in-sync replicas, move the cursor. So order per floating IP holds whatever
fails in between: a partition never has a second batch under way that could overtake a failed first one, and a retry
begins again at the cursor, with the same bytes and ids. Records that come meanwhile make the next round larger.

A failed batch costs the producer its sequence numbers, so after any failure a new one is made, after a back-off with
jitter. What all records share (no broker, no right to write, no topic) is retried for ever and loudly; a record that is
refused for itself is set aside in the file `unpublishable`, and the ones behind it go on.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from service.audit.cursor import Position
from service.audit.feed import Event, Feed
from service.audit.kafka_connection import client_options, create_topic, quiet_library
from service.audit.outbox import Outbox
from service.model.errors import OperatorError, TransientError
from service.settings import KafkaSettings

_log = logging.getLogger(__name__)

_ROUND_RECORDS_MAX = 500
_BATCH_BYTES_MAX = 768 * 1024
"""Of one partition's batch before compression; more than a round can be. Brokers take 1 MiB unless told otherwise."""
_BACKOFF_S_MIN = 0.1
_BACKOFF_S_MAX = 10.0
_START_S_MAX = 30.0
_POLL_S = 0.1
"""How often the outbox of another process is looked at."""
_IDLE_S = 1.0
_STUCK_S_MIN = 60.0
_UNHEALTHY_S = 5.0
_LAG_S_MAX = 30.0
_CLOSE_S_MAX = 1.5
_FAREWELL_S_MAX = 2.0
_HEADERS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PublisherState:
    """For status and metrics. Counts are of records since the start of the process."""

    configured: bool
    healthy: bool
    reason: str
    published: int
    lag_records: int
    """Durable and not acknowledged; counted once a second."""
    lag_seconds: float
    """Age of the oldest of them."""
    retries: int
    """Rounds that failed and were begun again."""
    unpublishable: int
    """Set aside."""
    damaged: int
    """Places in the outboxes that held no sound record."""


class Publisher:
    """Publishes the outbox of this process, and by their folders those of other processes on this node.

    Enter it before the outbox, so that it leaves after it and takes the last records along; keep `run()` in a task
    group. Without brokers in the settings it does nothing. Raises OperatorError where the settings cannot be used.
    `on_published` gets records when all of their round is acknowledged.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        outbox: Outbox,
        *,
        node: str,
        foreign: Sequence[Path] = (),
        on_published: Callable[[Sequence[Event]], None] | None = None,
    ) -> None:
        self._lines: list[_Line] = []
        if not kafka.bootstrap_servers:
            return
        client_id = f"egressgw-{node}"
        client_options(kafka, client_id=client_id)  # a file that cannot be used is told at the start
        # A thread of its own: a disk that hangs must not take the default pool along.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publisher")
        cap_bytes = outbox.cap_bytes
        feeds = [
            Feed(outbox.folder, node=node, cap_bytes=cap_bytes, durable=lambda: outbox.durable),
            *(Feed(folder, node=node, cap_bytes=cap_bytes) for folder in foreign),
        ]
        self._lines = [
            _Line(feed, kafka, self._executor, client_id=client_id, on_published=on_published or _nobody)
            for feed in feeds
        ]
        outbox.on_durable = self._lines[0].wake

    @property
    def state(self) -> PublisherState:
        """As it is now, over all outboxes."""
        lines = self._lines
        reasons = dict.fromkeys(reason for line in lines if (reason := line.reason))
        return PublisherState(
            configured=bool(lines),
            healthy=not reasons,
            reason="; ".join(reasons),
            published=sum(line.published for line in lines),
            lag_records=sum(line.feed.lag_records for line in lines),
            lag_seconds=max((line.feed.lag_seconds for line in lines), default=0.0),
            retries=sum(line.retries for line in lines),
            unpublishable=sum(line.feed.unpublishable for line in lines),
            damaged=sum(line.feed.damaged for line in lines),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish what the outbox wrote last, within a bound; what is left is published by the next start."""
        if not self._lines:
            return
        try:
            async with asyncio.TaskGroup() as group:
                for line in self._lines:
                    group.create_task(line.finish())
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self) -> None:
        """Publish until cancelled. Nothing that brokers or disks do ends it."""
        if not self._lines:
            return
        quiet_library()
        async with asyncio.TaskGroup() as group:
            for line in self._lines:
                group.create_task(line.run(), name=f"publish {line.feed.folder.name}")


@dataclass(slots=True)
class _Flight:
    """A round that the producer has, with the batch of each partition."""

    events: Sequence[Event]
    end: Position
    futures: list[asyncio.Future[Any]]


class _RefusedError(Exception):
    """The brokers refuse something in this round for what it is."""


class _Line:
    """One folder, and one producer at a time."""

    def __init__(
        self,
        feed: Feed,
        kafka: KafkaSettings,
        executor: ThreadPoolExecutor,
        *,
        client_id: str,
        on_published: Callable[[Sequence[Event]], None],
    ) -> None:
        self.feed = feed
        self.published = self.retries = 0
        self._kafka = kafka
        self._executor = executor
        self._client_id = client_id
        self._on_published = on_published
        self._wake = asyncio.Event()
        self._flight: _Flight | None = None
        self._limit = _ROUND_RECORDS_MAX
        self._failure = ""
        self._failed_s = 0.0
        self._attempts = 0
        self._partitions: dict[bytes, int] = {}
        self._partition_count = 0
        self._stuck_s = max(_STUCK_S_MIN, 6 * kafka.request_timeout_ms / 1000)
        """Without an acknowledgement for so long, all brokers known may be gone for good: ask the configured ones."""

    @property
    def reason(self) -> str:
        """Why records do not reach the brokers, or will be lost; empty while all is well."""
        feed = self.feed
        if feed.is_nearly_full:
            what = self._failure or "the brokers are slow"
            return f"{feed.fill:.0%} of the outbox is unpublished, at 100% the oldest records are lost: {what}"
        if self._failure and time.monotonic() - self._failed_s > _UNHEALTHY_S:
            return self._failure
        if feed.lag_seconds > _LAG_S_MAX:
            return f"the oldest unpublished record has waited for {feed.lag_seconds:.0f} s"
        if feed.failure:
            return feed.failure
        if feed.has_set_aside:
            return f"records that the brokers never take are in {feed.set_aside_path}; remove it when you have read it"
        return ""

    def wake(self) -> None:
        """Say that there is more to publish."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled, after each failure with a new producer."""
        while True:
            try:
                await self._publish()
            except _RefusedError as error:
                self.retries += 1
                _log.warning("audit publisher: refused, trying again in smaller pieces: %s", error)
            except Exception as error:
                self.retries += 1
                self._fail(error)
                await self._back_off()

    async def finish(self) -> None:
        """Once more, for what was written last; not where brokers are failing, and never for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S_MAX):
                try:
                    if not self._failure:
                        await self._publish(until_idle=True)
                except Exception as error:
                    self._fail(error)
                await self._in_thread(self.feed.close)

    async def _publish(self, *, until_idle: bool = False) -> None:
        """Publish with one producer until something fails, or nothing is left."""
        if self._kafka.create_topic:
            async with asyncio.timeout(_START_S_MAX):
                await create_topic(self._kafka, client_id=self._client_id)
        producer = self._make_producer()
        try:
            async with asyncio.timeout(_START_S_MAX):
                await producer.start()
            while True:
                # Before the look: what becomes durable behind it wakes us.
                self._wake.clear()
                if await self._round(producer):
                    continue
                if until_idle:
                    return
                await self._idle()
        finally:
            await _close(producer)
            self._collect()

    def _make_producer(self) -> Any:
        from aiokafka import AIOKafkaProducer

        return AIOKafkaProducer(
            **client_options(self._kafka, client_id=self._client_id),
            acks="all",
            enable_idempotence=True,
            compression_type=None if self._kafka.compression == "none" else self._kafka.compression,
            max_batch_size=_BATCH_BYTES_MAX,
        )

    async def _round(self, producer: Any) -> bool:
        """Publish what comes next, or pass over where there is no record; False where nothing is behind."""
        events, end = await self._in_thread(self.feed.read, self._limit)
        if events:
            await self._send(producer, events, end)
        elif end != self.feed.position:
            self.feed.advance(0, end)
        else:
            return False
        return True

    async def _send(self, producer: Any, events: Sequence[Event], end: Position) -> None:
        """One round. Raises what the brokers say, or TransientError where they say nothing for long."""
        if self._kafka.linger_ms and len(events) < self._limit:
            await asyncio.sleep(self._kafka.linger_ms / 1000)
            events, end = await self._in_thread(self.feed.read, self._limit)
        batches = self._batches(producer, events, sorted(await producer.partitions_for(self._kafka.topic)))
        futures: list[asyncio.Future[Any]] = []
        for partition, batch in batches.items():
            futures.append(await producer.send_batch(batch, self._kafka.topic, partition=partition))
            futures[-1].add_done_callback(_take_exception)
        self._flight = _Flight(events, end, futures)  # only now that all of it is under way can all of it land
        await self._landing(futures)
        error = self._collect()
        if error is not None:
            await self._refuse(error, events, end)

    def _batches(self, producer: Any, events: Sequence[Event], partitions: Sequence[int]) -> dict[int, Any]:
        from aiokafka.partitioner import DefaultPartitioner

        if len(partitions) != self._partition_count or len(self._partitions) > 10_000:
            self._partitions.clear()
            self._partition_count = len(partitions)
        batches: dict[int, Any] = {}
        for event in events:
            partition = self._partitions.get(event.key)
            if partition is None:
                # The key's partition as every Kafka client computes it: theirs and ours stay together.
                partition = self._partitions[event.key] = DefaultPartitioner()(event.key, partitions, partitions)
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = producer.create_batch()
            if batch.append(timestamp=None, key=event.key, value=event.payload, headers=_HEADERS) is None:
                raise AssertionError("a round is larger than a batch may be")
        return batches

    async def _landing(self, futures: Sequence[asyncio.Future[Any]]) -> None:
        """Wait until each batch is acknowledged or has failed; aiokafka retries what can be retried, without end."""
        began_s = time.monotonic()
        pending: set[asyncio.Future[Any]] = set(futures)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=_IDLE_S)
            waited_s = time.monotonic() - began_s
            if not pending:
                return
            if waited_s > self._stuck_s:
                raise TransientError(f"no acknowledgement from the brokers for {waited_s:.0f} s")
            if waited_s > _UNHEALTHY_S and not self._failure:
                self._fail(TransientError("the brokers do not acknowledge"))
            await self._in_thread(self.feed.measure)

    def _collect(self) -> Exception | None:
        """Take the result of the round under way, if it has one: the cursor moves when all of it is acknowledged."""
        flight = self._flight
        if flight is None or not all(future.done() for future in flight.futures):
            return None
        self._flight = None
        errors = [
            error
            for future in flight.futures
            if not future.cancelled() and isinstance(error := future.exception(), Exception)
        ]
        if errors:
            return errors[0]
        if any(future.cancelled() for future in flight.futures):
            return None
        self.feed.advance(len(flight.events), flight.end)
        self.published += len(flight.events)
        self._limit = min(2 * self._limit, _ROUND_RECORDS_MAX)
        self._recover()
        self._on_published(flight.events)
        return None

    async def _refuse(self, error: Exception, events: Sequence[Event], end: Position) -> None:
        """A round failed. Raises, since its producer is of no more use; one record that is at fault is set aside."""
        from aiokafka import errors

        is_at_fault = isinstance(
            error,
            errors.MessageSizeTooLargeError | errors.RecordListTooLargeError | errors.UnsupportedForMessageFormatError,
        )
        if not is_at_fault:
            raise error
        if len(events) == 1:
            await self._in_thread(self.feed.set_aside, events[0], _explain(error))
            self.feed.advance(1, end)
        # Smaller and smaller rounds find the one at fault, and what is in front of it is published on the way.
        self._limit = max(1, len(events) // 2)
        raise _RefusedError(_explain(error)) from error

    async def _idle(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S if self.feed.is_own else _POLL_S):
                await self._wake.wait()

    async def _back_off(self) -> None:
        """Wait longer each time, with jitter so that the nodes of a cluster do not come back all at once."""
        wait_s = min(_BACKOFF_S_MAX, _BACKOFF_S_MIN * 2 ** min(self._attempts, 10)) * random.uniform(0.5, 1.0)
        self._attempts += 1
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(OSError):
                await self._in_thread(self.feed.read, 1)  # how far behind we are, for metrics and health
            await asyncio.sleep(min(left_s, _IDLE_S))

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    def _fail(self, error: Exception) -> None:
        reason = _explain(error)
        if not self._failure:
            self._failed_s = time.monotonic()
        if reason != self._failure:
            _log.error("audit publisher: records wait on disk: %s", reason, exc_info=not _is_expected(error))
        self._failure = reason

    def _recover(self) -> None:
        self._attempts = 0
        if self._failure:
            seconds = time.monotonic() - self._failed_s
            _log.warning("audit publisher: publishing again after %.1f s: %s", seconds, self._failure)
            self._failure = ""


async def _close(producer: Any) -> None:
    """Give the producer up: what it has not sent within the bound it never sends. Its own stop waits for brokers."""
    # wait_for and not timeout(), whose expiry looks like the cancellation that may have brought us here.
    with contextlib.suppress(Exception):
        await asyncio.wait_for(producer.stop(), _CLOSE_S_MAX)
        return
    from aiokafka.errors import ProducerClosed

    # What waits in it fails now, or its flush would wait for ever; then the connections, or its requests would; then
    # those that a request opened again meanwhile.
    producer._message_accumulator.fail_all(ProducerClosed())
    if producer._sender.sender_task is not None:
        # It would fail itself: it takes every idempotent producer for a transactional one.
        producer._sender.sender_task.remove_done_callback(producer._sender._fail_all)
    for close in (producer.client.close, producer._sender.close, producer.client.close):
        with contextlib.suppress(Exception):
            await asyncio.wait_for(close(), _CLOSE_S_MAX)


def _take_exception(future: asyncio.Future[Any]) -> None:
    """So that asyncio does not report one that comes after a round was given up."""
    if not future.cancelled():
        future.exception()


def _is_expected(error: Exception) -> bool:
    from aiokafka.errors import KafkaError

    return isinstance(error, KafkaError | OSError | OperatorError | TransientError)


def _explain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"the brokers did not answer within {_START_S_MAX:.0f} s"
    return str(error) or type(error).__name__


def _nobody(events: Sequence[Event]) -> None:
    """Stands in until somebody wants to hear of published records."""
