"""Whole walks between real stacks: what the pod and the server see, and what survives a change of gateway (R1).

Meanwhile every port of the segment is watched: whoever leaks fails (L1).
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.datapath.layout import MapName
from service.datapath.planter import Planter
from service.network import bpf_call
from service.network.conntrack import Conntrack
from tests.datapath import packet
from tests.datapath.conversation import (
    IP_MTU,
    IP_MTU_DISCOVER,
    IP_PMTUDISC_DO,
    IP_RECVERR,
    PORT,
    asked,
    connected,
    exchange,
    forget_connections,
    listening,
    narrow,
    opened,
    put,
    talking,
    teller,
    transfer,
)
from tests.datapath.node import FLOATING_IP, POD, RULE_SET, SEED, SERVER, UDP_FLOW
from tests.datapath.program import UNSPEC
from tests.datapath.segment import ADDRESSES, BLOCKS, POD_SIDE, Segment, build, uplink
from tests.network.tiny_program import load

pytestmark = [pytest.mark.bpf, pytest.mark.root]

NARROW = 1300
ASKED_AGAIN_S = 0.6
"""What a gateway has found of a route or a device holds for half a second (rules H1, F5)."""
FIRST, LAST = 1024, 1024 + 64 * len(BLOCKS) - 1


@pytest.fixture(scope="module")
def segment(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with build(bpffs, tmp_path_factory.mktemp("segment")) as built:
        yield built


@pytest.fixture(autouse=True, params=["policy path", "direct path"])
def held(segment: Segment, request: pytest.FixtureRequest) -> Iterator[None]:
    segment.allow_direct(request.param == "direct path")
    segment.hold("b")
    yield
    assert segment.leaks() == {}


def test_the_server_sees_the_floating_ip_and_a_port_of_the_pods_node(segment: Segment) -> None:
    with listening(segment) as server:
        client, accepted, peer = connected(segment, server)
        with closing(client), closing(accepted):
            assert peer[0] == str(FLOATING_IP)
            assert FIRST <= peer[1] <= LAST


@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "download"])
def test_c29_bulk_goes_through_whoever_completes_the_checksums(segment: Segment, is_upload: bool) -> None:
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(*((client, accepted) if is_upload else (accepted, client)))


@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "download"])
def test_r1_a_connection_survives_a_change_of_gateway_whoever_speaks(segment: Segment, is_upload: bool) -> None:
    """The new one was told nothing of it: only the way moves."""
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            ends = (client, accepted) if is_upload else (accepted, client)
            transfer(*ends, 100_000)
            for gateway in ("c", "b", "c"):
                segment.hold(gateway)
                transfer(*ends, 100_000)
    assert segment.nodes["c"].counters()["forwarded"] > 0


def test_r1_an_idle_connection_is_spoken_to_first_through_the_new_gateway(segment: Segment) -> None:
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 1000)
            segment.hold("c")
            transfer(accepted, client, 1000)


@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "download"])
def test_c6_a_pod_of_the_holder_itself_is_like_any_other_and_goes_on_when_that_changes(
    segment: Segment, is_upload: bool
) -> None:
    """Rule H4."""
    with listening(segment) as server:
        segment.hold("a")
        client, accepted, peer = connected(segment, server)
        with closing(client), closing(accepted):
            assert peer[0] == str(FLOATING_IP)
            ends = (client, accepted) if is_upload else (accepted, client)
            transfer(*ends, 100_000)
            for gateway in ("b", "a"):
                segment.hold(gateway)
                transfer(*ends, 100_000)


def announce(segment: Segment, name: str) -> None:
    """As the keeper of a new holder does it at once."""
    own = uplink(name).mac
    message = packet.arp(1, own, FLOATING_IP, packet.BROADCAST, FLOATING_IP)
    put(segment, name, "eth0", packet.ethernet(packet.BROADCAST, own, packet.ARP, message))


def test_r2_an_announcement_moves_the_way_at_once_and_for_half_a_second_unless_it_is_confirmed(
    segment: Segment,
) -> None:
    """Nobody but the new holder itself says so at first: neither gossip nor a leader."""
    node = segment.nodes["a"]
    for key in tuple(node.map(MapName.WAY_HINTS).items()):
        node.map(MapName.WAY_HINTS).delete(key)
    with talking(segment) as (client, server):
        assert exchange(client, server, 3) == 3
        segment.move_lease("c")
        assert exchange(client, server, 1) == 0, "the pod's node knows of nothing"
        node.beat()
        announce(segment, "c")
        assert exchange(client, server, 3) == 3
        time.sleep(0.6)
        node.beat()
        assert exchange(client, server, 1) == 0, "without an authenticated word"
        segment.lead("c")
        assert exchange(client, server, 3) == 3


def test_l1_who_leaks_is_seen_at_the_ports(segment: Segment) -> None:
    """The check of all tests here."""
    bare = packet.ethernet(uplink("router").mac, uplink("a").mac, packet.IPV4, UDP_FLOW.outbound())
    forged = packet.ethernet(uplink("a").mac, uplink("router").mac, packet.IPV4, UDP_FLOW.translated())
    message = packet.arp(1, uplink("router").mac, FLOATING_IP, bytes(6), IPv4Address(ADDRESSES["b"]))
    asking = packet.ethernet(packet.BROADCAST, uplink("router").mac, packet.ARP, message)
    put(segment, "a", "eth0", bare)
    for frame in (forged, asking):
        put(segment, "router", "eth0", frame)
    assert segment.leaks() == {"bare": 1, "stranger": 2}


@pytest.mark.parametrize("size", [1, 1472, 4000, 30000])
def test_c28_datagrams_of_any_size_go_both_ways(segment: Segment, size: int) -> None:
    """Those that do not fit are cut by the stacks."""
    server, client = (opened(segment, place, socket.SOCK_DGRAM) for place in ("router", "pod"))
    with closing(server), closing(client):
        server.bind((str(SERVER), PORT))
        client.sendto(bytes(size), (str(SERVER), PORT))
        data, peer = server.recvfrom(65536)
        assert (len(data), peer[0]) == (size, str(FLOATING_IP))
        server.sendto(bytes(size), peer)
        assert len(client.recv(65536)) == size


@pytest.mark.parametrize("size", [56, 4000])
def test_a_pod_pings_the_server(segment: Segment, size: int) -> None:
    segment.places["pod"].command(f"ping -c 2 -i 0.2 -W 2 -s {size} {SERVER}")


def test_c14_sockets_of_the_nodes_on_a_flows_port_are_in_nobodys_way(segment: Segment) -> None:
    with talking(segment) as (client, server):
        assert exchange(client, server, 1) == 1
        client.send(b"question")
        _, (_, nat_port) = server.recvfrom(100)
        sockets = [opened(segment, place, socket.SOCK_DGRAM) for place in ("a", "b")]
        for taken in sockets:
            taken.bind(("0.0.0.0", nat_port))
            taken.settimeout(0)
        assert exchange(client, server, 5) == 5
        for taken in sockets:
            with closing(taken), pytest.raises(BlockingIOError):
                taken.recv(100)


def test_c25_a_closed_port_is_told_to_the_pod(segment: Segment) -> None:
    client = opened(segment, "pod", socket.SOCK_DGRAM)
    with closing(client):
        client.connect((str(SERVER), 9))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_c26_a_pod_tells_the_server_that_a_port_is_closed(segment: Segment) -> None:
    server, client = (opened(segment, place, socket.SOCK_DGRAM) for place in ("router", "pod"))
    with closing(server):
        server.bind((str(SERVER), PORT))
        with closing(client):
            client.sendto(b"hello", (str(SERVER), PORT))
            _, peer = server.recvfrom(10)
        server.connect(peer)
        server.send(b"gone?")
        with pytest.raises(ConnectionRefusedError):
            server.recv(10)


def test_h2_traceroute_shows_the_nodes_on_the_way(segment: Segment) -> None:
    """Its own node, then the holder, then the server."""
    client = opened(segment, "pod", socket.SOCK_DGRAM)
    with closing(client):
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        client.connect((str(SERVER), 33434))
        seen = []
        for ttl in (1, 2, 3):
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            client.send(b"where?")
            seen.append(teller(client))
    assert seen == [ADDRESSES["a"], ADDRESSES["b"], str(SERVER)]


def narrow_way(segment: Segment, where: str) -> AbstractContextManager[None]:
    """Behind the gateway, on the uplink of the pod's node, or on the gateway's."""
    if where == "behind":
        route = f"{SERVER} via {ADDRESSES['router']} dev eth0"
        return narrow(segment, "b", f"ip route add {route} mtu lock {NARROW}", f"ip route del {route}")
    return narrow(segment, where, f"ip link set eth0 mtu {NARROW}", "ip link set eth0 mtu 1500")


@pytest.mark.parametrize("where", ["behind", "a", "b"])
def test_c31_an_upload_goes_on_when_the_way_becomes_narrow(segment: Segment, where: str) -> None:
    """The pod's stack learns of it while it sends, as soon as the gateway asks for the route again."""
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 100_000)
            with narrow_way(segment, where):
                until = time.monotonic() + ASKED_AGAIN_S
                while time.monotonic() < until:
                    transfer(client, accepted, 100_000)
                assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) == NARROW
                transfer(client, accepted, 1_000_000)


def test_c31_a_download_goes_on_when_the_way_to_the_pods_node_becomes_narrow(segment: Segment) -> None:
    """The server's stack is told as the floating IP."""
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(accepted, client, 100_000)
            with narrow_way(segment, "b"):
                until = time.monotonic() + ASKED_AGAIN_S
                while time.monotonic() < until:
                    transfer(accepted, client, 100_000)
                assert accepted.getsockopt(socket.IPPROTO_IP, IP_MTU) == NARROW
                transfer(accepted, client, 1_000_000)


def assert_refused(segment: Segment) -> None:
    """By the way of now, a datagram that may not be cut: the pod's socket says so, and one that fits gets there."""
    server, client = (opened(segment, place, socket.SOCK_DGRAM) for place in ("router", "pod"))
    with closing(server), closing(client):
        server.bind((str(SERVER), PORT))
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        client.connect((str(SERVER), PORT))
        client.send(bytes(NARROW - 27))
        with pytest.raises(OSError, match="too long"):
            client.recv(10)
        assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) == NARROW
        client.send(bytes(NARROW - 28))
        assert len(server.recv(2000)) == NARROW - 28


@pytest.mark.parametrize("where", ["behind", "a", "b"])
def test_c31_a_pods_datagram_that_may_not_be_cut_is_refused_by_the_next_send(segment: Segment, where: str) -> None:
    with narrow_way(segment, where):
        time.sleep(ASKED_AGAIN_S)
        assert_refused(segment)


def test_c31_it_is_refused_too_while_the_gateway_has_not_found_its_router(segment: Segment) -> None:
    with narrow_way(segment, "behind"):
        time.sleep(ASKED_AGAIN_S)
        segment.places["b"].command("ip neigh flush dev eth0")
        assert_refused(segment)


def test_c31_a_pods_big_ping_is_told_too(segment: Segment) -> None:
    with narrow_way(segment, "behind"):
        time.sleep(ASKED_AGAIN_S)
        ping = f"ip netns exec {segment.places['pod'].name} ping -c 2 -i 0.2 -W 2 -M do -s 1400 {SERVER}"
        done = subprocess.run(ping.split(), capture_output=True, text=True, timeout=20, check=False)
    assert f"mtu = {NARROW}" in done.stdout + done.stderr or f"mtu={NARROW}" in done.stdout + done.stderr


def test_c26_the_server_is_told_as_the_floating_ip_what_a_pods_device_does_not_take(segment: Segment) -> None:
    """Its node's stack would quote the pod's address, and the server not know what it is about."""
    device = POD_SIDE.name
    server, client = asked(segment)
    narrowed = narrow(segment, "a", f"ip link set {device} mtu {NARROW}", f"ip link set {device} mtu 1500")
    with closing(server), closing(client), narrowed:
        server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        server.send(bytes(1400))
        assert teller(server) == str(FLOATING_IP)
        assert server.getsockopt(socket.IPPROTO_IP, IP_MTU) == NARROW
        server.send(bytes(NARROW - 28))
        assert len(client.recv(2000)) == NARROW - 28


def test_h2_a_traceroute_of_the_server_shows_the_gateway_and_then_the_floating_ip(segment: Segment) -> None:
    server, client = asked(segment)
    with closing(server), closing(client):
        seen = []
        for ttl in (1, 2):
            server.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            server.send(b"where?")
            seen.append(teller(server))
        server.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 3)
        server.send(b"there")
        assert client.recv(100) == b"there"
    assert seen == [ADDRESSES["b"], str(FLOATING_IP)]


def test_d1_a_connection_goes_on_when_conntrack_forgot_it_and_the_server_speaks_first(segment: Segment) -> None:
    """Connection tracking then takes the server for the one that opened it, and the pod's answers for replies."""
    with listening(segment) as server:
        client, accepted, peer = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 1000)
            forget_connections(segment)
            transfer(accepted, client, 100_000)
            transfer(client, accepted, 100_000)
            assert accepted.getpeername() == peer


def test_d1_a_packet_that_is_routed_to_the_pod_itself_does_not_turn_its_flow_around(segment: Segment) -> None:
    """Whoever knows the ports can forge one. Connection tracking, which has forgotten, takes it for the first."""
    router = segment.places["router"]
    with talking(segment) as (client, server):
        assert exchange(client, server, 3) == 3
        forget_connections(segment)
        router.command(f"ip route add {POD} via {segment.pod_node_address}")
        try:
            server.sendto(b"routed", client.getsockname())
            assert client.recv(100) == b"routed"
        finally:
            router.command(f"ip route del {POD}")
        time.sleep(0.6)
        assert exchange(client, server, 3) == 3


ISOLATED = """table ip isolation {
  chain forward {
    type filter hook forward priority 10
    ct state established,related accept
    ip daddr %s counter drop
  }
}
"""
"""As NetworkPolicy isolates a pod that nobody may connect to."""


@contextlib.contextmanager
def isolated(segment: Segment) -> Iterator[None]:
    place = segment.places["a"]
    place.feed("nft -f -", ISOLATED % POD)
    try:
        yield
    finally:
        place.command("nft delete table ip isolation")


async def plant(stop: threading.Event) -> None:
    async with Conntrack() as conntrack:
        task = asyncio.create_task(Planter(conntrack).run())
        await asyncio.to_thread(stop.wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def planting(segment: Segment) -> Iterator[None]:
    """As the agent of the pod's node does it."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: segment.places["a"].call(asyncio.run, plant(stop)))
    thread.start()
    time.sleep(0.2)
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def test_b3_a_pod_that_nobody_may_connect_to_hears_a_server_that_conntrack_forgot(segment: Segment) -> None:
    with listening(segment) as server, isolated(segment):
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 1000)
            forget_connections(segment)
            with planting(segment):
                transfer(accepted, client, 100_000)


def test_e2_a_connection_that_its_policy_names_no_more_is_reset_at_both_ends(segment: Segment) -> None:
    node = segment.nodes["a"]
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 1000)
            node.select(device=POD_SIDE, rule_set=RULE_SET + 1)
            try:
                client.send(b"anybody?")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
                accepted.send(b"gone?")
                with pytest.raises(ConnectionResetError):
                    accepted.recv(1)
            finally:
                node.select(device=POD_SIDE)


def count_asked(segment: Segment) -> int:
    """Packets that the firewall of the pod's node was asked about."""
    text = segment.places["a"].command("nft list counter ip firewall asked")
    return int(text.split("packets")[1].split()[0])


def direct(segment: Segment) -> tuple[int, int]:
    counters = segment.nodes["a"].counters()
    return counters.get("direct_out", 0), counters.get("direct_back", 0)


SERVICE, SERVICE_PORT = IPv4Address("10.96.0.10"), 53


@contextlib.contextmanager
def served(segment: Segment) -> Iterator[None]:
    """A service of the cluster whose endpoint is outside, as kube-proxy makes it on the pod's node."""
    chain = "chain services { type nat hook prerouting priority -100; %s; }"
    rule = f"ip daddr {SERVICE} udp dport {SERVICE_PORT} dnat to {SERVER}:{PORT}"
    place = segment.places["a"]
    place.feed("nft -f -", "table ip services {\n" + chain % rule + "\n}\n")
    try:
        yield
    finally:
        place.command("nft delete table ip services")


def test_f1_what_was_translated_on_the_way_is_asked_of_for_ever(segment: Segment, held: None) -> None:
    """It came out otherwise than it went in: nothing is said of what follows, nor of what goes to the endpoint."""
    segment.allow_direct(True)
    with served(segment), talking(segment) as (client, server):
        client.connect((str(SERVICE), SERVICE_PORT))
        before, went = count_asked(segment), direct(segment)
        assert exchange(client, server, 20) == 20
        assert count_asked(segment) - before == 40
        client.connect((str(SERVER), PORT))
        client.send(b"to the endpoint itself")
        time.sleep(0.1)
    assert direct(segment) == went


def test_f1_approval_is_of_one_flow_and_no_other_of_the_same_pod(segment: Segment, held: None) -> None:
    segment.allow_direct(True)
    with talking(segment) as (client, server):
        exchange(client, server, 3)
        with closing(opened(segment, "pod", socket.SOCK_DGRAM)) as other:
            other.connect((str(SERVER), PORT))
            before = count_asked(segment)
            assert exchange(other, server, 1) == 1
    assert count_asked(segment) - before == 2


def hash_of_seen(pod_port: int) -> int:
    """By which `bpf/approval.h` knows a datagram to the server as one that was seen at the pod's device."""
    pod, remote = (int.from_bytes(address.packed, sys.byteorder) for address in (POD, SERVER))
    port, remote_port = (socket.htons(each) for each in (pod_port, PORT))
    mixed = (SEED ^ (pod << 32 | remote)) * 0x9E3779B97F4A7C15 % (1 << 64)
    mixed = (mixed ^ mixed >> 29 ^ (port << 32 | remote_port << 16 | packet.UDP)) * 0xBF58476D1CE4E5B9 % (1 << 64)
    return mixed >> 32 & 0xFFFFFF00 | 0x5A


@contextlib.contextmanager
def saying_seen(segment: Segment, bpffs: Path, pod_port: int) -> Iterator[None]:
    """Root of the pod, who knows the key of its node, writes the hash into all that the pod sends."""
    pod, program, path = segment.places["pod"], load(UNSPEC, seen_as=hash_of_seen(pod_port)), bpffs / "seen"
    bpf_call.pin(program, str(path))
    os.close(program)
    pod.command("tc qdisc add dev eth0 clsact")
    words = f"nsenter --net=/run/netns/{pod.name} tc filter add dev eth0 egress bpf da pinned {path}"
    subprocess.run(words.split(), check=True, timeout=20)
    path.unlink()
    try:
        yield
    finally:
        pod.command("tc qdisc del dev eth0 clsact")


def test_f1_a_pod_cannot_say_itself_that_it_was_seen(segment: Segment, held: None, bpffs: Path) -> None:
    segment.allow_direct(False)
    with talking(segment) as (client, server):
        flow = replace(UDP_FLOW, pod_port=client.getsockname()[1], server_port=PORT)
        with saying_seen(segment, bpffs, flow.pod_port):
            assert exchange(client, server, 3) == 3
    row = segment.nodes["a"].flow(flow)
    assert row is not None
    assert row.out_until_ns == 0


def test_f2_netfilter_is_asked_of_one_packet_in_half_a_second_and_direction(segment: Segment, held: None) -> None:
    segment.allow_direct(True)
    with talking(segment) as (client, server):
        before, began = count_asked(segment), time.monotonic()
        assert exchange(client, server, 200) == 200
        halves = (time.monotonic() - began) / 0.5
    assert 2 <= count_asked(segment) - before <= 2 * (halves + 2)
    assert min(direct(segment)) > 100


def test_f2_where_there_is_to_be_no_direct_path_every_packet_is_asked(segment: Segment, held: None) -> None:
    segment.allow_direct(True)
    node = segment.nodes["a"]
    node.flow_settings(is_direct=False)
    try:
        with talking(segment) as (client, server):
            before = count_asked(segment)
            assert exchange(client, server, 20) == 20
            assert count_asked(segment) - before == 40
    finally:
        node.flow_settings()


def test_f2_what_netfilter_forbids_is_felt_within_a_second(segment: Segment, held: None) -> None:
    segment.allow_direct(True)
    with talking(segment) as (client, server):
        assert exchange(client, server, 20) == 20
        place = segment.places["a"]
        place.command(f"nft add rule ip firewall forward udp dport {PORT} drop")
        try:
            time.sleep(0.6)
            assert exchange(client, server, 3) == 0
        finally:
            place.command("nft flush chain ip firewall forward")
            place.command("nft add rule ip firewall forward ct state invalid drop")
            place.command(f"nft add rule ip firewall forward ip daddr {SERVER} counter name asked")
            place.command(f"nft add rule ip firewall forward ip saddr {SERVER} counter name asked")
        assert exchange(client, server, 3) == 3, "and is over as soon as it is allowed"


def test_f2_on_a_device_that_somebody_shapes_every_packet_is_asked(segment: Segment, held: None) -> None:
    segment.allow_direct(False)
    with talking(segment) as (client, server):
        exchange(client, server, 1)
        time.sleep(0.6)
        before, went = count_asked(segment), direct(segment)
        assert exchange(client, server, 20) == 20
    assert count_asked(segment) - before == 40
    assert direct(segment) == went


def test_f3_a_connection_of_which_netfilter_sees_samples_is_not_invalid(segment: Segment, held: None) -> None:
    segment.allow_direct(True)
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            went = direct(segment)
            for _ in range(3):
                transfer(accepted, client, 20_000_000)
                transfer(client, accepted, 20_000_000)
                time.sleep(0.6)
                transfer(client, accepted, 1000)
            now = direct(segment)
    assert now[0] - went[0] > 1000
    assert now[1] - went[1] > 1000
