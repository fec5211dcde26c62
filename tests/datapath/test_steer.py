"""The steering device: the final lookup after netfilter, and the way to the holder (rules W1, W3)."""

import struct
from ipaddress import IPv4Address

import pytest

from service.datapath.layout import MapName, SelectedState, WayKind
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
    POD,
    SERVER,
    TCP_FLOW,
    TOKEN,
    Flow,
    Node,
)
from tests.datapath.program import EGW, REDIRECT, SHOT, UNSPEC, UPLINK, Outcome

pytestmark = pytest.mark.bpf


@pytest.fixture
def pod_node(node: Node) -> Node:
    node.rule()
    node.select()
    node.way()
    return node


@pytest.fixture
def own_gateway(node: Node) -> Node:
    """POD lives on the gateway itself."""
    node.rule()
    node.select()
    node.way(WayKind.LOCAL)
    node.announce(device=EGW)
    node.hold()
    return node


def reach_egw(node: Node, flow: Flow = TCP_FLOW, *, ttl: int = 63) -> Outcome:
    frame = packet.ethernet(bytes(6), EGW.mac, packet.IPV4, flow.outbound(ttl=ttl))
    return node.programs.run("steer_egress", frame, device=EGW, mark=MARK)


def enter_egw(node: Node, flow: Flow = TCP_FLOW, *, ttl: int = 63, mark: int = MARK) -> Outcome:
    frame = packet.ethernet(EGW.mac, EGW.mac, packet.IPV4, flow.outbound(ttl=ttl))
    return node.programs.run("steer_ingress", frame, device=EGW, mark=mark)


def test_a_steered_packet_goes_to_the_holders_mac_and_is_otherwise_as_the_pod_sent_it(pod_node: Node) -> None:
    outcome = reach_egw(pod_node)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, frame.destination, frame.source) == (REDIRECT, HOLDER_MAC, UPLINK.mac)
    assert frame.payload == TCP_FLOW.outbound(ttl=63)
    assert pod_node.counters() == {"steered": 1}


def test_the_mark_does_not_leave_with_the_packet(pod_node: Node) -> None:
    assert reach_egw(pod_node).mark == 0


def test_a_pending_pods_packet_is_dropped_and_counted(pod_node: Node) -> None:
    pod_node.select(state=SelectedState.PENDING)
    assert reach_egw(pod_node).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.ENDPOINT_PENDING): 1}


def test_without_a_way_the_packet_is_dropped_and_counted(node: Node) -> None:
    node.rule()
    node.select()
    assert reach_egw(node).verdict == SHOT
    assert node.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 1}


def test_a_way_of_a_kind_this_version_does_not_know_drops_the_packet(pod_node: Node) -> None:
    pod_node.way(kind=99)
    assert reach_egw(pod_node).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_TRANSPORT): 1}


def test_what_reached_the_device_without_a_selection_is_dropped(node: Node) -> None:
    node.rule()
    node.way()
    assert reach_egw(node).verdict == SHOT
    assert node.drops() == {(None, DropReason.NOT_SELECTED): 1}


def test_what_was_translated_to_a_destination_without_a_rule_is_dropped(pod_node: Node) -> None:
    pod_node.exclude("203.0.113.0/24")
    assert reach_egw(pod_node).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.NOT_SELECTED): 1}


def test_the_longest_matching_rule_names_the_floating_ip(pod_node: Node) -> None:
    pod_node.rule("203.0.113.0/24", OTHER_FLOATING_IP)
    assert reach_egw(pod_node).verdict == SHOT
    assert pod_node.drops() == {(OTHER_FLOATING_IP, DropReason.NO_GATEWAY): 1}
    assert reach_egw(pod_node, TCP_FLOW.to(IPv4Address("198.51.100.1"))).verdict == REDIRECT


def test_drops_are_counted_per_packet(node: Node) -> None:
    node.rule()
    node.select()
    for _ in range(3):
        reach_egw(node)
    assert node.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 3}


def test_a_pod_on_the_gateway_itself_is_looped_to_the_devices_ingress_with_its_mark(own_gateway: Node) -> None:
    outcome = reach_egw(own_gateway)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, outcome.mark & MARK) == (REDIRECT, MARK)
    assert (frame.destination, frame.source) == (EGW.mac, EGW.mac)


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_local_pods_packet_is_translated(own_gateway: Node, flow: Flow) -> None:
    outcome = enter_egw(own_gateway, flow)
    datagram = packet.read(outcome.frame).ip
    assert outcome.verdict == REDIRECT
    assert (datagram.source, datagram.ports[0]) == (FLOATING_IP, flow.pod_port)
    assert datagram.is_sound()


def test_a_local_pods_mark_is_gone_after_translation(own_gateway: Node) -> None:
    assert enter_egw(own_gateway).mark == 0


def test_a_local_pods_ttl_is_left_alone_because_the_stack_counted_the_hop(own_gateway: Node) -> None:
    outcome = enter_egw(own_gateway, ttl=1)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).ip.ttl == 1


def test_a_reply_to_a_local_pod_goes_up_the_stack_by_egw0_with_its_hop_uncounted(own_gateway: Node) -> None:
    """By egw0: a strict rp_filter drops it at the uplink where the main table routes the remote by another one."""
    enter_egw(own_gateway)
    outcome = own_gateway.answer(TCP_FLOW, ttl=9)
    datagram = packet.read(outcome.frame).ip
    assert outcome.verdict == REDIRECT
    assert (datagram.destination, datagram.ttl) == (POD, 9)
    assert datagram.is_sound()


def test_nothing_enters_through_the_device_without_the_mark(own_gateway: Node) -> None:
    assert enter_egw(own_gateway, mark=0x0FFF).verdict == SHOT
    assert own_gateway.drops() == {(None, DropReason.NO_TRANSPORT): 1}


def test_a_local_pod_is_fenced_by_the_lease_like_any_other(own_gateway: Node) -> None:
    own_gateway.end_lease()
    assert enter_egw(own_gateway, ECHO_FLOW).verdict == SHOT
    assert own_gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}


def test_a_local_pod_that_was_not_announced_is_dropped(own_gateway: Node) -> None:
    own_gateway.withdraw(device=EGW)
    assert enter_egw(own_gateway).verdict == SHOT
    assert own_gateway.drops() == {(None, DropReason.UNKNOWN_ENDPOINT): 1}


# ---- hints ----


def hint(node: Node, gateway_mac: bytes = NODE_A_MAC, *, token: int = TOKEN, until_ns: int = 2**62) -> None:
    """A member's announcement was heard, and is believed until then."""
    node.way(gateway_mac=gateway_mac, token=token)
    way = node.map(MapName.WAYS).lookup(FLOATING_IP.packed)
    assert way is not None
    node.map(MapName.WAY_HINTS).update(FLOATING_IP.packed, way + struct.pack("=Q", until_ns))
    node.way()


def heading(node: Node) -> bytes:
    """The MAC that a steered packet is sent to."""
    return packet.read(reach_egw(node).frame).destination


# ---- what a member sends to a pod of this node ----


def from_member(node: Node, flags: int) -> Outcome:
    segment = packet.ipv4(SERVER, POD, packet.TCP, packet.tcp(SERVER, POD, (443, 40000), flags))
    return node.uplink_ingress(packet.ethernet(UPLINK.mac, HOLDER_MAC, packet.IPV4, segment))


@pytest.mark.parametrize("flags", [packet.SYN | packet.ACK, packet.ACK])
def test_a_reply_that_a_member_sends_on_goes_up_the_stack_by_egw0(pod_node: Node, flags: int) -> None:
    pod_node.member(HOLDER_MAC)
    outcome = from_member(pod_node, flags)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, frame.destination, frame.source) == (REDIRECT, EGW.mac, EGW.mac)


def test_w4_a_connection_that_is_opened_from_outside_through_a_member_is_left_alone(pod_node: Node) -> None:
    pod_node.member(HOLDER_MAC)
    assert from_member(pod_node, packet.SYN).verdict == UNSPEC


def test_w2_a_hint_is_followed_until_its_time_is_over(pod_node: Node) -> None:
    pod_node.beat()
    hint(pod_node)
    assert heading(pod_node) == NODE_A_MAC
    hint(pod_node, until_ns=1)
    assert heading(pod_node) == HOLDER_MAC


def test_w2_without_an_agent_a_hint_stays_in_force_but_not_one_that_was_ended(pod_node: Node) -> None:
    """A failover while the agent is restarted must not wait for it."""
    pod_node.beat(age_s=4)
    hint(pod_node, until_ns=1)
    assert heading(pod_node) == NODE_A_MAC
    hint(pod_node, until_ns=0)
    assert heading(pod_node) == HOLDER_MAC


def test_w2_a_hint_never_outranks_a_newer_authenticated_word(pod_node: Node) -> None:
    hint(pod_node)
    pod_node.way(token=TOKEN + 1)
    assert heading(pod_node) == HOLDER_MAC


def test_w2_a_hint_stands_in_where_there_is_no_way_at_all(pod_node: Node) -> None:
    pod_node.beat()
    hint(pod_node, token=0)
    pod_node.map(MapName.WAYS).delete(FLOATING_IP.packed)
    assert heading(pod_node) == NODE_A_MAC


def test_w2_a_node_that_holds_the_lease_follows_no_hint(own_gateway: Node) -> None:
    hint(own_gateway)
    own_gateway.way(WayKind.LOCAL)
    assert heading(own_gateway) == EGW.mac
