"""The topic as it is read: by our commands, and by the clients that the README shows."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from loadtest.broker import Broker, libraries
from service.audit.cloud_event import decode
from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.model.audit_record import RecordKind
from service.settings import KafkaSettings
from tests.audit.log import IP, WALL, Clock, hold, payloads, write_outbox
from tests.kafka.brokers import create_topic

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

README = Path(__file__).resolve().parents[2] / "README.md"
TOPIC = "egress-gateway.assignments"
GOOD = "nothing lost, nothing doubled, no overlap"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name)[:200]
    asyncio.run(create_topic(broker.address, name))
    return name


def history(outbox: Outbox) -> None:
    """Ten moves of one address on two nodes' worth of tokens, and what goes on besides."""
    for number in range(10):
        hold(outbox, number + 1, from_ms=200 * number, until_ms=200 * number + 150)
        outbox.append(RecordKind.NODE_UP, subject=f"worker{number}")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_outbox(tmp_path / "outbox", history)


async def produce(brokers: str, topic: str, records: Sequence[bytes]) -> None:
    """As anybody may who has the right to write; with the key that the publisher uses."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for payload in records:
            await producer.send_and_wait(topic, payload, key=decode(payload).subject.encode())
    finally:
        await producer.stop()


def egressgw(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def verify(broker: Broker, topic: str, *more: str | Path) -> dict[str, object]:
    done = egressgw("audit", "verify", "--json", "--kafka", broker.address, "--topic", topic, *more)
    assert done.returncode in (0, 1), done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    assert document["good"] is (done.returncode == 0)
    return document


def faults(document: dict[str, object]) -> set[str]:
    findings = document["findings"]
    assert isinstance(findings, list)
    return {finding["fault"] for finding in findings}


def test_what_the_publisher_wrote_is_verified(broker: Broker, topic: str, tmp_path: Path) -> None:
    kafka = KafkaSettings(bootstrap_servers=(broker.address,), topic=topic)

    async def publish(folder: Path) -> None:
        outbox = Outbox(folder, Origin("worker1", "boot-1", component="agent"), clock=Clock())
        publisher = Publisher(kafka, outbox, node="worker1")
        async with publisher, outbox, asyncio.TaskGroup() as group:
            tasks = [group.create_task(outbox.run()), group.create_task(publisher.run())]
            history(outbox)
            assert await outbox.flush(10)
            async with asyncio.timeout(60):
                while publisher.state.published < 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()

    folder = tmp_path / "outbox"
    asyncio.run(publish(folder))
    for more in ((), ("--outbox", folder)):
        document = verify(broker, topic, *more)
        assert (document["summary"], document["events"]) == (GOOD, 30)
    # The cursor is lost: everything is published once more, and nothing of it is new.
    (folder / "cursor").unlink()

    async def again() -> None:
        outbox = Outbox(folder, Origin("worker1", "boot-1", component="agent"), clock=Clock())
        publisher = Publisher(kafka, outbox, node="worker1")
        async with publisher, outbox, asyncio.TaskGroup() as group:
            tasks = [group.create_task(outbox.run()), group.create_task(publisher.run())]
            async with asyncio.timeout(60):
                while publisher.state.published < 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()

    asyncio.run(again())
    document = verify(broker, topic)
    assert (document["summary"], document["events"], document["copies"]) == (GOOD, 30, 30)


def remove(records: list[bytes]) -> list[bytes]:
    return records[:13] + records[14:]


def double(records: list[bytes]) -> list[bytes]:
    return [*records, records[13]]


def alter(records: list[bytes]) -> list[bytes]:
    return [*records[:13], records[13].replace(b"because", b"beyond").replace(b"2026", b"2025"), *records[14:]]


@pytest.mark.parametrize(("spoil", "fault"), [(remove, "missing"), (double, "doubled"), (alter, "altered")])
def test_what_was_done_to_the_topic_on_purpose_is_noticed(
    broker: Broker, topic: str, log: Path, spoil: Callable[[list[bytes]], list[bytes]], fault: str
) -> None:
    asyncio.run(produce(broker.address, topic, spoil(payloads(log))))
    assert fault in faults(verify(broker, topic))


def test_what_the_topic_lacks_of_an_outbox_is_missing(broker: Broker, topic: str, log: Path) -> None:
    asyncio.run(produce(broker.address, topic, remove(payloads(log))))
    assert faults(verify(broker, topic, "--outbox", log)) == {"missing"}


def test_who_answers_from_the_topic(broker: Broker, topic: str, log: Path) -> None:
    asyncio.run(produce(broker.address, topic, payloads(log)))
    where = ("--kafka", broker.address, "--topic", topic, "--json")
    document = json.loads(egressgw("audit", "who", IP, "--from", "2020-01-01T00:00:00Z", *where).stdout)
    assert [tenure["token"] for tenure in document["tenures"]] == [f"1.1.{number}" for number in range(1, 11)]
    assert {tenure["holder"] for tenure in document["tenures"]} == {"worker1"}


def test_tail_follows_the_topic_live(broker: Broker, topic: str, log: Path) -> None:
    records = payloads(log)
    asyncio.run(produce(broker.address, topic, records[:20]))
    command = [sys.executable, "-m", "service", "audit", "tail", "--follow", "--json", "-n", "0"]
    command += ["--kafka", broker.address, "--topic", topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = [json.loads(process.stdout.readline())["id"] for _ in range(20)]
            # Copies of what was shown are not shown again.
            asyncio.run(produce(broker.address, topic, [*records[15:20], *records[20:]]))
            later = [json.loads(process.stdout.readline())["id"] for _ in range(len(records) - 20)]
        finally:
            process.kill()
    ids = [decode(payload).id for payload in records]
    assert sorted(first) == sorted(ids[:20])
    assert sorted(later) == sorted(ids[20:])


def test_no_broker_and_no_topic_are_told_in_one_line(broker: Broker) -> None:
    for address, topic, status, word in (
        ("127.0.0.1:1", TOPIC, 1, "127.0.0.1:1"),
        (broker.address, "no-such-topic", 2, "no topic 'no-such-topic'"),
    ):
        done = egressgw("audit", "tail", "--kafka", address, "--topic", topic)
        assert done.returncode == status, done.stderr
        assert word in done.stderr
        assert len(done.stderr.splitlines()) == 1


# --- the README


def blocks(language: str, containing: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [one for one in found if containing in one]
    return str(block)


@pytest.fixture(scope="module")
def published(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    records = payloads(write_outbox(tmp_path_factory.mktemp("readme") / "outbox", history))
    asyncio.run(create_topic(broker.address, TOPIC))
    asyncio.run(produce(broker.address, TOPIC, [*records, *records[5:]]))  # with copies, as after a restart
    return records


def test_the_readmes_consumer_prints_every_acquisition_once(
    broker: Broker, published: list[bytes], tmp_path: Path
) -> None:
    script = tmp_path / "consumer.py"
    block = blocks("python", "AIOKafkaConsumer")
    assert '"kafka1:9092"' in block
    script.write_text(block.replace("kafka1:9092", broker.address))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(10)]
        finally:
            process.kill()
    expected = [f"{IP} is held by worker1 token 1.1.{number}" for number in range(1, 11)]
    assert [line.strip().split(" ", 1)[1] for line in lines] == expected


def test_the_readmes_console_consumer_prints_the_events(broker: Broker, published: list[bytes]) -> None:
    words = blocks("sh", "kafka-console-consumer.sh").split()
    assert words[0] == "kafka-console-consumer.sh"
    words = [broker.address if word == "kafka1:9092" else word for word in words[1:]]
    main = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    command = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{libraries()}/*", main, *words]
    count = len(published) + len(published[5:])
    done = subprocess.run([*command, "--max-messages", str(count)], capture_output=True, timeout=60, check=True)
    assert set(done.stdout.splitlines()) == set(published)


def test_the_readmes_commands_are_commands(broker: Broker, published: list[bytes]) -> None:
    lines = [line.split("#")[0].split() for line in blocks("sh", "egressgw audit tail").splitlines()]
    assert [line[2] for line in lines] == ["tail", "who", "who", "who", "moves", "verify"]
    for line in lines:
        words = [broker.address if word == "kafka1:9092" else word for word in line[1:] if word != "--follow"]
        if "--kafka" not in words:
            words += ["--kafka", broker.address]
        done = egressgw(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert time.time_ns() > WALL
