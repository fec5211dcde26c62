"""Rounds, failures and refusals against a stand-in for the brokers; tests/kafka has the real ones."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka.errors import MessageSizeTooLargeError, NotEnoughReplicasError

from service.audit.cursor import read_cursor
from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.model.audit_record import AuditRecord, RecordKind
from service.settings import KafkaSettings

TOPIC = "t"
KAFKA = KafkaSettings(bootstrap_servers=("broker:9092",), topic=TOPIC)
PARTITIONS = (0, 1, 2)


class Batch:
    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []

    def append(self, *, timestamp: None, key: bytes, value: bytes, headers: Any) -> object:
        self.records.append((key, value))
        return self


class Brokers:
    """What was acknowledged, by partition, and what is done with the next batches."""

    def __init__(self) -> None:
        self.stored: dict[int, list[tuple[bytes, bytes]]] = {}
        self.rounds: list[int] = []
        """Records of each batch that was handed over."""
        self.refuse: Callable[[Batch], Exception | None] = lambda batch: None
        self.is_silent = False
        self.held: list[tuple[asyncio.Future[None], int, Batch]] = []
        self.producers = 0

    def take(self, batch: Batch, partition: int) -> asyncio.Future[None]:
        self.rounds.append(len(batch.records))
        future = asyncio.get_running_loop().create_future()
        self.held.append((future, partition, batch))
        if not self.is_silent:
            self.answer()
        return future

    def answer(self) -> None:
        for future, partition, batch in self.held:
            if (error := self.refuse(batch)) is not None:
                future.set_exception(error)
            else:
                self.stored.setdefault(partition, []).extend(batch.records)
                future.set_result(None)
        self.held.clear()

    def ids(self, key: str) -> list[str]:
        """Of one key, as a consumer reads them."""
        return [
            json.loads(value)["id"]
            for records in self.stored.values()
            for found, value in records
            if found == key.encode()
        ]


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    found = Brokers()

    class Producer:
        def __init__(self, **options: Any) -> None:
            assert options["acks"] == "all"
            assert options["enable_idempotence"] is True
            found.producers += 1

        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def partitions_for(self, topic: str) -> set[int]:
            assert topic == TOPIC
            return set(PARTITIONS)

        def create_batch(self) -> Batch:
            return Batch()

        async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[None]:
            return found.take(batch, partition)

    monkeypatch.setattr(aiokafka, "AIOKafkaProducer", Producer)
    return found


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Outbox, Publisher]]:
    ticks = itertools.count(1_700_000_000_000_000_000)
    outbox = Outbox(folder, Origin("n1", "b1"), clock=lambda: (next(ticks), next(ticks)))
    publisher = Publisher(KAFKA, outbox, node="n1")
    async with publisher, outbox, asyncio.TaskGroup() as group:
        tasks = [group.create_task(outbox.run()), group.create_task(publisher.run())]
        yield outbox, publisher
        for task in tasks:
            task.cancel()


def append(outbox: Outbox, count: int, first: int = 0, *, addresses: int = 5) -> list[AuditRecord]:
    return [
        outbox.append(RecordKind.ASSIGNED, subject=f"10.0.0.{number % addresses}", token=(1, 1, number + 1))
        for number in range(first, first + count)
    ]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def of(records: list[AuditRecord], address: str) -> list[str]:
    return [record.id for record in records if record.subject == address]


async def test_all_records_of_an_address_are_in_one_partition_and_in_order(tmp_path: Path, brokers: Brokers) -> None:
    async with running(tmp_path) as (outbox, publisher):
        records = append(outbox, 100)
        await until(lambda: publisher.state.published == 100)
    for number in range(5):
        address = f"10.0.0.{number}"
        assert brokers.ids(address) == of(records, address)
        holding = [one for one, stored in brokers.stored.items() if any(key == address.encode() for key, _ in stored)]
        assert len(holding) == 1


async def test_no_second_round_is_under_way_before_the_first_is_acknowledged(tmp_path: Path, brokers: Brokers) -> None:
    brokers.is_silent = True
    async with running(tmp_path) as (outbox, publisher):
        append(outbox, 10, addresses=1)
        await until(lambda: brokers.held)
        append(outbox, 10, first=10, addresses=1)
        assert await outbox.flush(5)
        await asyncio.sleep(0.05)
        assert len(brokers.held) == 1
        assert publisher.state.published == 0
        brokers.is_silent = False
        brokers.answer()
        await until(lambda: publisher.state.published == 20)


async def test_the_cursor_moves_only_when_every_partition_has_acknowledged(tmp_path: Path, brokers: Brokers) -> None:
    brokers.is_silent = True
    async with running(tmp_path) as (outbox, publisher):
        append(outbox, 60, addresses=30)
        await until(lambda: len(brokers.held) == len(PARTITIONS))
        last = brokers.held.pop()
        brokers.answer()
        await asyncio.sleep(0.05)
        assert publisher.state.published == 0
        assert read_cursor(tmp_path) is None or read_cursor(tmp_path)[1] == 0  # type: ignore[index]
        brokers.is_silent = False
        brokers.held.append(last)
        brokers.answer()
        await until(lambda: publisher.state.published == 60)
    cursor = read_cursor(tmp_path)
    assert cursor is not None
    assert cursor.offset > 0


async def test_a_stop_in_the_middle_of_a_round_costs_copies_and_no_record(tmp_path: Path, brokers: Brokers) -> None:
    brokers.is_silent = True
    async with running(tmp_path) as (outbox, publisher):
        records = append(outbox, 60, addresses=30)
        await until(lambda: len(brokers.held) == len(PARTITIONS))
        del brokers.held[-1]
        brokers.answer()
        brokers.is_silent = False
    assert publisher.state.published == 60
    for address in {record.subject for record in records}:
        assert list(dict.fromkeys(brokers.ids(address))) == of(records, address)


async def test_a_failed_round_begins_again_whole_with_a_new_producer_and_the_same_ids(
    tmp_path: Path, brokers: Brokers
) -> None:
    failures = iter([None, NotEnoughReplicasError(), None, None])
    brokers.refuse = lambda batch: next(failures, None)
    async with running(tmp_path) as (outbox, publisher):
        records = append(outbox, 60, addresses=30)
        await until(lambda: publisher.state.published == 60)
        assert publisher.state.retries >= 1
    assert brokers.producers >= 2
    for address in {record.subject for record in records}:
        # At least once: copies collapse on their id, and then the order is that in which they were written.
        assert list(dict.fromkeys(brokers.ids(address))) == of(records, address)


async def test_the_one_record_at_fault_is_found_and_set_aside_and_the_others_keep_their_order(
    tmp_path: Path, brokers: Brokers
) -> None:
    def too_large(batch: Batch) -> Exception | None:
        return MessageSizeTooLargeError() if any(b'"7.7.7"' in value for _, value in batch.records) else None

    brokers.refuse = too_large
    async with running(tmp_path) as (outbox, publisher):
        before = append(outbox, 20, addresses=1)
        bad = outbox.append(RecordKind.ASSIGNED, subject="10.0.0.0", token=(7, 7, 7))
        after = append(outbox, 20, first=20, addresses=1)
        await until(lambda: publisher.state.published == 40 and publisher.state.unpublishable == 1)
        assert not publisher.state.healthy
        assert "remove it when you have read it" in publisher.state.reason
    assert list(dict.fromkeys(brokers.ids("10.0.0.0"))) == [record.id for record in before + after]
    (line,) = (tmp_path / "unpublishable").read_text().splitlines()
    assert json.loads(json.loads(line)["event"])["id"] == bad.id


async def test_what_was_written_last_goes_along_at_the_stop(tmp_path: Path, brokers: Brokers) -> None:
    async with running(tmp_path) as (outbox, publisher):
        append(outbox, 3, addresses=1)
        await until(lambda: publisher.state.published == 3)
        last = append(outbox, 1, first=3, addresses=1)
    assert brokers.ids("10.0.0.0")[-1] == last[0].id


async def test_a_restart_sends_nothing_again_that_was_acknowledged_before_a_stop(
    tmp_path: Path, brokers: Brokers
) -> None:
    for first in (0, 5):
        async with running(tmp_path) as (outbox, publisher):
            append(outbox, 5, first=first, addresses=1)
            await until(lambda: publisher.state.published == 5)
    assert len(brokers.ids("10.0.0.0")) == len(set(brokers.ids("10.0.0.0"))) == 10


async def test_without_brokers_in_the_settings_nothing_is_done_and_all_is_well(
    tmp_path: Path, brokers: Brokers
) -> None:
    outbox = Outbox(tmp_path, Origin("n1", "b1"), clock=lambda: (1, 1))
    async with Publisher(KafkaSettings(), outbox, node="n1") as publisher:
        await publisher.run()
        assert (publisher.state.configured, publisher.state.healthy) == (False, True)
    assert brokers.producers == 0
