"""How a keeper comes to an electorate, keeps it and leaves it: real sockets and files, virtual time."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.keeper.transition import Transition
from service.model.keeper_message import ElectorateRecord, LeaseReport
from service.model.lease import Elector, Electorate
from service.wire.agent_link import AgentLink
from tests.keeper.node import (
    SECOND,
    THREE,
    chosen,
    epoch,
    free_port,
    heartbeat,
    named,
    settings_of,
    until,
    with_memory,
)
from tests.keeper.virtual import virtual_node
from tests.virtual_time import in_virtual_time, now_ns

pytestmark = pytest.mark.usefixtures("parts_that_know_only_real_time")


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
    alone = ElectorateRecord(4, (("node0", "127.0.0.1", 0),), begun_anew=True)
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
        node.heartbeat = named(ElectorateRecord(4, (("node0", "127.0.0.1", 0),), begun_anew=True))
        await until(lambda: bool(node.reports) and node.reports[-1].elector)
        node.heartbeat = named(ElectorateRecord(3, (("node1", "127.0.0.2", 0),)))
        await until(lambda: "epoch 3, older than 4" in node.reports[-1].trouble)
        assert epoch(node) == 4
        assert node.reports[-1].elector


@in_virtual_time
async def test_a_node_that_is_named_but_lost_its_disk_says_so_and_is_no_elector(tmp_path: Path) -> None:
    node = virtual_node(chosen(settings_of(tmp_path, 0, free_port())))
    async with node.running():
        node.heartbeat = named(ElectorateRecord(4, (("node0", "127.0.0.1", 77),), begun_anew=True))
        await until(lambda: bool(node.reports) and "newcomer" in node.reports[-1].trouble)
        assert not node.reports[-1].elector


@in_virtual_time
async def test_an_elector_that_could_not_ask_what_was_promised_before_says_that_it_has_not_settled(
    tmp_path: Path,
) -> None:
    settings = chosen(settings_of(tmp_path, 0, free_port()))
    following = ElectorateRecord(2, THREE.members[:1], THREE.members[1:2])
    ElectorateFile(Path(settings.state_dir)).write(StoredElectorate(7, following.electorate, False))
    node = virtual_node(settings)
    node.heartbeat = heartbeat(claims=False)
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
async def test_m3_a_newcomer_with_the_next_configuration_does_not_swap_the_electors_of_those_who_know_better(
    tmp_path: Path,
) -> None:
    """Not seen: node 3 was put in the place of node 0, at once, and told 1 and 2 so, who then asked nobody."""
    port = free_port()
    nodes = [virtual_node(with_memory(settings_of(tmp_path, index, port))) for index in range(3)]
    nodes[0].heartbeat = heartbeat()
    nodes[1].heartbeat = nodes[2].heartbeat = heartbeat(claims=False)
    swapped = settings_of(tmp_path, 3, port, electors=4)
    electors = msgspec.structs.replace(swapped.electors, epoch=2, members=swapped.electors.members[1:])
    newcomer = virtual_node(with_memory(msgspec.structs.replace(swapped, electors=electors)))
    newcomer.heartbeat = heartbeat("successor")
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        await until(nodes[0].holds)
        await stack.enter_async_context(newcomer.running())
        await asyncio.sleep(5)
        assert [epoch(node) for node in (*nodes, newcomer)] == [1, 1, 1, 2]
        assert [node.holds() for node in (*nodes, newcomer)] == [True, False, False, False]


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
async def test_m2_the_next_electorate_in_the_object_waits_until_the_one_before_was_seen_in_force(
    tmp_path: Path,
) -> None:
    """Two steps that somebody wrote in a row, each of one member, would be a swap of two."""
    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(3)]
    nodes[0].heartbeat = named(THREE)
    nodes[1].heartbeat = nodes[2].heartbeat = heartbeat(claims=False)
    async with nodes[0].running():
        await asyncio.sleep(3)
        nodes[0].heartbeat = named(ElectorateRecord(2, THREE.members[:2], THREE.members))
        await asyncio.sleep(3)
        assert epoch(nodes[0]) == 1
        async with nodes[1].running(), nodes[2].running():
            await until(lambda: [epoch(node) for node in nodes[:2]] == [2, 2])


@in_virtual_time
async def test_m8_a_new_node_hears_the_electorate_from_those_whom_the_object_names_and_not_from_the_object(
    tmp_path: Path,
) -> None:
    """Also while no controller is there that would ask it."""
    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(2)]
    known = Electorate(7, (Elector("node0", "127.0.0.1", 7),))
    ElectorateFile(Path(nodes[0].settings.state_dir)).write(StoredElectorate(7, known, True))
    edited = ElectorateRecord(9, (("node0", "127.0.0.1", 7), ("node5", "127.0.0.6", 5)), (("node0", "127.0.0.1", 7),))
    nodes[0].heartbeat, nodes[1].heartbeat = heartbeat(claims=False), named(edited)
    async with nodes[1].running():
        await asyncio.sleep(2)
        assert (epoch(nodes[1]), nodes[1].reports[-1].trouble) == (0, "")
        async with nodes[0].running():
            await until(lambda: epoch(nodes[1]) == 7)


@in_virtual_time
async def test_m8_an_edit_that_swaps_all_members_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    port = free_port()
    nodes = [virtual_node(chosen(settings_of(tmp_path, index, port))) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            node.heartbeat = named(THREE)
            await stack.enter_async_context(node.running())
        nodes[0].heartbeat = msgspec.structs.replace(heartbeat(), electorate=THREE)
        await until(nodes[0].holds)
        swapped = ElectorateRecord(2, (("node8", "127.0.0.9", 8), ("node9", "127.0.0.10", 9)), THREE.members)
        nodes[0].heartbeat = msgspec.structs.replace(heartbeat(), electorate=swapped)
        nodes[1].heartbeat = nodes[2].heartbeat = named(swapped)
        await until(lambda: all(node.reports and "at once" in node.reports[-1].trouble for node in nodes))
        await asyncio.sleep(3)
        assert [epoch(node) for node in nodes] == [1, 1, 1]
        assert nodes[0].holds()


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
        nodes[0].heartbeat = msgspec.structs.replace(heartbeat(), electorate=nodes[0].reports[-1].wanted)
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
