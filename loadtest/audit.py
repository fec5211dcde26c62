"""Measure the audit trail: records through outbox and a real Kafka broker, and how long one takes until acknowledged.

Outbox and publisher run as an agent runs them, on uvloop, in this process; the broker is a process of its own beside
it, started from Maven Central's Kafka, or an existing one. The outbox syncs each group to disk before anything of it is
published; a record counts when the broker has acknowledged it (which, as Kafka does, does not sync by itself).
"""

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from loadtest.broker import KAFKA_VERSION, Broker
from loadtest.statistics import percentile
from service.audit.cloud_event import parse_time
from service.audit.feed import Event
from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.host import clock, identity
from service.model.audit_record import RecordKind
from service.model.errors import TransientError
from service.settings import load_settings

_ADDRESSES = 50
_WARM_UP_S = 5.0
_PENDING_MAX = 4000
_STALL_S_MAX = 60.0
NODE = "loadtest"


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What a run is asked for."""

    rate: int = 1000
    """Records per second of the latency measurement."""
    duration_s: float = 5.0
    """Of one latency measurement."""
    records: int = 50_000
    """Of one throughput measurement."""
    rounds: int = 3
    compression: str = "lz4"
    brokers: str = ""
    """host:port of an existing broker; empty: one is started."""


@dataclass(slots=True)
class AuditResult:
    """Numbers of the rounds that were finished; `events` and `retries` are of the whole run, warm-up included."""

    options: AuditOptions
    broker: str
    throughput: list[float] = field(default_factory=list)
    """Records per second from the first append to the last acknowledgement, per round."""
    latency_ms: list[dict[str, float]] = field(default_factory=list)
    """p50, p99 and max per round, from `append` to the acknowledgement."""
    events: int = 0
    retries: int = 0


def steps(options: AuditOptions) -> int:
    """How many measurements a run has."""
    return 2 * options.rounds + 1


def measure_audit(
    options: AuditOptions, report: Callable[[str], None] = lambda line: None, advance: Callable[[], None] = lambda: None
) -> AuditResult:
    """Start what is needed, measure, clear it. Raises OperatorError or TransientError."""
    brokers = options.brokers or os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    with tempfile.TemporaryDirectory(prefix="egressgw-loadtest-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        what = f"existing, {brokers}"
        if not brokers:
            report("starting a Kafka broker (the first time it is fetched)")
            brokers = stack.enter_context(Broker(folder / "broker")).address
            what = f"Apache Kafka {KAFKA_VERSION}, on this machine"
        result = AuditResult(options, what)
        uvloop.run(_measure(_Trail(options, brokers, folder), result, report, advance))
        return result


async def _measure(
    trail: "_Trail", result: AuditResult, report: Callable[[str], None], advance: Callable[[], None]
) -> None:
    options = result.options
    async with trail.running():
        report("warming up")
        await trail.paced(options.rate, _WARM_UP_S)
        advance()
        for number in range(1, options.rounds + 1):
            report(f"round {number}: latency at {options.rate} records/s")
            latencies = await trail.paced(options.rate, options.duration_s)
            result.latency_ms.append(
                {"p50": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99), "max": max(latencies)}
            )
            advance()
            report(f"round {number}: {options.records} records at once")
            result.throughput.append(await trail.bulk(options.records))
            advance()
        result.events, result.retries = trail.publisher.state.published, trail.publisher.state.retries


class _Trail:
    """Outbox and publisher of one agent, and when records of theirs were acknowledged."""

    def __init__(self, options: AuditOptions, brokers: str, folder: Path) -> None:
        kafka: dict[str, Any] = {
            "bootstrap_servers": brokers.split(","),
            "topic": f"egressgw-loadtest-{uuid.uuid4().hex[:8]}",
            "create_topic": True,
            "replication_factor": 1,
            "compression": options.compression,
        }
        settings = load_settings(None, {"node": NODE, "kafka": kafka, "audit": {"cap_mib": 1024}})
        self.outbox = Outbox(
            folder / "outbox",
            Origin(NODE, identity.boot_id()),
            clock=lambda: (clock.wall_ns(), clock.boot_ns()),
            cap_bytes=settings.audit.cap_mib << 20,
            queue_records=2 * _PENDING_MAX,
        )
        self.publisher = Publisher(settings.kafka, self.outbox, node=NODE, on_published=self._note)
        self._numbers = itertools.count(1)
        self._latencies: list[float] = []
        self._times_wanted = False
        self._acknowledged = 0
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.publisher, self.outbox, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.outbox.run()), group.create_task(self.publisher.run())]
            yield
            for task in tasks:
                task.cancel()

    async def paced(self, rate: int, duration_s: float) -> list[float]:
        """Milliseconds of each record, appended at an even rate."""
        self._latencies, self._times_wanted = [], True
        began_s, count = time.monotonic(), 0
        target = self._acknowledged
        while (elapsed_s := time.monotonic() - began_s) < duration_s:
            due = int(elapsed_s * rate)
            self._append(due - count)
            target += due - count
            count = due
            await asyncio.sleep(0.001)
        await self._wait_for(target)
        self._times_wanted = False
        return self._latencies

    async def bulk(self, records: int) -> float:
        """Records per second, as fast as the outbox takes them."""
        began_s = time.monotonic()
        target = self._acknowledged + records
        left = records
        while left:
            room = min(left, 50) if self.outbox.state.pending < _PENDING_MAX else 0
            self._append(room)
            left -= room
            await asyncio.sleep(0 if room else 0.001)
        await self._wait_for(target)
        return records / (time.monotonic() - began_s)

    def _append(self, count: int) -> None:
        for number in itertools.islice(self._numbers, count):
            self.outbox.append(
                RecordKind.ACQUIRED,
                subject=f"192.0.2.{number % _ADDRESSES}",
                token=(1, 1, number),
                holder=NODE,
                reason="load test",
            )

    async def _wait_for(self, target: int) -> None:
        while self._acknowledged < target:
            self._news.clear()
            try:
                async with asyncio.timeout(_STALL_S_MAX):
                    await self._news.wait()
            except TimeoutError as error:
                reason = self.publisher.state.reason or self.outbox.reason or "no reason known"
                raise TransientError(f"nothing was acknowledged for {_STALL_S_MAX:.0f} s: {reason}") from error

    def _note(self, events: Sequence[Event]) -> None:
        self._acknowledged += len(events)
        if self._times_wanted:
            now_ns = clock.wall_ns()
            self._latencies += ((now_ns - parse_time(event.time)) / 1e6 for event in events)
        self._news.set()
