"""Selection at the pod's device: it only marks; the last word is netfilter's and then steer_egress's (rules W3, W4)."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from service.datapath.layout import ClusterFlag, SelectedState
from service.model.drop import DropReason
from service.network.priority import CANDIDATE_PRIORITY, CLASSIFIED_PRIORITY, ENDED_PRIORITY, FLOW_PRIORITY
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    MARK,
    NEIGHBOUR,
    NEIGHBOUR_NODE,
    OTHER_POD,
    POD_NUMBER,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
)
from tests.datapath.program import EGW, POD_DEVICE, REDIRECT, SHOT, UNSPEC, UPLINK_2, Device, Outcome

pytestmark = pytest.mark.bpf

SERVICE = IPv4Address("10.96.0.10")


def leave_pod(
    node: Node,
    flow: Flow = TCP_FLOW,
    *,
    device: Device = POD_DEVICE,
    came_in: Device | None = None,
    mark: int = 0,
    **fields: int,
) -> Outcome:
    frame = packet.ethernet(POD_DEVICE.mac, b"\x02pod\0\1", packet.IPV4, flow.outbound(**fields))
    outcome = node.programs.run("pod_ingress", frame, device=device, came_in=came_in, mark=mark)
    assert outcome.frame == frame, "selection never rewrites"
    return outcome


def is_untouched(outcome: Outcome) -> bool:
    return outcome.verdict == UNSPEC and outcome.mark == 0


def test_a_selected_pods_packet_to_a_matching_destination_is_marked(pod_node: Node) -> None:
    outcome = leave_pod(pod_node)
    assert (outcome.verdict, outcome.mark) == (UNSPEC, MARK)
    assert pod_node.counters() == {"marked": 1}


def test_only_the_one_mark_bit_is_set(pod_node: Node) -> None:
    assert leave_pod(pod_node, mark=0x4040).mark == 0x4040 | MARK


def test_an_unselected_pods_packet_is_untouched(pod_node: Node) -> None:
    assert is_untouched(leave_pod(pod_node, Flow(packet.TCP, pod=OTHER_POD)))
    assert pod_node.counters() == {}


def test_a_destination_without_a_rule_is_untouched(node: Node) -> None:
    node.rule("198.51.100.0/24")
    node.select()
    assert is_untouched(leave_pod(node))


@pytest.mark.parametrize("address", [OTHER_POD, NEIGHBOUR_NODE], ids=["pod", "node"])
def test_an_in_cluster_destination_is_untouched_even_under_a_rule_for_everything(
    pod_node: Node, address: IPv4Address
) -> None:
    assert is_untouched(leave_pod(pod_node, TCP_FLOW.to(address)))


def test_w12_a_host_of_the_nodes_subnet_that_is_no_node_is_marked_like_any_other(pod_node: Node) -> None:
    assert leave_pod(pod_node, TCP_FLOW.to(NEIGHBOUR)).mark == MARK
    pod_node.in_cluster(IPv4Network(f"{NEIGHBOUR}/32"), ClusterFlag.NODE)
    assert is_untouched(leave_pod(pod_node, TCP_FLOW.to(NEIGHBOUR)))


def test_a_service_address_is_marked_because_its_endpoint_may_be_outside(node: Node) -> None:
    node.rule("203.0.113.0/24")
    node.select()
    assert leave_pod(node, TCP_FLOW.to(SERVICE)).mark == MARK


def test_the_more_specific_cluster_network_decides(pod_node: Node) -> None:
    pod_node.in_cluster(IPv4Network(f"{SERVER}/32"), ClusterFlag.NODE)
    assert is_untouched(leave_pod(pod_node))


def test_an_excluded_destination_inside_a_wider_rule_is_untouched(pod_node: Node) -> None:
    pod_node.exclude("203.0.113.0/24")
    assert is_untouched(leave_pod(pod_node))
    assert leave_pod(pod_node, TCP_FLOW.to(IPv4Address("198.51.100.1"))).mark == MARK


def test_a_rule_inside_an_excluded_destination_is_marked(pod_node: Node) -> None:
    pod_node.exclude("203.0.113.0/24")
    pod_node.rule("203.0.113.7/32")
    assert leave_pod(pod_node).mark == MARK


def test_another_rule_sets_rules_do_not_match(node: Node) -> None:
    node.rule(rule_set=99)
    node.select()
    assert is_untouched(leave_pod(node))


def test_a_selected_address_on_an_unknown_device_is_dropped_and_counted(pod_node: Node) -> None:
    assert leave_pod(pod_node, device=EGW).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.UNKNOWN_DEVICE): 1}


@pytest.mark.parametrize("address", [OTHER_POD, SERVICE], ids=["pod", "service"])
def test_an_unknown_device_may_talk_inside_the_cluster(pod_node: Node, address: IPv4Address) -> None:
    assert is_untouched(leave_pod(pod_node, TCP_FLOW.to(address), device=EGW))
    assert pod_node.drops() == {}


def test_an_unknown_device_may_talk_to_destinations_no_rule_names(node: Node) -> None:
    node.rule("198.51.100.0/24")
    node.select()
    assert is_untouched(leave_pod(node, device=EGW))


def test_every_packet_of_a_flow_is_marked(pod_node: Node) -> None:
    assert [leave_pod(pod_node, UDP_FLOW).mark for _ in range(3)] == [MARK] * 3
    assert pod_node.counters() == {"marked": 3}


def test_nothing_is_marked_while_the_pod_has_no_rule_at_all(node: Node) -> None:
    node.select()
    assert is_untouched(leave_pod(node))


def test_while_its_selection_changes_a_pods_packet_is_dropped_before_netfilter_sees_it(node: Node) -> None:
    """A connection-tracking entry made now would decide the flow's source for its whole life (rule W10)."""
    node.rule()
    node.select(state=SelectedState.CHANGING)
    assert leave_pod(node).verdict == SHOT
    assert node.drops() == {(None, DropReason.ENDPOINT_PENDING): 1}


def test_while_its_selection_changes_a_pod_may_still_talk_inside_the_cluster(node: Node) -> None:
    node.rule()
    node.select(state=SelectedState.CHANGING)
    assert is_untouched(leave_pod(node, TCP_FLOW.to(OTHER_POD)))


def test_w13_behind_a_shaping_device_the_pod_is_known_by_the_device_it_came_in_by(pod_node: Node) -> None:
    shaper = UPLINK_2
    assert leave_pod(pod_node, device=shaper, came_in=POD_DEVICE).mark == MARK
    assert leave_pod(pod_node, device=shaper, came_in=EGW).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.UNKNOWN_DEVICE): 1}


def test_w11_packets_of_classified_pods_are_known_to_netfilter_whatever_becomes_of_them(node: Node) -> None:
    node.rule("203.0.113.0/24")
    node.select()
    node.leave_alone(OTHER_POD)
    other = Flow(packet.TCP, pod=OTHER_POD)
    for flow in (TCP_FLOW.to(NEIGHBOUR_NODE), TCP_FLOW.to(IPv4Address("198.51.100.1")), other):
        assert leave_pod(node, flow).priority == CLASSIFIED_PRIORITY
    assert leave_pod(node).priority == CANDIDATE_PRIORITY, "which none but ours has, so no mark of others passes for it"
    assert is_untouched(leave_pod(node, other)), "but for that: no policy selects it"
    assert is_untouched(leave_pod(node, other.to(SERVICE)))


def test_w11_an_address_that_nobody_has_classified_or_behind_another_device_is_not_known(node: Node) -> None:
    node.rule("203.0.113.0/24")
    node.select()
    node.leave_alone(OTHER_POD)
    elsewhere = TCP_FLOW.to(IPv4Address("198.51.100.1"))
    assert leave_pod(node, Flow(packet.TCP, pod=IPv4Address("10.244.1.77"))).priority == 0
    assert leave_pod(node, elsewhere, device=EGW).priority == 0
    assert leave_pod(node, Flow(packet.TCP, pod=OTHER_POD), device=EGW).priority == 0


# ---- packets of live flows ----


def test_d1_a_packet_of_a_live_flow_says_so_to_netfilter(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    outcome = leave_pod(pod_node, flags=packet.ACK)
    assert (outcome.verdict, outcome.mark, outcome.priority) == (UNSPEC, MARK, FLOW_PRIORITY)


def test_d1_a_packet_that_no_flow_knows_does_not(pod_node: Node) -> None:
    assert leave_pod(pod_node).priority == CANDIDATE_PRIORITY
    pod_node.send(TCP_FLOW)
    pod_node.end(TCP_FLOW)
    assert leave_pod(pod_node, flags=packet.ACK).priority == CANDIDATE_PRIORITY


@pytest.mark.parametrize("priority", [FLOW_PRIORITY, ENDED_PRIORITY, CANDIDATE_PRIORITY, CLASSIFIED_PRIORITY])
def test_d1_w11_a_pod_cannot_say_it_itself(pod_node: Node, priority: int) -> None:
    known, unknown = Flow(packet.TCP).outbound(), Flow(packet.TCP, pod=OTHER_POD).outbound()
    assert pod_node.leave_pod(known, priority=priority).priority == CANDIDATE_PRIORITY
    assert pod_node.leave_pod(unknown, priority=priority).priority == 0
    assert pod_node.leave_pod(unknown, priority=6).priority == 6


def test_d1_a_flow_of_a_former_pod_is_not_the_new_ones(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.select(number=POD_NUMBER + 1)
    assert leave_pod(pod_node, flags=packet.ACK).priority == CANDIDATE_PRIORITY


def test_e2_a_flow_that_no_rule_names_any_more_still_goes_to_egw0(pod_node: Node) -> None:
    """Where it is ended: it would leave with the bare pod address otherwise."""
    pod_node.send(TCP_FLOW)
    pod_node.select(rule_set=1)
    assert leave_pod(pod_node, flags=packet.ACK).mark == MARK
    pod_node.send(TCP_FLOW, flags=packet.ACK)
    assert leave_pod(pod_node, flags=packet.ACK).mark == MARK


def test_e2_a_segment_of_an_ended_flow_asks_netfilter_for_a_reset(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.send(UDP_FLOW)
    pod_node.select(rule_set=1)
    assert leave_pod(pod_node, flags=packet.ACK).priority == ENDED_PRIORITY
    assert leave_pod(pod_node, flags=packet.RST).priority == FLOW_PRIORITY, "a reset is not answered"
    assert leave_pod(pod_node, UDP_FLOW).priority == FLOW_PRIORITY


def test_e2_when_the_pod_was_told_its_stack_tells_the_remote(pod_node: Node) -> None:
    """By the flow that has ended: with the address and port that the remote knows."""
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    pod_node.select(rule_set=1)
    assert pod_node.answer(TCP_FLOW, flags=packet.ACK).verdict == SHOT
    assert pod_node.send(TCP_FLOW, flags=packet.RST).verdict == SHOT
    leave_pod(pod_node, flags=packet.ACK)
    assert pod_node.answer(TCP_FLOW, flags=packet.ACK).verdict == REDIRECT
    assert pod_node.send(TCP_FLOW, flags=packet.ACK).verdict == SHOT
    reset = packet.read(pod_node.send(TCP_FLOW, flags=packet.RST).frame).ip
    assert (reset.source, reset.ports[0]) == (FLOATING_IP, TCP_FLOW.pod_port)


def test_e2_a_new_connection_on_the_port_of_an_ended_flow_takes_the_new_verdict(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.select(rule_set=1)
    pod_node.send(TCP_FLOW, flags=packet.ACK)
    assert leave_pod(pod_node).mark == 0
    assert leave_pod(pod_node, flags=packet.ACK).mark == 0, "that is the new connection's now"


# ---- what no pod may say ----


FORGED = {
    "ip": packet.ethernet(POD_DEVICE.mac, b"\x02pod\0\1", packet.IPV4, TCP_FLOW.translated()),
    "arp": packet.ethernet(
        packet.BROADCAST, b"\x02pod\0\1", packet.ARP, packet.arp(1, b"\x02pod\0\1", FLOATING_IP, bytes(6), FLOATING_IP)
    ),
}


@pytest.mark.parametrize("frame", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("tags", [[], [(packet.VLAN, 0)], [(packet.QINQ, 3), (packet.VLAN, 5)]])
def test_h3_no_pod_speaks_for_a_floating_ip(node: Node, frame: bytes, tags: list[tuple[int, int]]) -> None:
    outcome = node.programs.run("pod_ingress", packet.tagged(frame, *tags), device=POD_DEVICE)
    assert outcome.verdict == SHOT
    assert node.drops() == {(FLOATING_IP, DropReason.FORGED_SOURCE): 1}
