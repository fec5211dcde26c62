"""ARP at the uplink: the holder alone answers for a floating IP, and a member's word is a hint of the way (G1, W2)."""

from ipaddress import IPv4Address

import pytest

from service.datapath.layout import WayKind
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    HOLDER_MAC,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    ROUTER,
    ROUTER_MAC,
    STRANGER_MAC,
    TOKEN,
    Node,
)
from tests.datapath.packet import BROADCAST
from tests.datapath.program import REDIRECT, SHOT, UNSPEC, UPLINK, UPLINK_2, Device

pytestmark = pytest.mark.bpf

REQUEST, REPLY = 1, 2
NOBODY = IPv4Address(0)
both_destinations = pytest.mark.parametrize("destination", [BROADCAST, UPLINK.mac], ids=["broadcast", "unicast"])
both_forms = pytest.mark.parametrize("operation", [REQUEST, REPLY], ids=["request", "reply"])


def who_has(
    address: IPv4Address = FLOATING_IP, *, destination: bytes = BROADCAST, sender: IPv4Address = ROUTER
) -> bytes:
    message = packet.arp(REQUEST, ROUTER_MAC, sender, bytes(6), address)
    return packet.ethernet(destination, ROUTER_MAC, packet.ARP, message)


def announcement(sender_mac: bytes, operation: int = REQUEST, address: IPv4Address = FLOATING_IP) -> bytes:
    message = packet.arp(operation, sender_mac, address, BROADCAST, address)
    return packet.ethernet(BROADCAST, sender_mac, packet.ARP, message)


def hear(node: Node, frame: bytes, device: Device = UPLINK) -> None:
    outcome = node.uplink_ingress(frame, device=device)
    assert (outcome.verdict, outcome.frame) == (UNSPEC, frame), "the host's own ARP sees it as it was"


# ---- answering ----


@both_destinations
def test_while_the_lease_lives_a_request_is_answered(holder: Node, destination: bytes) -> None:
    outcome = holder.uplink_ingress(who_has(destination=destination))
    frame = packet.read(outcome.frame)
    assert outcome.verdict == REDIRECT
    assert (frame.destination, frame.source) == (ROUTER_MAC, UPLINK.mac)
    assert frame.arp == packet.ArpMessage(REPLY, UPLINK.mac, FLOATING_IP, ROUTER_MAC, ROUTER)
    assert holder.counters() == {"arp_answered": 1}


@both_destinations
def test_after_the_lease_a_request_is_swallowed(holder: Node, destination: bytes) -> None:
    holder.end_lease()
    assert holder.uplink_ingress(who_has(destination=destination)).verdict == SHOT
    assert holder.counters() == {}


def test_a_node_that_never_held_the_lease_swallows_requests(node: Node) -> None:
    assert node.uplink_ingress(who_has()).verdict == SHOT


def test_a_lease_answers_for_its_own_floating_ip_only(holder: Node) -> None:
    holder.floating_ip(OTHER_FLOATING_IP)
    assert holder.uplink_ingress(who_has(OTHER_FLOATING_IP)).verdict == SHOT


def test_a_request_on_another_interface_is_not_answered(holder: Node) -> None:
    assert holder.uplink_ingress(who_has(), device=UPLINK_2).verdict == SHOT


def test_a_probe_for_a_conflict_is_answered(holder: Node) -> None:
    """RFC 5227: the sender has no address yet."""
    outcome = holder.uplink_ingress(who_has(sender=NOBODY))
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).arp.target_ip == NOBODY


def test_requests_for_other_addresses_are_the_hosts(holder: Node) -> None:
    hear(holder, who_has(ROUTER))


def test_the_holders_own_questions_are_let_through(holder: Node) -> None:
    hear(holder, who_has(ROUTER, sender=FLOATING_IP))


def test_a_reply_to_somebody_elses_question_is_not_answered(holder: Node) -> None:
    message = packet.arp(REPLY, ROUTER_MAC, ROUTER, UPLINK.mac, FLOATING_IP)
    hear(holder, packet.ethernet(UPLINK.mac, ROUTER_MAC, packet.ARP, message))


# ---- learning ----


@both_forms
def test_w2_a_members_announcement_is_a_hint_and_leaves_the_told_way_as_it_is(node: Node, operation: int) -> None:
    node.member(NODE_A_MAC)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(NODE_A_MAC, operation))
    assert (node.hint_mac(), node.way_mac()) == (NODE_A_MAC, HOLDER_MAC)
    assert node.counters() == {"way_learned": 1}


def test_w2_an_announcement_is_a_hint_where_there_was_no_way(node: Node) -> None:
    node.member(NODE_A_MAC)
    hear(node, announcement(NODE_A_MAC))
    assert (node.hint_mac(), node.way_mac()) == (NODE_A_MAC, None)


def test_w2_a_hint_is_whole_and_has_the_token_of_the_told_way(node: Node) -> None:
    node.member(NODE_A_MAC)
    node.way(gateway_mac=NODE_A_MAC)
    told = node.map("ways").lookup(FLOATING_IP.packed)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(NODE_A_MAC))
    hint = node.map("way_hints").lookup(FLOATING_IP.packed)
    assert hint is not None
    assert hint[:32] == told


def test_w2_while_the_agent_lives_there_is_one_hint_under_each_token(node: Node) -> None:
    """Else whoever forges one after the other would keep every way dark."""
    node.beat()
    node.member(NODE_A_MAC)
    node.member(ROUTER_MAC)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(NODE_A_MAC))
    hear(node, announcement(ROUTER_MAC))
    assert node.hint_mac() == NODE_A_MAC
    node.beat(age_s=4)
    hear(node, announcement(ROUTER_MAC))
    assert node.hint_mac() == ROUTER_MAC, "without an agent nobody hears the authenticated word"


def test_w2_a_newer_token_may_be_hinted_at_again(node: Node) -> None:
    node.beat()
    node.member(NODE_A_MAC)
    node.member(ROUTER_MAC)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(NODE_A_MAC))
    node.way(gateway_mac=HOLDER_MAC, token=TOKEN + 1)
    hear(node, announcement(ROUTER_MAC))
    assert node.hint_mac() == ROUTER_MAC


def test_w2_the_told_holders_announcement_ends_a_hint(node: Node) -> None:
    node.member(NODE_A_MAC)
    node.member(HOLDER_MAC)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(NODE_A_MAC))
    hear(node, announcement(HOLDER_MAC))
    assert node.hint_mac() is None


def test_a_strangers_announcement_moves_nothing(node: Node) -> None:
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(STRANGER_MAC))
    assert node.hint_mac() is None


def test_a_member_is_known_by_interface(node: Node) -> None:
    node.member(STRANGER_MAC, device=UPLINK_2)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(STRANGER_MAC))
    assert node.hint_mac() is None


def test_an_announcement_on_a_segment_that_is_not_the_floating_ips_moves_nothing(node: Node) -> None:
    node.member(NODE_A_MAC, device=UPLINK_2)
    node.way(gateway_mac=HOLDER_MAC)
    hear(node, announcement(NODE_A_MAC), UPLINK_2)
    assert node.hint_mac() is None


def test_while_this_node_holds_the_lease_nobodys_announcement_moves_the_way(node: Node) -> None:
    node.member(NODE_A_MAC)
    node.way(WayKind.LOCAL, gateway_mac=HOLDER_MAC)
    node.hold()
    hear(node, announcement(NODE_A_MAC))
    assert node.hint_mac() is None


def test_a_former_holder_follows_the_new_one(node: Node) -> None:
    node.member(NODE_A_MAC)
    node.way(WayKind.LOCAL, gateway_mac=HOLDER_MAC)
    node.hold()
    node.end_lease()
    hear(node, announcement(NODE_A_MAC))
    assert node.hint_mac() == NODE_A_MAC


def test_an_announcement_of_what_is_known_writes_nothing(node: Node) -> None:
    node.member(NODE_A_MAC)
    node.way(gateway_mac=NODE_A_MAC)
    hear(node, announcement(NODE_A_MAC))
    assert node.counters() == {}


def test_an_announcement_of_an_ordinary_address_is_the_hosts_alone(node: Node) -> None:
    node.member(NODE_A_MAC)
    hear(node, announcement(NODE_A_MAC, address=ROUTER))
    assert node.hint_mac(ROUTER) is None


def test_learning_and_swallowing_are_not_drops_of_pod_traffic(node: Node) -> None:
    node.member(NODE_A_MAC)
    hear(node, announcement(NODE_A_MAC))
    node.uplink_ingress(who_has())
    assert node.drops() == {}
