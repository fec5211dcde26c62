"""The fence: after the deadline nothing from a floating IP leaves, whoever made or queued it (rule G2)."""

import pytest

from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import FLOATING_IP, OTHER_FLOATING_IP, POD, ROUTER, ROUTER_MAC, SERVER, Node
from tests.datapath.packet import BROADCAST
from tests.datapath.program import SHOT, UNSPEC, UPLINK, UPLINK_2, Device, Outcome

pytestmark = pytest.mark.bpf


def translated(source=FLOATING_IP) -> bytes:
    segment = packet.tcp(source, SERVER, (40000, 443))
    return packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV4, packet.ipv4(source, SERVER, packet.TCP, segment))


def arp(operation: int, target=ROUTER, sender=FLOATING_IP) -> bytes:
    message = packet.arp(operation, UPLINK.mac, sender, bytes(6), target)
    return packet.ethernet(BROADCAST, UPLINK.mac, packet.ARP, message)


FRAMES = {
    "ip": translated(),
    "announcement": arp(1, FLOATING_IP),
    "arp-request": arp(1),
    "arp-reply": arp(2),
    "fragment": packet.ethernet(
        ROUTER_MAC, UPLINK.mac, packet.IPV4, packet.ipv4(FLOATING_IP, SERVER, packet.UDP, bytes(8), fragment=99)
    ),
    "other-protocol": packet.ethernet(
        ROUTER_MAC, UPLINK.mac, packet.IPV4, packet.ipv4(FLOATING_IP, SERVER, packet.SCTP, bytes(12))
    ),
}
each_frame = pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)


def leave(node: Node, frame: bytes, device: Device = UPLINK) -> Outcome:
    outcome = node.programs.run("uplink_egress", frame, device=device)
    assert outcome.frame == frame, "the fence never rewrites"
    return outcome


@each_frame
def test_while_the_lease_lives_the_fence_is_open(gateway: Node, frame: bytes) -> None:
    assert leave(gateway, frame).verdict == UNSPEC
    assert gateway.drops() == {}


@each_frame
def test_after_the_lease_nothing_leaves_and_it_is_counted(gateway: Node, frame: bytes) -> None:
    gateway.end_lease()
    assert leave(gateway, frame).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_EGRESS): 1}


def test_a_node_that_never_held_the_lease_lets_nothing_out(node: Node) -> None:
    assert leave(node, translated()).verdict == SHOT


def test_the_fence_stands_on_every_uplink(node: Node) -> None:
    assert leave(node, translated(), UPLINK_2).verdict == SHOT


def test_a_lease_of_one_floating_ip_opens_nothing_for_another(gateway: Node) -> None:
    gateway.floating_ip(OTHER_FLOATING_IP)
    assert leave(gateway, translated(OTHER_FLOATING_IP)).verdict == SHOT
    assert gateway.drops() == {(OTHER_FLOATING_IP, DropReason.LEASE_EXPIRED_EGRESS): 1}


def test_a_renewed_lease_opens_the_fence_again(gateway: Node) -> None:
    gateway.end_lease()
    gateway.hold()
    assert leave(gateway, translated()).verdict == UNSPEC


@pytest.mark.parametrize(
    "frame",
    [
        translated(ROUTER),
        translated(POD),
        arp(1, FLOATING_IP, ROUTER),
        packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV6, bytes(40)),
        packet.ethernet(ROUTER_MAC, UPLINK.mac, 0x88CC, FLOATING_IP.packed * 10),
    ],
    ids=["node", "pod", "who-has-the-floating-ip", "ipv6", "lldp"],
)
def test_other_traffic_passes_lease_or_not(node: Node, frame: bytes) -> None:
    assert leave(node, frame).verdict == UNSPEC
    assert node.drops() == {}
