"""The keeper process on loopback: real sockets and files, a fence in memory, virtual time."""

import asyncio
import socket
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from service.audit.promise_log import PromiseLog
from service.keeper.fence import FenceEntry
from service.keeper.keeper import run
from service.keeper.promise_file import PromiseFile
from service.lease.elector import ElectorMachine
from service.lease.holder import Holder
from service.lease.promise import Instant
from service.model.errors import InvariantError, OperatorError
from service.model.keeper_message import Claim, ElectorateRecord
from service.model.lease import LEADER_KEY, ProfileName, Token
from service.model.machine import Source
from service.settings import LeaseSettings, Settings
from service.wire.envelope import Envelope, key_id
from tests.keeper.node import (
    IP,
    OTHER,
    SECOND,
    chosen,
    claims_of,
    free_port,
    heartbeat,
    settings_of,
    troubles,
    until,
    uplinks_of,
    with_memory,
)
from tests.keeper.virtual import three_nodes, virtual_node
from tests.virtual_time import in_virtual_time, now_ns

pytestmark = pytest.mark.usefixtures("parts_that_know_only_real_time")


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
            await asyncio.sleep(0.5)
            assert sum(node.reports[-1].lags) > 0, "how late its loop is, its agent tells"
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


@pytest.mark.parametrize(
    ("part", "task"),
    [
        ("lease.holder.Holder.receive", "holder"),
        ("lease.elector.ElectorMachine.receive", "elector"),
        ("lease.observer.Observer.receive", "observer"),
        ("keeper.promise_file.TokenFile.write", "records"),
        ("keeper.claims.HolderClaims.apply", "agent"),
        ("keeper.claims.HolderClaims.hear", "callbacks"),
        ("audit.promise_log.PromiseLog._record", "promises"),
        ("keeper.other_elector.OtherElector.attend", "agent"),
    ],
)
@in_virtual_time
async def test_what_nobody_has_thought_of_in_one_part_is_told_and_ends_neither_the_keeper_nor_a_lease_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, task: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("gone")

    settings = settings_of(tmp_path, 0, free_port(), electors=1)
    node = virtual_node(chosen(settings) if part.endswith("attend") else with_memory(settings))
    alone = ElectorateRecord(1, (("node0", "127.0.0.1", 0),))
    node.heartbeat = msgspec.structs.replace(heartbeat(), electorate=alone)
    async with node.running():
        await until(node.holds)
        node.reports.clear()
        with monkeypatch.context() as broken:
            broken.setattr(f"service.{part}", fail)
            node.heartbeat = msgspec.structs.replace(claims_of(IP, OTHER), electorate=alone)
            await until(lambda: any(f"task {task} failed" in line for line in troubles(node)))
        await until(lambda: node.holds() and node.fence.is_open(OTHER), timeout=20)
        assert node.reports[-1].errors[task] >= 1
        await asyncio.sleep(11)
        assert troubles(node) == []
        assert node.holds()


@pytest.mark.parametrize(("part", "task"), [("compose", "report"), ("FirstAnnouncement.announce", "announce")])
@in_virtual_time
async def test_neither_report_nor_announcement_keeps_the_holder_from_what_it_wants_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, task: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("gone")

    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = claims_of(IP, OTHER)
    async with node.running():
        with monkeypatch.context() as broken:
            broken.setattr(f"service.keeper.keeper.{part}", fail)
            await until(lambda: node.holds() and node.fence.is_open(OTHER))
            await asyncio.sleep(0.5)
        await until(lambda: any(f"task {task} failed" in line for line in troubles(node)))
        assert node.reports[-1].errors["holder"] == 0


@in_virtual_time
async def test_a_report_that_fails_keeps_no_address_from_being_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("gone")

    async with three_nodes(tmp_path) as (nodes, _):
        async with nodes[0].running():
            nodes[0].heartbeat = heartbeat()
            await until(nodes[0].holds)
            nodes[1].heartbeat = heartbeat("successor")
            await asyncio.sleep(0.3)
            monkeypatch.setattr("service.keeper.keeper.compose", fail)
            # So that nothing is handed over by the end of a lease.
            started_ns = now_ns()
        assert nodes[1].holds()
        assert now_ns() - started_ns < SECOND // 10


@in_virtual_time
async def test_a_vote_that_fails_costs_no_address_while_the_others_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        nodes[0].heartbeat = heartbeat()
        await until(nodes[0].holds)
        receive = ElectorMachine.receive

        def fail_here(elector: ElectorMachine, source: Source, payload: bytes, *, now: Instant) -> None:
            if elector._node == "node0":
                raise KeyError("gone")
            receive(elector, source, payload, now=now)

        monkeypatch.setattr(ElectorMachine, "receive", fail_here)
        for _ in range(300):
            await asyncio.sleep(0.01)
            assert nodes[0].holds()
        assert any("task elector failed" in line for line in troubles(nodes[0]))


@in_virtual_time
async def test_a_holder_that_fails_at_each_answer_of_one_elector_keeps_even_a_short_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        node = nodes[0]
        node.settings = msgspec.structs.replace(node.settings, lease=LeaseSettings(profile=ProfileName.FAST))
        await stack.enter_async_context(node.running())
        node.heartbeat = heartbeat()
        await until(node.holds)
        receive = Holder.receive

        def fail_for_one(holder: Holder, source: Source, payload: bytes, *, now_ns: int) -> None:
            if source.node == "node1":
                raise KeyError("gone")
            receive(holder, source, payload, now_ns=now_ns)

        # Each heartbeat would do the work of a timer.
        node.heartbeat = None
        monkeypatch.setattr(Holder, "receive", fail_for_one)
        for _ in range(3000):
            await asyncio.sleep(0.001)
            assert node.holds()
        assert any("task holder failed" in line for line in troubles(node))


@in_virtual_time
async def test_an_address_that_the_kernel_does_not_take_is_anothers_and_costs_this_node_no_other(
    tmp_path: Path,
) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        await stack.enter_async_context(nodes[0].running())
        nodes[0].fence.full_for = OTHER
        nodes[0].heartbeat = claims_of(IP, OTHER)
        nodes[1].heartbeat = msgspec.structs.replace(heartbeat("successor"), claims=(Claim(OTHER, "successor", 1, 1),))
        nodes[1].heartbeat = msgspec.structs.replace(nodes[1].heartbeat, uplinks=uplinks_of(OTHER))
        await until(lambda: nodes[0].holds() and nodes[1].fence.is_open(OTHER))
        assert not nodes[0].fence.is_open(OTHER)
        await until(lambda: bool(troubles(nodes[0])))
        assert troubles(nodes[0]) == [
            f"1 addresses are not claimed, since its fence cannot be opened: Argument list too long: {OTHER}"
        ]
        nodes[0].fence.full_for = ""
        for _ in range(120):
            await asyncio.sleep(0.1)
            assert nodes[0].holds()
            assert nodes[1].fence.is_open(OTHER)
        assert troubles(nodes[0]) == []


@in_virtual_time
async def test_what_is_no_floating_ip_costs_no_other(tmp_path: Path) -> None:
    node = virtual_node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = claims_of("192.0.2.1O0", LEADER_KEY, "0.0.0.0", IP)
    async with node.running():
        await until(node.holds)
        await until(lambda: bool(troubles(node)))
        assert troubles(node) == [
            "3 addresses are not claimed, for they are no floating IPs: 192.0.2.1O0, leader, 0.0.0.0"
        ]


@in_virtual_time
async def test_datagrams_under_another_key_are_in_the_report(tmp_path: Path) -> None:
    settings = with_memory(settings_of(tmp_path, 0, free_port(), electors=1))
    stranger = Envelope((b"\x22" * 32,), cluster=settings.cluster, node="node1", start_id=9, purpose="lease")
    node = virtual_node(settings)
    async with node.running():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(stranger.seal(b"let me in"), ("127.0.0.1", settings.ports.lease))
        await until(lambda: bool(troubles(node)))
        assert node.reports[-1].refused == {"unknown-key": 1}
        assert "lease: 1 datagrams refused as unknown-key" in troubles(node)[0]
        await asyncio.sleep(11)
        assert troubles(node) == []


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


@in_virtual_time
async def test_p2_after_the_longest_lease_was_lowered_the_silence_is_as_before_until_the_longer_ones_are_over(
    tmp_path: Path,
) -> None:
    before = settings_of(tmp_path, 0, free_port(), electors=1)
    lowered = msgspec.structs.replace(before, lease=LeaseSettings(max_lease_ms=1000))
    async with virtual_node(before).running():
        await asyncio.sleep(1)
    silences_s = []
    for _ in range(2):
        (Path(before.run_dir) / "promises").unlink()
        node = virtual_node(lowered)
        async with node.running():
            begun_ns = now_ns()
            await until(lambda node=node: bool(node.reports) and node.reports[-1].voting, timeout=30)  # type: ignore[misc]
            silences_s.append(round((now_ns() - begun_ns) / SECOND))
            await asyncio.sleep(2)
    assert silences_s in ([18, 1], [18, 2])


async def test_a_keeper_does_nothing_while_another_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: it reads nothing that the other still writes, and takes no priority from it."""
    monkeypatch.setattr("service.keeper.keeper.become_punctual", lambda profile: pytest.fail("went on"))
    settings = settings_of(tmp_path, 0, free_port())
    with PromiseFile(Path(settings.run_dir)), pytest.raises(OperatorError, match="another keeper"):
        await run(settings)


async def test_a_keeper_with_an_even_number_of_configured_electors_says_at_its_start_what_that_is_worth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for electors, warnings in ((2, 1), (3, 0)):
        caplog.clear()
        settings = settings_of(tmp_path, 0, free_port(), electors=electors)
        with PromiseFile(Path(settings.run_dir)), pytest.raises(OperatorError, match="another keeper"):
            await run(settings)
        assert sum("electors.members: 2 of them" in record.getMessage() for record in caplog.records) == warnings


async def test_no_electorate_is_an_operator_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"electors\.members"):
        await run(Settings(node="node0", keyring=("11" * 32,)))
