"""Whole walks that are not ours, and those that end: what is left alone, and what is dropped and seen at no port (L1).

Between real stacks, with every port of the segment watched.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from service.datapath.layout import MapName, SelectedState
from service.model.drop import DropReason
from tests.datapath.conversation import (
    PORT,
    connected,
    exchange,
    forget_connections,
    listening,
    opened,
    talking,
    transfer,
)
from tests.datapath.node import FLOATING_IP, OTHER_SERVER, POD, SERVER, TOKEN
from tests.datapath.segment import ADDRESSES, BLOCKS, POD_SIDE, Segment, build, uplink

pytestmark = [pytest.mark.bpf, pytest.mark.root]


@pytest.fixture(scope="module")
def segment(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with build(bpffs, tmp_path_factory.mktemp("ends")) as built:
        yield built


@pytest.fixture(autouse=True, params=["policy path", "direct path"])
def watched(segment: Segment, request: pytest.FixtureRequest) -> Iterator[None]:
    """With the pod's node's counters of drops at nothing."""
    segment.allow_direct(request.param == "direct path")
    segment.hold("b")
    for node in segment.nodes.values():
        for key in tuple(node.map(MapName.DROPS).items()):
            node.map(MapName.DROPS).delete(key)
    yield
    assert segment.leaks() == {}


def flows_made(segment: Segment) -> int:
    return segment.nodes["a"].counters().get("flows_made", 0)


# ---- what is left alone ----


@contextmanager
def from_outside(segment: Segment) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection that somebody outside has opened to the pod's own address: (the pod's end, the other)."""
    with segment.reached(PORT), ExitStack() as stack:
        server, client = (
            stack.enter_context(opened(segment, place, socket.SOCK_STREAM)) for place in ("pod", "router")
        )
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((str(POD), PORT))
        server.listen(1)
        client.bind((str(SERVER), 0))
        client.connect((str(POD), PORT))
        accepted, peer = server.accept()
        stack.enter_context(accepted)
        assert peer[0] == str(SERVER)
        accepted.settimeout(10)
        yield accepted, client
        for end in (accepted, client):
            end.close()
        time.sleep(0.1)


def test_c1_the_reply_of_a_connection_from_outside_is_untouched(segment: Segment) -> None:
    made = flows_made(segment)
    with from_outside(segment) as (accepted, client):
        transfer(client, accepted, 100_000)
        transfer(accepted, client, 100_000)
        assert client.getpeername() == (str(POD), PORT)
    assert flows_made(segment) == made
    assert segment.nodes["a"].drops() == {}


def test_d4_a_connection_from_outside_that_conntrack_forgot_is_not_taken_for_the_pods(segment: Segment) -> None:
    """What the pod says meanwhile is dropped, and comes once the other side has spoken."""
    made = flows_made(segment)
    with from_outside(segment) as (accepted, client):
        transfer(client, accepted, 1000)
        forget_connections(segment)
        accepted.send(b"anybody?")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(10)
        counted = segment.places["a"].command("nft list counter ip egressgw guard_forgotten")
        assert int(counted.split("packets")[1].split()[0]) > 0
        client.send(b"yes")
        client.settimeout(10)
        assert (accepted.recv(10), client.recv(10)) == (b"yes", b"anybody?")
    assert flows_made(segment) == made


def asked_by_pod(segment: Segment, place: str, address: str) -> str:
    """As whom the pod's datagram comes to this address, and that the answer comes back."""
    server, client = (opened(segment, each, socket.SOCK_DGRAM) for each in (place, "pod"))
    with closing(server), closing(client):
        server.bind((address, PORT))
        client.connect((address, PORT))
        client.send(b"question")
        _, peer = server.recvfrom(100)
        server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
        return str(peer[0])


@contextmanager
def way_back(segment: Segment, place: str) -> Iterator[None]:
    """To the pod's own address, from there."""
    segment.places[place].command(f"ip route add {POD} via {ADDRESSES['a']}")
    try:
        yield
    finally:
        segment.places[place].command(f"ip route del {POD}")


def test_c2_a_destination_in_the_cluster_is_untouched_under_a_rule_for_everything(segment: Segment) -> None:
    made = flows_made(segment)
    with way_back(segment, "c"):
        assert asked_by_pod(segment, "c", ADDRESSES["c"]) == str(POD)
    assert flows_made(segment) == made


def test_c3_a_network_excluded_within_a_wider_one_is_untouched(segment: Segment) -> None:
    with way_back(segment, "router"):
        assert asked_by_pod(segment, "router", str(OTHER_SERVER)) == str(POD)
        assert asked_by_pod(segment, "router", str(SERVER)) == str(FLOATING_IP)


# ---- what is dropped, and seen nowhere ----


def assert_lost(segment: Segment, place: str, reason: DropReason) -> None:
    """All of the pod's packets; each is counted there, for its floating IP."""
    with talking(segment) as (client, server):
        assert exchange(client, server, 3) == 0
    assert segment.nodes[place].drops() == {(FLOATING_IP, reason): 3}


def test_c4_without_a_way_to_a_holder_the_pods_packets_are_seen_nowhere(segment: Segment) -> None:
    segment.nodes["a"].map(MapName.WAYS).delete(FLOATING_IP.packed)
    assert_lost(segment, "a", DropReason.NO_GATEWAY)


def test_c5_of_a_holder_without_an_interface_on_the_segment_nothing_leaves(segment: Segment) -> None:
    holder = segment.nodes["b"]
    holder.floating_ip(FLOATING_IP, None)
    try:
        assert_lost(segment, "b", DropReason.NO_GATEWAY)
    finally:
        holder.floating_ip(FLOATING_IP, uplink("b"))


def test_c12_when_all_ports_are_taken_the_next_connection_waits_and_leaks_nothing(segment: Segment) -> None:
    node, far = segment.nodes["a"], (str(SERVER), PORT + 1)
    node.own(BLOCKS[-1:])
    try:
        with ExitStack() as stack:
            server = stack.enter_context(opened(segment, "router", socket.SOCK_DGRAM))
            server.bind(far)
            seen = set()
            for _ in range(64):
                stack.enter_context(opened(segment, "pod", socket.SOCK_DGRAM)).sendto(b"one", far)
                seen.add(server.recvfrom(10)[1])
            assert len(seen) == 64
            assert {address for address, _ in seen} == {str(FLOATING_IP)}
            server.settimeout(0.3)
            stack.enter_context(opened(segment, "pod", socket.SOCK_DGRAM)).sendto(b"more", far)
            with pytest.raises(TimeoutError):
                server.recv(10)
            assert node.drops() == {(FLOATING_IP, DropReason.PORTS_EXHAUSTED): 1}
    finally:
        node.own(BLOCKS)
        for name in (MapName.FLOWS_DATAGRAM, MapName.MIRRORS_DATAGRAM, MapName.PORT_HINTS):
            for key in tuple(node.map(name).items()):
                node.map(name).delete(key)


def test_q3_a_member_that_uses_a_block_which_the_holder_knows_as_anothers_reaches_nobody(segment: Segment) -> None:
    """Two nodes never use one block, whatever they believe."""
    segment.nodes["b"].assign(BLOCKS, member=3, mac=uplink("c").mac, device=uplink("b"))
    try:
        assert_lost(segment, "b", DropReason.WRONG_BLOCK)
    finally:
        segment.nodes["b"].assign(BLOCKS, mac=uplink("a").mac, device=uplink("b"))


def test_g5_q6_without_a_block_nothing_is_seen_and_with_one_all_is_well(segment: Segment) -> None:
    node = segment.nodes["a"]
    node.map(MapName.OWN_BLOCKS).delete(FLOATING_IP.packed)
    assert_lost(segment, "a", DropReason.NO_PORTS)
    node.own(BLOCKS)
    with talking(segment) as (client, server):
        assert exchange(client, server, 3) == 3


def test_r3_a_holder_whose_rows_nobody_has_vouched_for_lets_nothing_pass(segment: Segment) -> None:
    """They may be of a tenure long ago, and its agent late or dead."""
    holder = segment.nodes["b"]
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            holder.trust(token=TOKEN - 1)
            for sender, reason in ((client, DropReason.WRONG_BLOCK), (accepted, DropReason.NO_FLOW)):
                sender.send(b"anybody?")
                time.sleep(0.1)
                assert (FLOATING_IP, reason) in holder.drops()
            holder.trust()
            assert (client.recv(10), accepted.recv(10)) == (b"anybody?", b"anybody?")


def test_e2_what_a_policy_names_no_more_never_leaves_bare(segment: Segment) -> None:
    """W10: while the selection goes, and when the flow has ended; what others masquerade is no business of ours."""
    node = segment.nodes["a"]
    with talking(segment) as (client, server):
        assert exchange(client, server, 3) == 3
        try:
            node.select(device=POD_SIDE, state=SelectedState.CHANGING)
            assert exchange(client, server, 3) == 0
            node.select(device=POD_SIDE, rule_set=1)
            assert exchange(client, server, 3) == 0
        finally:
            node.select(device=POD_SIDE)
    reasons = {reason for _, reason in node.drops()}
    assert reasons <= {DropReason.ENDPOINT_PENDING, DropReason.FLOW_ENDED}
