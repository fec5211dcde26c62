"""The gateway towards the outside: what it accepts of another node's pod, and how it translates (rules G2-G4)."""

import dataclasses
from ipaddress import IPv4Address

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    CLOSING,
    ECHO_FLOW,
    ESTABLISHED,
    FLOATING_IP,
    FLOWS,
    NEW,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    OTHER_POD,
    OTHER_SERVER,
    POD,
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
from tests.datapath.program import REDIRECT, SHOT, UNSPEC, UPLINK, UPLINK_2

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)

FIRST_PORT = 1024


@each_protocol
def test_the_source_becomes_the_floating_ip_and_nothing_else_changes(gateway: Node, flow: Flow) -> None:
    outcome = gateway.send(flow)
    before, after = packet.read(flow.steered()).ip, packet.read(outcome.frame).ip
    assert outcome.verdict == REDIRECT
    assert (after.source, after.destination, after.ports) == (FLOATING_IP, SERVER, before.ports)
    assert after.payload == before.payload
    assert gateway.counters() == {"translated": 1, "bindings_created": 1}


@each_protocol
def test_every_checksum_is_right_after_translation(gateway: Node, flow: Flow) -> None:
    assert packet.read(gateway.send(flow).frame).ip.is_sound()


@each_protocol
def test_every_checksum_is_right_when_the_port_changes_too(gateway: Node, flow: Flow) -> None:
    gateway.occupy(flow, [flow.pod_port])
    datagram = packet.read(gateway.send(flow).frame).ip
    assert datagram.ports[0] != flow.pod_port
    assert datagram.is_sound()


@each_protocol
def test_ip_options_are_stepped_over(gateway: Node, flow: Flow) -> None:
    outcome = gateway.uplink_ingress(flow.steered(options=b"\x94\x04\0\0"))
    datagram = packet.read(outcome.frame).ip
    assert (datagram.source, datagram.ports[0]) == (FLOATING_IP, flow.pod_port)
    assert datagram.is_sound()


def test_a_udp_datagram_without_a_checksum_gets_none(gateway: Node) -> None:
    ports = (UDP_FLOW.pod_port, UDP_FLOW.server_port)
    datagram = packet.udp(POD, SERVER, ports, has_checksum=False)
    gateway.occupy(UDP_FLOW, [UDP_FLOW.pod_port])
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, packet.ipv4(POD, SERVER, packet.UDP, datagram))
    after = packet.read(gateway.uplink_ingress(frame).frame).ip
    assert after.l4_checksum == 0
    assert after.is_header_sound()


def test_a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones(gateway: Node) -> None:
    """RFC 768. The payload is chosen so that the translated datagram's sum is zero."""
    ports = (UDP_FLOW.pod_port, UDP_FLOW.server_port)
    plain = packet.udp(FLOATING_IP, SERVER, ports, b"\0\0")
    filler = int.from_bytes(plain[6:8], "big").to_bytes(2, "big")
    expected = packet.udp(FLOATING_IP, SERVER, ports, filler)
    assert expected[6:8] == b"\xff\xff"
    original = packet.ipv4(POD, SERVER, packet.UDP, packet.udp(POD, SERVER, ports, filler))
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, original)
    assert packet.read(gateway.uplink_ingress(frame).frame).ip.l4 == expected


@each_protocol
def test_the_hop_is_counted_once(gateway: Node, flow: Flow) -> None:
    assert packet.read(gateway.send(flow, ttl=64).frame).ip.ttl == 63


def test_a_packet_at_the_end_of_its_hops_is_dropped_and_counted_and_makes_no_binding(gateway: Node) -> None:
    assert gateway.send(TCP_FLOW, ttl=1).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.TTL_EXPIRED): 1}
    assert gateway.binding(TCP_FLOW) is None


# ---- ports ----


@each_protocol
def test_a_free_port_is_kept(gateway: Node, flow: Flow) -> None:
    gateway.send(flow)
    assert gateway.binding(flow) == Binding(FLOATING_IP, flow.pod_port)


@each_protocol
def test_a_taken_port_is_replaced_by_another_one(gateway: Node, flow: Flow) -> None:
    gateway.occupy(flow, [flow.pod_port])
    port = packet.read(gateway.send(flow).frame).ip.ports[0]
    assert port != flow.pod_port
    assert port >= FIRST_PORT
    assert gateway.binding(flow) == Binding(FLOATING_IP, port)


def test_both_pods_of_a_collision_keep_their_own_bindings(gateway: Node) -> None:
    gateway.announce(OTHER_POD)
    other = dataclasses.replace(TCP_FLOW, pod=OTHER_POD)
    gateway.send(TCP_FLOW)
    port = packet.read(gateway.send(other).frame).ip.ports[0]
    first, second = gateway.reverse(TCP_FLOW), gateway.reverse(other, port)
    assert first is not None
    assert second is not None
    assert (first.pod, second.pod) == (POD, OTHER_POD)


def test_one_port_serves_any_number_of_destinations(gateway: Node) -> None:
    gateway.announce(OTHER_POD)
    others = [
        dataclasses.replace(TCP_FLOW, pod=OTHER_POD, server=OTHER_SERVER),
        dataclasses.replace(TCP_FLOW, pod=OTHER_POD, server_port=80),
        dataclasses.replace(UDP_FLOW, pod=OTHER_POD),
    ]
    ports = [packet.read(gateway.send(flow).frame).ip.ports[0] for flow in [TCP_FLOW, *others]]
    assert ports == [TCP_FLOW.pod_port] * 4


def test_every_packet_of_a_flow_uses_the_same_binding(gateway: Node) -> None:
    gateway.occupy(TCP_FLOW, [TCP_FLOW.pod_port])
    ports = {
        packet.read(gateway.send(TCP_FLOW, flags=flags).frame).ip.ports[0]
        for flags in (packet.SYN, packet.ACK, packet.PSH)
    }
    assert len(ports) == 1
    assert gateway.counters()["bindings_created"] == 1


def test_when_all_ports_are_taken_the_packet_is_dropped_and_counted_and_never_leaks(gateway: Node) -> None:
    gateway.occupy(TCP_FLOW, range(65536))
    outcome = gateway.send(TCP_FLOW)
    assert outcome.verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.PORTS_EXHAUSTED): 1}
    assert gateway.binding(TCP_FLOW) is None
    assert gateway.send(TCP_FLOW.to(OTHER_SERVER)).verdict == REDIRECT, "another destination has ports of its own"


def test_no_flow_is_moved_to_a_well_known_port(gateway: Node) -> None:
    gateway.occupy(TCP_FLOW, range(FIRST_PORT, 65536))
    assert {gateway.send(TCP_FLOW).verdict for _ in range(30)} == {SHOT}


def test_a_port_whose_binding_is_over_is_free(gateway: Node) -> None:
    gateway.occupy(TCP_FLOW, [TCP_FLOW.pod_port], age_s=11, state=CLOSING)
    assert packet.read(gateway.send(TCP_FLOW).frame).ip.ports[0] == TCP_FLOW.pod_port


def test_a_port_whose_binding_is_closing_is_not_free_yet(gateway: Node) -> None:
    gateway.occupy(TCP_FLOW, [TCP_FLOW.pod_port], age_s=8, state=CLOSING)
    assert packet.read(gateway.send(TCP_FLOW).frame).ip.ports[0] != TCP_FLOW.pod_port


@each_protocol
def test_a_new_binding_remembers_where_the_pods_packets_come_from(gateway: Node, flow: Flow) -> None:
    before_ns = boot_ns()
    gateway.send(flow)
    made = gateway.reverse(flow)
    assert made is not None
    assert (made.pod, made.pod_port, made.ifindex, made.state) == (POD, flow.pod_port, UPLINK.ifindex, NEW)
    assert before_ns <= made.last_ns <= boot_ns()


# ---- what is accepted ----


def test_a_frame_that_is_not_from_the_pods_node_is_dropped_and_counted(gateway: Node) -> None:
    assert gateway.uplink_ingress(TCP_FLOW.steered(source_mac=STRANGER_MAC)).verdict == SHOT
    assert gateway.drops() == {(None, DropReason.WRONG_NODE): 1}


def test_a_pod_that_was_not_announced_is_dropped_and_counted(gateway: Node) -> None:
    assert gateway.send(dataclasses.replace(TCP_FLOW, pod=OTHER_POD)).verdict == SHOT
    assert gateway.drops() == {(None, DropReason.UNKNOWN_ENDPOINT): 1}


def test_a_pod_announced_for_one_uplink_is_unknown_on_another(gateway: Node) -> None:
    frame = UPLINK_2.mac + TCP_FLOW.steered()[6:]
    assert gateway.uplink_ingress(frame, device=UPLINK_2).verdict == SHOT
    assert gateway.drops() == {(None, DropReason.UNKNOWN_ENDPOINT): 1}


def test_a_destination_the_pods_rules_do_not_name_is_dropped_and_counted(gateway: Node) -> None:
    gateway.exclude("203.0.113.0/24")
    assert gateway.send(TCP_FLOW).verdict == SHOT
    assert gateway.drops() == {(None, DropReason.NOT_SELECTED): 1}


def test_after_the_lease_nothing_is_translated(gateway: Node) -> None:
    gateway.end_lease()
    assert gateway.send(TCP_FLOW).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}
    assert gateway.binding(TCP_FLOW) is None


def test_a_node_that_never_held_the_lease_translates_nothing(node: Node) -> None:
    node.rule()
    node.announce()
    assert node.send(TCP_FLOW).verdict == SHOT
    assert node.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_an_open_flow_stops_with_the_lease(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.end_lease()
    assert gateway.send(TCP_FLOW, flags=packet.ACK).verdict == SHOT


def test_a_floating_ip_without_an_interface_here_is_dropped(gateway: Node) -> None:
    gateway.floating_ip(FLOATING_IP, device=None)
    assert gateway.send(TCP_FLOW).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 1}


def test_each_rule_translates_to_its_own_floating_ip(gateway: Node) -> None:
    gateway.floating_ip(OTHER_FLOATING_IP)
    gateway.hold(OTHER_FLOATING_IP)
    gateway.rule(f"{OTHER_SERVER}/32", OTHER_FLOATING_IP)
    sources = [packet.read(gateway.send(TCP_FLOW.to(server)).frame).ip.source for server in (SERVER, OTHER_SERVER)]
    assert sources == [FLOATING_IP, OTHER_FLOATING_IP]


@pytest.mark.parametrize("fragment", [packet.MORE_FRAGMENTS, 100], ids=["first", "later"])
def test_a_fragment_is_dropped_and_counted(gateway: Node, fragment: int) -> None:
    datagram = packet.ipv4(POD, SERVER, packet.UDP, packet.udp(POD, SERVER, (1, 2)), fragment=fragment)
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, datagram)
    assert gateway.uplink_ingress(frame).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.FRAGMENT): 1}


@pytest.mark.parametrize("protocol", [packet.SCTP, 47, 50, 2], ids=["sctp", "gre", "esp", "igmp"])
def test_a_protocol_without_ports_to_translate_is_dropped_and_counted(gateway: Node, protocol: int) -> None:
    datagram = packet.ipv4(POD, SERVER, protocol, bytes(32))
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, datagram)
    assert gateway.uplink_ingress(frame).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}


def test_an_icmp_error_of_a_pod_is_dropped_and_counted(gateway: Node) -> None:
    message = packet.icmp(packet.UNREACHABLE, 3, bytes(4), TCP_FLOW.reply()[14:42])
    datagram = packet.ipv4(POD, SERVER, packet.ICMP, message)
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, datagram)
    assert gateway.uplink_ingress(frame).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.UNSUPPORTED_PROTOCOL): 1}


def test_an_unasked_echo_reply_of_a_pod_makes_no_binding(gateway: Node) -> None:
    datagram = packet.ipv4(POD, SERVER, packet.ICMP, packet.echo(packet.ECHO_REPLY, ECHO_FLOW.pod_port))
    frame = packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, datagram)
    assert gateway.uplink_ingress(frame).verdict == SHOT
    assert gateway.binding(ECHO_FLOW) is None


# ---- what is not ours ----


def test_pods_may_talk_to_each_other_through_the_uplink(gateway: Node) -> None:
    frame = TCP_FLOW.to(IPv4Address("10.244.2.20")).steered()
    outcome = gateway.uplink_ingress(frame)
    assert (outcome.verdict, outcome.frame) == (UNSPEC, frame)


def test_traffic_of_others_is_left_exactly_as_it_was(gateway: Node) -> None:
    frame = from_outside(packet.ipv4(SERVER, IPv4Address("192.168.1.2"), packet.UDP, packet.udp(SERVER, POD, (1, 2))))
    outcome = gateway.uplink_ingress(frame)
    assert (outcome.verdict, outcome.frame, gateway.drops()) == (UNSPEC, frame, {})


def test_a_frame_for_another_hosts_mac_is_not_ours(gateway: Node) -> None:
    frame = STRANGER_MAC + TCP_FLOW.steered()[6:]
    outcome = gateway.uplink_ingress(frame)
    assert (outcome.verdict, outcome.frame) == (UNSPEC, frame)


def test_an_established_binding_is_refreshed_by_the_pod_and_keeps_its_state(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.answer(TCP_FLOW)
    gateway.age(TCP_FLOW, 100)
    gateway.send(TCP_FLOW, flags=packet.ACK)
    present = gateway.reverse(TCP_FLOW)
    assert present is not None
    assert present.state == ESTABLISHED
    assert boot_ns() - present.last_ns < 50 * 10**9
