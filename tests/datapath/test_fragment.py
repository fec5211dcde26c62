"""Fragments: later ones follow the first, on both nodes and both ways; one before its first is dropped (C28)."""

import dataclasses
from collections.abc import Callable

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    HOLDER_MAC,
    NODE_A_MAC,
    POD,
    UDP_FLOW,
    Flow,
    Node,
    from_outside,
)
from tests.datapath.program import EGW, REDIRECT, SHOT, UPLINK, Outcome

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", [UDP_FLOW, ECHO_FLOW], ids=["udp", "echo"])

BEHIND = 185
"""Where the second fragment begins, in units of 8 bytes."""


def cut(datagram: bytes, identification: int = 77) -> tuple[bytes, bytes]:
    """The first fragment, and a second one with other bytes."""
    read = packet.read_ipv4(datagram)
    ends = {"ttl": read.ttl, "identification": identification}
    first = packet.ipv4(read.source, read.destination, read.protocol, read.l4, fragment=packet.MORE_FRAGMENTS, **ends)
    later = packet.ipv4(read.source, read.destination, read.protocol, b"the rest", fragment=BEHIND, **ends)
    return first, later


Receive = Callable[[Node, bytes], Outcome]


def outwards(node: Node, datagram: bytes) -> Outcome:
    return node.steer(datagram)


def from_node_a(node: Node, datagram: bytes) -> Outcome:
    return node.uplink_ingress(packet.ethernet(UPLINK.mac, NODE_A_MAC, packet.IPV4, datagram))


def from_holder(node: Node, datagram: bytes) -> Outcome:
    return node.uplink_ingress(from_outside(datagram, HOLDER_MAC))


@each_protocol
def test_c28_fragments_of_a_pod_leave_from_the_floating_ip(pod_node: Node, flow: Flow) -> None:
    moved = dataclasses.replace(flow, pod_port=9)
    first, later = (packet.read(pod_node.steer(each).frame) for each in cut(moved.outbound()))
    assert (first.destination, later.destination) == (HOLDER_MAC, HOLDER_MAC)
    assert (first.ip.source, later.ip.source) == (FLOATING_IP, FLOATING_IP)
    assert later.ip.l4 == b"the rest"
    assert later.ip.is_header_sound()
    assert first.ip.is_sound()


@each_protocol
def test_c28_the_holder_forwards_later_fragments_of_the_same_member(holder: Node, flow: Flow) -> None:
    first, later = cut(flow.translated())
    assert [from_node_a(holder, each).verdict for each in (first, later)] == [REDIRECT, REDIRECT]
    other = packet.ethernet(UPLINK.mac, HOLDER_MAC, packet.IPV4, later)
    assert holder.uplink_ingress(other).verdict == SHOT


@each_protocol
def test_c28_the_holder_sends_later_fragments_back_to_the_node_of_the_first(holder: Node, flow: Flow) -> None:
    for datagram in cut(flow.reply()[14:]):
        outcome = holder.uplink_ingress(from_outside(datagram))
        assert (outcome.verdict, packet.read(outcome.frame).destination) == (REDIRECT, NODE_A_MAC)


@each_protocol
def test_c28_the_pods_node_delivers_later_fragments_to_the_pod_of_the_first(pod_node: Node, flow: Flow) -> None:
    pod_node.send(flow)
    for datagram in cut(flow.reply()[14:]):
        outcome = from_holder(pod_node, datagram)
        frame = packet.read(outcome.frame)
        assert (outcome.verdict, frame.destination, frame.ip.destination) == (REDIRECT, EGW.mac, POD)
        assert frame.ip.is_header_sound()


def test_c28_holder_and_the_pods_node_in_one_follow_too(own_holder: Node) -> None:
    own_holder.send(UDP_FLOW)
    for datagram in cut(UDP_FLOW.reply()[14:]):
        assert packet.read(own_holder.uplink_ingress(from_outside(datagram)).frame).ip.destination == POD
    for datagram in cut(UDP_FLOW.outbound()):
        steered = own_holder.steer(datagram)
        assert own_holder.uplink_ingress(steered.frame, mark=steered.mark).verdict == REDIRECT


@pytest.mark.parametrize(
    ("fixture", "receive", "datagram"),
    [
        ("pod_node", outwards, UDP_FLOW.outbound()),
        ("holder", from_node_a, UDP_FLOW.translated()),
        ("holder", lambda node, datagram: node.uplink_ingress(from_outside(datagram)), UDP_FLOW.reply()[14:]),
        ("pod_node", from_holder, UDP_FLOW.reply()[14:]),
    ],
    ids=["pod-out", "holder-out", "holder-back", "pod-back"],
)
def test_c28_a_fragment_before_its_first_is_dropped_and_counted(
    request: pytest.FixtureRequest, fixture: str, receive: Receive, datagram: bytes
) -> None:
    node = request.getfixturevalue(fixture)
    _, later = cut(datagram)
    assert receive(node, later).verdict == SHOT
    address = None if receive is outwards else FLOATING_IP
    assert node.drops() == {(address, DropReason.FRAGMENT): 1}


def test_c28_fragments_of_another_datagram_do_not_follow(pod_node: Node) -> None:
    pod_node.steer(cut(UDP_FLOW.outbound(), 1)[0])
    assert pod_node.steer(cut(UDP_FLOW.outbound(), 2)[1]).verdict == SHOT


def test_a_whole_datagram_leaves_nothing_behind(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    assert pod_node.steer(cut(UDP_FLOW.outbound(), 0x1234)[1]).verdict == SHOT
