"""The tunnel past the stack, one packet at a time (rule X4): the stack's headers, and the same judgement."""

import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from service.datapath import layout
from service.datapath.layout import MapName
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    FLOWS,
    HOLDER,
    MARK,
    NEIGHBOUR_MAC,
    NEIGHBOUR_NODE,
    NODE_A,
    OWN_ADDRESS,
    POD_PORT,
    ROUTER_MAC,
    SERVER,
    TCP_FLOW,
    TUNNEL_PORT,
    UDP_FLOW,
    Flow,
    Node,
)
from tests.datapath.packet import ACK, IPV4
from tests.datapath.program import EGW, REDIRECT, SHOT, UNSPEC, UPLINK, UPLINK_2, Device, Namespace, Outcome
from tests.datapath.test_direct import NODE_MAC, POD_MAC, leave, open_flow

pytestmark = pytest.mark.bpf
TUNNEL_ID = 0x4547
PEER_MAC = packet.mac("02:00:00:00:60:0b")
"""Of the steering device of another node."""
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


def hop(node: Node, address: IPv4Address = NEIGHBOUR_NODE, *, is_due: bool = False, device: Device = UPLINK) -> None:
    """The kernel was asked a moment ago how to reach that node."""
    until_ns = time.monotonic_ns() + 60_000_000_000
    macs = NEIGHBOUR_MAC + device.mac
    row = struct.pack("=QII4sI12s4x", until_ns, 1450, device.ifindex, OWN_ADDRESS.packed, is_due, macs)
    node.map(MapName.TUNNEL_HOPS).update(address.packed, row)


def by_tunnel(node: Node, flow: Flow) -> None:
    """An open flow, whose holder is reached through the tunnel."""
    open_flow(node, flow)
    node.tunnel_way(NEIGHBOUR_NODE)
    hop(node)


def is_wrapped(outcome: Outcome) -> bool:
    return outcome.frame[14 + 20 + 2 : 14 + 20 + 4] == TUNNEL_PORT.to_bytes(2, "big")


def within(outcome: Outcome) -> bytes:
    """The IP packet in the tunnel."""
    return outcome.frame[64:]


@each_protocol
def test_x4_an_approved_packet_leaves_by_the_uplink_with_the_outer_headers_of_the_stack(
    pod_node: Node, flow: Flow
) -> None:
    by_tunnel(pod_node, flow)
    outcome = leave(pod_node, flow, ttl=9)
    assert (outcome.verdict, outcome.mark & MARK) == (REDIRECT, MARK)
    outer = packet.read(outcome.frame)
    assert (outer.destination, outer.source, outer.kind) == (NEIGHBOUR_MAC, UPLINK.mac, IPV4)
    assert (outer.ip.source, outer.ip.destination, outer.ip.protocol) == (OWN_ADDRESS, NEIGHBOUR_NODE, packet.UDP)
    assert outer.ip.is_header_sound()
    assert outer.payload[:8] == struct.pack(">BBHHH", 0x45, 0, len(outcome.frame) - 14, 0, packet.DONT_FRAGMENT)
    assert outer.ip.ttl == 64
    assert outer.ip.ports[0] >= 0xC000
    assert outer.ip.l4[2:8] == struct.pack(">HHH", TUNNEL_PORT, len(outcome.frame) - 34, 0)
    assert outer.ip.l4[8:16] == struct.pack(">II", 0x08000000, TUNNEL_ID << 8)
    assert outer.ip.l4[16:30] == bytes(6) + EGW.mac + IPV4.to_bytes(2, "big")
    assert within(outcome) == flow.translated(flags=ACK, ttl=8)
    assert pod_node.counters()["direct_out"] == 1


@each_protocol
def test_x4_a_holder_sends_back_so_too(holder: Node, flow: Flow) -> None:
    holder.assign_by_tunnel(NEIGHBOUR_NODE)
    hop(holder)
    outcome = holder.come_back(flow, ttl=9)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).ip.destination == NEIGHBOUR_NODE
    assert within(outcome) == flow.reply(ttl=8)[14:]
    assert holder.counters() == {"returned": 1}


def test_x4_the_packets_of_a_flow_have_one_outer_port_and_those_of_others_others(pod_node: Node) -> None:
    ports = []
    for flow in (TCP_FLOW, TCP_FLOW, replace(TCP_FLOW, pod_port=POD_PORT + 1), UDP_FLOW):
        by_tunnel(pod_node, flow)
        ports.append(packet.read(leave(pod_node, flow).frame).ip.ports[0])
    assert ports[0] == ports[1]
    assert len(set(ports)) == 3


@pytest.mark.parametrize(("inner", "outer"), [(0, 0), (1, 1), (2, 2), (3, 2), (0xB8, 0)])
def test_x4_congestion_is_told_outside_as_inside(pod_node: Node, inner: int, outer: int) -> None:
    by_tunnel(pod_node, UDP_FLOW)
    outcome = pod_node.leave_pod(with_tos(UDP_FLOW.outbound(), inner))
    assert (outcome.frame[15], within(outcome)[1]) == (outer, inner)


def with_tos(datagram: bytes, tos: int) -> bytes:
    header = datagram[:1] + bytes((tos,)) + datagram[2:10] + bytes(2) + datagram[12:20]
    return header[:10] + packet.checksum(header).to_bytes(2, "big") + header[12:] + datagram[20:]


def test_x4_the_first_packet_of_each_half_second_goes_by_the_stack(pod_node: Node) -> None:
    """It is what the kernel looks after the neighbour with."""
    by_tunnel(pod_node, UDP_FLOW)
    hop(pod_node, is_due=True)
    assert [is_wrapped(leave(pod_node, UDP_FLOW)) for _ in range(3)] == [False, True, True]


@pytest.fixture
def answering(namespace: Namespace) -> Iterator[Namespace]:
    """The kernel knows the other node's MAC."""
    neighbour = ("ip", "neigh", "replace", str(NEIGHBOUR_NODE), "lladdr", NEIGHBOUR_MAC.hex(":"), "dev", UPLINK.name)
    namespace.command(*neighbour, "nud", "permanent")
    yield namespace
    namespace.command("ip", "neigh", "del", str(NEIGHBOUR_NODE), "dev", UPLINK.name)


def leaves_past_stack(node: Node) -> bool:
    """Once the kernel was asked."""
    open_flow(node, UDP_FLOW)
    node.tunnel_way(NEIGHBOUR_NODE)
    outcomes = [leave(node, UDP_FLOW) for _ in range(2)]
    assert [outcome.verdict for outcome in outcomes] == [REDIRECT, REDIRECT]
    assert not is_wrapped(outcomes[0])
    return is_wrapped(outcomes[1])


def be_plain(node: Node) -> None:
    """Nobody shapes the steering device, and the direct path is not turned off."""
    node.map(MapName.DIRECT_DEVICES).update(layout.device_key(EGW.ifindex), bytes(4))


def test_x4_how_a_node_is_reached_is_asked_of_the_kernel(pod_node: Node, answering: Namespace) -> None:
    be_plain(pod_node)
    assert leaves_past_stack(pod_node)
    row = pod_node.map(MapName.TUNNEL_HOPS).lookup(NEIGHBOUR_NODE.packed)
    assert row is not None
    fields = struct.unpack("=8xII4s4x6s6s4x", row)
    assert fields == (1450, UPLINK.ifindex, OWN_ADDRESS.packed, NEIGHBOUR_MAC, UPLINK.mac)


def test_x4_where_the_direct_path_is_turned_off_all_go_by_the_stack(pod_node: Node, answering: Namespace) -> None:
    assert not leaves_past_stack(pod_node)


def test_x4_to_a_neighbour_that_is_not_resolved_the_stack_sends(pod_node: Node) -> None:
    be_plain(pod_node)
    assert not leaves_past_stack(pod_node)


def test_x4_by_a_device_that_is_no_uplink_the_stack_sends(pod_node: Node, answering: Namespace) -> None:
    be_plain(pod_node)
    assert pod_node.map(MapName.UPLINK_ADDRESSES).delete(UPLINK.ifindex.to_bytes(4, "little"))
    assert not leaves_past_stack(pod_node)


def test_x4_where_rules_of_the_node_say_otherwise_than_its_main_table_the_stack_sends(
    pod_node: Node, answering: Namespace
) -> None:
    be_plain(pod_node)
    rule = ("to", str(NEIGHBOUR_NODE), "lookup", "77")
    answering.command("ip", "neigh", "replace", "192.168.9.9", "lladdr", ROUTER_MAC.hex(":"), "dev", UPLINK.name)
    route = (str(NEIGHBOUR_NODE), "via", "192.168.9.9", "dev", UPLINK.name, "onlink", "table", "77")
    answering.command("ip", "route", "add", *route)
    answering.command("ip", "rule", "add", *rule)
    try:
        assert not leaves_past_stack(pod_node)
    finally:
        answering.command("ip", "rule", "del", *rule)
        answering.command("ip", "route", "del", *route)
        answering.command("ip", "neigh", "del", "192.168.9.9", "dev", UPLINK.name)


# ---- inwards ----


def arriving(
    datagram: bytes,
    *,
    source: IPv4Address = NEIGHBOUR_NODE,
    destination: IPv4Address = OWN_ADDRESS,
    tunnel: bytes = struct.pack(">II", 0x08000000, TUNNEL_ID << 8),
    kind: int = IPV4,
    inner_mac: bytes = PEER_MAC,
    tos: int = 0,
    has_checksum: bool = False,
    port: int = TUNNEL_PORT,
    **fields: int | bytes,
) -> bytes:
    """The frame in which another node sends it to this one."""
    payload = tunnel + packet.ethernet(bytes(6), inner_mac, kind, datagram)
    outer = packet.udp(source, destination, (0xC123, port), payload, has_checksum=has_checksum)
    whole = packet.ipv4(source, destination, packet.UDP, outer, **fields)  # type: ignore[arg-type]
    return packet.ethernet(UPLINK.mac, NEIGHBOUR_MAC, IPV4, with_tos(whole, tos) if tos else whole)


@pytest.fixture
def gateway(holder: Node) -> Node:
    return reached_by_tunnel(holder)


def reached_by_tunnel(node: Node) -> Node:
    """Node A is at NEIGHBOUR_NODE."""
    node.tunnel_member(NEIGHBOUR_NODE, NODE_A)
    hop(node)
    return node


@each_protocol
def test_x4_what_a_member_sends_is_taken_out_at_the_uplink_and_forwarded(gateway: Node, flow: Flow) -> None:
    reached_by_tunnel(gateway)
    outcome = gateway.uplink_ingress(arriving(flow.translated(ttl=9)))
    assert outcome.verdict == REDIRECT
    assert outcome.frame[12:] == IPV4.to_bytes(2, "big") + flow.translated(ttl=8)
    assert gateway.counters() == {"forwarded": 1}


@each_protocol
def test_x4_a_reply_is_taken_out_at_the_uplink_and_goes_to_the_pod(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    pod_node.tunnel_member(NEIGHBOUR_NODE, HOLDER)
    hop(pod_node)
    outcome = pod_node.uplink_ingress(arriving(flow.reply(flags=ACK)[14:]))
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, frame.destination, frame.source, frame.ip.ttl) == (REDIRECT, POD_MAC, NODE_MAC, 63)
    assert frame.ip.is_sound()
    assert pod_node.counters()["direct_back"] == 1


GOOD = TCP_FLOW.translated()
LEFT = {
    "a stranger's": arriving(GOOD, source=IPv4Address("192.168.1.23")),
    "to another address": arriving(GOOD, destination=NEIGHBOUR_NODE),
    "to another port": arriving(GOOD, port=4789),
    "another tunnel": arriving(GOOD, tunnel=struct.pack(">II", 0x08000000, 7 << 8)),
    "without a tunnel's number": arriving(GOOD, tunnel=struct.pack(">II", 0, TUNNEL_ID << 8)),
    "with flags that nobody sets": arriving(GOOD, tunnel=struct.pack(">II", 0x88000000, TUNNEL_ID << 8)),
    "with a tag": arriving(b"\0\5" + IPV4.to_bytes(2, "big") + GOOD, kind=packet.VLAN),
    "no IPv4": arriving(GOOD, kind=packet.IPV6),
    "with a checksum": arriving(GOOD, has_checksum=True),
    "a fragment": arriving(GOOD, fragment=packet.MORE_FRAGMENTS),
    "with options": arriving(GOOD, options=b"\1\1\1\1"),
    "met congestion": arriving(GOOD, tos=3),
    "its own": arriving(GOOD, inner_mac=EGW.mac),
    "longer than it says": arriving(GOOD) + b"\0",
    "cut": arriving(GOOD)[:-1],
    "a broken header": (lambda frame: frame[:22] + b"\7" + frame[23:])(arriving(GOOD)),
}


def is_left(node: Node, frame: bytes) -> None:
    outcome = node.uplink_ingress(frame)
    assert (outcome.verdict, outcome.frame) == (UNSPEC, frame)
    assert (node.drops(), node.counters()) == ({}, {})


@pytest.mark.parametrize("frame", LEFT.values(), ids=LEFT)
def test_x4_whatever_the_stack_would_treat_otherwise_is_left_to_it(gateway: Node, frame: bytes) -> None:
    is_left(gateway, frame)


def test_x2_nothing_is_taken_out_of_the_tunnel_from_who_is_no_member(gateway: Node) -> None:
    """However well the way to it is known."""
    stranger = IPv4Address("192.168.1.23")
    hop(gateway, stranger)
    is_left(gateway, arriving(GOOD, source=stranger))


def test_x4_segments_that_are_yet_to_be_cut_apart_are_left_to_the_stack(gateway: Node) -> None:
    frame = arriving(GOOD)
    outcome = gateway.programs.run("uplink_ingress", frame, segments=(2, 1400))
    assert (outcome.verdict, outcome.frame) == (UNSPEC, frame)


def test_x4_what_comes_by_another_device_than_answers_would_take_is_the_stacks_to_believe(gateway: Node) -> None:
    """By rp_filter, as the node has it."""
    reached_by_tunnel(gateway)
    hop(gateway, device=UPLINK_2)
    is_left(gateway, arriving(GOOD))


def test_x4_what_has_our_mark_is_of_this_node_and_comes_out_of_no_tunnel(gateway: Node) -> None:
    outcome = gateway.uplink_ingress(arriving(GOOD), mark=MARK)
    assert outcome.verdict == UNSPEC
    assert gateway.counters() == {}


def test_x4_neither_from_nor_to_a_floating_ip_is_dropped_and_never_reaches_the_stack(gateway: Node) -> None:
    reached_by_tunnel(gateway)
    assert gateway.uplink_ingress(arriving(TCP_FLOW.outbound())).verdict == SHOT
    assert gateway.drops() == {(None, DropReason.NO_TRANSPORT): 1}


def test_x4_after_the_lease_nothing_is_taken_out_of_the_tunnel(gateway: Node) -> None:
    gateway.end_lease()
    assert gateway.uplink_ingress(arriving(GOOD)).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_x4_the_block_is_asked_for_by_the_member_whose_address_the_outer_source_is(gateway: Node) -> None:
    gateway.tunnel_member(NEIGHBOUR_NODE, HOLDER)
    gateway.member(NEIGHBOUR_MAC, NODE_A)
    assert gateway.uplink_ingress(arriving(GOOD)).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1}


def test_x4_a_ping_of_the_floating_ip_is_not_answered_into_the_tunnel(gateway: Node) -> None:
    ping = packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 5))
    assert gateway.uplink_ingress(arriving(ping)).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}


def test_x4_what_cannot_go_on_is_put_back_for_the_steering_device_to_answer(gateway: Node) -> None:
    """By steer_ingress, which counts it."""
    reached_by_tunnel(gateway)
    inner = TCP_FLOW.translated(ttl=1)
    outcome = gateway.uplink_ingress(arriving(inner))
    outer = packet.read(outcome.frame)
    assert outcome.verdict == UNSPEC
    assert (outer.destination, outer.source, outer.ip.source) == (UPLINK.mac, NEIGHBOUR_MAC, NEIGHBOUR_NODE)
    assert (outer.ip.destination, outer.ip.ports[1], outer.ip.is_sound()) == (OWN_ADDRESS, TUNNEL_PORT, True)
    assert outer.ip.payload[:8] == struct.pack(">II", 0x08000000, TUNNEL_ID << 8)
    assert outer.ip.payload[8 + 6 : 8 + 14] == NEIGHBOUR_MAC + IPV4.to_bytes(2, "big")
    assert within(outcome) == inner
    assert gateway.drops() == {}


def test_x4_what_does_not_fit_is_put_back_with_the_hop_uncounted(gateway: Node) -> None:
    big = packet.udp(FLOATING_IP, SERVER, (POD_PORT, 443), bytes(1450))
    inner = packet.ipv4(FLOATING_IP, SERVER, packet.UDP, big, ttl=9)
    key = SERVER.packed + UPLINK.ifindex.to_bytes(4, "little")
    row = struct.pack("=Q12sH2x", time.monotonic_ns() + 60_000_000_000, ROUTER_MAC + UPLINK.mac, 1400)
    gateway.map(MapName.NEXT_HOPS).update(key, row)
    outcome = gateway.uplink_ingress(arriving(inner))
    assert (outcome.verdict, within(outcome)) == (UNSPEC, inner)
