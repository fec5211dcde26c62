"""What cannot go on is answered with an ICMP error, on every node, and the error finds its way (rules H2, X3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    FLOWS,
    HOLDER,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OWN_ADDRESS,
    POD,
    POD_PORT,
    ROUTER_MAC,
    SERVER,
    SERVER_PORT,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    egw_frame,
    from_outside,
)
from tests.datapath.program import EGW, POD_DEVICE, REDIRECT, SHOT, UNSPEC, UPLINK, Device, Outcome

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)

NARROW = 600
BIG, FITTING = 700, NARROW
"""Lengths of IP packets."""
EXPIRED, TOO_BIG = (packet.TIME_EXCEEDED, 0, 0), (packet.UNREACHABLE, 4, NARROW)


def of_length(
    flow: Flow,
    length: int,
    source: IPv4Address,
    destination: IPv4Address,
    kind: int = packet.ECHO_REQUEST,
    **fields: int | bytes,
) -> bytes:
    """The IPv4 packet of a flow that has this length; an echo's id is the flow's port."""
    ports = (POD_PORT, SERVER_PORT) if destination == SERVER else (SERVER_PORT, POD_PORT)
    data = bytes(length - 20 - len(fields.get("options", b"")) - (20 if flow.protocol == packet.TCP else 8))
    if flow.protocol == packet.ICMP:
        payload = packet.echo(kind, POD_PORT, data)
    elif flow.protocol == packet.TCP:
        payload = packet.tcp(source, destination, ports, packet.ACK, data)
    else:
        payload = packet.udp(source, destination, ports, data)
    return packet.ipv4(source, destination, flow.protocol, payload, **fields)


def steered(flow: Flow, length: int = BIG, **fields: int | bytes) -> bytes:
    """The frame in which node A sends it to this holder."""
    return from_outside(of_length(flow, length, FLOATING_IP, SERVER, **fields), NODE_A_MAC)


def returning(flow: Flow, length: int = BIG, source_mac: bytes = ROUTER_MAC, **fields: int) -> bytes:
    """The frame in which it comes from the server; by HOLDER_MAC to the pod's node."""
    datagram = of_length(flow, length, SERVER, FLOATING_IP, packet.ECHO_REPLY, **fields)
    return from_outside(datagram, source_mac)


def said(outcome: Outcome) -> tuple[int, int, int]:
    """Type, code and MTU of the error that a packet was turned into, which is right in all its checksums."""
    message = packet.read(outcome.frame).ip
    assert (outcome.verdict, message.protocol) == (REDIRECT, packet.ICMP)
    assert message.is_sound()
    assert message.quoted.is_header_sound()
    return message.l4[0], message.l4[1], int.from_bytes(message.l4[6:8], "big")


def ends(outcome: Outcome) -> tuple[IPv4Address, IPv4Address]:
    message = packet.read(outcome.frame).ip
    return message.source, message.destination


def assert_quotes(outcome: Outcome, datagram: bytes, *, is_hop_counted: bool = False) -> None:
    """IP header, and of the transport header what NAT and sockets ask for."""
    quoted, original = packet.read(outcome.frame).ip.quoted, packet.read_ipv4(datagram)
    assert len(quoted.l4) == (20 if original.protocol == packet.TCP else 8)
    assert quoted.l4 == original.l4[: len(quoted.l4)]
    assert (quoted.source, quoted.destination) == (original.source, original.destination)
    assert quoted.ttl == original.ttl - is_hop_counted


@contextmanager
def narrow(node: Node, device: Device = UPLINK, mtu: int = NARROW) -> Iterator[None]:
    """The device, from now on."""
    namespace = node.programs.namespace
    namespace.command("ip", "link", "set", device.name, "mtu", str(mtu))
    try:
        yield
    finally:
        namespace.command("ip", "link", "set", device.name, "mtu", "1500")


@contextmanager
def narrow_route(node: Node, *, is_resolved: bool = True) -> Iterator[None]:
    command = node.programs.namespace.command
    hop = f"192.168.1.1 lladdr {ROUTER_MAC.hex(':')} dev {UPLINK.name}".split()
    text = f"203.0.113.0/24 via 192.168.1.1 dev {UPLINK.name} mtu lock {NARROW}".split()
    command("ip", "route", "add", *text)
    if is_resolved:
        command("ip", "neigh", "replace", *hop, "nud", "permanent")
    try:
        yield
    finally:
        command("ip", "route", "del", *text)
        if is_resolved:
            command("ip", "neigh", "del", *hop)


# ---- the holder, towards the outside ----


@each_protocol
def test_c31_a_member_is_told_what_is_too_big_for_the_route(holder: Node, flow: Flow) -> None:
    """In the name of the server, to the floating IP: it goes in once more, and to the node of its block."""
    with narrow_route(holder):
        outcome = holder.uplink_ingress(steered(flow))
        assert said(outcome) == TOO_BIG
        assert ends(outcome) == (SERVER, FLOATING_IP)
        assert_quotes(outcome, steered(flow)[14:], is_hop_counted=True)
        assert (outcome.mark, packet.read(outcome.frame).destination) == (0, UPLINK.mac)
        assert holder.drops() == {(FLOATING_IP, DropReason.TOO_BIG): 1}
        again = holder.uplink_ingress(outcome.frame)
    assert (again.verdict, packet.read(again.frame).destination) == (REDIRECT, NODE_A_MAC)
    assert holder.counters() == {"errors_made": 1, "returned": 1}


def test_c31_a_known_next_hop_remembers_how_big_a_packet_may_be(holder: Node) -> None:
    with narrow_route(holder):
        assert holder.uplink_ingress(steered(UDP_FLOW, FITTING)).verdict == REDIRECT
        assert said(holder.uplink_ingress(steered(UDP_FLOW))) == TOO_BIG
    assert holder.counters() == {"forwarded": 1, "errors_made": 1}


def test_c31_the_uplink_is_asked_where_the_neighbour_is_not_known(holder: Node) -> None:
    with narrow(holder):
        assert said(holder.uplink_ingress(steered(UDP_FLOW))) == TOO_BIG


@each_protocol
def test_c31_the_route_is_asked_where_the_neighbour_is_not_known(holder: Node, flow: Flow) -> None:
    with narrow_route(holder, is_resolved=False):
        assert said(holder.uplink_ingress(steered(flow))) == TOO_BIG
        assert holder.uplink_ingress(steered(flow, FITTING)).verdict == REDIRECT
    assert holder.counters() == {"forwarded": 1, "errors_made": 1}


@pytest.mark.parametrize("fragment", [0, packet.DONT_FRAGMENT, packet.MORE_FRAGMENTS], ids=["df-off", "df-on", "first"])
def test_c31_a_sender_that_allows_cutting_is_told_too(holder: Node, fragment: int) -> None:
    """Nobody cuts here. Told, its stack does from the next datagram on."""
    with narrow_route(holder):
        assert said(holder.uplink_ingress(steered(UDP_FLOW, fragment=fragment))) == TOO_BIG


@pytest.mark.parametrize(("segment", "is_sent"), [(NARROW - 40, True), (NARROW - 39, False)])
def test_c31_what_is_to_be_cut_into_segments_is_judged_by_the_size_of_one(
    holder: Node, segment: int, is_sent: bool
) -> None:
    """Its headers with it."""
    frame = steered(TCP_FLOW, 1440)
    with narrow_route(holder):
        outcome = holder.programs.run("uplink_ingress", frame, segments=(3, segment))
    if is_sent:
        assert packet.read(outcome.frame).ip.protocol == packet.TCP
    else:
        assert said(outcome) == TOO_BIG
    assert holder.counters() == ({"forwarded": 1} if is_sent else {"errors_made": 1})


def test_c31_options_of_the_packet_are_quoted_and_counted(holder: Node) -> None:
    options = b"\x94\x04\0\0"
    with narrow_route(holder):
        outcome = holder.uplink_ingress(steered(UDP_FLOW, options=options))
    assert said(outcome) == TOO_BIG
    assert packet.read(outcome.frame).ip.quoted.header[20:] == options
    assert_quotes(outcome, steered(UDP_FLOW, options=options)[14:], is_hop_counted=True)


@each_protocol
def test_h2_a_member_is_told_by_the_holders_own_address_that_the_hops_are_used_up(holder: Node, flow: Flow) -> None:
    """Traceroute of a pod shows the hop."""
    outcome = holder.forward(flow, ttl=1)
    assert said(outcome) == EXPIRED
    assert ends(outcome) == (OWN_ADDRESS, FLOATING_IP)
    assert_quotes(outcome, flow.translated(ttl=1))
    assert packet.read(holder.uplink_ingress(outcome.frame).frame).destination == NODE_A_MAC
    assert holder.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}


def test_c31_a_pod_of_the_holder_is_told_too(own_holder: Node) -> None:
    sent = own_holder.steer(of_length(UDP_FLOW, BIG, POD, SERVER))
    with narrow_route(own_holder):
        outcome = own_holder.uplink_ingress(sent.frame, mark=sent.mark)
    assert said(outcome) == TOO_BIG
    assert outcome.mark == 0
    back = own_holder.uplink_ingress(outcome.frame)
    assert (packet.read(back.frame).destination, ends(back)) == (EGW.mac, (SERVER, POD))


# ---- the holder, towards the pods' nodes ----


@each_protocol
def test_c31_the_outside_is_told_what_is_too_big_for_the_way_to_the_node(holder: Node, flow: Flow) -> None:
    """As the floating IP, whose answers get there."""
    with narrow(holder):
        outcome = holder.uplink_ingress(returning(flow))
    assert said(outcome) == TOO_BIG
    assert ends(outcome) == (FLOATING_IP, SERVER)
    assert_quotes(outcome, returning(flow)[14:])
    frame = packet.read(outcome.frame)
    assert (frame.destination, frame.source, outcome.mark) == (ROUTER_MAC, UPLINK.mac, MARK)
    assert holder.drops() == {(FLOATING_IP, DropReason.TOO_BIG): 1}


@each_protocol
def test_h2_the_outside_is_told_by_the_holders_own_address_that_the_hops_are_used_up(holder: Node, flow: Flow) -> None:
    outcome = holder.come_back(flow, ttl=1)
    assert said(outcome) == EXPIRED
    assert ends(outcome) == (OWN_ADDRESS, SERVER)
    assert_quotes(outcome, flow.reply(ttl=1)[14:])
    assert packet.read(outcome.frame).destination == ROUTER_MAC


@each_protocol
def test_c31_the_holder_itself_is_told_what_of_its_own_is_too_big_for_the_way_to_the_node(
    holder: Node, flow: Flow
) -> None:
    """By its own stack, which tells the pod in whose name it has sent it."""
    sent = of_length(flow, BIG, OWN_ADDRESS, FLOATING_IP, packet.ECHO_REPLY)
    frame = packet.ethernet(UPLINK.mac, UPLINK.mac, packet.IPV4, sent)
    with narrow(holder):
        outcome = holder.programs.run("uplink_egress", frame, device=UPLINK)
    assert said(outcome) == TOO_BIG
    assert ends(outcome) == (FLOATING_IP, OWN_ADDRESS)
    assert_quotes(outcome, sent)
    assert (packet.read(outcome.frame).destination, outcome.mark) == (EGW.mac, MARK)
    assert holder.drops() == {(FLOATING_IP, DropReason.TOO_BIG): 1}
    assert holder.programs.run("steer_ingress", outcome.frame, device=EGW, mark=MARK).verdict == UNSPEC


# ---- the pod's node ----


@each_protocol
def test_c31_a_pod_is_told_by_its_own_node_what_is_too_big_for_the_way(pod_node: Node, flow: Flow) -> None:
    """About the packet as the pod sent it."""
    sent = of_length(flow, BIG, POD, SERVER)
    with narrow(pod_node):
        outcome = pod_node.steer(sent)
    assert said(outcome) == TOO_BIG
    assert ends(outcome) == (SERVER, POD)
    assert_quotes(outcome, sent)
    assert (packet.read(outcome.frame).destination, outcome.mark) == (EGW.mac, MARK)
    assert pod_node.drops() == {(FLOATING_IP, DropReason.TOO_BIG): 1}
    assert pod_node.steer(of_length(flow, BIG, POD, SERVER)).verdict == REDIRECT, "the device is wide again"


def test_c31_a_pods_segments_are_judged_by_the_size_of_one(pod_node: Node) -> None:
    frame = egw_frame(of_length(TCP_FLOW, 1440, POD, SERVER))
    with narrow(pod_node):
        fits, big = (
            pod_node.programs.run("steer_egress", frame, device=EGW, mark=MARK, segments=(3, size))
            for size in (NARROW - 40, NARROW - 39)
        )
    assert packet.read(fits.frame).ip.source == FLOATING_IP
    assert said(big) == TOO_BIG


@each_protocol
def test_c26_the_remote_is_told_as_the_floating_ip_what_is_too_big_for_the_pods_device(
    pod_node: Node, flow: Flow
) -> None:
    """By the holder, which takes it by the port that it quotes. The pod's address is in none of it."""
    pod_node.send(flow)
    pod_node.change(flow, ifindex=POD_DEVICE.ifindex)
    with narrow(pod_node, POD_DEVICE):
        outcome = pod_node.uplink_ingress(returning(flow, source_mac=HOLDER_MAC))
    assert said(outcome) == TOO_BIG
    assert ends(outcome) == (FLOATING_IP, SERVER)
    assert_quotes(outcome, returning(flow)[14:])
    assert (packet.read(outcome.frame).destination, outcome.mark) == (HOLDER_MAC, MARK)
    assert POD.packed not in outcome.frame
    arrived = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, packet.read(outcome.frame).payload)
    pod_node.hold()
    pod_node.assign()
    assert pod_node.uplink_ingress(arrived).verdict == REDIRECT


def test_c31_what_the_stack_may_cut_goes_to_the_pod(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.change(UDP_FLOW, ifindex=POD_DEVICE.ifindex)
    with narrow(pod_node, POD_DEVICE):
        outcome = pod_node.uplink_ingress(returning(UDP_FLOW, source_mac=HOLDER_MAC, fragment=0))
    assert (ends(outcome), pod_node.drops()) == ((SERVER, POD), {})


@each_protocol
def test_c26_the_remote_is_told_as_the_floating_ip_that_the_hops_are_used_up(pod_node: Node, flow: Flow) -> None:
    pod_node.send(flow)
    outcome = pod_node.answer(flow, ttl=1)
    assert said(outcome) == EXPIRED
    assert ends(outcome) == (FLOATING_IP, SERVER)
    assert POD.packed not in outcome.frame
    assert packet.read(outcome.frame).destination == HOLDER_MAC


# ---- who is told nothing ----


@pytest.mark.parametrize("source", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "255.255.255.255"])
def test_h2_what_came_from_no_single_host_is_dropped_in_silence(holder: Node, source: str) -> None:
    """RFC 1122, 3.2.2."""
    address = IPv4Address(source)
    datagram = packet.udp(address, FLOATING_IP, (SERVER_PORT, POD_PORT))
    outcome = holder.uplink_ingress(from_outside(packet.ipv4(address, FLOATING_IP, packet.UDP, datagram, ttl=1)))
    assert outcome.verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}


def test_h2_a_later_fragment_is_dropped_in_silence(holder: Node) -> None:
    first = of_length(UDP_FLOW, FITTING, FLOATING_IP, SERVER, fragment=packet.MORE_FRAGMENTS)
    later = packet.ipv4(FLOATING_IP, SERVER, packet.UDP, bytes(BIG), fragment=NARROW // 8)
    with narrow_route(holder):
        assert holder.uplink_ingress(from_outside(first, NODE_A_MAC)).verdict == REDIRECT
        assert holder.uplink_ingress(from_outside(later, NODE_A_MAC)).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.TOO_BIG): 1}


def test_h2_without_an_address_of_its_own_a_holder_is_silent(holder: Node) -> None:
    holder.map("uplink_addresses").delete(UPLINK.ifindex.to_bytes(4, "little"))
    assert holder.forward(UDP_FLOW, ttl=1).verdict == SHOT


def test_h2_the_rate_of_errors_is_bounded_for_each_whom_it_concerns(holder: Node) -> None:
    """A hundred at once, and then one in a millisecond: one member's pods do not keep those of another from theirs."""
    frames = [UDP_FLOW.steered(ttl=1)] * 600
    told = [holder.uplink_ingress(frame).verdict for frame in frames].count(REDIRECT)
    assert 100 <= told < 500
    assert holder.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 600}
    holder.assign(member=HOLDER, mac=HOLDER_MAC)
    assert holder.forward(UDP_FLOW, ttl=1, source_mac=HOLDER_MAC).verdict == REDIRECT
