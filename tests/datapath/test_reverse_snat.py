"""The gateway from the outside: replies go to their pod's node and nothing for a floating IP reaches the stack (G1)."""

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    NODE_A_MAC,
    OTHER_POD,
    OTHER_SERVER,
    POD,
    ROUTER_MAC,
    SERVER,
    STRANGER_MAC,
    TCP_FLOW,
    UDP_FLOW,
    Binding,
    Flow,
    Node,
    boot_ns,
    from_outside,
)
from tests.datapath.program import REDIRECT, SHOT, UPLINK

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


@each_protocol
def test_a_reply_gets_the_pods_address_and_port_back(gateway: Node, flow: Flow) -> None:
    gateway.occupy(flow, [flow.pod_port])
    port = packet.read(gateway.send(flow).frame).ip.ports[0]
    outcome = gateway.answer(flow, port)
    before, after = packet.read(flow.reply(port)).ip, packet.read(outcome.frame).ip
    assert outcome.verdict == REDIRECT
    assert (after.source, after.destination) == (SERVER, POD)
    assert after.ports == ((flow.pod_port, 0) if flow is ECHO_FLOW else (flow.server_port, flow.pod_port))
    assert after.payload == before.payload
    assert after.is_sound()


@each_protocol
def test_a_reply_goes_to_the_mac_of_the_pods_node(gateway: Node, flow: Flow) -> None:
    gateway.send(flow)
    frame = packet.read(gateway.answer(flow).frame)
    assert (frame.destination, frame.source) == (NODE_A_MAC, UPLINK.mac)
    assert gateway.counters()["reversed"] == 1


def test_a_replys_hop_is_counted_once(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    assert packet.read(gateway.answer(TCP_FLOW, ttl=50).frame).ip.ttl == 49


def test_a_reply_at_the_end_of_its_hops_is_dropped_and_not_counted_as_delivered(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    assert gateway.answer(TCP_FLOW, ttl=1).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}
    assert "reversed" not in gateway.counters()


def test_a_udp_reply_without_a_checksum_gets_none(gateway: Node) -> None:
    gateway.send(UDP_FLOW)
    datagram = packet.udp(SERVER, FLOATING_IP, (UDP_FLOW.server_port, UDP_FLOW.pod_port), has_checksum=False)
    outcome = gateway.uplink_ingress(from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.UDP, datagram)))
    after = packet.read(outcome.frame).ip
    assert (after.destination, after.l4_checksum) == (POD, 0)
    assert after.is_header_sound()


@each_protocol
def test_a_reply_without_a_binding_is_dropped_and_counted_and_never_reaches_the_stack(
    gateway: Node, flow: Flow
) -> None:
    assert gateway.answer(flow).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_BINDING): 1}


def test_another_servers_packet_finds_no_way_through_a_flows_port(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    assert gateway.answer(TCP_FLOW.to(OTHER_SERVER)).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_BINDING): 1}


def test_after_the_lease_replies_are_dropped_and_counted(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.end_lease()
    assert gateway.answer(TCP_FLOW).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_a_reply_to_a_pod_that_was_withdrawn_is_dropped_and_counted(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.withdraw()
    assert gateway.answer(TCP_FLOW).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.UNKNOWN_ENDPOINT): 1}


def test_a_reply_follows_its_pod_to_the_mac_it_was_last_announced_with(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.announce(node_mac=STRANGER_MAC)
    assert packet.read(gateway.answer(TCP_FLOW).frame).destination == STRANGER_MAC


@pytest.mark.parametrize("fragment", [packet.MORE_FRAGMENTS, 100], ids=["first", "later"])
def test_a_fragment_of_a_reply_is_dropped_and_counted(gateway: Node, fragment: int) -> None:
    gateway.send(UDP_FLOW)
    payload = packet.udp(SERVER, FLOATING_IP, (UDP_FLOW.server_port, UDP_FLOW.pod_port))
    frame = from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.UDP, payload, fragment=fragment))
    assert gateway.uplink_ingress(frame).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.FRAGMENT): 1}


def test_a_protocol_without_ports_is_dropped_and_counted(gateway: Node) -> None:
    frame = from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.SCTP, bytes(32)))
    assert gateway.uplink_ingress(frame).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}


def test_an_icmp_redirect_is_dropped_and_counted(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    message = packet.icmp(packet.REDIRECT, 1, bytes(4), TCP_FLOW.outbound())
    assert gateway.uplink_ingress(from_outside(packet.ipv4(SERVER, FLOATING_IP, 1, message))).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}


# ---- ping of the floating IP itself ----


def ping(gateway: Node, *, ttl: int = 64) -> tuple[int, packet.Frame]:
    request = packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 77), ttl=ttl)
    outcome = gateway.uplink_ingress(from_outside(request))
    return outcome.verdict, packet.read(outcome.frame)


def test_a_ping_of_the_floating_ip_is_answered(gateway: Node) -> None:
    verdict, frame = ping(gateway)
    assert verdict == REDIRECT
    assert (frame.destination, frame.source) == (ROUTER_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination) == (FLOATING_IP, SERVER)
    assert (frame.ip.icmp_type, frame.ip.ports[0], frame.ip.payload) == (packet.ECHO_REPLY, 77, b"are you there?")
    assert gateway.counters() == {"echo_answered": 1}


def test_the_answer_to_a_ping_has_right_checksums(gateway: Node) -> None:
    assert ping(gateway)[1].ip.is_sound()


def test_the_answer_to_a_ping_can_travel_as_far_as_any_packet(gateway: Node) -> None:
    frame = ping(gateway, ttl=2)[1]
    assert frame.ip.ttl == 64
    assert frame.ip.is_sound()


def test_after_the_lease_a_ping_is_not_answered(gateway: Node) -> None:
    gateway.end_lease()
    assert ping(gateway)[0] == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


# ---- lost entries ----


@each_protocol
def test_a_reply_recreates_a_lost_forward_entry(gateway: Node, flow: Flow) -> None:
    gateway.occupy(flow, [flow.pod_port])
    port = packet.read(gateway.send(flow).frame).ip.ports[0]
    gateway.forget_binding(flow)
    gateway.answer(flow, port)
    assert gateway.binding(flow) == Binding(FLOATING_IP, port)
    assert packet.read(gateway.send(flow, flags=packet.ACK).frame).ip.ports[0] == port


def test_a_pods_packet_recreates_a_lost_forward_entry(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.forget_binding(TCP_FLOW)
    assert packet.read(gateway.send(TCP_FLOW, flags=packet.ACK).frame).ip.ports[0] == TCP_FLOW.pod_port
    assert gateway.binding(TCP_FLOW) == Binding(FLOATING_IP, TCP_FLOW.pod_port)


@each_protocol
def test_a_pods_packet_recreates_a_lost_reverse_entry_on_the_same_port(gateway: Node, flow: Flow) -> None:
    """The server knows the flow by its translated port: another one would end the connection."""
    gateway.occupy(flow, [flow.pod_port])
    port = packet.read(gateway.send(flow).frame).ip.ports[0]
    gateway.forget_reverse(flow, port)
    assert packet.read(gateway.send(flow, flags=packet.ACK).frame).ip.ports[0] == port
    assert packet.read(gateway.answer(flow, port).frame).ip.destination == POD


def test_a_binding_whose_port_went_to_another_pod_gets_a_new_port(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.forget_reverse(TCP_FLOW)
    gateway.occupy(TCP_FLOW, [TCP_FLOW.pod_port])
    port = packet.read(gateway.send(TCP_FLOW, flags=packet.ACK).frame).ip.ports[0]
    taken = gateway.reverse(TCP_FLOW)
    assert port != TCP_FLOW.pod_port
    assert taken is not None
    assert taken.pod == OTHER_POD


def test_a_reply_refreshes_the_binding(gateway: Node) -> None:
    gateway.send(UDP_FLOW)
    gateway.age(UDP_FLOW, 40)
    gateway.answer(UDP_FLOW)
    present = gateway.reverse(UDP_FLOW)
    assert present is not None
    assert boot_ns() - present.last_ns < 20 * 10**9
