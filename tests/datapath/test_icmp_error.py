"""ICMP errors about translated packets: path MTU discovery and traceroute work for the pod (RFC 5508, RFC 1191)."""

from ipaddress import IPv4Address

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    NEW,
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
from tests.datapath.program import EGW, REDIRECT, SHOT, UNSPEC, UPLINK, Outcome

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
    return from_outside(packet.ipv4(MIDDLE_ROUTER, FLOATING_IP, packet.ICMP, message, ttl=ttl))


def translate(node: Node, flow: Flow, *, options: bytes = b"") -> bytes:
    """The IPv4 packet that went out for the flow, on a port that is not the pod's own."""
    node.occupy(flow, [flow.pod_port])
    return packet.read(node.uplink_ingress(flow.steered(options=options)).frame).payload


def cut(datagram: bytes, l4_bytes: int) -> bytes:
    return datagram[: (datagram[0] & 0x0F) * 4 + l4_bytes]


def receive(node: Node, frame: bytes) -> tuple[Outcome, packet.Frame]:
    outcome = node.uplink_ingress(frame)
    return outcome, packet.read(outcome.frame)


@each_error
@each_protocol
def test_an_error_reaches_the_pod_as_if_it_had_sent_the_packet_itself(
    gateway: Node, flow: Flow, kind: int, code: int, rest: bytes
) -> None:
    sent = translate(gateway, flow)
    outcome, frame = receive(gateway, error_about(sent, kind, code, rest))
    quoted = frame.ip.quoted
    assert outcome.verdict == REDIRECT
    assert (frame.destination, frame.source) == (NODE_A_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (MIDDLE_ROUTER, POD, 59)
    assert frame.ip.l4[:2] == bytes((kind, code))
    assert frame.ip.l4[4:8] == rest
    assert (quoted.source, quoted.destination) == (POD, SERVER)
    assert quoted.ports == (flow.pod_port, flow.remote_port)


@each_protocol
def test_every_checksum_is_right_the_quoted_ones_too(gateway: Node, flow: Flow) -> None:
    _, frame = receive(gateway, error_about(translate(gateway, flow)))
    assert frame.ip.is_sound()
    assert frame.ip.quoted.is_sound()


@each_protocol
@pytest.mark.parametrize("l4_bytes", [8, 12, 17])
def test_a_short_quote_is_enough(gateway: Node, flow: Flow, l4_bytes: int) -> None:
    """RFC 792 promises 8 bytes of the transport header: TCP's checksum is not among them."""
    sent = cut(translate(gateway, flow), l4_bytes)
    outcome, frame = receive(gateway, error_about(sent))
    assert outcome.verdict == REDIRECT
    assert frame.ip.is_sound()
    assert frame.ip.quoted.is_header_sound()
    assert frame.ip.quoted.ports == (flow.pod_port, flow.remote_port)


@each_protocol
def test_a_short_quote_carries_the_checksum_the_pod_computed(gateway: Node, flow: Flow) -> None:
    sent = translate(gateway, flow)
    original = packet.read_ipv4(flow.outbound())
    l4_bytes = 20 if flow is TCP_FLOW else 8
    _, frame = receive(gateway, error_about(cut(sent, l4_bytes)))
    assert frame.ip.quoted.l4 == original.l4[:l4_bytes]


def test_a_quoted_udp_datagram_without_a_checksum_gets_none(gateway: Node) -> None:
    sent = translate(gateway, UDP_FLOW)
    without = sent[:26] + bytes(2) + sent[28:]
    _, frame = receive(gateway, error_about(without))
    assert frame.ip.quoted.l4_checksum == 0
    assert frame.ip.is_sound()
    assert frame.ip.quoted.ports == (UDP_FLOW.pod_port, UDP_FLOW.server_port)


@each_protocol
def test_options_in_the_quoted_header_are_stepped_over(gateway: Node, flow: Flow) -> None:
    _, frame = receive(gateway, error_about(translate(gateway, flow, options=b"\x94\x04\0\0")))
    assert frame.ip.is_sound()
    assert frame.ip.quoted.is_sound()
    assert frame.ip.quoted.ports == (flow.pod_port, flow.remote_port)


def test_an_error_neither_refreshes_nor_changes_the_binding(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    before = gateway.reverse(TCP_FLOW)
    sent = packet.read(gateway.send(TCP_FLOW).frame).payload
    gateway.age(TCP_FLOW, 30)
    aged = gateway.reverse(TCP_FLOW)
    assert receive(gateway, error_about(sent))[0].verdict == REDIRECT
    assert gateway.reverse(TCP_FLOW) == aged
    assert before is not None
    assert before.state == NEW


def test_an_error_about_a_local_pods_packet_goes_up_the_stack(gateway: Node) -> None:
    gateway.announce(device=EGW)
    frame = packet.ethernet(EGW.mac, EGW.mac, packet.IPV4, UDP_FLOW.outbound())
    sent = packet.read(gateway.programs.run("steer_ingress", frame, device=EGW, mark=0x1000).frame).payload
    outcome, received = receive(gateway, error_about(sent))
    assert outcome.verdict == UNSPEC
    assert (received.ip.destination, received.ip.quoted.source) == (POD, POD)
    assert received.ip.is_sound()


def test_an_error_about_a_flow_that_is_not_bound_is_dropped_and_counted(gateway: Node) -> None:
    never_sent = packet.ipv4(FLOATING_IP, SERVER, packet.UDP, packet.udp(FLOATING_IP, SERVER, (1, 2)))
    assert receive(gateway, error_about(never_sent))[0].verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_BINDING): 1}


def test_an_error_after_the_bindings_end_is_dropped_and_counted(gateway: Node) -> None:
    sent = packet.read(gateway.send(ECHO_FLOW).frame).payload
    gateway.age(ECHO_FLOW, 61)
    assert receive(gateway, error_about(sent))[0].verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_BINDING): 1}


def test_an_error_after_the_lease_is_dropped_and_counted(gateway: Node) -> None:
    sent = packet.read(gateway.send(TCP_FLOW).frame).payload
    gateway.end_lease()
    assert receive(gateway, error_about(sent))[0].verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_an_error_at_the_end_of_its_hops_is_dropped_and_counted(gateway: Node) -> None:
    sent = packet.read(gateway.send(TCP_FLOW).frame).payload
    assert receive(gateway, error_about(sent, ttl=1))[0].verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}


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
        (packet.ipv4(FLOATING_IP, SERVER, 1, packet.echo(packet.ECHO_REPLY, 5)), DropReason.UNSUPPORTED_PROTOCOL),
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
    gateway: Node, quoted: bytes, reason: DropReason
) -> None:
    assert receive(gateway, error_about(quoted))[0].verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, reason): 1}


def test_an_error_about_the_first_fragment_is_delivered(gateway: Node) -> None:
    sent = translate(gateway, UDP_FLOW)
    header = sent[:6] + packet.MORE_FRAGMENTS.to_bytes(2, "big") + sent[8:10] + bytes(2) + sent[12:20]
    header = header[:10] + packet.checksum(header).to_bytes(2, "big") + header[12:]
    outcome, frame = receive(gateway, error_about(header + sent[20:]))
    assert outcome.verdict == REDIRECT
    assert frame.ip.quoted.is_sound()
