"""What comes back, on the pod's node: taken from a member, for a live flow, to netfilter by egw0 (H2, D2)."""

import dataclasses

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    OTHER_SERVER,
    POD,
    ROUTER_MAC,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    from_outside,
)
from tests.datapath.program import EGW, REDIRECT, SHOT, UNSPEC, UPLINK_2

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


@each_protocol
def test_a_reply_gets_the_pods_address_and_port_back(pod_node: Node, flow: Flow) -> None:
    moved = dataclasses.replace(flow, pod_port=33000)
    port = pod_node.sent_port(moved)
    outcome = pod_node.answer(moved, port)
    frame = packet.read(outcome.frame)
    own_port = frame.ip.ports[0 if flow.protocol == packet.ICMP else 1]
    assert (outcome.verdict, frame.ip.source, frame.ip.destination, own_port) == (REDIRECT, SERVER, POD, 33000)
    assert frame.ip.is_sound()
    assert pod_node.counters()["reversed"] == 1


@each_protocol
def test_d2_a_reply_goes_to_egw0_with_our_mark_and_its_hop_uncounted(pod_node: Node, flow: Flow) -> None:
    pod_node.send(flow)
    outcome = pod_node.answer(flow, ttl=60)
    frame = packet.read(outcome.frame)
    assert (frame.destination, frame.source, outcome.mark, frame.ip.ttl) == (EGW.mac, EGW.mac, MARK, 60)


def test_d2_egw0_passes_what_has_our_mark_and_takes_it_off(pod_node: Node) -> None:
    frame = packet.ethernet(EGW.mac, EGW.mac, packet.IPV4, TCP_FLOW.reply()[14:])
    outcome = pod_node.programs.run("steer_ingress", frame, device=EGW, mark=MARK | 4)
    assert (outcome.verdict, outcome.mark, outcome.frame) == (UNSPEC, 4, frame)


def test_d2_nothing_else_enters_by_egw0(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    frame = packet.ethernet(EGW.mac, EGW.mac, packet.IPV4, TCP_FLOW.reply()[14:])
    assert pod_node.programs.run("steer_ingress", frame, device=EGW).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.NO_TRANSPORT): 1}


def test_c29_a_udp_reply_without_a_checksum_gets_none(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    ports = (UDP_FLOW.server_port, UDP_FLOW.pod_port)
    datagram = packet.udp(SERVER, FLOATING_IP, ports, has_checksum=False)
    frame = from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.UDP, datagram), HOLDER_MAC)
    after = packet.read(pod_node.uplink_ingress(frame).frame).ip
    assert (after.l4_checksum, after.destination) == (0, POD)


@each_protocol
def test_c32_a_reply_that_no_flow_waits_for_is_dropped_and_counted(pod_node: Node, flow: Flow) -> None:
    assert pod_node.answer(flow).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}


def test_another_servers_packet_finds_no_way_through_a_flows_port(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    assert pod_node.answer(TCP_FLOW.to(OTHER_SERVER)).verdict == SHOT
    assert pod_node.answer(dataclasses.replace(TCP_FLOW, server_port=22)).verdict == SHOT


def test_h2_a_reply_from_nobodys_mac_is_dropped_and_counted(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    assert pod_node.uplink_ingress(TCP_FLOW.reply(source_mac=ROUTER_MAC)).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_h2_a_member_is_known_by_its_uplink(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    frame = UPLINK_2.mac + TCP_FLOW.reply(source_mac=HOLDER_MAC)[6:]
    assert pod_node.uplink_ingress(frame, device=UPLINK_2).verdict == SHOT


def test_r1_a_reply_of_any_member_is_taken_because_the_holder_may_be_a_new_one(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    new_holder = packet.mac("02:00:00:00:0c:09")
    pod_node.member(new_holder, 9)
    assert pod_node.uplink_ingress(TCP_FLOW.reply(source_mac=new_holder)).verdict == REDIRECT


def test_c17_a_lost_flow_is_made_again_on_its_port_with_the_pods_next_segment(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    pod_node.forget(TCP_FLOW)
    assert pod_node.answer(TCP_FLOW, flags=packet.ACK).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}
    assert pod_node.sent_port(TCP_FLOW, flags=packet.ACK) == TCP_FLOW.pod_port
    assert pod_node.answer(TCP_FLOW, flags=packet.ACK).verdict == REDIRECT


def test_c18_a_lost_reservation_comes_back_with_the_pods_next_packet(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.forget_mirror(UDP_FLOW)
    assert pod_node.answer(UDP_FLOW).verdict == SHOT
    pod_node.send(UDP_FLOW)
    assert pod_node.answer(UDP_FLOW).verdict == REDIRECT


@pytest.mark.parametrize("kind", [packet.REDIRECT, packet.ECHO_REQUEST], ids=["redirect", "ping"])
def test_an_icmp_message_that_no_flow_waits_for_is_dropped(pod_node: Node, kind: int) -> None:
    pod_node.send(ECHO_FLOW)
    message = packet.icmp(kind, 0, ECHO_FLOW.pod_port.to_bytes(2, "big") + bytes(2), bytes(28))
    frame = from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, message), HOLDER_MAC)
    assert pod_node.uplink_ingress(frame).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}
