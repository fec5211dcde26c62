"""Whole walks between real stacks through the tunnel: across segments, and within one (rules X1, X2, X3, H5)."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.conversation import (
    IP_MTU,
    IP_MTU_DISCOVER,
    IP_PMTUDISC_DO,
    IP_RECVERR,
    PORT,
    SO_MARK,
    asked,
    connected,
    listening,
    narrow,
    opened,
    put,
    teller,
    transfer,
)
from tests.datapath.node import FLOATING_IP, MARK, SERVER, TCP_FLOW, TUNNEL_PORT
from tests.datapath.segment import ADDRESSES, BLOCKS, Segment, build, uplink

pytestmark = [pytest.mark.bpf, pytest.mark.root]

INNER_MTU = 1450
TUNNEL_ID = 0x4547
FIRST, LAST = 1024, 1024 + 64 * len(BLOCKS) - 1
_ETH_P_ALL = 3


@pytest.fixture(scope="module", params=[True, False], ids=["two-segments", "one-segment"])
def segment(request: pytest.FixtureRequest, bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with build(bpffs, tmp_path_factory.mktemp("tunnel"), is_split=request.param) as built:
        yield built


@pytest.fixture(autouse=True, params=["policy path", "direct path"])
def tunnelled(segment: Segment, request: pytest.FixtureRequest) -> Iterator[None]:
    """The stacks know nothing of the tunnel's MTU: what another test has taught them would hold for minutes.

    Every port of both segments is watched (L1).
    """
    segment.allow_direct(request.param == "direct path")
    segment.use(tunnel=True)
    segment.hold("b")
    segment.forget_paths()
    yield
    assert segment.leaks() == {}


# ---- the walk ----


def test_x2_the_server_sees_the_floating_ip_and_a_port_of_the_pods_node(segment: Segment) -> None:
    with listening(segment) as server:
        client, accepted, peer = connected(segment, server)
        with closing(client), closing(accepted):
            assert peer[0] == str(FLOATING_IP)
            assert FIRST <= peer[1] <= LAST


@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "download"])
def test_x2_bulk_goes_through_both_ways(segment: Segment, is_upload: bool) -> None:
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            ends = (client, accepted) if is_upload else (accepted, client)
            transfer(*ends)
            assert ends[0].getsockopt(socket.IPPROTO_IP, IP_MTU) == INNER_MTU


def test_f3_the_direct_path_goes_through_the_tunnel_both_ways(counted: Segment) -> None:
    counted.allow_direct(True)
    with listening(counted) as server:
        client, accepted, _ = connected(counted, server)
        with closing(client), closing(accepted):
            transfer(client, accepted)
            transfer(accepted, client)
    counters = counted.nodes["a"].counters()
    assert min(counters.get(name, 0) for name in ("direct_out", "direct_back")) > 20


def test_r1_a_connection_survives_a_change_of_gateway(segment: Segment) -> None:
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            for gateway in ("b", "c", "b"):
                segment.hold(gateway)
                transfer(client, accepted, 100_000)
                transfer(accepted, client, 100_000)


@pytest.mark.parametrize("segment", [False], ids=["one-segment"], indirect=True)
def test_x1_a_connection_survives_a_change_of_transport(segment: Segment) -> None:
    """Either direction for itself: nobody changes both at one moment."""
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            for tunnel in (True, False, True):
                segment.use(tunnel=tunnel)
                transfer(client, accepted, 100_000)
                transfer(accepted, client, 100_000)
            segment.nodes["b"].assign(BLOCKS, mac=uplink("a").mac, device=uplink("b"))
            transfer(client, accepted, 100_000)
            transfer(accepted, client, 100_000)


@pytest.mark.parametrize("size", [56, 1400, 4000])
def test_a_pod_pings_the_server(segment: Segment, size: int) -> None:
    segment.places["pod"].command(f"ping -c 3 -i 0.2 -W 2 -s {size} {SERVER}")


def test_h2_traceroute_shows_the_nodes_on_the_way(segment: Segment) -> None:
    """The tunnel is one hop."""
    client = opened(segment, "pod", socket.SOCK_DGRAM)
    with closing(client):
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        client.connect((str(SERVER), 33434))
        seen = []
        for ttl in (1, 2, 3):
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            client.send(b"where?")
            seen.append(teller(client))
    assert seen == [segment.pod_node_address, ADDRESSES["b"], str(SERVER)]


def test_h2_traceroute_of_the_server_shows_the_gateway_and_then_the_floating_ip(segment: Segment) -> None:
    server, client = asked(segment)
    with closing(server), closing(client):
        seen = []
        for ttl in (1, 2):
            server.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            server.send(b"where?")
            seen.append(teller(server))
    assert seen == [ADDRESSES["b"], str(FLOATING_IP)]


def test_c26_a_pod_tells_the_server_that_a_port_is_closed(segment: Segment) -> None:
    server, client = asked(segment)
    with closing(server):
        client.close()
        server.send(b"gone?")
        assert teller(server) == str(FLOATING_IP)


# ---- sizes ----


def test_x3_a_pods_datagram_that_does_not_fit_into_the_tunnel_is_refused_by_the_next_send(segment: Segment) -> None:
    server, client = (opened(segment, place, socket.SOCK_DGRAM) for place in ("router", "pod"))
    with closing(server), closing(client):
        server.bind((str(SERVER), PORT))
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        client.connect((str(SERVER), PORT))
        client.send(bytes(INNER_MTU - 27))
        with pytest.raises(OSError, match="too long"):
            client.recv(10)
        assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) == INNER_MTU
        client.send(bytes(INNER_MTU - 28))
        assert len(server.recv(2000)) == INNER_MTU - 28


def test_x3_a_server_is_told_as_the_floating_ip_what_does_not_fit_into_the_tunnel(segment: Segment) -> None:
    server, client = asked(segment)
    with closing(server), closing(client):
        server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        server.send(bytes(INNER_MTU - 27))
        assert teller(server) == str(FLOATING_IP)
        assert server.getsockopt(socket.IPPROTO_IP, IP_MTU) == INNER_MTU
        server.send(bytes(INNER_MTU - 28))
        assert len(client.recv(2000)) == INNER_MTU - 28


@pytest.mark.parametrize("segment", [True], ids=["two-segments"], indirect=True)
@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "download"])
def test_x3_a_connection_goes_on_when_the_path_between_the_nodes_becomes_narrow(
    segment: Segment, is_upload: bool
) -> None:
    """The router between them says so to the nodes, whose outer packets nobody may cut."""
    with listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            ends = (client, accepted) if is_upload else (accepted, client)
            transfer(*ends, 100_000)
            device = "eth0" if is_upload else "eth1"
            with narrow(segment, "router", f"ip link set {device} mtu 1400", f"ip link set {device} mtu 1500"):
                transfer(*ends, 1_000_000)
                assert ends[0].getsockopt(socket.IPPROTO_IP, IP_MTU) == 1350


# ---- what is on the wire ----


@contextmanager
def overheard(segment: Segment, place: str, device: str) -> Iterator[list[packet.Frame]]:
    """Every frame at a device; complete when the context ends."""
    tap = segment.places[place].call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    segment.places[place].call(tap.bind, (device, 0))
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    heard: list[packet.Frame] = []
    with closing(tap):
        yield heard
        tap.settimeout(0.3)
        while True:
            try:
                heard.append(packet.read(tap.recv(70000)))
            except TimeoutError:
                return


def test_x2_on_the_pods_uplink_there_are_outer_packets_between_nodes_alone_and_none_is_cut(segment: Segment) -> None:
    ours = {segment.pod_node_address, ADDRESSES["b"]}
    with overheard(segment, "a", "eth0") as heard, listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 300_000)
            transfer(accepted, client, 300_000)
    datagrams = [frame for frame in heard if frame.kind == packet.IPV4]
    assert datagrams
    for frame in datagrams:
        ip = frame.ip
        assert {str(ip.source), str(ip.destination)} == ours
        assert (ip.protocol, ip.ports[1]) == (packet.UDP, TUNNEL_PORT)
        flags = int.from_bytes(ip.header[6:8], "big")
        assert flags == packet.DONT_FRAGMENT


@contextmanager
def cut_by_software(segment: Segment, *places: str) -> Iterator[None]:
    """The uplinks there take no segments that are still together: the kernel cuts them before."""
    features = ("tso", "gso", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
    try:
        for place in places:
            segment.places[place].command("ethtool -K eth0 " + " ".join(f"{name} off" for name in features))
        yield
    finally:
        for place in places:
            segment.places[place].command("ethtool -K eth0 " + " ".join(f"{name} on" for name in features))


def lengths(heard: list[packet.Frame]) -> list[int]:
    """Bytes of the IP packets."""
    return [len(frame.payload) for frame in heard if frame.kind == packet.IPV4]


def test_x4_what_the_uplink_does_not_cut_the_kernel_does_and_no_outer_packet_is_too_long(segment: Segment) -> None:
    """Each piece has outer headers and lengths of its own, or nobody would take it out of the tunnel."""
    with overheard(segment, "a", "eth0") as together, listening(segment) as server:
        client, accepted, _ = connected(segment, server)
        with closing(client), closing(accepted):
            transfer(client, accepted, 300_000)
            with cut_by_software(segment, "a", "b"), overheard(segment, "a", "eth0") as heard:
                transfer(client, accepted, 300_000)
                transfer(accepted, client, 300_000)
    assert max(lengths(together)) > 1500, "nothing was ever together, so nothing is proved"
    assert max(lengths(heard)) == 1500


# ---- who may use it ----


def vxlan(inner: bytes, tunnel_id: int = TUNNEL_ID) -> bytes:
    """The payload of a datagram to the tunnel's port: RFC 7348."""
    frame = packet.ethernet(packet.mac("02:00:00:00:60:0b"), packet.mac("02:00:00:00:60:99"), packet.IPV4, inner)
    return struct.pack(">II", 0x08000000, tunnel_id << 8) + frame


FORGED = vxlan(TCP_FLOW.translated(1024 + 5))
"""What node A would send the holder for a new connection."""


def say(segment: Segment, place: str, payload: bytes, to: str, *, mark: int = 0) -> None:
    """With our mark, which root can set, a node's program passes for its steering device."""
    sender = opened(segment, place, socket.SOCK_DGRAM)
    with closing(sender):
        sender.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sender.sendto(payload, (to, TUNNEL_PORT))


@pytest.fixture
def counted(segment: Segment) -> Segment:
    """Drops and counters begin at nothing."""
    for node in segment.nodes.values():
        for key in tuple(node.map("drops").items()):
            node.map("drops").delete(key)
        for key, value in node.map("counts").items().items():
            node.map("counts").update(key, bytes(len(value)))
    return segment


def test_x2_a_tunnel_packet_of_a_member_is_taken(counted: Segment) -> None:
    """The check of the test: this is what forgers below imitate. Root of a node is the node."""
    say(counted, "a", FORGED, ADDRESSES["b"], mark=MARK)
    assert eventually(lambda: counted.nodes["b"].counters().get("forwarded") == 1)


def eventually(is_so: Callable[[], bool], timeout_s: float = 3.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.02)
    return False


def test_x2_a_tunnel_packet_of_a_stranger_is_dropped_and_counted(counted: Segment) -> None:
    say(counted, "router", FORGED, ADDRESSES["b"])
    assert eventually(lambda: counted.nodes["b"].drops() == {(None, DropReason.NO_TRANSPORT): 1})
    assert "forwarded" not in counted.nodes["b"].counters()


def test_x2_a_mark_on_the_outer_packet_makes_no_member_of_a_stranger(counted: Segment) -> None:
    """Netfilter of the node may mark what comes in, also with our bit, and the inner packet inherits the mark."""
    holder = counted.places["b"]
    chain = "{ type filter hook prerouting priority -300; }"
    holder.command("nft add table ip marks")
    try:
        holder.command(f"nft add chain ip marks incoming {chain}")
        holder.command(f"nft add rule ip marks incoming udp dport {TUNNEL_PORT} meta mark set {MARK}")
        say(counted, "router", FORGED, ADDRESSES["b"])
        assert eventually(lambda: counted.nodes["b"].drops() == {(None, DropReason.NO_TRANSPORT): 1})
    finally:
        holder.command("nft delete table ip marks")
    assert "forwarded" not in counted.nodes["b"].counters()


def test_x2_a_tag_within_the_tunnel_is_not_ours(counted: Segment) -> None:
    header, frame = FORGED[:8], FORGED[8:]
    say(counted, "a", header + packet.tagged(frame, (packet.VLAN, 5)), ADDRESSES["b"], mark=MARK)
    assert eventually(lambda: counted.nodes["b"].drops() == {(None, DropReason.NO_TRANSPORT): 1})
    assert "forwarded" not in counted.nodes["b"].counters()


def test_x2_a_packet_of_another_tunnel_is_dropped(counted: Segment) -> None:
    say(counted, "a", vxlan(TCP_FLOW.translated(1024 + 5), 7), ADDRESSES["b"], mark=MARK)
    assert eventually(lambda: counted.nodes["b"].drops() == {(None, DropReason.NO_TRANSPORT): 1})


def test_h5_a_pods_packet_for_the_tunnels_port_does_not_leave_its_node(counted: Segment) -> None:
    """With the node's address, which its node gives it, it would be taken for the node's own."""
    node = counted.places["a"]
    node.command("iptables -t nat -A POSTROUTING -s 10.244.0.0/16 -o eth0 -j MASQUERADE")
    try:
        with overheard(counted, "b", "eth0") as heard:
            say(counted, "pod", FORGED, ADDRESSES["b"])
            assert eventually(lambda: counted.nodes["a"].drops() == {(None, DropReason.FORGED_TUNNEL): 1})
    finally:
        node.command("iptables -t nat -D POSTROUTING -s 10.244.0.0/16 -o eth0 -j MASQUERADE")
    assert not [frame for frame in heard if frame.kind == packet.IPV4 and frame.ip.protocol == packet.UDP]
    assert "forwarded" not in counted.nodes["b"].counters()


def test_h5_a_program_of_the_host_sends_nothing_to_the_tunnels_port(counted: Segment) -> None:
    say(counted, "a", FORGED, ADDRESSES["b"])
    assert eventually(lambda: counted.nodes["a"].drops() == {(None, DropReason.FORGED_TUNNEL): 1})


@pytest.fixture
def tagger(segment: Segment) -> Iterator[str]:
    """A device of node A: what is sent there leaves by the uplink, its outer tag taken out of the frame and beside it,
    as a VLAN device or a bridge hands it over. Not every kernel has VLAN devices.
    """
    node = segment.places["a"]
    node.command("ip link add tagger type veth peer name tagged")
    for device in ("tagger", "tagged"):
        node.command(f"ip link set {device} addrgenmode none up")
    node.command("tc qdisc add dev tagged clsact")
    every = "protocol all u32 match u32 0 0"
    node.command(f"tc filter add dev tagged ingress {every} action mirred egress redirect dev eth0")
    yield "tagger"
    node.command("ip link del tagger")


@pytest.mark.parametrize("is_beside", [False, True], ids=["in-the-frame", "beside-it"])
@pytest.mark.parametrize("tags", [((packet.VLAN, 5),), ((packet.QINQ, 3), (packet.VLAN, 5))], ids=["one", "two"])
def test_h5_with_a_tag_it_does_not_leave_either(
    counted: Segment, tagger: str, tags: tuple[tuple[int, int], ...], is_beside: bool
) -> None:
    """With our mark it does: the check of the test."""
    source, destination = IPv4Address(counted.pod_node_address), IPv4Address(ADDRESSES["b"])
    datagram = packet.udp(source, destination, (40000, TUNNEL_PORT), FORGED)
    inner = packet.ipv4(source, destination, packet.UDP, datagram)
    bare = packet.ethernet(uplink("b").mac, uplink("a").mac, packet.IPV4, inner)
    frame, device = packet.tagged(bare, *tags), tagger if is_beside else "eth0"
    left: list[int] = []
    for mark in (MARK, 0):
        with overheard(counted, "switch", "port-a") as heard:
            put(counted, "a", device, frame, mark=mark)
        left.append(sum(FORGED in each.payload for each in heard))
    assert left == [1, 0]
    assert counted.nodes["a"].drops() == {(None, DropReason.FORGED_TUNNEL): 1}


def test_x2_what_a_holder_sends_through_the_tunnel_for_no_live_flow_is_dropped(counted: Segment) -> None:
    inner = packet.read(TCP_FLOW.reply(1024 + 7)).payload
    say(counted, "b", vxlan(inner), counted.pod_node_address, mark=MARK)
    assert eventually(lambda: counted.nodes["a"].drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1})


def test_x2_after_the_lease_nothing_is_taken_out_of_the_tunnel(counted: Segment) -> None:
    counted.nodes["b"].end_lease()
    say(counted, "a", FORGED, ADDRESSES["b"], mark=MARK)
    reason = DropReason.LEASE_EXPIRED_INGRESS
    assert eventually(lambda: counted.nodes["b"].drops() == {(FLOATING_IP, reason): 1})


def test_x2_neither_from_nor_to_a_floating_ip_is_dropped(counted: Segment) -> None:
    inner = TCP_FLOW.outbound()
    say(counted, "a", vxlan(inner), ADDRESSES["b"], mark=MARK)
    assert eventually(lambda: counted.nodes["b"].drops() == {(None, DropReason.NO_TRANSPORT): 1})
