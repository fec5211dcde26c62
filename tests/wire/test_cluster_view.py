"""What one process learns of another by gossip, over real sockets; and that nonsense costs no more than itself."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest

from service.gateway.row import ASSIGNMENT_TABLE, CONFLICT_TABLE, LOCATION_TABLE, MemberMetadata, encode_assignment
from service.gossip.member import MemberState
from service.gossip.message import ALIVE, Record, TableRow, encode_message, encode_packet
from service.model.assignment import Assignment, Location
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.machine import Address, Source
from service.settings import GossipSettings, PortSettings, Settings
from service.wire.cluster_view import ClusterView, node_state, parse_seeds

FLOATING_IP = IPv4Address("192.168.1.100")
OTHER_IP = IPv4Address("192.168.1.101")
SEGMENT = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.21"), b"\2\0\0\0\0\1")
ASSIGNMENT = Assignment(FLOATING_IP, "worker1", None, Stamp(4, 9))
LOCATION = Location(FLOATING_IP, "worker1", Token(1, 2, 3))


def view(name: str, host: str, port: int, **callbacks: Callable[..., None]) -> ClusterView:
    role = NodeRole.CONTROLLER if name.startswith("controller") else NodeRole.WORKER
    settings = Settings(
        node=name,
        bind_address=host,
        keyring=("ab" * 32,),
        ports=PortSettings(gossip=port),
        gossip=GossipSettings(seeds=("127.0.0.1",)),
    )
    metadata = MemberMetadata(role, False, True, (), "1.2.3", int(host[-1]))
    callbacks.setdefault("changed", lambda: None)
    return ClusterView(settings, metadata, clock=time.monotonic_ns, **callbacks)  # type: ignore[arg-type]


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


def hear(each: ClusterView, table: str, key: str, value: bytes) -> None:
    """Let a member of another release tell a row."""
    told = encode_packet([encode_message(TableRow(table, key, (1, 2, 3), value))])
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
        assert not second.is_answering("worker9")
    (node,) = second.gateway_nodes()
    assert (node.name, node.state, node.segments) == ("worker1", NodeState.UP, (SEGMENT,))
    assert list(second.members()) == ["controller-a", "worker1"]
    assert second.address_of("worker1", 9644) == Address("127.0.0.1", 9644)
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
def test_a_malformed_row_is_named_in_the_log_and_hides_no_other(
    table: str, good: bytes, bad: bytes, read: Callable[[ClusterView], object], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Location] = []
    mine = view("worker1", "127.0.0.1", 9, location_heard=heard.append)
    hear(mine, table, str(OTHER_IP), bad)
    hear(mine, table, "no address", good)
    hear(mine, table, str(FLOATING_IP), good)
    caplog.clear()
    assert list(read(mine)) == [FLOATING_IP]  # type: ignore[call-overload]
    assert len(caplog.messages) == 2
    assert str(OTHER_IP) in caplog.messages[0]
    assert "no address" in caplog.messages[1]
    assert [location.floating_ip for location in heard] == ([FLOATING_IP] if table == LOCATION_TABLE else [])


def test_a_member_whose_metadata_is_not_understood_is_left_out_of_the_members(caplog: pytest.LogCaptureFixture) -> None:
    mine = view("worker1", "127.0.0.1", 9)
    record = Record("worker9", "127.0.0.9", 9, 1, ALIVE, 0, b"\xc1")
    mine.pump.on_datagram(Source(record.address, "worker9", 9), encode_packet([encode_message(record)]))
    with caplog.at_level(logging.DEBUG, "service.wire.cluster_view"):
        assert list(mine.members()) == ["worker1"]
    assert "worker9" in caplog.text


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


def test_a_suspect_counts_as_up() -> None:
    states = {state: node_state(state) for state in MemberState}
    assert [state for state, seen in states.items() if seen is NodeState.UP] == [MemberState.ALIVE, MemberState.SUSPECT]


def test_a_seed_that_cannot_be_read_is_named() -> None:
    assert parse_seeds(("10.0.0.1", "10.0.0.2:7"), 9640) == (Address("10.0.0.1", 9640), Address("10.0.0.2", 7))
    with pytest.raises(OperatorError, match=r"gossip\.seeds\[1\].*'example\.org'"):
        parse_seeds(("10.0.0.1", "example.org"), 9640)
