"""The holder: it checks whose block a packet is of and forwards, with no state of flows or pods (rules H1, H2, Q3)."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from service.datapath.layout import MapName, block_key
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    OWN_BLOCKS,
    POD,
    POD_PORT,
    ROUTER_MAC,
    SERVER,
    STRANGER_MAC,
    TCP_FLOW,
    TOKEN,
    UDP_FLOW,
    Flow,
    Node,
    from_outside,
)
from tests.datapath.program import EGW, REDIRECT, SHOT, UNSPEC, UPLINK, UPLINK_2

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


# ---- H1: towards the outside ----


@each_protocol
def test_h1_a_members_packet_goes_on_as_it_is_with_its_hop_counted(holder: Node, flow: Flow) -> None:
    outcome = holder.forward(flow, ttl=64)
    before, after = packet.read(flow.steered()).ip, packet.read(outcome.frame).ip
    assert outcome.verdict == REDIRECT
    assert (after.source, after.destination, after.ports, after.ttl) == (FLOATING_IP, SERVER, before.ports, 63)
    assert after.is_sound()
    assert holder.counters() == {"forwarded": 1}


def test_h1_the_holder_keeps_nothing_of_a_flow(holder: Node) -> None:
    holder.forward(TCP_FLOW)
    holder.come_back(TCP_FLOW)
    kept = (MapName.FLOWS_OPEN, MapName.FLOWS_YOUNG, MapName.MIRRORS_YOUNG, MapName.PORT_HINTS, MapName.FRAGMENTS)
    assert all(not holder.map(name).items() for name in kept)


def test_h1_a_strangers_frame_is_dropped_and_counted(holder: Node) -> None:
    assert holder.forward(TCP_FLOW, source_mac=STRANGER_MAC).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_NODE): 1}


def test_h1_a_member_is_known_by_its_uplink(holder: Node) -> None:
    assert holder.uplink_ingress(TCP_FLOW.steered(device=UPLINK_2), device=UPLINK_2).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_NODE): 1}


@each_protocol
def test_q3_a_packet_of_another_members_block_is_dropped_and_told(holder: Node, flow: Flow) -> None:
    assert holder.forward(flow, source_mac=HOLDER_MAC).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1}
    [key] = holder.map(MapName.REFUSED_BLOCKS).items()
    assert key == block_key(FLOATING_IP, OWN_BLOCKS[0]) + (2).to_bytes(4, "little")


@pytest.mark.parametrize("port", [POD_PORT - 200, 1023, 80, 0, 65535])
def test_q3_a_packet_of_nobodys_block_is_dropped(holder: Node, port: int) -> None:
    assert holder.forward(TCP_FLOW, port).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1}


def test_q3_a_block_is_of_one_floating_ip(holder: Node) -> None:
    holder.floating_ip(OTHER_FLOATING_IP)
    holder.hold(OTHER_FLOATING_IP)
    assert holder.forward(TCP_FLOW, floating_ip=OTHER_FLOATING_IP).verdict == SHOT
    assert holder.drops() == {(OTHER_FLOATING_IP, DropReason.WRONG_BLOCK): 1}


def test_h4_nothing_off_the_wire_is_of_the_holders_own_block(own_holder: Node) -> None:
    own_holder.member(UPLINK.mac, 5)
    assert own_holder.forward(TCP_FLOW, source_mac=UPLINK.mac).verdict == SHOT
    assert own_holder.forward(TCP_FLOW).verdict == SHOT


def test_q5_the_holder_remembers_when_it_last_saw_a_packet_of_a_block(holder: Node) -> None:
    holder.forward(TCP_FLOW)
    seen = [holder.map(MapName.BLOCKS).lookup(block_key(FLOATING_IP, block))[:8] for block in OWN_BLOCKS]
    assert int.from_bytes(seen[0], "little") > 0
    assert int.from_bytes(seen[1], "little") == 0


def test_h1_after_the_lease_a_members_packet_is_dropped_and_counted(holder: Node) -> None:
    holder.end_lease()
    assert holder.forward(TCP_FLOW).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_x3_a_packet_at_the_end_of_its_hops_goes_no_further_and_is_counted(holder: Node) -> None:
    assert packet.read(holder.forward(TCP_FLOW, ttl=1).frame).ip.protocol == packet.ICMP, "its sender is told"
    assert holder.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}


def test_c5_a_floating_ip_without_an_interface_here_is_dropped(holder: Node) -> None:
    holder.floating_ip(FLOATING_IP, device=None)
    assert holder.forward(TCP_FLOW).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 1}


def test_r3_rows_of_blocks_count_under_the_tenure_that_the_agent_has_vouched_for(holder: Node) -> None:
    """Both ways: those of a former tenure may be old."""
    holder.trust(token=TOKEN + 1)
    assert holder.forward(TCP_FLOW).verdict == SHOT
    assert holder.come_back(TCP_FLOW).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1, (FLOATING_IP, DropReason.NO_FLOW): 1}
    holder.trust()
    assert holder.forward(TCP_FLOW).verdict == REDIRECT


@contextmanager
def route(node: Node, text: str) -> Iterator[None]:
    node.programs.namespace.command("ip", "route", "add", *text.split())
    try:
        yield
    finally:
        node.programs.namespace.command("ip", "route", "del", *text.split())


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_h1_what_has_no_route_is_dropped_and_counted(holder: Node, kind: str) -> None:
    with route(holder, f"{kind} 203.0.113.0/24"):
        assert holder.forward(TCP_FLOW).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.NO_ROUTE): 1}


def test_h1_a_device_that_does_not_forward_does_not_hinder_a_holder(holder: Node) -> None:
    namespace = holder.programs.namespace
    namespace.command("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    try:
        assert holder.forward(TCP_FLOW).verdict == REDIRECT
    finally:
        namespace.command("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")


def test_h1_a_next_hop_is_written_at_once_for_half_a_second_and_then_asked_for_again(holder: Node) -> None:
    """The first packet goes by the kernel's neighbour code, which looks after the entry."""
    with neighbour(holder, ROUTER_MAC):
        frames = [packet.read(holder.forward(TCP_FLOW).frame) for _ in range(2)]
        assert [frame.destination for frame in frames] == [UPLINK.mac, ROUTER_MAC]
        assert frames[1].source == UPLINK.mac
    with neighbour(holder, STRANGER_MAC):
        assert packet.read(holder.forward(TCP_FLOW).frame).destination == ROUTER_MAC
        time.sleep(0.55)
        frames = [packet.read(holder.forward(TCP_FLOW).frame) for _ in range(2)]
        assert [frame.destination for frame in frames] == [UPLINK.mac, STRANGER_MAC]


@contextmanager
def neighbour(node: Node, mac: bytes) -> Iterator[None]:
    entry = f"192.168.1.1 lladdr {mac.hex(':')} dev {UPLINK.name}".split()
    node.programs.namespace.command("ip", "neigh", "replace", *entry, "nud", "permanent")
    try:
        yield
    finally:
        node.programs.namespace.command("ip", "neigh", "del", *entry)


@pytest.mark.parametrize("protocol", [packet.SCTP, 47], ids=["sctp", "gre"])
def test_c30_another_protocol_from_a_floating_ip_is_dropped(holder: Node, protocol: int) -> None:
    frame = from_outside(packet.ipv4(FLOATING_IP, SERVER, protocol, bytes(32)), NODE_A_MAC)
    assert holder.uplink_ingress(frame).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}


# ---- H1: what is not ours ----


@pytest.mark.parametrize(
    "frame",
    [
        from_outside(TCP_FLOW.outbound(), NODE_A_MAC),
        from_outside(TCP_FLOW.to(IPv4Address("10.244.2.20")).outbound(), NODE_A_MAC),
        from_outside(packet.ipv4(SERVER, POD, packet.UDP, packet.udp(SERVER, POD, (1, 2)))),
        STRANGER_MAC + TCP_FLOW.steered()[6:],
        STRANGER_MAC + TCP_FLOW.reply()[6:],
        packet.tagged(TCP_FLOW.steered(), (packet.VLAN, 5)),
    ],
    ids=["bare-pod-outside", "pod-to-pod", "to-a-pod", "steered-to-another", "reply-to-another", "tagged"],
)
def test_h1_everything_else_passes_untouched(holder: Node, frame: bytes) -> None:
    outcome = holder.uplink_ingress(frame)
    assert (outcome.verdict, outcome.frame, holder.drops()) == (UNSPEC, frame, {})


def test_h1_what_its_holder_sends_to_another_node_is_ordinary(pod_node: Node) -> None:
    """A pod of another node talks to a port of this one through the holder."""
    frame = from_outside(TCP_FLOW.to(IPv4Address("192.168.1.2")).translated(), HOLDER_MAC)
    outcome = pod_node.uplink_ingress(frame)
    assert (outcome.verdict, outcome.frame) == (UNSPEC, frame)


def test_h1_what_a_router_brings_from_a_holder_is_ordinary(pod_node: Node) -> None:
    """The same by a route: the address of a service that routers announce."""
    frame = from_outside(TCP_FLOW.to(IPv4Address("198.51.100.5")).translated(), ROUTER_MAC)
    assert pod_node.uplink_ingress(frame).verdict == UNSPEC


def test_h1_what_another_member_steers_to_a_node_that_is_not_the_holder_is_dropped(pod_node: Node) -> None:
    assert pod_node.forward(TCP_FLOW, source_mac=NODE_A_MAC).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


# ---- H2: from the outside ----


@each_protocol
def test_h2_a_reply_goes_to_the_node_of_its_block_as_it_is_with_its_hop_counted(holder: Node, flow: Flow) -> None:
    outcome = holder.come_back(flow, ttl=64)
    frame = packet.read(outcome.frame)
    assert outcome.verdict == REDIRECT
    assert (frame.destination, frame.source) == (NODE_A_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (SERVER, FLOATING_IP, 63)
    assert frame.ip.l4 == packet.read(flow.reply()).ip.l4
    assert frame.ip.is_header_sound()
    assert (outcome.mark, holder.counters()) == (MARK, {"returned": 1})


@pytest.mark.parametrize("port", [POD_PORT - 200, 1023, 22, 0])
def test_c32_what_comes_for_nobodys_block_is_dropped_and_never_reaches_the_stack(holder: Node, port: int) -> None:
    assert holder.come_back(TCP_FLOW, port).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}


def test_h2_after_the_lease_nothing_is_sent_on(holder: Node) -> None:
    holder.end_lease()
    assert holder.come_back(TCP_FLOW).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_x3_a_reply_at_the_end_of_its_hops_goes_no_further_and_is_counted(holder: Node) -> None:
    assert packet.read(holder.come_back(TCP_FLOW, ttl=1).frame).ip.protocol == packet.ICMP, "its sender is told"
    assert holder.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}


@each_protocol
def test_c6_a_reply_for_a_block_of_the_holders_own_takes_the_pods_nodes_step_at_once(
    own_holder: Node, flow: Flow
) -> None:
    own_holder.send(flow)
    outcome = own_holder.come_back(flow, ttl=60)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, outcome.mark, frame.destination) == (REDIRECT, MARK, EGW.mac)
    assert (frame.ip.destination, frame.ip.ttl) == (POD, 60)


@each_protocol
def test_c6_a_pod_of_the_holder_goes_out_with_its_hop_uncounted(own_holder: Node, flow: Flow) -> None:
    steered = own_holder.send(flow, ttl=63)
    outcome = own_holder.uplink_ingress(steered.frame, mark=steered.mark)
    assert outcome.verdict == REDIRECT
    assert (packet.read(outcome.frame).ip.source, packet.read(outcome.frame).ip.ttl) == (FLOATING_IP, 63)


def test_c6_a_pod_of_the_holder_needs_a_block_of_its_own_too(own_holder: Node) -> None:
    own_holder.assign()
    steered = own_holder.send(TCP_FLOW)
    assert own_holder.uplink_ingress(steered.frame, mark=steered.mark).verdict == SHOT
    assert own_holder.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1}


def test_h2_a_pod_that_asks_another_floating_ip_held_here_comes_in_by_it(holder: Node) -> None:
    """Hairpin: only a live flow is reached, and the node of its block is asked."""
    holder.floating_ip(OTHER_FLOATING_IP)
    holder.hold(OTHER_FLOATING_IP)
    frame = TCP_FLOW.to(OTHER_FLOATING_IP).steered()
    assert holder.uplink_ingress(frame).verdict == SHOT
    assert holder.drops() == {(OTHER_FLOATING_IP, DropReason.NO_FLOW): 1}


# ---- H2: the node itself ----


def leave(node: Node, datagram: bytes, *, mark: int = 0):
    frame = packet.ethernet(UPLINK.mac, UPLINK.mac, packet.IPV4, datagram)
    return node.programs.run("uplink_egress", frame, device=UPLINK, mark=mark)


def test_h2_the_holders_own_packet_to_what_it_holds_goes_to_the_node_of_the_block(holder: Node) -> None:
    """A pod of node A asks a server on the holder: the answer is the holder's own."""
    segment = TCP_FLOW.reply(ttl=64)[14:]
    outcome = leave(holder, segment)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, frame.destination, frame.ip.ttl) == (REDIRECT, NODE_A_MAC, 64)


def test_h2_a_reply_on_its_way_to_a_node_is_not_judged_again(holder: Node) -> None:
    outcome = leave(holder, TCP_FLOW.reply()[14:], mark=MARK)
    assert outcome.verdict == UNSPEC


def test_h2_the_holders_own_question_for_what_it_holds_is_answered(holder: Node) -> None:
    message = packet.arp(1, UPLINK.mac, IPv4Address("192.168.1.2"), bytes(6), FLOATING_IP)
    question = packet.ethernet(packet.BROADCAST, UPLINK.mac, packet.ARP, message)
    outcome = holder.programs.run("uplink_egress", question, device=UPLINK)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).arp.sender_mac == UPLINK.mac
    holder.end_lease()
    assert holder.programs.run("uplink_egress", question, device=UPLINK).verdict == UNSPEC


# ---- ping of the floating IP ----


PING = from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 9), ttl=7))


def test_g1_a_ping_of_the_floating_ip_is_answered(holder: Node) -> None:
    outcome = holder.uplink_ingress(PING)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, outcome.mark) == (REDIRECT, MARK)
    assert (frame.destination, frame.source) == (ROUTER_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.icmp_type) == (FLOATING_IP, SERVER, packet.ECHO_REPLY)
    assert (frame.ip.ttl, frame.ip.is_sound()) == (64, True)
    assert frame.ip.payload == packet.read(PING).ip.payload


def test_g1_after_the_lease_a_ping_is_not_answered(holder: Node) -> None:
    holder.end_lease()
    assert holder.uplink_ingress(PING).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


@pytest.mark.parametrize("flow", [UDP_FLOW, ECHO_FLOW], ids=["udp", "echo"])
def test_g4_each_member_has_its_own_blocks(holder: Node, flow: Flow) -> None:
    holder.assign(OWN_BLOCKS[1:], member=2, mac=HOLDER_MAC)
    port = POD_PORT + 64
    other = dataclasses.replace(flow, pod_port=port)
    assert holder.forward(other, source_mac=HOLDER_MAC).verdict == REDIRECT
    assert packet.read(holder.come_back(other).frame).destination == HOLDER_MAC
    assert holder.forward(other).verdict == SHOT
