"""The keeper process on loopback: real sockets and files, a fence in memory, virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import ParamSpec, TypeVar

import msgspec
import pytest

from service.audit.promise_log import PromiseLog
from service.keeper.fence import FenceEntry
from service.keeper.keeper import run
from service.keeper.promise_file import PromiseFile
from service.keeper.transition import Transition
from service.model.errors import InvariantError, OperatorError
from service.model.keeper_message import ElectorateRecord, LeaseReport
from service.model.lease import ProfileName, Token
from service.settings import LeaseSettings, Settings
from service.wire.agent_link import AgentLink
from service.wire.envelope import key_id
from tests.keeper.node import (
    IP,
    SECOND,
    THREE,
    Node,
    chosen,
    epoch,
    free_port,
    heartbeat,
    named,
    settings_of,
    until,
    with_memory,
)
from tests.virtual_time import in_virtual_time, now_ns

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Does at once what it is given: virtual time cannot see a thread that is not the loop's."""

    def __init__(self, **_: object) -> None:
        """Takes what a pool of threads does."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except OSError as error:
            done.set_exception(error)
        return done


@pytest.fixture(autouse=True)
def parts_that_know_only_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sockets limit how often they ask who is there: by the real clock no virtual second would be long enough.
    monkeypatch.setattr("service.wire.sealed_socket.time", SimpleNamespace(monotonic_ns=now_ns))
    monkeypatch.setattr("service.audit.outbox.ThreadPoolExecutor", InlineExecutor)


def virtual_node(settings: Settings) -> Node:
    return Node(settings, boot_clock=now_ns)


@asynccontextmanager
async def three_nodes(folder: Path) -> AsyncIterator[tuple[list[Node], AsyncExitStack]]:
    port = free_port()
    nodes = [virtual_node(with_memory(settings_of(folder, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes[1:]:
            await stack.enter_async_context(node.running())
        yield nodes, stack


@in_virtual_time
async def test_the_assigned_holder_opens_its_fence_and_tells_its_agent(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(nodes[0].holds)
        await until(lambda: any(report.held for report in nodes[0].reports))
        held = next(report.held[0] for report in nodes[0].reports if report.held)
        assert (held.floating_ip, held.term, held.version) == (IP, 1, 1)
        assert nodes[0].reports[-1].voting
        assert nodes[0].reports[-1].scheduling == "normal"


@in_virtual_time
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


@in_virtual_time
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
        assert entry.deadline_ns - now_ns() > 10 * SECOND
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


@in_virtual_time
async def test_a_keeper_says_whether_it_sees_a_majority_vote(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        await until(lambda: any(report.majority for report in nodes[0].reports))
    alone = virtual_node(with_memory(settings_of(tmp_path / "alone", 0, free_port())))
    async with alone.running():
        await until(lambda: len(alone.reports) > 5)
        assert not any(report.majority for report in alone.reports)


@in_virtual_time
async def test_a_keeper_says_which_keys_it_has_in_force(tmp_path: Path) -> None:
    alone = virtual_node(with_memory(settings_of(tmp_path, 0, free_port())))
    async with alone.running():
        await until(lambda: alone.reports)
        assert alone.reports[-1].keys == tuple(one.hex() for one in map(key_id, alone.settings.keys()))


@in_virtual_time
async def test_nothing_is_claimed_before_the_fence_exists_but_the_elector_votes(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        nodes[0].fence.is_pinned = False
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(lambda: any(report.voting for report in nodes[0].reports))
        assert nodes[0].fence.writes == []
        nodes[0].fence.is_pinned = True
        await until(nodes[0].holds)


@in_virtual_time
async def test_an_address_whose_uplink_loses_its_carrier_is_given_up(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(nodes[0].holds)
        nodes[0].heartbeat = heartbeat(carrier=False)
        await until(lambda: not nodes[0].holds())


@in_virtual_time
async def test_a_restarted_keeper_goes_on_with_what_the_fence_still_says(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        node = nodes[0]
        async with node.running():
            node.heartbeat = heartbeat()
            await until(node.holds)
            token = node.fence.values[IPv4Address(IP)].token
            entry = node.fence.values[IPv4Address(IP)]
        # As after a kill: the fence is as the dead keeper left it, not as the clean stop did.
        node.fence.values[IPv4Address(IP)] = FenceEntry(entry.token, now_ns() + 2 * SECOND)
        node.fence.values[IPv4Address("192.0.2.101")] = FenceEntry(Token(1, 1, 1), 1)
        node.fence.writes.clear()
        node.heartbeat = None
        await stack.enter_async_context(node.running())
        assert ("192.0.2.101", 0) in node.fence.writes
        await until(lambda: any(report.held for report in node.reports))
        assert node.fence.values[IPv4Address(IP)].token >= token


@in_virtual_time
async def test_the_keeper_itself_announces_what_it_holds_its_fence_being_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S4: no agent is waited for between the lease and the first gratuitous ARP."""
    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    sent: list[tuple[int, bool]] = []

    class Arp:
        def send(self, ifindex: int, frame: bytes) -> None:
            sent.append((ifindex, node.holds()))

        def close(self) -> None:
            """No socket was opened."""

    monkeypatch.setattr("service.keeper.keeper.ArpSender", Arp)
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
        await asyncio.sleep(5)
    assert sent == [(1, True), (1, True)]


@in_virtual_time
async def test_an_agent_that_falls_silent_costs_its_addresses_after_its_grace(tmp_path: Path) -> None:
    """S6, and S3: nothing is claimed anew for it."""
    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
        node.heartbeat = None
        await asyncio.sleep(14.5)
        assert node.holds()
        await asyncio.sleep(1)
        assert not node.holds()
        assert node.reports[-1].held == ()
        await asyncio.sleep(5)
        assert not node.holds()


@in_virtual_time
async def test_the_agent_hears_at_once_of_a_lease_that_came_or_went(tmp_path: Path) -> None:
    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
        opened_ns = now_ns()
        await until(lambda: any(report.held for report in node.reports))
        assert next(report.at_ns for report in node.reports if report.held) <= opened_ns
        node.heartbeat = heartbeat(claims=False)
        await until(lambda: not node.holds())
        await until(lambda: not node.reports[-1].held)
    # Only the word that comes with the end itself names what was given up before its time.
    assert [report.released for report in node.reports if report.released] == [(IP,)]


@in_virtual_time
async def test_a_lease_shorter_than_the_silence_of_the_agent_is_renewed_all_the_same(tmp_path: Path) -> None:
    settings = with_memory(settings_of(tmp_path, 0, free_port(), electors=1))
    node = virtual_node(msgspec.structs.replace(settings, lease=LeaseSettings(profile=ProfileName.FASTEST)))
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
        node.heartbeat = None
        for _ in range(1000):
            await asyncio.sleep(0.001)
            assert node.holds()


@pytest.mark.parametrize("part", ["holder.Holder", "elector.ElectorMachine", "observer.Observer"])
@in_virtual_time
async def test_a_part_that_fails_ends_the_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Half a keeper would hold addresses that nobody can take, or promise what nobody may count on."""

    def fail(*_: object, **__: object) -> None:
        raise InvariantError("broken")

    async def run_until_it_breaks() -> None:
        node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
        node.heartbeat = heartbeat()
        async with node.running():
            await until(node.holds)
            with monkeypatch.context() as broken:
                broken.setattr(f"service.lease.{part}.receive", fail)
                await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        await run_until_it_breaks()
    assert caught.value.subgroup(InvariantError) is not None


@in_virtual_time
async def test_a_promise_is_noted_for_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []
    monkeypatch.setattr(PromiseLog, "note", lambda log, promised: noted.append(promised.key))
    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
    assert noted == [IP]


@in_virtual_time
async def test_after_a_reboot_an_elector_is_silent_for_the_longest_lease_and_a_fifth(tmp_path: Path) -> None:
    """P2: it has forgotten what it promised."""
    node = virtual_node(settings_of(tmp_path, 0, free_port(), electors=1))
    node.heartbeat = heartbeat()
    async with node.running():
        await asyncio.sleep(17.5)
        assert not node.reports[-1].voting
        assert node.fence.writes == []
        await asyncio.sleep(1)
        assert node.reports[-1].voting
        assert node.holds()


async def test_a_keeper_does_nothing_while_another_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: it reads nothing that the other still writes, and takes no priority from it."""
    monkeypatch.setattr("service.keeper.keeper.become_punctual", lambda profile: pytest.fail("went on"))
    settings = settings_of(tmp_path, 0, free_port())
    with PromiseFile(Path(settings.run_dir)), pytest.raises(OperatorError, match="another keeper"):
        await run(settings)


async def test_no_electorate_is_an_operator_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"electors\.members"):
        await run(Settings(node="node0", keyring=("11" * 32,)))


# -- the electorate --


@in_virtual_time
async def test_a_keeper_without_electorate_is_no_elector_until_it_is_named(tmp_path: Path) -> None:
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = heartbeat(claims=False)
        await until(lambda: epoch(node) == 0)
        assert not node.reports[-1].elector
        node.heartbeat = named(ElectorateRecord(1, (("node0", "127.0.0.1", 0),)))
        await until(lambda: node.reports[-1].elector and node.reports[-1].voting)
        node.heartbeat = msgspec.structs.replace(heartbeat(), electorate=node.heartbeat.electorate)
        await until(node.holds)


@in_virtual_time
async def test_one_keeper_that_was_told_is_enough_for_all(tmp_path: Path) -> None:
    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        nodes[1].heartbeat = nodes[2].heartbeat = heartbeat(claims=False)
        nodes[0].heartbeat = msgspec.structs.replace(heartbeat(), electorate=THREE)
        await until(nodes[0].holds)
        await until(lambda: [epoch(node) for node in nodes] == [1, 1, 1])
        # Those who were named are asked, too, whether they vote.
        await until(lambda: all(node.reports[-1].majority for node in nodes))


@in_virtual_time
async def test_a_restarted_keeper_knows_the_electorate_without_being_told(tmp_path: Path) -> None:
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    alone = ElectorateRecord(4, (("node0", "127.0.0.1", 0),))
    async with node.running():
        node.heartbeat = named(alone)
        await until(lambda: node.reports[-1].elector if node.reports else False)
    node.reports.clear()
    node.heartbeat = heartbeat()
    async with node.running():
        await until(node.holds)
        await until(lambda: epoch(node) == 4)


@in_virtual_time
async def test_an_older_electorate_is_refused_and_reported(tmp_path: Path) -> None:
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = named(ElectorateRecord(4, (("node0", "127.0.0.1", 0),)))
        await until(lambda: bool(node.reports) and node.reports[-1].elector)
        node.heartbeat = named(ElectorateRecord(3, (("node1", "127.0.0.2", 0),)))
        await until(lambda: "epoch 3, older than 4" in node.reports[-1].trouble)
        assert epoch(node) == 4
        assert node.reports[-1].elector


@in_virtual_time
async def test_a_node_that_is_named_but_lost_its_disk_says_so_and_is_no_elector(tmp_path: Path) -> None:
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = named(ElectorateRecord(4, (("node0", "127.0.0.1", 77),)))
        await until(lambda: bool(node.reports) and "newcomer" in node.reports[-1].trouble)
        assert not node.reports[-1].elector


@in_virtual_time
async def test_an_elector_that_could_not_ask_what_was_promised_before_says_that_it_has_not_settled(
    tmp_path: Path,
) -> None:
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    node.heartbeat = named(ElectorateRecord(2, THREE.members[:1], THREE.members[1:2]))
    async with node.running():
        await until(lambda: bool(node.reports) and node.reports[-1].elector)
        await asyncio.sleep(5)
        assert not node.reports[-1].settled


@in_virtual_time
async def test_an_operator_adds_an_elector_with_the_next_epoch(tmp_path: Path) -> None:
    port = free_port()
    first = [settings_of(tmp_path, index, port, electors=1) for index in range(2)]
    nodes = [virtual_node(with_memory(settings)) for settings in first]
    async with nodes[0].running(), nodes[1].running():
        await until(lambda: [epoch(node) for node in nodes] == [1, 1])
    both = [settings_of(tmp_path, index, port, electors=2) for index in range(2)]
    electors = msgspec.structs.replace(both[0].electors, epoch=2)
    nodes = [virtual_node(with_memory(msgspec.structs.replace(settings, electors=electors))) for settings in both]
    async with nodes[0].running(), nodes[1].running():
        await until(lambda: [epoch(node) for node in nodes] == [2, 2])
        nodes[1].heartbeat = heartbeat()
        await until(nodes[1].holds)
        assert all(node.reports[-1].settled for node in nodes)


@in_virtual_time
async def test_a_configured_electorate_that_skips_an_epoch_is_refused_and_reported(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 0, free_port(), electors=1)
    async with virtual_node(with_memory(settings)).running():
        pass
    electors = msgspec.structs.replace(settings_of(tmp_path, 0, 1, electors=3).electors, epoch=3)
    node = virtual_node(with_memory(msgspec.structs.replace(settings, electors=electors)))
    async with node.running():
        await until(lambda: bool(node.reports) and "write 2" in node.reports[-1].trouble)
        assert epoch(node) == 1


@in_virtual_time
async def test_who_heard_of_an_electorate_later_goes_over_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it would not be answered: the others speak in the new epoch already."""
    entered_ns: list[int] = []
    enter = Transition.enter

    def note(transition: Transition) -> None:
        entered_ns.append(now_ns())
        enter(transition)

    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            node.heartbeat = named(THREE)
            await stack.enter_async_context(node.running())
        await asyncio.sleep(3)
        monkeypatch.setattr(Transition, "enter", note)
        following = ElectorateRecord(2, THREE.members[:2], THREE.members)
        for node in nodes:
            node.heartbeat = named(following)
            await asyncio.sleep(0.4)
        await asyncio.sleep(0.3)
        assert len(entered_ns) >= 3
        assert entered_ns[2] - entered_ns[0] < SECOND // 5


@in_virtual_time
async def test_who_leaves_does_not_ask_to_be_the_only_elector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[LeaseReport] = []
    monkeypatch.setattr(AgentLink, "report", lambda link, report: reports.append(report))
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    node.heartbeat = named(ElectorateRecord(1, THREE.members[:2]))
    async with node.running():
        await until(lambda: bool(reports) and reports[-1].wanted is not None)
    assert reports[-1].wanted is None


@in_virtual_time
async def test_a_node_that_can_serve_again_need_not_let_the_other_go_first(tmp_path: Path) -> None:
    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(2)]
    two = ElectorateRecord(1, THREE.members[:2])
    for node in nodes:
        node.heartbeat = msgspec.structs.replace(heartbeat(ready=False, claims=False), electorate=two)
    async with nodes[0].running():
        async with nodes[1].running():
            await asyncio.sleep(4)
            nodes[0].heartbeat = named(two)
            await asyncio.sleep(1)
        await until(lambda: nodes[0].reports[-1].wanted is not None, timeout=1)


@in_virtual_time
async def test_one_of_two_that_loses_the_other_asks_its_agent_to_go_on_alone(tmp_path: Path) -> None:
    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(2)]
    two = ElectorateRecord(1, THREE.members[:2])
    for node in nodes:
        node.heartbeat = named(two)
    async with nodes[0].running():
        async with nodes[1].running():
            await asyncio.sleep(5)
            assert all(node.reports[-1].voting and node.reports[-1].wanted is None for node in nodes)
        await until(lambda: nodes[0].reports[-1].wanted is not None)
        assert nodes[0].reports[-1].wanted == ElectorateRecord(2, two.members[:1], two.members)
        assert epoch(nodes[0]) == 1
        # The agent has swapped it in, and says what the object says.
        nodes[0].heartbeat = msgspec.structs.replace(heartbeat(), electorate=ElectorateRecord(2, two.members[:1]))
        await until(nodes[0].holds)
        await until(lambda: epoch(nodes[0]) == 2)


@in_virtual_time
async def test_a_configured_electorate_of_two_is_never_left_for_one_alone(tmp_path: Path) -> None:
    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=2)))
    node.heartbeat = heartbeat()
    async with node.running():
        await asyncio.sleep(10)
        assert all(report.wanted is None for report in node.reports)
        assert node.reports[-1].voting
        assert node.fence.writes == []
