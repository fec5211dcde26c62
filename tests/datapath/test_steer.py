"""The steering device: judged after netfilter, translated, and the way to the holder (rules B1, W1, W2, W3, H4)."""

import struct
from ipaddress import IPv4Address

import pytest

from service.datapath import layout
from service.datapath.layout import MapName, SelectedState, WayKind
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    SECOND_NS,
    SERVER,
    TCP_FLOW,
    TOKEN,
    Node,
    boot_ns,
)
from tests.datapath.program import EGW, POD_DEVICE, REDIRECT, SHOT, UNSPEC, UPLINK, Device

pytestmark = pytest.mark.bpf


def test_w1_a_packet_goes_to_the_holders_mac_from_the_floating_ip(pod_node: Node) -> None:
    outcome = pod_node.send(TCP_FLOW)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, frame.destination, frame.source) == (REDIRECT, HOLDER_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination) == (FLOATING_IP, SERVER)
    assert pod_node.counters() == {"steered": 1, "flows_made": 1}


def test_h3_the_mark_tells_the_fence_that_a_program_of_ours_made_it(pod_node: Node) -> None:
    assert pod_node.send(TCP_FLOW).mark == MARK


def test_the_hop_is_left_to_this_nodes_forwarding(pod_node: Node) -> None:
    assert packet.read(pod_node.send(TCP_FLOW, ttl=63).frame).ip.ttl == 63


def test_w10_what_is_under_way_when_the_selection_begins_to_change_is_dropped_and_counted(pod_node: Node) -> None:
    pod_node.select(state=SelectedState.CHANGING)
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.ENDPOINT_PENDING): 1}


def test_c4_without_a_way_the_packet_is_dropped_and_counted(pod_node: Node) -> None:
    pod_node.map(MapName.WAYS).delete(FLOATING_IP.packed)
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 1}


def test_c4_an_address_that_nobody_holds_lacks_its_gateway_and_not_ports(pod_node: Node) -> None:
    """As under a policy that names an unknown one, for which nobody ever leases ports."""
    pod_node.map(MapName.WAYS).delete(FLOATING_IP.packed)
    pod_node.map(MapName.OWN_BLOCKS).delete(FLOATING_IP.packed)
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 1}


def test_a_way_of_a_kind_this_version_does_not_know_drops_the_packet(pod_node: Node) -> None:
    pod_node.way(kind=99)
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_TRANSPORT): 1}


def test_what_reached_the_device_without_a_selection_is_dropped(node: Node) -> None:
    node.rule()
    node.way()
    assert node.send(TCP_FLOW).verdict == SHOT
    assert node.drops() == {(None, DropReason.NOT_SELECTED): 1}


def test_what_was_translated_to_a_destination_without_a_rule_is_dropped(pod_node: Node) -> None:
    pod_node.exclude("203.0.113.0/24")
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.NOT_SELECTED): 1}


def test_the_longest_matching_rule_names_the_floating_ip(pod_node: Node) -> None:
    pod_node.rule("203.0.113.0/24", OTHER_FLOATING_IP)
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(OTHER_FLOATING_IP, DropReason.NO_GATEWAY): 1}
    assert pod_node.send(TCP_FLOW.to(IPv4Address("198.51.100.1"))).verdict == REDIRECT


def test_drops_are_counted_per_packet(pod_node: Node) -> None:
    pod_node.map(MapName.WAYS).delete(FLOATING_IP.packed)
    for _ in range(3):
        pod_node.send(TCP_FLOW)
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 3}


def test_b1_a_flow_is_not_made_by_what_its_node_may_not_send(pod_node: Node) -> None:
    pod_node.exclude("203.0.113.0/24")
    pod_node.send(TCP_FLOW)
    assert pod_node.flow(TCP_FLOW) is None


def test_h4_a_pod_of_the_holder_takes_the_uplinks_ingress_with_our_mark(own_holder: Node) -> None:
    outcome = own_holder.send(TCP_FLOW)
    frame = packet.read(outcome.frame)
    assert (outcome.verdict, outcome.mark, frame.destination) == (REDIRECT, MARK, UPLINK.mac)
    assert frame.ip.source == FLOATING_IP


def test_h4_a_flow_goes_on_when_its_node_stops_being_the_holder(own_holder: Node) -> None:
    own_holder.send(TCP_FLOW)
    own_holder.end_lease()
    own_holder.way()
    frame = packet.read(own_holder.send(TCP_FLOW, flags=packet.ACK).frame)
    assert (frame.destination, frame.ip.source, frame.ip.ports[0]) == (HOLDER_MAC, FLOATING_IP, TCP_FLOW.pod_port)
    assert own_holder.answer(TCP_FLOW).verdict == REDIRECT


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
    return packet.read(node.send(TCP_FLOW).frame).destination


def test_w2_a_hint_is_followed_until_its_time_is_over(pod_node: Node) -> None:
    pod_node.beat()
    hint(pod_node)
    assert heading(pod_node) == NODE_A_MAC
    hint(pod_node, until_ns=1)
    assert heading(pod_node) == HOLDER_MAC


def test_w2_without_an_agent_a_hint_stays_in_force_but_not_one_that_was_ended(pod_node: Node) -> None:
    """A failover while the agent is restarted must not wait for it."""
    pod_node.beat(age_s=4)
    hint(pod_node, until_ns=boot_ns() - SECOND_NS)
    assert heading(pod_node) == NODE_A_MAC
    hint(pod_node, until_ns=0)
    assert heading(pod_node) == HOLDER_MAC


def test_w2_a_hint_that_ended_while_the_agent_lived_does_not_come_back_without_it(pod_node: Node) -> None:
    """Nobody had confirmed it. It was followed again for as long as the agent was away, and then taken for the way."""
    pod_node.beat(age_s=4)
    refuted_ns = boot_ns() - 5 * SECOND_NS
    hint(pod_node, until_ns=refuted_ns)
    assert heading(pod_node) == HOLDER_MAC
    maps = {name: pod_node.map(name) for name in (MapName.WAYS, MapName.WAY_HINTS, MapName.AGENT_BEAT)}
    told, hinted = (maps[name].lookup(FLOATING_IP.packed) for name in (MapName.WAYS, MapName.WAY_HINTS))
    beat = maps[MapName.AGENT_BEAT].lookup(bytes(4))
    assert hinted is not None
    assert layout.way_under_hint(told, hinted, beat) == told
    later = hinted[:32] + struct.pack("=Q", boot_ns() - SECOND_NS)
    assert layout.way_under_hint(told, later, beat) == later[:32]
    assert layout.way_under_hint(None, later, None) is None, "under another token"


def test_w2_a_hint_never_outranks_a_newer_authenticated_word(pod_node: Node) -> None:
    hint(pod_node)
    pod_node.way(token=TOKEN + 1)
    assert heading(pod_node) == HOLDER_MAC


def test_w2_a_hint_stands_in_where_there_is_no_way_at_all(pod_node: Node) -> None:
    pod_node.beat()
    hint(pod_node, token=0)
    pod_node.map(MapName.WAYS).delete(FLOATING_IP.packed)
    assert heading(pod_node) == NODE_A_MAC


def test_w2_a_node_that_holds_the_lease_follows_no_hint(own_holder: Node) -> None:
    hint(own_holder)
    own_holder.way(WayKind.LOCAL)
    assert heading(own_holder) == UPLINK.mac


@pytest.mark.parametrize(
    ("program", "device", "verdict"),
    [
        ("pod_ingress", POD_DEVICE, UNSPEC),
        ("pod_egress", POD_DEVICE, UNSPEC),
        ("steer_egress", EGW, SHOT),
        ("steer_ingress", EGW, SHOT),
        ("uplink_ingress", UPLINK, UNSPEC),
        ("uplink_egress", UPLINK, UNSPEC),
    ],
)
def test_c27_ipv6_is_nobodys_business_and_never_steered(
    own_holder: Node, program: str, device: Device, verdict: int
) -> None:
    frame = packet.ethernet(device.mac, NODE_A_MAC, packet.IPV6, bytes(40))
    outcome = own_holder.programs.run(program, frame, device=device)
    assert (outcome.verdict, outcome.frame) == (verdict, frame)
