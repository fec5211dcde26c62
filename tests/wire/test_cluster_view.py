"""What one process learns of another by gossip, over real sockets; and that nonsense costs no more than itself."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from service.gateway import row
from service.gateway.row import (
    ASSIGNMENT_TABLE,
    CONFLICT_TABLE,
    KEYS_TABLE,
    LEADER_TABLE,
    LOCATION_TABLE,
    MemberMetadata,
    encode_assignment,
    encode_metadata,
)
from service.gossip.member import MemberState
from service.gossip.message import ALIVE, Record, TableRow, encode_message, encode_packet
from service.model.assignment import Assignment, Location
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.machine import Address, Source
from service.model.order import MoveState
from service.settings import GossipSettings, PortSettings, Settings
from service.wire import keyring
from service.wire.cluster_view import TICK_NS, ClusterView, node_state, parse_seeds
from service.wire.refusals import troubles

FLOATING_IP = IPv4Address("192.168.1.100")
OTHER_IP = IPv4Address("192.168.1.101")
SEGMENT = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.21"), b"\2\0\0\0\0\1")
ASSIGNMENT = Assignment(FLOATING_IP, "worker1", None, Stamp(4, 9))
METADATA = MemberMetadata(NodeRole.WORKER, True, True, (SEGMENT,), "1.2.3", 7)
LOCATION = Location(FLOATING_IP, "worker1", Token(1, 2, 3))


def view(
    name: str,
    host: str,
    port: int,
    *,
    clock: Callable[[], int] = time.monotonic_ns,
    **callbacks: Callable[..., None],
) -> ClusterView:
    role = NodeRole.CONTROLLER if name.startswith("controller") else NodeRole.WORKER
    settings = Settings(
        node=name,
        bind_address=host,
        keyring=("ab" * 32,),
        ports=PortSettings(gossip=port, controller_gossip=port),
        gossip=GossipSettings(seeds=("127.0.0.1",)),
    )
    metadata = MemberMetadata(role, False, True, (), "1.2.3", int(host[-1]))
    callbacks.setdefault("changed", lambda: None)
    return ClusterView(settings, metadata, clock=clock, **callbacks)  # type: ignore[arg-type]


async def test_a_controller_gossips_from_a_port_that_no_node_has() -> None:
    """Behind its CNI's masquerade it looks like its node, port and all."""
    settings = Settings(node="one", bind_address="127.0.0.1", keyring=("ab" * 32,))
    for role, port in ((NodeRole.CONTROLLER, 9647), (NodeRole.WORKER, 9640), (NodeRole.CONTROL_PLANE, 9640)):
        metadata = dataclasses.replace(METADATA, role=role)
        mine = ClusterView(settings, metadata, clock=time.monotonic_ns, changed=lambda: None)
        assert mine.members()["one"][0].address.port == port


@asynccontextmanager
async def running(*views: ClusterView) -> AsyncIterator[None]:
    for each in views:
        await each.__aenter__()
    tasks = [asyncio.create_task(each.run()) for each in views]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in views:
            await each.__aexit__(None, None, None)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


def hear(each: ClusterView, table: str, key: str, value: bytes, *, version: tuple[int, int, int] = (1, 2, 3)) -> None:
    """Let a member of another release tell a row."""
    told = encode_packet([encode_message(TableRow(table, key, version, value))])
    each.pump.on_datagram(Source(Address("127.0.0.9", 9), "worker9", 9), told)


async def test_members_rows_and_the_leader_reach_the_other_process(unused_udp_port: int) -> None:
    heard: list[Location] = []
    first = view("worker1", "127.0.0.1", unused_udp_port)
    second = view("controller-a", "127.0.0.2", unused_udp_port, location_heard=heard.append)
    async with running(first, second):
        first.describe(ready=True, segments=(SEGMENT,), role=NodeRole.WORKER, schedulable=True)
        assert first.publish_location(LOCATION)
        assert second.publish_assignment(ASSIGNMENT)
        assert second.publish_leader(4)
        assert first.publish_conflict(OTHER_IP, b"\2\0\0\0\0\7", at_s=1_700_000_000)
        await until(lambda: second.gateway_nodes() and second.gateway_nodes()[0].ready and second.conflicts())
        await until(lambda: first.assignments() and first.leader() and heard)
        assert second.is_answering("worker1")
        assert "worker1" in second.answering()
        assert second.answering() is second.answering()
        assert not second.is_answering("worker9")
    (node,) = second.gateway_nodes()
    assert (node.name, node.state, node.segments) == ("worker1", NodeState.UP, (SEGMENT,))
    assert list(second.members()) == ["controller-a", "worker1"]
    assert second.sockets(9644)["worker1"] == Address("127.0.0.1", 9644)
    assert second.locations() == {FLOATING_IP: LOCATION}
    assert heard == [LOCATION]
    assert second.conflicts() == {OTHER_IP: b"\2\0\0\0\0\7"}
    assert first.assignments() == {FLOATING_IP: ASSIGNMENT}
    assert first.leader() == ("controller-a", 4)


async def test_a_controller_says_good_bye_and_an_agent_does_not(unused_udp_port: int) -> None:
    agent, other = view("worker1", "127.0.0.1", unused_udp_port), view("worker2", "127.0.0.2", unused_udp_port)
    controller = view("controller-a", "127.0.0.3", unused_udp_port)
    async with running(agent):
        async with running(other, controller):
            await until(lambda: len(agent.members()) == 3)
        await until(lambda: agent.members()["controller-a"][0].state is MemberState.LEFT)
        assert agent.members()["worker2"][0].is_live


@pytest.mark.parametrize(
    ("table", "good", "bad", "read"),
    [
        (ASSIGNMENT_TABLE, encode_assignment(ASSIGNMENT), b"\xc1", ClusterView.assignments),
        (LOCATION_TABLE, b"worker1", b"\xff", ClusterView.locations),
        (CONFLICT_TABLE, b"\2\0\0\0\0\7", b"short", ClusterView.conflicts),
    ],
    ids=["assignment", "location", "conflict"],
)
def test_a_malformed_row_is_not_taken_over_and_told_and_hides_no_other(
    table: str, good: bytes, bad: bytes, read: Callable[[ClusterView], object]
) -> None:
    heard: list[Location] = []
    mine = view("worker1", "127.0.0.1", 9, location_heard=heard.append)
    hear(mine, table, str(OTHER_IP), bad)
    (trouble,) = troubles([mine.socket.refusals])
    assert str(OTHER_IP) in trouble
    hear(mine, table, "no address", good)
    (trouble,) = troubles([mine.socket.refusals])
    assert "2 datagrams refused as row-malformed" in trouble
    assert "no address" in trouble
    hear(mine, table, str(FLOATING_IP), good)
    assert list(read(mine)) == [FLOATING_IP]  # type: ignore[call-overload]
    assert [location.floating_ip for location in heard] == ([FLOATING_IP] if table == LOCATION_TABLE else [])


@pytest.mark.parametrize(
    ("table", "key", "version", "value"),
    [
        (ASSIGNMENT_TABLE, str(FLOATING_IP), (2**24, 0, 0), encode_assignment(ASSIGNMENT)),
        (ASSIGNMENT_TABLE, str(FLOATING_IP), (1, 2**24, 0), encode_assignment(ASSIGNMENT)),
        (LOCATION_TABLE, str(FLOATING_IP), (1, 2, 2**18), b"worker1"),
        (LEADER_TABLE, "leader", (2**24, 0, 0), b"controller-a"),
        (LEADER_TABLE, "leaders", (1, 0, 0), b"controller-a"),
        (LEADER_TABLE, "leader", (1, 0, 0), b"c" * 64),
        (KEYS_TABLE, "worker1", (2**62, 0, 0), row.encode_keys({})),
        (KEYS_TABLE, "worker1", (1, 0, 0), b"\x81\xa5agent\x91\xc4\x01x"),
        (CONFLICT_TABLE, str(FLOATING_IP), (2**62, 0, 0), b"\2\0\0\0\0\7"),
    ],
)
def test_a_row_that_no_later_one_could_supersede_is_not_taken_over(
    table: str, key: str, version: tuple[int, int, int], value: bytes
) -> None:
    """One such row, from a bug or from whoever has the key, would stay for ever on every member."""
    mine = view("worker1", "127.0.0.1", 9)
    hear(mine, table, key, value, version=version)
    assert mine.socket.refusals.by_reason == {"row-malformed": 1}
    assert (mine.assignments(), mine.locations(), mine.leader(), mine.conflicts()) == ({}, {}, None, {})


def test_what_a_member_of_another_release_says_is_a_trouble_that_says_why() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    mine.pump.on_datagram(Source(Address("127.0.0.9", 9), "worker9", 9), msgspec.msgpack.encode([7, 7, 7, []]))
    (trouble,) = troubles([mine.socket.refusals])
    assert "refused as not-understood, at last from 127.0.0.9:9: gossip: protocol version 7" in trouble


def test_a_flood_of_new_names_is_a_trouble() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    for index in range(2000):
        record = Record(f"m{index}", "127.0.0.9", 9, 1, ALIVE, 0, encode_metadata(METADATA))
        mine.pump.on_datagram(Source(record.address, "worker9", 9), encode_packet([encode_message(record)]))
    assert 1000 < len(mine.members()) < 2000
    assert "refused as members-rate" in troubles([mine.socket.refusals])[0]


def test_a_node_with_more_segments_than_can_be_told_tells_the_first_and_says_so() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    segments = tuple(dataclasses.replace(SEGMENT, interface=f"enp{index}s0f0np{index}") for index in range(40))
    mine.describe(ready=True, segments=segments, role=NodeRole.WORKER, schedulable=True)
    told = mine.members()["worker1"][1].segments
    assert told == segments[: len(told)]
    assert len(told) > 8
    assert mine.troubles() == [
        f"gossip: {40 - len(told)} segments of this node are not told to the others: there is room for no more"
    ]
    mine.describe(ready=True, segments=segments[:3], role=NodeRole.WORKER, schedulable=True)
    assert mine.troubles() == []


def test_a_member_whose_metadata_is_not_understood_is_left_out_of_the_members(caplog: pytest.LogCaptureFixture) -> None:
    mine = view("worker1", "127.0.0.1", 9)
    record = Record("worker9", "127.0.0.9", 9, 1, ALIVE, 0, b"\xc1")
    mine.pump.on_datagram(Source(record.address, "worker9", 9), encode_packet([encode_message(record)]))
    with caplog.at_level(logging.DEBUG, "service.wire.decoded"):
        assert list(mine.members()) == ["worker1"]
    assert "worker9" in caplog.text


def test_what_four_hundred_members_say_is_decoded_once_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each turn of an agent all nodes are asked for, and each one's address: it took the loop for a second."""
    decoded: list[str] = []
    real = row.decode_metadata

    def counted(data: bytes, *, member: str = "") -> MemberMetadata:
        decoded.append(member)
        return real(data, member=member)

    monkeypatch.setattr(row, "decode_metadata", counted)
    mine = view("worker1", "127.0.0.1", 9)
    for index in range(400):
        say(mine, f"m{index}", 1)
    for _ in range(3):
        assert len(mine.gateway_nodes()) == 401
        assert all(mine.sockets(7)[f"m{index}"] == Address("127.0.0.9", 7) for index in range(400))
    assert len(decoded) == 401
    say(mine, "m7", 2)
    assert len(mine.gateway_nodes()) == 401
    assert decoded[401:] == ["m7"]


def say(each: ClusterView, name: str, incarnation: int) -> None:
    record = Record(name, "127.0.0.9", 9, incarnation, ALIVE, 0, encode_metadata(METADATA))
    each.pump.on_datagram(Source(record.address, name, 9), encode_packet([encode_message(record)]))


@pytest.mark.parametrize(
    ("decoder", "read"),
    [("decode_assignment", ClusterView.assignments), ("decode_location", ClusterView.locations)],
)
def test_a_table_of_thousands_of_rows_is_decoded_once(
    monkeypatch: pytest.MonkeyPatch, decoder: str, read: Callable[[ClusterView], dict[IPv4Address, object]]
) -> None:
    decoded: list[str] = []
    real = getattr(row, decoder)

    def counted(key: str, version: tuple[int, int, int], data: bytes) -> object:
        decoded.append(key)
        return real(key, version, data)

    monkeypatch.setattr(row, decoder, counted)
    mine = view("worker1", "127.0.0.1", 9)
    for index in range(1000):
        mine.publish_assignment(dataclasses.replace(ASSIGNMENT, floating_ip=FLOATING_IP + index))
        mine.publish_location(dataclasses.replace(LOCATION, floating_ip=FLOATING_IP + index))
    assert [len(read(mine)) for _ in range(3)] == [1000] * 3
    mine.publish_assignment(dataclasses.replace(ASSIGNMENT, holder="worker2", stamp=Stamp(4, 10)))
    mine.publish_location(dataclasses.replace(LOCATION, node="worker2", token=Token(4, 10, 1)))
    assert "worker2" in str(read(mine)[FLOATING_IP])
    assert len(decoded) == 1001


def test_a_withdrawn_row_is_none() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    mine.publish_assignment(ASSIGNMENT)
    mine.publish_conflict(FLOATING_IP, b"\2\0\0\0\0\7", at_s=1)
    mine.publish_assignment(Assignment(FLOATING_IP, None, None, Stamp(4, 10)), removed=True)
    mine.publish_conflict(FLOATING_IP, b"", at_s=2)
    assert (mine.assignments(), mine.conflicts()) == ({}, {})


def test_a_row_older_than_the_known_one_is_not_taken() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    assert mine.publish_location(LOCATION)
    assert not mine.publish_location(Location(FLOATING_IP, "worker2", Token(1, 2, 2)))
    assert mine.locations() == {FLOATING_IP: LOCATION}


class Hand:
    """A clock that is set by hand."""

    now_ns = 1

    def __call__(self) -> int:
        return self.now_ns


def test_what_is_said_of_an_address_that_is_no_floating_ip_any_more_ends_and_is_forgotten() -> None:
    clock = Hand()
    mine = view("controller-a", "127.0.0.1", 9, clock=clock)
    mine.publish_leader(4)
    for floating_ip in (FLOATING_IP, OTHER_IP):
        mine.publish_assignment(Assignment(floating_ip, "worker1", None, Stamp(4, 9)))
        mine.publish_location(Location(floating_ip, "worker1", Token(4, 9, 3)))
        mine.publish_conflict(floating_ip, b"\2\0\0\0\0\7", at_s=100)
    mine.publish_assignment(Assignment(FLOATING_IP, None, None, Stamp(4, 10)), removed=True)
    mine.tidy([OTHER_IP])
    assert [list(found) for found in (mine.assignments(), mine.locations(), mine.conflicts())] == [[OTHER_IP]] * 3
    assert mine._machine.rows(ASSIGNMENT_TABLE)[str(FLOATING_IP)].version == (4, 10, 0), "it was a tombstone already"
    for _ in range(73):
        assert rows_kept(mine) == [2, 2, 2]
        clock.now_ns += TICK_NS
        mine.tidy([OTHER_IP])
    assert rows_kept(mine) == [1, 1, 1]


def rows_kept(each: ClusterView) -> list[int]:
    return [len(each._machine.rows(table)) for table in (ASSIGNMENT_TABLE, LOCATION_TABLE, CONFLICT_TABLE)]


def test_an_address_that_becomes_a_floating_ip_again_is_held_by_a_later_token() -> None:
    mine = view("controller-a", "127.0.0.1", 9)
    mine.publish_location(LOCATION)
    mine.tidy([])
    assert not mine.publish_location(Location(FLOATING_IP, "worker1", Token(1, 2, 4))), "of the former assignment"
    later = Location(FLOATING_IP, "worker2", Token(1, 3, 1))
    assert mine.publish_location(later)
    mine.tidy([FLOATING_IP])
    assert mine.locations() == {FLOATING_IP: later}


def test_an_address_that_is_assigned_still_keeps_its_rows_though_it_is_listed_no_longer() -> None:
    mine = view("controller-a", "127.0.0.1", 9)
    mine.publish_assignment(ASSIGNMENT)
    mine.publish_location(LOCATION)
    mine.tidy([])
    assert mine.locations() == {FLOATING_IP: LOCATION}


def test_rows_that_an_older_release_withdrew_become_tombstones_too() -> None:
    clock = Hand()
    mine = view("controller-a", "127.0.0.1", 9, clock=clock)
    hear(mine, ASSIGNMENT_TABLE, str(FLOATING_IP), encode_assignment(ASSIGNMENT, removed=True))
    hear(mine, CONFLICT_TABLE, str(FLOATING_IP), b"")
    for _ in range(73):
        mine.tidy([])
        clock.now_ns += TICK_NS
    mine.tidy([])
    assert rows_kept(mine) == [0, 0, 0]


def test_a_node_whose_clock_is_behind_can_say_that_a_stranger_is_gone() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    hear(mine, CONFLICT_TABLE, str(FLOATING_IP), b"\2\0\0\0\0\7", version=(2_000_000_000, 5, 0))
    assert mine.conflicts() == {FLOATING_IP: b"\2\0\0\0\0\7"}
    assert mine.publish_conflict(FLOATING_IP, b"", at_s=1_900_000_000)
    assert mine.conflicts() == {}


async def test_every_process_tells_all_which_keys_it_has_in_force(
    unused_udp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "PERIOD_S", 0.01)
    agent, controller = (
        view("worker1", "127.0.0.1", unused_udp_port),
        view("controller-a", "127.0.0.3", unused_udp_port),
    )
    keeper: list[str] = []
    agent.add_keys("keeper", lambda: tuple(keeper))
    ids = agent.socket.key_ids
    async with running(agent, controller):
        await until(
            lambda: (
                controller.keys()
                == agent.keys()
                == {"controller-a": {"controller": ids}, "worker1": {"agent": ids, "keeper": None}}
            )
        )
        keeper.extend(("0a0a0a0a", "0b0b0b0b"))
        await until(lambda: controller.keys()["worker1"]["keeper"] == ("0a0a0a0a", "0b0b0b0b"))


async def test_a_restarted_process_tells_its_keys_above_what_its_former_life_told(
    unused_udp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "PERIOD_S", 0.01)
    mine = view("worker1", "127.0.0.1", unused_udp_port)
    async with running(mine):
        await until(lambda: mine.keys()["worker1"]["agent"])
        hear(mine, KEYS_TABLE, "worker1", row.encode_keys({"agent": ("0a0a0a0a",)}), version=(57, 0, 0))
        await until(lambda: mine.keys()["worker1"]["agent"] == mine.socket.key_ids)


def test_keys_of_a_member_that_is_forgotten_end_and_of_one_that_is_back_are_told_again() -> None:
    mine = view("controller-a", "127.0.0.1", 9)
    hear(mine, KEYS_TABLE, "worker7", row.encode_keys({"agent": ("0a0a0a0a",)}), version=(5, 0, 0))
    mine.tidy([])
    (entry,) = mine._machine.rows(KEYS_TABLE).values()
    assert entry.ended
    assert (5, 0, 0) < entry.version < (6, 0, 0)


def test_a_suspect_counts_as_up() -> None:
    states = {state: node_state(state) for state in MemberState}
    assert [state for state, seen in states.items() if seen is NodeState.UP] == [MemberState.ALIVE, MemberState.SUSPECT]


def test_a_seed_that_cannot_be_read_is_named() -> None:
    assert parse_seeds(("10.0.0.1", "10.0.0.2:7"), 9640) == (Address("10.0.0.1", 9640), Address("10.0.0.2", 7))
    with pytest.raises(OperatorError, match=r"gossip\.seeds\[1\].*'example\.org'"):
        parse_seeds(("10.0.0.1", "example.org"), 9640)


async def test_o3_a_node_that_any_member_has_drained_is_given_nothing_by_all_of_them(unused_udp_port: int) -> None:
    first = view("worker1", "127.0.0.1", unused_udp_port)
    second = view("controller-a", "127.0.0.2", unused_udp_port)

    def seen() -> tuple[bool, bool]:
        (node,) = second.gateway_nodes()
        return node.schedulable, node.drained

    async with running(first, second):
        await until(lambda: second.gateway_nodes())
        assert seen() == (True, False)
        first.orders.drain("worker1", is_drained=True, at_s=1000)
        await until(lambda: seen() == (False, True))
        second.orders.drain("worker1", is_drained=False, at_s=1000)
        assert seen() == (True, False)
        await until(lambda: not first.orders.drains()["worker1"].is_drained)


async def test_o4_an_order_reaches_whoever_leads_and_its_end_whoever_ordered_it(unused_udp_port: int) -> None:
    first = view("worker1", "127.0.0.1", unused_udp_port)
    second = view("controller-a", "127.0.0.2", unused_udp_port)
    async with running(first, second):
        await until(lambda: second.gateway_nodes())
        order = first.orders.move(FLOATING_IP, "worker1", at_s=1000)
        await until(lambda: second.orders.moves() == {FLOATING_IP: order})
        done = dataclasses.replace(order, state=MoveState.DONE)
        second.orders.report(done, term=4)
        await until(lambda: first.orders.moves() == {FLOATING_IP: done})


def test_orders_for_what_is_there_no_more_end_and_others_stay() -> None:
    mine = view("worker1", "127.0.0.1", 9)
    for node in ("worker1", "worker9"):
        mine.orders.drain(node, is_drained=True, at_s=1000)
    for floating_ip in (FLOATING_IP, OTHER_IP):
        mine.orders.move(floating_ip, "", at_s=1000)
    mine.tidy([FLOATING_IP])
    assert (list(mine.orders.drains()), list(mine.orders.moves())) == (["worker1"], [FLOATING_IP])


def test_o2_a_node_tells_its_labels() -> None:
    settings = Settings(node="worker1", bind_address="127.0.0.1", keyring=("ab" * 32,))
    metadata = dataclasses.replace(METADATA, labels=(("rack", "a"),))
    mine = ClusterView(settings, metadata, clock=time.monotonic_ns, changed=lambda: None)
    assert [node.labels for node in mine.gateway_nodes()] == [(("rack", "a"),)]


@pytest.mark.parametrize("is_so", [True, False])
def test_u1_x2_a_node_tells_whether_it_translates_and_takes_packets_out_of_the_tunnel(is_so: bool) -> None:
    settings = Settings(node="one", bind_address="127.0.0.1", keyring=("ab" * 32,))
    metadata = dataclasses.replace(METADATA, translates=is_so, tunnels=is_so)
    mine = ClusterView(settings, metadata, clock=time.monotonic_ns, changed=lambda: None)
    assert [(node.translates, node.tunnels) for node in mine.gateway_nodes()] == [(is_so, is_so)]
