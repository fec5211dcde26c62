"""The direct path, one packet at a time: what it asks is all that the policy path asks (rules F2, F4)."""

import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from service.datapath import layout
from service.datapath.layout import ClusterFlag, MapName, SelectedState
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    OTHER_FLOATING_IP,
    OTHER_POD,
    POD,
    POD_NUMBER,
    RULE_SET,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    mirror_key,
)
from tests.datapath.packet import ACK, FIN, RST, SYN, TCP
from tests.datapath.program import POD_DEVICE, REDIRECT, SHOT, UNSPEC, UPLINK_2, Outcome

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
POD_MAC, NODE_MAC = packet.mac("02:00:00:00:0d:01"), packet.mac("02:00:00:00:0d:02")
LONG_NS = 60_000_000_000


def open_flow(node: Node, flow: Flow) -> None:
    """Answered, and approved both ways."""
    node.send(flow)
    node.answer(flow)
    until_ns = time.monotonic_ns() + LONG_NS
    node.change(
        flow,
        out_until_ns=until_ns,
        back_until_ns=until_ns,
        back_ifindex=POD_DEVICE.ifindex,
        pod_mac=POD_MAC,
        node_mac=NODE_MAC,
    )


def leave(node: Node, flow: Flow, *, flags: int = ACK, **fields: int) -> Outcome:
    return node.leave_pod(flow.outbound(flags=flags, **fields))


@each_protocol
def test_f4_an_approved_packet_leaves_the_pods_device_for_the_holder(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    outcome = leave(pod_node, flow, ttl=9)
    assert outcome.verdict == REDIRECT
    frame = packet.read(outcome.frame)
    assert (frame.destination, frame.ip.source, frame.ip.destination) == (HOLDER_MAC, FLOATING_IP, SERVER)
    assert frame.ip.ttl == 8, "in the place of this node's forwarding"
    assert frame.ip.is_sound()
    assert outcome.frame[14:] == flow.translated(flags=ACK, ttl=8)
    assert pod_node.counters()["direct_out"] == 1


@each_protocol
def test_f2_without_approval_or_after_it_a_packet_takes_the_policy_path(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    pod_node.change(flow, out_until_ns=time.monotonic_ns() - 1_000_000_000)
    outcome = leave(pod_node, flow)
    assert (outcome.verdict, outcome.mark) == (UNSPEC, 0x1000)
    pod_node.change(flow, out_until_ns=0)
    assert leave(pod_node, flow).verdict == UNSPEC


@pytest.mark.parametrize("flags", [SYN, FIN | ACK, RST, SYN | ACK, RST | ACK])
def test_f2_how_a_connection_begins_and_ends_is_always_asked(pod_node: Node, flags: int) -> None:
    open_flow(pod_node, TCP_FLOW)
    assert leave(pod_node, TCP_FLOW, flags=flags).verdict == UNSPEC
    answered = pod_node.answer(TCP_FLOW, flags=flags)
    assert packet.read(answered.frame).destination != POD_MAC


@pytest.mark.parametrize("state", [0, 4], ids=["unanswered", "closing"])
def test_f2_only_open_connections_are_not_asked(pod_node: Node, state: int) -> None:
    open_flow(pod_node, TCP_FLOW)
    pod_node.change(TCP_FLOW, state=state)
    assert leave(pod_node, TCP_FLOW).verdict == UNSPEC


def test_f2_an_error_and_a_fragment_are_always_asked(pod_node: Node) -> None:
    open_flow(pod_node, UDP_FLOW)
    came = UDP_FLOW.reply(source_mac=HOLDER_MAC)[14:]
    error = packet.icmp(3, 3, bytes(4), came[:28])
    datagram = packet.ipv4(POD, SERVER, packet.ICMP, error)
    assert pod_node.leave_pod(datagram).verdict == UNSPEC
    whole = bytearray(UDP_FLOW.outbound())
    whole[6] |= 0x20
    whole[10:12] = bytes(2)
    whole[10:12] = packet.checksum(bytes(whole[:20])).to_bytes(2, "big")
    assert pod_node.leave_pod(bytes(whole)).verdict == UNSPEC


def test_x3_a_packet_at_the_end_of_its_hops_is_the_stacks_to_answer(pod_node: Node) -> None:
    open_flow(pod_node, UDP_FLOW)
    assert leave(pod_node, UDP_FLOW, ttl=1).verdict == UNSPEC
    assert leave(pod_node, UDP_FLOW, ttl=2).verdict == REDIRECT
    frame = pod_node.uplink_ingress(UDP_FLOW.reply(source_mac=HOLDER_MAC, ttl=1)).frame
    assert packet.read(frame).destination != POD_MAC


def test_c31_a_packet_that_does_not_fit_is_the_stacks_to_answer(pod_node: Node) -> None:
    open_flow(pod_node, UDP_FLOW)
    for size, verdict in ((1500 - 28, REDIRECT), (1501 - 28, UNSPEC)):
        payload = packet.udp(POD, SERVER, (UDP_FLOW.pod_port, UDP_FLOW.server_port), bytes(size))
        assert pod_node.leave_pod(packet.ipv4(POD, SERVER, packet.UDP, payload)).verdict == verdict


def withdraw_device(node: Node) -> None:
    assert node.map(MapName.SELECTED).delete(layout.selected_key(POD, POD_DEVICE.ifindex))


def give_port_away(node: Node) -> None:
    node.map(MapName.MIRRORS_OPEN).update(
        mirror_key(TCP_FLOW), bytes(8) + OTHER_POD.packed + TCP_FLOW.pod_port.to_bytes(2, "big") + bytes(2)
    )


def name_another_address(node: Node) -> None:
    node.rule(floating_ip=OTHER_FLOATING_IP, rule_set=RULE_SET + 1)
    node.select(rule_set=RULE_SET + 1)


def give_port_away_for_long(node: Node) -> None:
    """For longer than a verdict holds (rule F5)."""
    give_port_away(node)
    node.select()


CHANGES: dict[str, Callable[[Node], object]] = {
    "another pod": lambda node: node.select(number=POD_NUMBER + 1),
    "ended": lambda node: node.change(TCP_FLOW, is_ended=True),
    "its rules name another address": name_another_address,
    "its port is another flow's": give_port_away_for_long,
    "no way": lambda node: node.map(MapName.WAYS).delete(FLOATING_IP.packed),
    "its time is over": lambda node: node.end(TCP_FLOW),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_f4_nothing_goes_past_what_the_policy_path_would_stop(pod_node: Node, change: Callable[[Node], object]) -> None:
    open_flow(pod_node, TCP_FLOW)
    assert leave(pod_node, TCP_FLOW).verdict == REDIRECT
    change(pod_node)
    assert leave(pod_node, TCP_FLOW).verdict == UNSPEC


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (withdraw_device, DropReason.UNKNOWN_DEVICE),
        (lambda node: node.select(state=SelectedState.CHANGING), DropReason.ENDPOINT_PENDING),
    ],
    ids=["not its device", "its selection changes"],
)
def test_f4_what_is_dropped_at_the_device_is_dropped_before(
    pod_node: Node, change: Callable[[Node], object], reason: DropReason
) -> None:
    open_flow(pod_node, TCP_FLOW)
    change(pod_node)
    assert leave(pod_node, TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(None, reason): 1}


def test_e1_other_rules_with_the_same_verdict_are_not_felt(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    pod_node.rule(rule_set=RULE_SET + 1)
    pod_node.select(rule_set=RULE_SET + 1)
    assert leave(pod_node, TCP_FLOW).verdict == REDIRECT


def test_r1_after_a_change_of_gateway_the_direct_path_goes_to_the_new_one(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    pod_node.way(gateway_mac=packet.mac("02:00:00:00:0c:02"), token=8, device=UPLINK_2)
    frame = packet.read(leave(pod_node, TCP_FLOW).frame)
    assert frame.destination == packet.mac("02:00:00:00:0c:02")


def test_d1_a_destination_that_came_into_the_cluster_ends_no_flow(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    pod_node.in_cluster(IPv4Network(f"{SERVER}/32"), ClusterFlag.NODE)
    assert leave(pod_node, TCP_FLOW).verdict == REDIRECT


@each_protocol
def test_f4_an_approved_reply_goes_to_the_pods_device(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    outcome = pod_node.answer(flow, flags=ACK, ttl=9)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, frame.destination, frame.source) == (REDIRECT, POD_MAC, NODE_MAC)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (SERVER, POD, 8)
    assert frame.ip.is_sound()
    assert pod_node.counters()["direct_back"] == 1
    pod_node.change(flow, back_until_ns=0)
    assert packet.read(pod_node.answer(flow, flags=ACK).frame).destination != POD_MAC


def test_f4_a_reply_to_a_flow_that_has_ended_takes_no_path(pod_node: Node) -> None:
    open_flow(pod_node, UDP_FLOW)
    pod_node.change(UDP_FLOW, is_ended=True)
    assert pod_node.answer(UDP_FLOW).verdict == SHOT


@each_protocol
def test_b3_the_direct_path_refreshes_a_flow(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    for go in (lambda: leave(pod_node, flow), lambda: pod_node.answer(flow, flags=ACK)):
        pod_node.age(flow, 50)
        go()
        present = pod_node.flow(flow)
        assert present is not None
        assert time.monotonic_ns() - present.last_ns < 10_000_000_000
        until_ns = time.monotonic_ns() + LONG_NS
        pod_node.change(flow, out_until_ns=until_ns, back_until_ns=until_ns)


def test_the_holders_own_pod_has_a_direct_path_too(own_holder: Node) -> None:
    open_flow(own_holder, ECHO_FLOW)
    assert leave(own_holder, ECHO_FLOW).verdict == REDIRECT
    assert own_holder.counters()["direct_out"] == 1
    frame = packet.read(own_holder.come_back(ECHO_FLOW).frame)
    assert frame.destination == POD_MAC


def test_f1_behind_netfilter_nothing_is_approved_that_was_not_seen_before_it(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    pod_node.send(TCP_FLOW, flags=ACK)
    assert leave(pod_node, TCP_FLOW).verdict == UNSPEC


def test_another_flow_of_the_same_pod_is_not_approved_with_it(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    other = replace(TCP_FLOW, pod_port=TCP_FLOW.pod_port + 1)
    pod_node.send(other)
    pod_node.answer(other)
    assert other.protocol == TCP
    assert leave(pod_node, other).verdict == UNSPEC
