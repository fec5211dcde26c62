"""ICMP errors about translated packets: path MTU discovery and traceroute work for the pod (RFC 5508, RFC 1191)."""

import dataclasses
from ipaddress import IPv4Address

import pytest

from service.model.drop import DropReason
from service.network.priority import FLOW_PRIORITY
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    POD,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    from_outside,
)
from tests.datapath.program import EGW, REDIRECT, SHOT, UPLINK, Outcome

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
each_error = pytest.mark.parametrize(
    ("kind", "code", "rest"),
    [
        (packet.UNREACHABLE, 1, bytes(4)),
        (packet.UNREACHABLE, 3, bytes(4)),
        (packet.UNREACHABLE, 4, (1400).to_bytes(4, "big")),
        (packet.TIME_EXCEEDED, 0, bytes(4)),
    ],
    ids=["host-unreachable", "port-unreachable", "frag-needed", "time-exceeded"],
)

MIDDLE_ROUTER = IPv4Address("198.51.100.254")


def error_about(
    quoted: bytes, kind: int = packet.UNREACHABLE, code: int = 4, rest: bytes = (1400).to_bytes(4, "big"), ttl: int = 60
) -> bytes:
    message = packet.icmp(kind, code, rest, quoted)
    return from_outside(packet.ipv4(MIDDLE_ROUTER, FLOATING_IP, packet.ICMP, message, ttl=ttl), HOLDER_MAC)


def translate(node: Node, flow: Flow, *, options: bytes = b"") -> bytes:
    """The IPv4 packet that went out for the flow, on a port that is not the pod's own."""
    node.occupy(flow, [flow.pod_port])
    return packet.read(node.steer(flow.outbound(options=options)).frame).payload


def cut(datagram: bytes, l4_bytes: int) -> bytes:
    return datagram[: (datagram[0] & 0x0F) * 4 + l4_bytes]


def receive(node: Node, frame: bytes) -> tuple[Outcome, packet.Frame]:
    outcome = node.uplink_ingress(frame)
    return outcome, packet.read(outcome.frame)


@each_error
@each_protocol
def test_an_error_reaches_the_pod_as_if_it_had_sent_the_packet_itself(
    pod_node: Node, flow: Flow, kind: int, code: int, rest: bytes
) -> None:
    sent = translate(pod_node, flow)
    outcome, frame = receive(pod_node, error_about(sent, kind, code, rest))
    quoted = frame.ip.quoted
    assert outcome.verdict == REDIRECT
    assert (frame.destination, frame.source, outcome.mark) == (EGW.mac, EGW.mac, MARK)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (MIDDLE_ROUTER, POD, 60)
    assert frame.ip.l4[:2] == bytes((kind, code))
    assert frame.ip.l4[4:8] == rest
    assert (quoted.source, quoted.destination) == (POD, SERVER)
    assert quoted.ports == (flow.pod_port, flow.remote_port)


@each_protocol
def test_every_checksum_is_right_the_quoted_ones_too(pod_node: Node, flow: Flow) -> None:
    _, frame = receive(pod_node, error_about(translate(pod_node, flow)))
    assert frame.ip.is_sound()
    assert frame.ip.quoted.is_sound()


@each_protocol
@pytest.mark.parametrize("l4_bytes", [8, 12, 17])
def test_a_short_quote_is_enough(pod_node: Node, flow: Flow, l4_bytes: int) -> None:
    """RFC 792 promises 8 bytes of the transport header: TCP's checksum is not among them."""
    sent = cut(translate(pod_node, flow), l4_bytes)
    outcome, frame = receive(pod_node, error_about(sent))
    assert outcome.verdict == REDIRECT
    assert frame.ip.is_sound()
    assert frame.ip.quoted.is_header_sound()
    assert frame.ip.quoted.ports == (flow.pod_port, flow.remote_port)


@each_protocol
def test_a_short_quote_carries_the_checksum_the_pod_computed(pod_node: Node, flow: Flow) -> None:
    sent = translate(pod_node, flow)
    original = packet.read_ipv4(flow.outbound())
    l4_bytes = 20 if flow is TCP_FLOW else 8
    _, frame = receive(pod_node, error_about(cut(sent, l4_bytes)))
    assert frame.ip.quoted.l4 == original.l4[:l4_bytes]


def test_a_quoted_udp_datagram_without_a_checksum_gets_none(pod_node: Node) -> None:
    sent = translate(pod_node, UDP_FLOW)
    without = sent[:26] + bytes(2) + sent[28:]
    _, frame = receive(pod_node, error_about(without))
    assert frame.ip.quoted.l4_checksum == 0
    assert frame.ip.is_sound()
    assert frame.ip.quoted.ports == (UDP_FLOW.pod_port, UDP_FLOW.server_port)


@each_protocol
def test_options_in_the_quoted_header_are_stepped_over(pod_node: Node, flow: Flow) -> None:
    _, frame = receive(pod_node, error_about(translate(pod_node, flow, options=b"\x94\x04\0\0")))
    assert frame.ip.is_sound()
    assert frame.ip.quoted.is_sound()
    assert frame.ip.quoted.ports == (flow.pod_port, flow.remote_port)


def test_b3_an_error_neither_refreshes_nor_changes_the_flow(pod_node: Node) -> None:
    sent = packet.read(pod_node.send(TCP_FLOW).frame).payload
    pod_node.age(TCP_FLOW, 30)
    aged = pod_node.flow(TCP_FLOW)
    assert receive(pod_node, error_about(sent))[0].verdict == REDIRECT
    assert pod_node.flow(TCP_FLOW) == aged


def test_c25_an_error_about_a_flow_that_is_not_known_is_dropped_and_counted(pod_node: Node) -> None:
    never_sent = packet.ipv4(FLOATING_IP, SERVER, packet.UDP, packet.udp(FLOATING_IP, SERVER, (1, 2)))
    assert receive(pod_node, error_about(never_sent))[0].verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}


def test_c25_an_error_after_the_flows_end_is_dropped_and_counted(pod_node: Node) -> None:
    sent = packet.read(pod_node.send(ECHO_FLOW).frame).payload
    pod_node.end(ECHO_FLOW)
    assert receive(pod_node, error_about(sent))[0].verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}


# ---- on the holder ----


@each_error
@each_protocol
def test_h2_the_holder_sends_an_error_as_it_is_to_the_node_of_the_quoted_port(
    holder: Node, flow: Flow, kind: int, code: int, rest: bytes
) -> None:
    before = error_about(flow.translated(), kind, code, rest)
    outcome, frame = receive(holder, before)
    assert (outcome.verdict, frame.destination) == (REDIRECT, NODE_A_MAC)
    assert (frame.ip.l4, frame.ip.destination, frame.ip.ttl) == (packet.read(before).ip.l4, FLOATING_IP, 59)


def test_h2_an_error_after_the_lease_is_dropped_and_counted(holder: Node) -> None:
    holder.end_lease()
    holder.uplink_ingress(from_outside(error_about(TCP_FLOW.translated())[14:]))
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_x3_an_error_at_the_end_of_its_hops_goes_no_further_and_is_counted(holder: Node) -> None:
    assert receive(holder, error_about(TCP_FLOW.translated(), ttl=1))[0].verdict == SHOT, "nobody is told of an error"
    assert holder.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}


# ---- a pod's own errors (C26) ----


def pods_error(quoted: bytes, source: IPv4Address = POD, destination: IPv4Address = SERVER) -> bytes:
    message = packet.icmp(packet.UNREACHABLE, 3, bytes(4), quoted)
    return packet.ipv4(source, destination, packet.ICMP, message)


def delivered(node: Node, flow: Flow, port: int) -> bytes:
    """What the pod gets of the server's answer."""
    return packet.read(node.answer(flow, port).frame).payload


@each_protocol
def test_c26_a_pods_error_leaves_as_the_remote_knows_the_flow(pod_node: Node, flow: Flow) -> None:
    moved = dataclasses.replace(flow, pod_port=33000)
    port = pod_node.sent_port(moved)
    frame = packet.read(pod_node.steer(pods_error(delivered(pod_node, moved, port))).frame)
    quoted = frame.ip.quoted
    assert (frame.destination, frame.ip.source, frame.ip.destination) == (HOLDER_MAC, FLOATING_IP, SERVER)
    assert (quoted.source, quoted.destination) == (SERVER, FLOATING_IP)
    assert quoted.l4 == packet.read(moved.reply(port)).ip.l4
    assert frame.ip.is_sound()


@each_protocol
def test_c26_the_holder_takes_a_pods_error_by_the_port_it_quotes(holder: Node, flow: Flow) -> None:
    datagram = pods_error(flow.reply()[14:], FLOATING_IP)
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, datagram)
    assert holder.uplink_ingress(frame).verdict == REDIRECT
    stranger = packet.ethernet(UPLINK.mac, HOLDER_MAC, packet.IPV4, datagram)
    assert holder.uplink_ingress(stranger).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1}


def test_c26_a_pods_error_about_what_it_did_not_get_is_dropped(pod_node: Node) -> None:
    assert pod_node.steer(pods_error(TCP_FLOW.reply(floating_ip=POD)[14:])).verdict == SHOT
    pod_node.send(TCP_FLOW)
    assert pod_node.steer(pods_error(TCP_FLOW.reply()[14:])).verdict == SHOT
    assert {reason for _, reason in pod_node.drops()} == {DropReason.NO_FLOW, DropReason.MALFORMED}


def test_d1_a_pods_error_about_a_live_flow_is_of_the_flow(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    outcome = pod_node.leave_pod(pods_error(delivered(pod_node, TCP_FLOW, TCP_FLOW.pod_port)))
    assert outcome.priority == FLOW_PRIORITY


def quote(source: IPv4Address = FLOATING_IP, protocol: int = packet.UDP, **fields: int) -> bytes:
    return packet.ipv4(source, SERVER, protocol, packet.udp(source, SERVER, (40000, 443)), **fields)


@pytest.mark.parametrize(
    ("quoted", "reason"),
    [
        (b"", DropReason.MALFORMED),
        (quote()[:19], DropReason.MALFORMED),
        (quote()[:27], DropReason.MALFORMED),
        (b"\x65" + quote()[1:], DropReason.MALFORMED),
        (b"\x44" + quote()[1:], DropReason.MALFORMED),
        (b"\x4f" + quote()[1:], DropReason.MALFORMED),
        (quote(OTHER_FLOATING_IP), DropReason.MALFORMED),
        (quote(POD), DropReason.MALFORMED),
        (quote(fragment=100), DropReason.FRAGMENT),
        (quote(protocol=packet.SCTP), DropReason.UNSUPPORTED_PROTOCOL),
        (packet.ipv4(FLOATING_IP, SERVER, 1, packet.echo(packet.ECHO_REPLY, 5)), DropReason.NO_FLOW),
    ],
    ids=[
        "nothing",
        "half-a-header",
        "seven-bytes-of-l4",
        "not-ipv4",
        "header-too-short",
        "header-too-long",
        "another-floating-ip",
        "a-pods-address",
        "a-later-fragment",
        "sctp",
        "an-answer",
    ],
)
def test_an_error_about_what_this_node_cannot_have_sent_is_dropped_and_counted(
    pod_node: Node, quoted: bytes, reason: DropReason
) -> None:
    assert receive(pod_node, error_about(quoted))[0].verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, reason): 1}


def test_an_error_about_the_first_fragment_is_delivered(pod_node: Node) -> None:
    sent = translate(pod_node, UDP_FLOW)
    header = sent[:6] + packet.MORE_FRAGMENTS.to_bytes(2, "big") + sent[8:10] + bytes(2) + sent[12:20]
    header = header[:10] + packet.checksum(header).to_bytes(2, "big") + header[12:]
    outcome, frame = receive(pod_node, error_about(header + sent[20:]))
    assert outcome.verdict == REDIRECT
    assert frame.ip.quoted.is_sound()
