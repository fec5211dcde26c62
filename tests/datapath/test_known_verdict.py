"""Verdicts that hold for a moment: what follows is done alike, and a row that changes ends them (rule F5)."""

import os
import time
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from service.datapath import layout
from service.datapath.bpf_map import BpfMap
from service.datapath.judged_map import JUDGED
from service.datapath.layout import BlockKind, MapName, WayKind
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    HOLDER,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    OWN_BLOCKS,
    POD,
    POD_FIN,
    ROUTER_MAC,
    RULE_SET,
    SERVER,
    STRANGER_MAC,
    TCP_FLOW,
    TOKEN,
    UDP_FLOW,
    Flow,
    Node,
    boot_ns,
    from_outside,
)
from tests.datapath.packet import ACK, FIN
from tests.datapath.program import POD_DEVICE, REDIRECT, SHOT, UNSPEC, UPLINK_2, Outcome
from tests.datapath.test_direct import LONG_NS, POD_MAC, give_port_away, leave, open_flow
from tests.datapath.test_holder import neighbour
from tests.datapath.test_uplink_arp import announcement, hear

pytestmark = pytest.mark.bpf
each_flow = pytest.mark.parametrize("flow", [TCP_FLOW, UDP_FLOW], ids=["tcp", "udp"])


def unnoticed(node: Node, name: str) -> BpfMap:
    """A map whose rows change without a new generation, as no agent writes it: what is kept is seen by it."""
    return BpfMap(os.dup(node.map(name).fd))


def forward(node: Node, flow: Flow, *, source_mac: bytes = NODE_A_MAC) -> Outcome:
    return node.forward(flow, flags=ACK, source_mac=source_mac)


def come_back(node: Node, flow: Flow) -> Outcome:
    return node.come_back(flow, flags=ACK)


def answer(node: Node, flow: Flow) -> Outcome:
    return node.answer(flow, flags=ACK)


def leave_by(node: Node) -> Callable[[Flow], Outcome]:
    return lambda flow: leave(node, flow)


def generation(node: Node) -> bytes:
    return b"".join(node.map(MapName.GENERATIONS).items().values())


def lease(node: Node, remaining_ns: int, token: int) -> None:
    """As the keeper writes it, which raises no generation."""
    deadline_ns = boot_ns() + remaining_ns
    node.map(MapName.LEASE_DEADLINES).update(FLOATING_IP.packed, layout.lease_value(deadline_ns, token))


# ---- what follows is done alike ----


@each_flow
def test_f5_of_a_pod_goes_the_way_of_the_packet_before_it(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    first = leave(pod_node, flow)
    unnoticed(pod_node, MapName.WAYS).delete(FLOATING_IP.packed)
    assert leave(pod_node, flow) == first
    present = pod_node.flow(flow)
    assert present is not None
    assert (present.out_packets, present.out_bytes) == (3, 3 * len(first.frame[14:]) - (flow is TCP_FLOW) * 7)
    assert pod_node.counters()["direct_out"] == pod_node.counters()["steered"] - 1 == 2


@each_flow
def test_f5_behind_netfilter_a_packet_goes_the_way_of_the_one_before_it(pod_node: Node, flow: Flow) -> None:
    open_flow(pod_node, flow)
    first = pod_node.send(flow, flags=ACK)
    unnoticed(pod_node, MapName.WAYS).delete(FLOATING_IP.packed)
    assert pod_node.send(flow, flags=ACK) == first
    assert packet.read(first.frame).destination == HOLDER_MAC
    present = pod_node.flow(flow)
    assert present is not None
    assert (present.out_packets, pod_node.counters()["steered"]) == (3, 3)


def test_f5_both_paths_of_a_pod_have_one_verdict(pod_node: Node) -> None:
    open_flow(pod_node, UDP_FLOW)
    leave(pod_node, UDP_FLOW)
    unnoticed(pod_node, MapName.WAYS).delete(FLOATING_IP.packed)
    for go in (pod_node.send, leave_by(pod_node)):
        assert packet.read(go(UDP_FLOW).frame).destination == HOLDER_MAC


@each_flow
def test_f5_of_a_member_goes_out_like_the_one_before_it(holder: Node, flow: Flow) -> None:
    with neighbour(holder, ROUTER_MAC):
        forward(holder, flow)
        second = forward(holder, flow)
        unnoticed(holder, MapName.BLOCKS).delete(layout.block_key(FLOATING_IP, OWN_BLOCKS[0]))
        assert forward(holder, flow) == second
    assert packet.read(second.frame).destination == ROUTER_MAC
    assert holder.counters() == {"forwarded": 3}


@each_flow
def test_f5_of_the_outside_goes_to_the_node_like_the_one_before_it(holder: Node, flow: Flow) -> None:
    first = come_back(holder, flow)
    unnoticed(holder, MapName.BLOCKS).delete(layout.block_key(FLOATING_IP, OWN_BLOCKS[0]))
    assert come_back(holder, flow) == first
    assert packet.read(first.frame).destination == NODE_A_MAC
    assert holder.counters() == {"returned": 2}


@each_flow
@pytest.mark.parametrize("is_held", [True, False], ids=["held-here", "sent-on"])
def test_f5_a_reply_goes_to_the_pod_like_the_one_before_it(pod_node: Node, flow: Flow, is_held: bool) -> None:
    if is_held:
        pod_node.assign(kind=BlockKind.LOCAL, member=0)
        pod_node.hold()
    open_flow(pod_node, flow)
    first = answer(pod_node, flow)
    assert (packet.read(first.frame).destination, packet.read(first.frame).ip.destination) == (POD_MAC, POD)
    unnoticed(pod_node, MapName.SELECTED).delete(layout.selected_key(POD, 0))
    assert answer(pod_node, flow) == first
    present = pod_node.flow(flow)
    assert present is not None
    assert present.in_packets == 3
    assert pod_node.counters()["direct_back"] == 2


@each_flow
@pytest.mark.parametrize("is_held", [True, False], ids=["held-here", "sent-on"])
def test_f5_a_reply_goes_to_the_stack_like_the_one_before_it(pod_node: Node, flow: Flow, is_held: bool) -> None:
    if is_held:
        pod_node.assign(kind=BlockKind.LOCAL, member=0)
        pod_node.hold()
    open_flow(pod_node, flow)
    pod_node.change(flow, back_until_ns=0)
    first = answer(pod_node, flow)
    assert packet.read(first.frame).ip.destination == POD
    assert first.mark == MARK
    unnoticed(pod_node, MapName.SELECTED).delete(layout.selected_key(POD, 0))
    assert answer(pod_node, flow) == first
    present = pod_node.flow(flow)
    assert present is not None
    assert present.in_packets == 3
    assert pod_node.counters()["reversed"] == 3


def test_f5_a_reply_that_need_not_ask_netfilter_any_more_is_judged_for_its_device(pod_node: Node) -> None:
    """It may be a narrower one than where the flow came in from."""
    ports = UDP_FLOW.server_port, UDP_FLOW.pod_port
    payload = packet.udp(SERVER, FLOATING_IP, ports, bytes(1000))
    long = from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.UDP, payload), HOLDER_MAC)
    set_mtu = ("ip", "link", "set", POD_DEVICE.name, "mtu")
    open_flow(pod_node, UDP_FLOW)
    pod_node.change(UDP_FLOW, back_until_ns=0)
    pod_node.programs.namespace.command(*set_mtu, "900")
    try:
        assert packet.read(pod_node.uplink_ingress(long).frame).destination != POD_MAC
        pod_node.change(UDP_FLOW, back_until_ns=time.monotonic_ns() + LONG_NS)
        assert packet.read(pod_node.uplink_ingress(long).frame).destination != POD_MAC
    finally:
        pod_node.programs.namespace.command(*set_mtu, "1500")


def test_f5_after_half_a_second_the_rows_are_asked_again(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    leave(pod_node, TCP_FLOW)
    give_port_away(pod_node)
    assert leave(pod_node, TCP_FLOW).verdict == REDIRECT
    time.sleep(0.6)
    assert leave(pod_node, TCP_FLOW).verdict == UNSPEC


# ---- what it does not speak for ----


def test_f5_the_lease_is_asked_for_with_every_packet(holder: Node) -> None:
    with neighbour(holder, ROUTER_MAC):
        for _ in range(2):
            forward(holder, UDP_FLOW)
            come_back(holder, UDP_FLOW)
        lease(holder, -1, TOKEN)
        assert (forward(holder, UDP_FLOW).verdict, come_back(holder, UDP_FLOW).verdict) == (SHOT, SHOT)
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 2}


def test_f5_a_verdict_is_of_one_tenure(holder: Node) -> None:
    """Rows of blocks that nobody has vouched for under the new one do not count (rule R3)."""
    with neighbour(holder, ROUTER_MAC):
        for _ in range(2):
            forward(holder, UDP_FLOW)
            come_back(holder, UDP_FLOW)
        lease(holder, 60_000_000_000, TOKEN + 1)
        assert (forward(holder, UDP_FLOW).verdict, come_back(holder, UDP_FLOW).verdict) == (SHOT, SHOT)


def test_f5_a_verdict_is_of_one_sender(holder: Node) -> None:
    with neighbour(holder, ROUTER_MAC):
        for _ in range(2):
            forward(holder, UDP_FLOW)
        assert forward(holder, UDP_FLOW, source_mac=STRANGER_MAC).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.WRONG_NODE): 1}


def test_f5_a_flow_that_ended_is_not_brought_back(pod_node: Node) -> None:
    open_flow(pod_node, UDP_FLOW)
    leave(pod_node, UDP_FLOW)
    answer(pod_node, UDP_FLOW)
    pod_node.change(UDP_FLOW, is_ended=True)
    assert (leave(pod_node, UDP_FLOW).verdict, answer(pod_node, UDP_FLOW).verdict) == (SHOT, SHOT)
    assert pod_node.send(UDP_FLOW).verdict == SHOT


def test_f5_behind_netfilter_a_flow_ends_as_ever(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    for flags in (ACK, ACK, FIN | ACK):
        assert pod_node.send(TCP_FLOW, flags=flags).verdict == REDIRECT
    assert pod_node.state(TCP_FLOW) == POD_FIN


def test_f5_a_hint_moves_the_way_at_once_and_is_kept_by_nobody(pod_node: Node) -> None:
    pod_node.beat()
    open_flow(pod_node, UDP_FLOW)
    leave(pod_node, UDP_FLOW)
    hear(pod_node, announcement(NODE_A_MAC))
    assert [packet.read(leave(pod_node, UDP_FLOW).frame).destination for _ in range(2)] == [NODE_A_MAC] * 2
    unnoticed(pod_node, MapName.WAY_HINTS).delete(FLOATING_IP.packed)
    assert packet.read(leave(pod_node, UDP_FLOW).frame).destination == HOLDER_MAC


# ---- what the agent writes ends it ----


def name_another_address(node: Node) -> None:
    node.rule(floating_ip=OTHER_FLOATING_IP, rule_set=RULE_SET + 1)
    node.select(rule_set=RULE_SET + 1)


OUT: dict[str, Callable[[Node], object]] = {
    "no way": lambda node: node.map(MapName.WAYS).delete(FLOATING_IP.packed),
    "another way": lambda node: node.way(WayKind.L2, gateway_mac=NODE_A_MAC, token=TOKEN + 1),
    "other rules": name_another_address,
    "another pod": lambda node: node.select(number=1),
    "no pod": lambda node: node.withdraw(),
}
HELD: dict[str, Callable[[Node], object]] = {
    "another member's block": lambda node: node.assign(member=HOLDER, mac=HOLDER_MAC),
    "nobody's block": lambda node: node.map(MapName.BLOCKS).delete(layout.block_key(FLOATING_IP, OWN_BLOCKS[0])),
    "vouched for under another tenure": lambda node: node.trust(token=TOKEN + 1),
    "no floating IP": lambda node: node.map(MapName.FLOATING_IPS).delete(FLOATING_IP.packed),
}


@pytest.mark.parametrize("change", OUT.values(), ids=OUT)
def test_f5_a_row_that_changes_is_felt_by_a_pods_next_packet(pod_node: Node, change: Callable[[Node], object]) -> None:
    open_flow(pod_node, TCP_FLOW)
    before = leave(pod_node, TCP_FLOW), answer(pod_node, TCP_FLOW)
    change(pod_node)
    assert leave(pod_node, TCP_FLOW) != before[0]


@pytest.mark.parametrize("change", ["no way", "another way", "other rules", "no pod"])
def test_f5_a_row_that_changes_is_felt_behind_netfilter(pod_node: Node, change: str) -> None:
    open_flow(pod_node, TCP_FLOW)
    before = [pod_node.send(TCP_FLOW, flags=ACK) for _ in range(2)]
    OUT[change](pod_node)
    after = pod_node.send(TCP_FLOW, flags=ACK)
    assert before[0] == before[1] != after


def test_f5_another_pod_of_that_address_gets_a_flow_of_its_own_behind_netfilter(pod_node: Node) -> None:
    open_flow(pod_node, TCP_FLOW)
    pod_node.send(TCP_FLOW, flags=ACK)
    OUT["another pod"](pod_node)
    pod_node.send(TCP_FLOW, flags=ACK)
    assert pod_node.counters()["flows_made"] == 2


@pytest.mark.parametrize("change", ["other rules", "another pod", "no pod"])
def test_f5_a_row_that_changes_is_felt_by_the_next_reply(pod_node: Node, change: str) -> None:
    open_flow(pod_node, TCP_FLOW)
    before = answer(pod_node, TCP_FLOW)
    OUT[change](pod_node)
    assert answer(pod_node, TCP_FLOW) != before


@pytest.mark.parametrize("change", HELD.values(), ids=HELD)
def test_f5_a_row_that_changes_is_felt_by_the_holders_next_packet(
    holder: Node, change: Callable[[Node], object]
) -> None:
    with neighbour(holder, ROUTER_MAC):
        before = [(forward(holder, TCP_FLOW), come_back(holder, TCP_FLOW)) for _ in range(2)][1]
        change(holder)
        after = forward(holder, TCP_FLOW), come_back(holder, TCP_FLOW)
    assert after[0] != before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("name", sorted(JUDGED))
def test_f5_every_write_of_a_judged_map_begins_a_generation(node: Node, name: str) -> None:
    target = node.map(name)
    key, value = bytes(target.info.key_size), bytes(target.info.value_size)
    seen = [generation(node)]
    target.update(key, value)
    seen.append(generation(node))
    target.update_many([(key, value)])
    seen.append(generation(node))
    if name != MapName.CONFIG:
        target.delete(key)
        seen.append(generation(node))
    assert len(set(seen)) == len(seen)


def test_f5_a_verdict_is_of_one_device(holder: Node) -> None:
    with neighbour(holder, ROUTER_MAC):
        for _ in range(2):
            forward(holder, UDP_FLOW)
        frame = UDP_FLOW.steered(flags=ACK, device=UPLINK_2)
        assert holder.uplink_ingress(frame, device=UPLINK_2).verdict == SHOT


def test_f5_what_differs_in_one_place_of_the_tuple_is_another(holder: Node) -> None:
    with neighbour(holder, ROUTER_MAC):
        for _ in range(2):
            forward(holder, UDP_FLOW)
        other = UDP_FLOW.to(IPv4Address("203.0.113.9"))
        assert packet.read(forward(holder, other).frame).ip.destination == other.server
        assert holder.forward(UDP_FLOW, 1024).verdict == SHOT
