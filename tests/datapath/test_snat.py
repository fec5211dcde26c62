"""Translation on the pod's node, outwards: address, port and every checksum they are part of (C29, C30)."""

import dataclasses

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    OTHER_FLOATING_IP,
    OTHER_SERVER,
    POD,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
)
from tests.datapath.program import SHOT

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


@each_protocol
def test_the_source_becomes_the_floating_ip_and_nothing_else_changes(pod_node: Node, flow: Flow) -> None:
    before, after = packet.read_ipv4(flow.outbound()), packet.read(pod_node.send(flow).frame).ip
    assert (after.source, after.destination, after.ports) == (FLOATING_IP, SERVER, before.ports)
    assert (after.payload, after.ttl) == (before.payload, before.ttl)


@each_protocol
def test_c29_every_checksum_is_right_after_translation(pod_node: Node, flow: Flow) -> None:
    assert packet.read(pod_node.send(flow).frame).ip.is_sound()


@each_protocol
def test_c29_every_checksum_is_right_when_the_port_changes_too(pod_node: Node, flow: Flow) -> None:
    datagram = packet.read(pod_node.send(dataclasses.replace(flow, pod_port=9)).frame).ip
    assert datagram.ports[0] != 9
    assert datagram.is_sound()


@each_protocol
def test_ip_options_are_stepped_over(pod_node: Node, flow: Flow) -> None:
    moved = dataclasses.replace(flow, pod_port=9)
    datagram = packet.read(pod_node.steer(moved.outbound(options=b"\x94\x04\0\0")).frame).ip
    assert (datagram.source, datagram.ports[0]) == (FLOATING_IP, pod_node.flow(moved).nat_port)
    assert datagram.is_sound()


def test_c29_a_udp_datagram_without_a_checksum_gets_none(pod_node: Node) -> None:
    datagram = packet.udp(POD, SERVER, (9, UDP_FLOW.server_port), has_checksum=False)
    after = packet.read(pod_node.steer(packet.ipv4(POD, SERVER, packet.UDP, datagram)).frame).ip
    assert after.l4_checksum == 0
    assert after.is_header_sound()


def test_c29_a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones(pod_node: Node) -> None:
    """RFC 768. The payload is chosen so that the translated datagram's sum is zero."""
    ports = (UDP_FLOW.pod_port, UDP_FLOW.server_port)
    plain = packet.udp(FLOATING_IP, SERVER, ports, b"\0\0")
    filler = int.from_bytes(plain[6:8], "big").to_bytes(2, "big")
    expected = packet.udp(FLOATING_IP, SERVER, ports, filler)
    assert expected[6:8] == b"\xff\xff"
    original = packet.ipv4(POD, SERVER, packet.UDP, packet.udp(POD, SERVER, ports, filler))
    assert packet.read(pod_node.steer(original).frame).ip.l4 == expected


@each_protocol
def test_a_corrupt_packet_is_as_corrupt_after_translation(pod_node: Node, flow: Flow) -> None:
    """Checksums are corrected by the difference, never computed anew: the receiver must be able to notice."""
    datagram = flow.outbound()
    corrupt = datagram[:-1] + bytes((datagram[-1] ^ 0xFF,))
    assert not packet.read(pod_node.steer(corrupt).frame).ip.is_sound()


def test_every_packet_of_a_flow_has_the_same_port(pod_node: Node) -> None:
    moved = dataclasses.replace(TCP_FLOW, pod_port=33000)
    ports = {pod_node.sent_port(moved, flags=flags) for flags in (packet.SYN, packet.ACK, packet.PSH)}
    assert len(ports) == 1
    assert pod_node.counters()["flows_made"] == 1


def test_each_rule_translates_to_its_own_floating_ip(pod_node: Node) -> None:
    pod_node.floating_ip(OTHER_FLOATING_IP)
    pod_node.own(floating_ip=OTHER_FLOATING_IP)
    pod_node.way(floating_ip=OTHER_FLOATING_IP)
    pod_node.rule(f"{OTHER_SERVER}/32", OTHER_FLOATING_IP)
    sources = [packet.read(pod_node.send(TCP_FLOW.to(server)).frame).ip.source for server in (SERVER, OTHER_SERVER)]
    assert sources == [FLOATING_IP, OTHER_FLOATING_IP]


@pytest.mark.parametrize("protocol", [packet.SCTP, 47, 50, 2], ids=["sctp", "gre", "esp", "igmp"])
def test_c30_a_protocol_without_ports_to_translate_is_dropped_and_counted(pod_node: Node, protocol: int) -> None:
    assert pod_node.steer(packet.ipv4(POD, SERVER, protocol, bytes(32))).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.UNSUPPORTED_PROTOCOL): 1}


def test_an_unasked_echo_reply_of_a_pod_makes_no_flow(pod_node: Node) -> None:
    reply = packet.ipv4(POD, SERVER, packet.ICMP, packet.echo(packet.ECHO_REPLY, ECHO_FLOW.pod_port))
    assert pod_node.steer(reply).verdict == SHOT
    assert pod_node.flow(ECHO_FLOW) is None
