"""The keeper process on loopback: real sockets and files, a fence in memory."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from service.host import clock, identity
from service.keeper.duty import AgentDuty
from service.keeper.fence import FenceEntry
from service.keeper.keeper import Keeper, run
from service.keeper.promise_file import PromiseFile, TokenFile
from service.keeper.vote import ElectorVote
from service.lease.elector_output import Persist, Remember, SendPersisted
from service.lease.holder import boot_id_bytes
from service.lease.promise import encode_promises
from service.model.errors import OperatorError
from service.model.keeper_message import (
    AGENT_SOCKET,
    KEEPER_SOCKET,
    Claim,
    ElectorateRecord,
    Heartbeat,
    KeeperMessage,
    LeaseReport,
    Uplink,
)
from service.model.lease import ProfileName, Stamp, Token
from service.model.machine import Address
from service.settings import ElectorateSettings, ElectorSettings, LeaseSettings, PortSettings, Settings

IP = "192.0.2.100"
KEY = "11" * 32
SECOND = 1_000_000_000


class FakeFence:
    """A map that remembers the order of writes."""

    def __init__(self) -> None:
        self.is_pinned = True
        self.values: dict[IPv4Address, FenceEntry] = {}
        self.writes: list[tuple[str, int]] = []

    def refresh(self) -> bool:
        return self.is_pinned

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        self.values[address] = FenceEntry(token, deadline_ns)
        self.writes.append((str(address), deadline_ns))

    def entries(self) -> dict[IPv4Address, FenceEntry]:
        return dict(self.values)

    def is_open(self, address: str) -> bool:
        entry = self.values.get(IPv4Address(address))
        return entry is not None and entry.deadline_ns > clock.boot_ns()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_of(folder: Path, index: int, port: int, *, electors: int = 3) -> Settings:
    home = folder / f"node{index}"
    (home / "state").mkdir(parents=True, exist_ok=True)
    return Settings(
        node=f"node{index}",
        bind_address=f"127.0.0.{index + 1}",
        keyring=(KEY,),
        state_dir=str(home / "state"),
        run_dir=str(home / "run"),
        ports=PortSettings(lease=port),
        electors=ElectorateSettings(
            members=tuple(ElectorSettings(name=f"node{i}", address=f"127.0.0.{i + 1}") for i in range(electors))
        ),
        lease=LeaseSettings(),
    )


def with_memory(settings: Settings) -> Settings:
    """Leave a promise file without promises, so that the elector votes at once."""
    with PromiseFile(Path(settings.run_dir)) as promises:
        promises.write(encode_promises(boot_id_bytes(identity.boot_id()), 15 * SECOND, {}))
    return settings


def heartbeat(role: str = "holder", *, ready: bool = True, carrier: bool = True, claims: bool = True) -> Heartbeat:
    return Heartbeat(
        ready=ready,
        uplinks=(Uplink(IP, "lo", 1, "020000000001", carrier),),
        claims=(Claim(IP, role, 1, 1),) if claims else (),
    )


class Node:
    """A keeper and the agent's end of its sockets."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fence = FakeFence()
        self.reports: list[LeaseReport] = []
        self.heartbeat: Heartbeat | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        async with AsyncExitStack() as stack:
            promises = stack.enter_context(PromiseFile(Path(self.settings.run_dir)))
            keeper = Keeper(self.settings, promises, fence=self.fence, scheduling="normal")
            await keeper.enter(stack)
            agent = asyncio.create_task(self.be_agent())
            serving = asyncio.create_task(keeper.serve())
            try:
                yield self
            finally:
                for task in (agent, serving):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def be_agent(self) -> None:
        decoder = msgspec.json.Decoder(KeeperMessage)
        run_dir = Path(self.settings.run_dir)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as agent:
            (run_dir / AGENT_SOCKET).unlink(missing_ok=True)
            agent.bind(str(run_dir / AGENT_SOCKET))
            while True:
                if self.heartbeat is not None:
                    agent.sendto(msgspec.json.encode(self.heartbeat), str(run_dir / KEEPER_SOCKET))
                with suppress(BlockingIOError):
                    while True:
                        self.reports.append(decoder.decode(agent.recv(65536)))
                await asyncio.sleep(0.02)

    def holds(self) -> bool:
        return self.fence.is_open(IP)


async def until(condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - conditions are of the outside
            await asyncio.sleep(0.005)


@asynccontextmanager
async def three_nodes(folder: Path) -> AsyncIterator[tuple[list[Node], AsyncExitStack]]:
    port = free_port()
    nodes = [Node(with_memory(settings_of(folder, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes[1:]:
            await stack.enter_async_context(node.running())
        yield nodes, stack


async def test_the_assigned_holder_opens_its_fence_and_tells_its_agent(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(nodes[0].holds)
        await until(lambda: any(report.held for report in nodes[0].reports))
        held = next(report.held[0] for report in nodes[0].reports if report.held)
        assert (held.floating_ip, held.term, held.version) == (IP, 1, 1)
        assert nodes[0].reports[-1].voting


async def test_a_clean_stop_closes_the_fence_and_the_successor_takes_over(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, _):
        async with nodes[0].running():
            nodes[0].heartbeat = heartbeat()
            await until(nodes[0].holds)
            nodes[1].heartbeat = heartbeat("successor")
            await asyncio.sleep(0.1)
            assert not nodes[1].holds()
        assert nodes[0].fence.writes[-1] == (IP, 0)
        await until(nodes[1].holds)
        assert nodes[1].fence.values[IPv4Address(IP)].token > nodes[0].fence.values[IPv4Address(IP)].token


async def test_a_keeper_that_keeps_what_it_holds_leaves_a_long_lease_to_the_next_one(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        node = nodes[0]
        # Leases that a busy machine does not lose by itself.
        lease = LeaseSettings(profile=ProfileName.RELAXED, on_stop="keep")
        node.settings = msgspec.structs.replace(node.settings, lease=lease)
        for other in nodes[1:]:
            other.heartbeat = heartbeat("successor")
        async with node.running():
            node.heartbeat = heartbeat()
            await until(node.holds)
        entry = node.fence.values[IPv4Address(IP)]
        assert entry.deadline_ns - clock.boot_ns() > 10 * SECOND
        # Longer than the usual lease: whoever could take it would have.
        await asyncio.sleep(1.5)
        assert not any(other.holds() for other in nodes[1:])
        node.reports.clear()
        await stack.enter_async_context(node.running())
        # By the third report it has heard its agent: what that one lists no more is handed over.
        await until(lambda: sum(bool(report.held) for report in node.reports) >= 3)
        assert node.fence.values[IPv4Address(IP)].token == entry.token
        # What was prolonged can be handed over all the same.
        node.heartbeat = heartbeat(claims=False)
        await until(lambda: nodes[1].holds() or nodes[2].holds())
        assert not node.holds()


async def test_a_keeper_says_whether_it_sees_a_majority_vote(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        await until(lambda: any(report.majority for report in nodes[0].reports))
    alone = Node(with_memory(settings_of(tmp_path / "alone", 0, free_port())))
    async with alone.running():
        await until(lambda: len(alone.reports) > 5)
        assert not any(report.majority for report in alone.reports)


async def test_nothing_is_claimed_before_the_fence_exists_but_the_elector_votes(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        nodes[0].fence.is_pinned = False
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(lambda: any(report.voting for report in nodes[0].reports))
        assert nodes[0].fence.writes == []
        nodes[0].fence.is_pinned = True
        await until(nodes[0].holds)


async def test_an_address_whose_uplink_loses_its_carrier_is_given_up(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(nodes[0].holds)
        nodes[0].heartbeat = heartbeat(carrier=False)
        await until(lambda: not nodes[0].holds())


async def test_a_restarted_keeper_goes_on_with_what_the_fence_still_says(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        node = nodes[0]
        async with node.running():
            node.heartbeat = heartbeat()
            await until(node.holds)
            token = node.fence.values[IPv4Address(IP)].token
            entry = node.fence.values[IPv4Address(IP)]
        # As after a kill: the fence is as the dead keeper left it, not as the clean stop did.
        node.fence.values[IPv4Address(IP)] = FenceEntry(entry.token, clock.boot_ns() + 2 * SECOND)
        node.fence.values[IPv4Address("192.0.2.101")] = FenceEntry(Token(1, 1, 1), 1)
        node.fence.writes.clear()
        node.heartbeat = None
        await stack.enter_async_context(node.running())
        assert ("192.0.2.101", 0) in node.fence.writes
        await until(lambda: any(report.held for report in node.reports))
        assert node.fence.values[IPv4Address(IP)].token >= token


async def test_a_second_keeper_of_a_node_is_refused(tmp_path: Path) -> None:
    with PromiseFile(tmp_path), pytest.raises(OperatorError, match="another keeper"), PromiseFile(tmp_path):
        pass


async def test_no_electorate_is_an_operator_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"electors\.members"):
        await run(Settings(node="node0", keyring=(KEY,)))


# -- what the agent's heartbeats ask for --

GRACE = 15 * SECOND
HELD = {IP: Stamp(1, 1)}


def duty_after(*heartbeats: tuple[int, Heartbeat]) -> AgentDuty:
    duty = AgentDuty(grace_ns=GRACE, now_ns=0)
    for when, beat in heartbeats:
        duty.hear(beat, now_ns=when)
    return duty


def test_claiming_needs_a_ready_agent_heard_within_a_second() -> None:
    duty = duty_after((SECOND, heartbeat()))
    assert duty.may_claim(now_ns=SECOND + SECOND // 2)
    assert not duty.may_claim(now_ns=2 * SECOND)
    assert not duty_after((SECOND, heartbeat(ready=False))).may_claim(now_ns=SECOND)
    assert not AgentDuty(grace_ns=GRACE, now_ns=0).may_claim(now_ns=0)


def test_a_silent_agent_loses_nothing_before_its_grace_is_over_and_everything_after() -> None:
    duty = duty_after((SECOND, heartbeat()))
    assert IP in (duty.claims(HELD, now_ns=SECOND + GRACE - 1) or {})
    assert duty.claims(HELD, now_ns=SECOND + GRACE) == {}


def test_an_agent_that_was_never_heard_costs_what_was_adopted_only_after_the_grace() -> None:
    duty = AgentDuty(grace_ns=GRACE, now_ns=0)
    assert duty.claims(HELD, now_ns=GRACE - 1) is None
    assert duty.claims(HELD, now_ns=GRACE) == {}


def test_an_address_no_longer_listed_is_handed_over_at_once() -> None:
    duty = duty_after((0, heartbeat()), (SECOND, heartbeat(claims=False)))
    assert duty.claims(HELD, now_ns=SECOND) == {}


def test_an_agent_that_has_just_started_and_knows_no_assignment_yet_costs_nothing() -> None:
    duty = duty_after((0, heartbeat()), (SECOND, heartbeat(ready=False, claims=False)))
    assert IP in (duty.claims(HELD, now_ns=SECOND) or {})
    duty.hear(heartbeat(claims=False), now_ns=2 * SECOND)
    assert IP in (duty.claims(HELD, now_ns=2 * SECOND) or {})
    duty.hear(heartbeat(claims=False), now_ns=2 * SECOND + GRACE)
    assert duty.claims(HELD, now_ns=2 * SECOND + GRACE) == {}


def test_a_lost_carrier_gives_the_address_up_even_before_the_agent_lists_anything() -> None:
    duty = duty_after((0, heartbeat(ready=False, claims=False, carrier=False)))
    assert duty.claims(HELD, now_ns=0) == {}


# -- files --


def test_a_shorter_record_replaces_a_longer_one(tmp_path: Path) -> None:
    with PromiseFile(tmp_path) as promises:
        promises.write(b"long record")
        promises.write(b"abc")
        assert promises.read().startswith(b"abc")


def test_tokens_are_replaced_whole(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "state")
    assert tokens.read() is None
    tokens.write(b"one")
    tokens.write(b"two")
    assert tokens.read() == b"two"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["leader-term"]


async def test_an_answer_that_needs_the_disk_waits_for_it_and_others_do_not(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 0, 1)
    sent: list[bytes] = []
    with PromiseFile(Path(settings.run_dir)) as promises:
        vote = ElectorVote(
            settings, promises, send=lambda to, payload: sent.append(payload), promised=lambda promised: None
        )
        to = Address("127.0.0.1", 1)
        vote.execute(Persist(b"promises", durable=False))
        assert promises.read() == b"promises"
        vote.execute(Persist(b"term", durable=True))
        vote.execute(SendPersisted(to, b"you lead"))
        vote.execute(Remember(b"term and more"))
        assert sent == []
        writing = asyncio.create_task(vote.write_records(stored=lambda: None))
        await until(lambda: sent == [b"you lead"])
        await until(lambda: TokenFile(Path(settings.state_dir)).read() == b"term and more")
        vote.execute(SendPersisted(to, b"still"))
        assert sent[-1] == b"still"
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


async def test_a_full_disk_delays_an_answer_and_never_ends_the_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen end to end: a full state_dir ended the keeper at the next election, and with it every lease of the node."""
    monkeypatch.setattr("service.keeper.vote._DISK_RETRY_FIRST_S", 0.001)
    settings = settings_of(tmp_path, 0, 1)
    sent: list[bytes] = []
    refused = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 3
    write = TokenFile.write

    def write_or_refuse(self: TokenFile, data: bytes) -> None:
        if refused:
            raise refused.pop()
        write(self, data)

    monkeypatch.setattr(TokenFile, "write", write_or_refuse)
    with PromiseFile(Path(settings.run_dir)) as promises:
        vote = ElectorVote(
            settings, promises, send=lambda to, payload: sent.append(payload), promised=lambda promised: None
        )
        vote.execute(Remember(b"more"))
        writing = asyncio.create_task(vote.write_records(stored=lambda: None))
        await until(lambda: TokenFile(Path(settings.state_dir)).read() == b"more")
        refused += [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 3
        vote.execute(Persist(b"term", durable=True))
        vote.execute(SendPersisted(Address("127.0.0.1", 1), b"you lead"))
        await until(lambda: sent == [b"you lead"])
        assert (refused, TokenFile(Path(settings.state_dir)).read()) == ([], b"term")
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


# -- the electorate --

THREE = ElectorateRecord(1, tuple((f"node{index}", f"127.0.0.{index + 1}", 0) for index in range(3)))


def chosen(settings: Settings) -> Settings:
    """The same node with `electors: auto`."""
    return with_memory(msgspec.structs.replace(settings, electors="auto"))


def epoch(node: Node) -> int:
    known = node.reports[-1].electorate if node.reports else None
    return known.epoch if known else -1


def named(record: ElectorateRecord) -> Heartbeat:
    return msgspec.structs.replace(heartbeat(claims=False), electorate=record)


async def test_a_keeper_without_electorate_is_no_elector_until_it_is_named(tmp_path: Path) -> None:
    node = Node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = heartbeat(claims=False)
        await until(lambda: epoch(node) == 0)
        assert not node.reports[-1].elector
        node.heartbeat = named(ElectorateRecord(1, (("node0", "127.0.0.1", 0),)))
        await until(lambda: node.reports[-1].elector and node.reports[-1].voting)
        node.heartbeat = msgspec.structs.replace(heartbeat(), electorate=node.heartbeat.electorate)
        await until(node.holds)


async def test_one_keeper_that_was_told_is_enough_for_all(tmp_path: Path) -> None:
    port = free_port()
    nodes = [Node(chosen(settings_of(tmp_path, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        nodes[1].heartbeat = nodes[2].heartbeat = heartbeat(claims=False)
        nodes[0].heartbeat = msgspec.structs.replace(heartbeat(), electorate=THREE)
        await until(nodes[0].holds)
        await until(lambda: [epoch(node) for node in nodes] == [1, 1, 1])


async def test_a_restarted_keeper_knows_the_electorate_without_being_told(tmp_path: Path) -> None:
    node = Node(chosen(settings_of(tmp_path, 0, free_port())))
    alone = ElectorateRecord(4, (("node0", "127.0.0.1", 0),))
    async with node.running():
        node.heartbeat = named(alone)
        await until(lambda: node.reports[-1].elector if node.reports else False)
    node.reports.clear()
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
        await until(lambda: epoch(node) == 4)


async def test_an_older_electorate_is_refused_and_reported(tmp_path: Path) -> None:
    node = Node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = named(ElectorateRecord(4, (("node0", "127.0.0.1", 0),)))
        await until(lambda: bool(node.reports) and node.reports[-1].elector)
        node.heartbeat = named(ElectorateRecord(3, (("node1", "127.0.0.2", 0),)))
        await until(lambda: "epoch 3, older than 4" in node.reports[-1].trouble)
        assert epoch(node) == 4
        assert node.reports[-1].elector


async def test_a_node_that_is_named_but_lost_its_disk_says_so_and_is_no_elector(tmp_path: Path) -> None:
    node = Node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = named(ElectorateRecord(4, (("node0", "127.0.0.1", 77),)))
        await until(lambda: bool(node.reports) and "newcomer" in node.reports[-1].trouble)
        assert not node.reports[-1].elector


async def test_an_operator_adds_an_elector_with_the_next_epoch(tmp_path: Path) -> None:
    port = free_port()
    first = [settings_of(tmp_path, index, port, electors=1) for index in range(2)]
    nodes = [Node(with_memory(settings)) for settings in first]
    async with nodes[0].running(), nodes[1].running():
        await until(lambda: [epoch(node) for node in nodes] == [1, 1])
    both = [settings_of(tmp_path, index, port, electors=2) for index in range(2)]
    electors = msgspec.structs.replace(both[0].electors, epoch=2)
    nodes = [Node(with_memory(msgspec.structs.replace(settings, electors=electors))) for settings in both]
    async with nodes[0].running(), nodes[1].running():
        await until(lambda: [epoch(node) for node in nodes] == [2, 2])
        nodes[1].heartbeat = heartbeat()
        await until(nodes[1].holds)
        assert all(node.reports[-1].settled for node in nodes)


async def test_a_configured_electorate_that_skips_an_epoch_is_refused_and_reported(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 0, free_port(), electors=1)
    async with Node(with_memory(settings)).running():
        pass
    electors = msgspec.structs.replace(settings_of(tmp_path, 0, 1, electors=3).electors, epoch=3)
    node = Node(with_memory(msgspec.structs.replace(settings, electors=electors)))
    async with node.running():
        await until(lambda: bool(node.reports) and "write 2" in node.reports[-1].trouble)
        assert epoch(node) == 1
