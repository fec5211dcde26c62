"""Nothing is forgotten: brokers, agents, disk and network fail again and again while assignments happen.

An event *has happened* when the outbox has said that it is durable: `flush` returned True after its `append`. An event
that was appended microseconds before SIGKILL and never reached the disk is not among them; in production the electors
that promised the lease have it on record. An event may also be durable without anybody having been told, the process
having died in between: the outbox on disk decides. So, when everything is over:

- each event that has happened is in the topic (none is lost);
- what is in the topic is, without copies, exactly what is in the outboxes (nothing is made up or altered);
- for each floating IP the first copies are in the order in which they were recorded.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loadtest.broker import Broker
from service.audit.cloud_event import decode
from service.audit.outbox import read_outbox
from service.model.audit_record import AuditRecord
from tests.kafka.brokers import create_topic_within

pytestmark = [pytest.mark.kafka, pytest.mark.root, pytest.mark.timeout(420)]

ROUNDS = 20
"""Broker kills, and agent kills."""
AGENTS = 3
EVENTS = 20_000
RATE = 120
TOPIC = "egress-gateway.assignments"
DISK_MIB = 24
CUT_S = 6.0


class Agent:
    """A driver process that is started again under the next generation when it was killed."""

    def __init__(self, node: int, folder: Path, brokers: str, prefix: Sequence[str]) -> None:
        self.node, self.folder = node, folder
        self.durable: dict[int, int] = {}
        """Per generation, how many of its events have happened."""
        self.said: list[str] = []
        self._brokers, self._prefix = brokers, prefix
        self._generation = 0
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def happened(self) -> int:
        return sum(self.durable.values())

    def start(self) -> None:
        self._generation += 1
        options = {"folder": self.folder, "brokers": self._brokers, "node": self.node, "rate": RATE}
        command = [*self._prefix, sys.executable, "-m", "tests.kafka.driver", f"--generation={self._generation}"]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._listen, args=(self._process,))
        self._reader.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._end()

    def finish(self) -> bool:
        """Let it publish what it has and end; whether it did."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        is_done = self._process.poll() == 0
        self.kill()
        return is_done and self.said[-1] == "done"

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait()
        if self._reader is not None:
            self._reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("durable"):
                _, generation, count = line.split()
                self.durable[int(generation)] = int(count)
            else:
                self.said.append(line.strip())


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"egwt-{os.getpid()}-kafka"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small-disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "egwt-disk", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_event_is_lost_or_out_of_order_whatever_fails(tmp_path: Path, namespace: str, small_disk: Path) -> None:
    prefix = ("nsenter", f"--net=/run/netns/{namespace}")
    began_s = time.monotonic()
    with Broker(tmp_path / "broker", prefix=prefix) as broker:
        create_topic_within(prefix, broker.address, TOPIC)
        folders = [small_disk / "outbox", *(tmp_path / f"outbox{number}" for number in range(1, AGENTS))]
        agents = [Agent(number, folder, broker.address, prefix) for number, folder in enumerate(folders)]
        try:
            for agent in agents:
                agent.start()
            wreak(broker, agents, small_disk, namespace)
            while sum(agent.happened for agent in agents) < EVENTS:
                time.sleep(0.2)
            assert all(agent.finish() for agent in agents), [agent.said[-5:] for agent in agents]
        finally:
            for agent in agents:
                agent.kill()
        copies = topic_within(prefix, broker.address)
        verdict = verdict_within(prefix, broker.address, folders)
    happened = {
        f"10.0.{agent.node}.{number % 20}/1.{generation}.{number}/assigned"
        for agent in agents
        for generation, count in agent.durable.items()
        for number in range(1, count + 1)
    }
    recorded = [record for folder in folders for record in read_outbox(folder)]
    assert all(isinstance(record, AuditRecord) for record in recorded)
    published = first_copies(copies)
    print(
        f"\n{len(happened)} events happened, {len(recorded)} on disk, {len(published)} in the topic,"
        f" {len(copies)} copies, {time.monotonic() - began_s:.0f} s"
    )
    assert len(happened) >= EVENTS
    assert happened <= published.keys()
    by_id = {record.id: record for record in recorded if isinstance(record, AuditRecord)}
    assert by_id == {identity: decode(payload) for identity, payload in published.items()}
    assert in_order(published)
    assert any("No space left" in line for line in agents[0].said)
    assert verdict["summary"] == "nothing lost, nothing doubled, no overlap", verdict
    assert verdict["events"] == len(published)


def wreak(broker: Broker, agents: Sequence[Agent], disk: Path, namespace: str) -> None:
    chance = random.Random(7)
    for number in range(ROUNDS):
        broker.kill()
        if number == 12:
            with cut(namespace, broker.port):
                time.sleep(0.5)
                broker.start(wait=False)
                time.sleep(CUT_S)
        if number == 6:
            fill_for_a_while(disk, agents[0])
        time.sleep(chance.uniform(0.0, 0.5))
        victim = chance.choice(agents)
        is_before = chance.random() < 0.5
        if is_before:
            kill_and_start(victim, chance)
        if number != 12:
            broker.start(wait=False)
        broker.wait()
        time.sleep(chance.uniform(0.2, 1.5))
        if not is_before:
            kill_and_start(victim, chance)


def kill_and_start(agent: Agent, chance: random.Random) -> None:
    agent.kill()
    time.sleep(chance.uniform(0.0, 0.3))
    agent.start()


def fill_for_a_while(disk: Path, agent: Agent) -> None:
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    until_s = time.monotonic() + 30
    while not any("No space left" in line for line in agent.said) and time.monotonic() < until_s:
        time.sleep(0.1)
    time.sleep(1.0)
    ballast.unlink()


@contextlib.contextmanager
def cut(namespace: str, port: int) -> Iterator[None]:
    """Nothing passes to or from the broker, and nobody is told."""
    chain = f"type filter hook input priority 0\ntcp dport {port} drop\ntcp sport {port} drop\n"
    rules = f"table ip cut {{\nchain input {{\n{chain}}}\n}}\n"
    nft = ["ip", "netns", "exec", namespace, "nft"]
    subprocess.run([*nft, "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete", "table", "ip", "cut"], check=True)


def topic_within(prefix: Sequence[str], brokers: str) -> list[dict[str, str]]:
    command = [*prefix, sys.executable, "-m", "tests.kafka.topic", brokers, TOPIC]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def verdict_within(prefix: Sequence[str], brokers: str, folders: Sequence[Path]) -> dict[str, object]:
    """What `egressgw audit verify` says of outboxes and topic together."""
    logs = [f"--outbox={folder}" for folder in folders]
    command = [*prefix, sys.executable, "-m", "service", "audit", "verify", "--json", f"--kafka={brokers}", *logs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    verdict: dict[str, object] = json.loads(done.stdout)
    return verdict


def first_copies(copies: Sequence[dict[str, str]]) -> dict[str, bytes]:
    """By id, in the topic's order; copies must be equal, and keyed by their floating IP."""
    found: dict[str, bytes] = {}
    for copy in copies:
        payload = copy["value"].encode()
        record = decode(payload)
        assert copy["key"] == record.subject
        assert found.setdefault(record.id, payload) == payload
    return found


def in_order(published: dict[str, bytes]) -> bool:
    tokens: dict[str, list[tuple[int, int, int]]] = {}
    for payload in published.values():
        record = decode(payload)
        assert record.token is not None
        tokens.setdefault(record.subject, []).append(record.token)
    return all(found == sorted(found) for found in tokens.values())
