from collections.abc import Callable
from typing import Any

import pytest

from loadtest.scale.block_network import DATAGRAMS, LINK_NS, MS, TIMER, Agent, LeasesOfNode, Network, Process
from loadtest.scale.steps import Steps
from service.model.errors import PeerError
from service.model.machine import Address, Send, Source
from service.port_block.gateway import GatewayBlocks
from service.port_block.message import Poll, Read, Receiver, encode
from service.port_block.owner import OwnerBlocks
from service.wire.sealed_socket import BATCH_MAX

START_NS = 1000 * MS


class Ledger:
    """A machine that notes what comes and when, answers where it is told to, and works as long as it is told to."""

    def __init__(self, *, answers: bool = False, work: Callable[[], object] = lambda: None) -> None:
        self.answers, self.work = answers, work
        self.heard: list[tuple[int, str, bytes]] = []
        self.woken: list[int] = []
        self.due_ns: int | None = None
        self.outputs: list[Any] = []

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        self.heard.append((now_ns, source.node, payload))
        if self.answers:
            self.outputs.append(Send(source.address, b"answer"))
        self.work()

    def advance(self, *, now_ns: int) -> None:
        self.woken.append(now_ns)
        self.due_ns = None

    def deadline_ns(self) -> int | None:
        return self.due_ns

    def drain(self) -> list[Any]:
        outputs, self.outputs = self.outputs, []
        return outputs


class Pair:
    def __init__(self, **other: Any) -> None:
        self.network = Network(START_NS)
        self.one, self.other = Ledger(), Ledger(**other)
        self.handled: list[object] = []
        self.processes = [self.process(name, at) for name, at in (("one", self.one), ("other", self.other))]

    def process(self, name: str, machine: Ledger, start_id: int = 1) -> Process:
        address = Address({"one": "10.0.0.1", "other": "10.0.0.2"}[name], 9641)
        process = Process(name, address, start_id, machine, self.handled.append, Steps())
        self.network.add(process)
        return process

    def say(self, *payloads: bytes) -> None:
        sends = [Send(self.processes[1].address, payload) for payload in payloads]
        self.network.step(self.processes[0], "says", lambda: self.one.outputs.extend(sends))


def test_a_datagram_takes_the_link_and_what_its_sender_worked_and_an_answer_takes_as_much_again() -> None:
    pair = Pair(answers=True)
    pair.say(b"question")
    assert pair.network.run(100 * MS, is_over=lambda: bool(pair.one.heard))
    ((asked_ns, name, payload),) = pair.other.heard
    assert (name, payload) == ("one", b"question")
    said_ms = pair.processes[0].steps.taken["says"][0]
    assert asked_ns == START_NS + round(said_ms * MS) + LINK_NS
    assert pair.one.heard[0][0] >= asked_ns + LINK_NS


def test_who_is_busy_reads_later_and_then_a_batch_in_one_step() -> None:
    pair = Pair()
    busy = pair.processes[1]
    pair.network.step(busy, "computes", lambda: sum(range(1_000_000)))
    pair.say(*(bytes([number]) for number in range(BATCH_MAX + 1)))
    pair.network.run(1000 * MS)
    times = [now_ns for now_ns, _, _ in pair.other.heard]
    assert len(times) == BATCH_MAX + 1
    assert times[0] >= START_NS + round(busy.steps.taken["computes"][0] * MS)
    assert len(busy.steps.taken[DATAGRAMS]) == len(set(times))
    assert times.count(times[0]) <= BATCH_MAX


def test_a_timer_comes_at_a_whole_ms_after_its_deadline_and_not_before() -> None:
    pair = Pair()
    due_ns = START_NS + 20 * MS + 1
    pair.network.step(pair.processes[0], "arms", lambda: setattr(pair.one, "due_ns", due_ns))
    free_ns = pair.processes[0].free_ns
    pair.network.run(100 * MS)
    (woken_ns,) = pair.one.woken
    assert 0 <= woken_ns - due_ns < MS
    assert (woken_ns - free_ns) % MS == 0
    assert len(pair.processes[0].steps.taken[TIMER]) == 1


def test_a_timer_that_is_armed_for_later_does_not_come_at_its_former_time() -> None:
    pair = Pair()
    for after_ms in (5, 50):
        pair.network.step(
            pair.processes[0], "arms", lambda ms=after_ms: setattr(pair.one, "due_ns", START_NS + ms * MS)
        )
    pair.network.run(100 * MS)
    (woken_ns,) = pair.one.woken
    assert woken_ns >= START_NS + 50 * MS


def test_what_was_meant_for_a_process_that_is_gone_is_not_taken_by_the_next() -> None:
    pair = Pair()
    pair.say(b"for the first")
    heir = Ledger()
    process = pair.process("other", heir, start_id=2)
    pair.network.run(100 * MS)
    assert (pair.other.heard, heir.heard) == ([], [])
    assert len(process.steps.taken[DATAGRAMS]) == 1


def test_what_is_no_send_is_handled_and_what_is_due_at_once_is_a_step_of_its_own() -> None:
    pair = Pair()
    process = pair.processes[0]
    process.soon.append(("at once", lambda: pair.handled.append("at once")))
    pair.network.step(process, "says", lambda: pair.one.outputs.append("an output"))
    assert pair.handled == ["an output", "at once"]
    assert list(process.steps.taken) == ["says", "at once"]


def test_an_agent_gives_each_datagram_to_the_machine_that_it_is_for() -> None:
    kernel = LeasesOfNode()
    owner = OwnerBlocks("one", 1, remembers_since_ns=0, now_ns=START_NS)
    agent = Agent(owner, GatewayBlocks(kernel, now_ns=START_NS))
    source = Source(Address("10.0.0.9", 9646), "controller-0", 3)
    for receiver, number in ((Receiver.OWNER, 0), (Receiver.GATEWAY, 7)):
        agent.receive(source, encode(receiver, Read(1, 1, number, 0, 0)), now_ns=START_NS)
        assert len(agent.drain()) == 1
    with pytest.raises(PeerError):
        agent.receive(source, encode(Receiver.LEADER, Poll(1, (), ())), now_ns=START_NS)
