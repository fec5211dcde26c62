import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.broker import Broker
from service.audit.cursor import read_cursor
from service.audit.outbox import Origin, Outbox, read_outbox
from service.audit.publisher import Publisher
from service.model.audit_record import AuditRecord, RecordKind
from service.settings import KafkaSettings, load_settings
from tests.kafka.brokers import create_topic
from tests.kafka.topic import read_topic

pytestmark = pytest.mark.kafka


def kafka_settings(brokers: str, topic: str, **more: Any) -> KafkaSettings:
    options = {"bootstrap_servers": [brokers], "topic": topic, "request_timeout_ms": 2000} | more
    return load_settings(None, {"node": "n1", "kafka": options}).kafka


def new_outbox(folder: Path, **options: Any) -> Outbox:
    return Outbox(folder, Origin("n1", "b1"), clock=lambda: (time.time_ns(), time.monotonic_ns()), **options)


@contextlib.asynccontextmanager
async def running(
    kafka: KafkaSettings, outbox: Outbox, foreign: tuple[Path, ...] = ()
) -> AsyncIterator[tuple[Outbox, Publisher]]:
    """Outbox and publisher as an agent runs and stops them."""
    publisher = Publisher(kafka, outbox, node="n1", foreign=foreign)
    async with publisher, outbox, asyncio.TaskGroup() as group:
        tasks = [group.create_task(outbox.run()), group.create_task(publisher.run())]
        yield outbox, publisher
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def append(outbox: Outbox, count: int, first: int = 0, *, addresses: int = 5) -> list[AuditRecord]:
    return [
        outbox.append(
            RecordKind.ASSIGNED, subject=f"10.0.0.{number % addresses}", token=(1, 1, number + 1), holder="n1"
        )
        for number in range(first, first + count)
    ]


def ids(records: list[Any]) -> list[str]:
    return [json.loads(record.value)["id"] for record in records]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_record_arrives_as_a_cloudevent_keyed_by_its_address(
    tmp_path: Path, brokers: str, topic: str, compression: str
) -> None:
    await create_topic(brokers, topic)
    async with running(kafka_settings(brokers, topic, compression=compression), new_outbox(tmp_path)) as (outbox, pub):
        records = append(outbox, 100)
        records.append(outbox.append(RecordKind.AGENT_STARTED))
        await until(lambda: pub.state.published == 101)
        assert pub.state.healthy
    found = await read_topic(brokers, topic)
    assert sorted(ids(found)) == sorted(record.id for record in records)
    assert {dict(record.headers)["content-type"] for record in found} == {
        b"application/cloudevents+json; charset=UTF-8"
    }
    for record in found:
        event = json.loads(record.value)
        assert event["specversion"] == "1.0"
        assert record.key.decode() == event.get("subject", "n1")
    for address in range(5):
        mine = [record for record in found if record.key == f"10.0.0.{address}".encode()]
        assert len({record.partition for record in mine}) == 1
        assert ids(mine) == [record.id for record in records if record.subject == f"10.0.0.{address}"]


async def test_what_was_written_last_is_published_by_the_stop(tmp_path: Path, brokers: str, topic: str) -> None:
    await create_topic(brokers, topic)
    async with running(kafka_settings(brokers, topic), new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 10)
        await until(lambda: pub.state.published == 10)
        append(outbox, 10, first=10)
    assert len(await read_topic(brokers, topic)) == 20


async def test_a_restart_goes_on_at_the_cursor(tmp_path: Path, brokers: str, topic: str) -> None:
    await create_topic(brokers, topic)
    for turn in range(3):
        async with running(kafka_settings(brokers, topic), new_outbox(tmp_path)) as (outbox, pub):
            append(outbox, 50, first=50 * turn)
            await until(lambda pub=pub: pub.state.published == 50)
    assert len(await read_topic(brokers, topic)) == 150


async def test_a_lost_cursor_costs_copies_and_no_record(tmp_path: Path, brokers: str, topic: str) -> None:
    await create_topic(brokers, topic)
    for turn in range(2):
        (tmp_path / "cursor").unlink(missing_ok=True)
        async with running(kafka_settings(brokers, topic), new_outbox(tmp_path)) as (outbox, pub):
            append(outbox, 50, first=50 * turn)
            await until(lambda pub=pub, turn=turn: pub.state.published == 50 * (turn + 1))
    found = ids(await read_topic(brokers, topic))
    assert (len(found), len(set(found))) == (150, 100)


async def test_the_outbox_of_another_process_is_published_too(tmp_path: Path, brokers: str, topic: str) -> None:
    await create_topic(brokers, topic)
    other = new_outbox(tmp_path / "keeper")
    async with other, asyncio.TaskGroup() as group:
        writer = group.create_task(other.run())
        kafka = kafka_settings(brokers, topic)
        async with running(kafka, new_outbox(tmp_path / "own"), (tmp_path / "keeper",)) as (outbox, pub):
            append(outbox, 20)
            append(other, 20, first=20)
            await until(lambda: pub.state.published == 40)
        writer.cancel()
    assert len(set(ids(await read_topic(brokers, topic)))) == 40
    assert read_cursor(tmp_path / "keeper") is not None


async def test_a_missing_topic_is_created_where_that_is_asked_for(tmp_path: Path, brokers: str, topic: str) -> None:
    kafka = kafka_settings(brokers, topic, create_topic=True, replication_factor=1, partitions=3)
    async with running(kafka, new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 30)
        await until(lambda: pub.state.published == 30)
    assert {record.partition for record in await read_topic(brokers, topic)} <= {0, 1, 2}


async def test_brokers_that_refuse_to_create_the_topic_are_told(tmp_path: Path, brokers: str, topic: str) -> None:
    kafka = kafka_settings(brokers, topic, create_topic=True, replication_factor=9)
    async with running(kafka, new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 1)
        await until(lambda: "refuse to create" in pub.state.reason)
        assert not pub.state.healthy


async def test_a_missing_topic_is_told_and_waited_for(tmp_path: Path, brokers: str, topic: str) -> None:
    async with running(kafka_settings(brokers, topic), new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 10)
        await until(lambda: pub.state.retries > 0)
        await create_topic(brokers, topic)
        await until(lambda: pub.state.published == 10)
    assert len(await read_topic(brokers, topic)) == 10


async def test_a_record_that_is_too_large_is_set_aside_and_the_others_arrive_in_order(
    tmp_path: Path, brokers: str, topic: str
) -> None:
    await create_topic(brokers, topic, {"max.message.bytes": "4000"})
    async with running(kafka_settings(brokers, topic, compression="none"), new_outbox(tmp_path)) as (outbox, pub):
        before = append(outbox, 40, addresses=1)
        bad = outbox.append(RecordKind.ASSIGNED, subject="10.0.0.0", token=(1, 2, 1), detail={"x": "y" * 8000})
        after = append(outbox, 40, first=40, addresses=1)
        await until(lambda: pub.state.published >= 80 and pub.state.unpublishable == 1, 60)
        assert not pub.state.healthy
        assert "set" in pub.state.reason or "never take" in pub.state.reason
    found = ids(await read_topic(brokers, topic))
    assert list(dict.fromkeys(found)) == [record.id for record in before + after]
    aside = [json.loads(line) for line in (tmp_path / "unpublishable").read_text().splitlines()]
    assert [json.loads(one["event"])["id"] for one in aside] == [bad.id]


async def test_a_killed_broker_costs_nothing(tmp_path: Path, own_broker: Broker, topic: str) -> None:
    await create_topic(own_broker.address, topic)
    async with running(kafka_settings(own_broker.address, topic), new_outbox(tmp_path)) as (outbox, pub):
        records = append(outbox, 100)
        await until(lambda: pub.state.published > 0)
        await asyncio.to_thread(own_broker.kill)
        records += append(outbox, 900, first=100)
        await until(lambda: pub.state.lag_records > 0 and pub.state.lag_seconds > 0)
        assert outbox.state.healthy
        await asyncio.to_thread(own_broker.start)
        await until(lambda: pub.state.published >= 1000 and pub.state.lag_records == 0, 40)
    found = list(dict.fromkeys(ids(await read_topic(own_broker.address, topic))))
    for address in range(5):
        expected = [record.id for record in records if record.subject == f"10.0.0.{address}"]
        assert [one for one in found if one.startswith(f"10.0.0.{address}/")] == expected


async def test_without_any_broker_records_wait_and_the_stop_is_quick(tmp_path: Path, topic: str) -> None:
    async with running(kafka_settings("127.0.0.1:9", topic), new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 100)
        await until(lambda: pub.state.retries > 1 and pub.state.lag_records == 100)
        assert await outbox.flush(5)
        await until(lambda: not pub.state.healthy)
        assert pub.state.reason
        began = time.monotonic()
    assert time.monotonic() - began < 6
    assert len(list(read_outbox(tmp_path))) == 100


async def test_the_stop_is_bounded_while_a_round_waits_for_a_dead_broker(
    tmp_path: Path, own_broker: Broker, topic: str
) -> None:
    await create_topic(own_broker.address, topic)
    async with running(kafka_settings(own_broker.address, topic), new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 10)
        await until(lambda: pub.state.published == 10)
        await asyncio.to_thread(own_broker.kill)
        append(outbox, 10, first=10)
        await until(lambda: pub.state.lag_seconds > 0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 8
    await asyncio.to_thread(own_broker.start)
    async with running(kafka_settings(own_broker.address, topic), new_outbox(tmp_path)) as (outbox, pub):
        await until(lambda: pub.state.published >= 10)
    assert set(ids(await read_topic(own_broker.address, topic))) == {
        f"10.0.0.{n % 5}/1.1.{n + 1}/assigned" for n in range(20)
    }


async def test_without_kafka_settings_nothing_happens(tmp_path: Path) -> None:
    async with running(load_settings(None, {"node": "n1"}).kafka, new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 10)
        assert await outbox.flush(5)
        assert not pub.state.configured
        assert pub.state.healthy
    assert read_cursor(tmp_path) is None
