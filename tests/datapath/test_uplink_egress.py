"""The fence: only the holder speaks for a floating IP, but to the holder (rules G2, H3, H5)."""

import struct
from ipaddress import IPv4Address

import pytest

from service.datapath.layout import MapName
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    OWN_ADDRESS,
    POD,
    ROUTER,
    ROUTER_MAC,
    SERVER,
    TUNNEL_PORT,
    Node,
)
from tests.datapath.packet import BROADCAST
from tests.datapath.program import SHOT, UNSPEC, UPLINK, UPLINK_2, Device, Outcome

pytestmark = pytest.mark.bpf

JUST_JUDGED = 0x45470003
"""In skb->cb[0] (bpf/layout.h)."""


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
each_ip_frame = pytest.mark.parametrize(
    "frame", [FRAMES["ip"], FRAMES["fragment"], FRAMES["other-protocol"]], ids=["ip", "fragment", "other-protocol"]
)
each_arp_frame = pytest.mark.parametrize(
    "frame", [arp(1, FLOATING_IP), arp(1), arp(2)], ids=["announcement", "request", "reply"]
)


def leave(node: Node, frame: bytes, device: Device = UPLINK, *, mark: int = MARK) -> Outcome:
    """`mark`: as our own programs leave it."""
    outcome = node.programs.run("uplink_egress", frame, device=device, mark=mark)
    assert outcome.frame == frame, "the fence never rewrites"
    return outcome


@each_frame
def test_h3_while_the_lease_lives_what_our_programs_made_leaves(holder: Node, frame: bytes) -> None:
    assert leave(holder, frame).verdict == UNSPEC
    assert holder.drops() == {}


@each_frame
def test_g2_after_the_lease_nothing_leaves_and_it_is_counted(holder: Node, frame: bytes) -> None:
    holder.end_lease()
    assert leave(holder, frame).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_EGRESS): 1}


@each_ip_frame
def test_c15_what_nobody_of_us_made_never_leaves_in_a_floating_ips_name(holder: Node, frame: bytes) -> None:
    assert leave(holder, frame, mark=0).verdict == SHOT
    assert leave(holder, frame, mark=MARK << 1).verdict == SHOT
    assert holder.drops() == {(FLOATING_IP, DropReason.FORGED_SOURCE): 2}


@each_arp_frame
def test_h3_arp_needs_the_lease_alone_because_the_agent_speaks_it_too(holder: Node, frame: bytes) -> None:
    assert leave(holder, frame, mark=0).verdict == UNSPEC
    holder.end_lease()
    assert leave(holder, frame, mark=0).verdict == SHOT


def test_h3_without_the_lease_it_leaves_to_the_holder_that_the_way_names(pod_node: Node) -> None:
    assert leave(pod_node, HOLDER_MAC + translated()[6:]).verdict == UNSPEC
    assert leave(pod_node, translated()).verdict == SHOT
    assert leave(pod_node, HOLDER_MAC + translated()[6:], mark=0).verdict == SHOT


def test_h3_what_was_judged_a_moment_ago_is_not_judged_again(pod_node: Node) -> None:
    """By the word that bpf_redirect carries along; without our mark it says nothing."""
    run = pod_node.programs.run
    outcome = run("uplink_egress", translated(), mark=MARK, cb=JUST_JUDGED)
    assert outcome.verdict == UNSPEC
    assert run("uplink_egress", translated(), cb=JUST_JUDGED).verdict == SHOT
    assert run("uplink_egress", translated(), mark=MARK, cb=JUST_JUDGED + 1).verdict == SHOT


def test_h3_a_hint_is_a_way_while_it_is_in_force(pod_node: Node) -> None:
    pod_node.beat()
    way = pod_node.map(MapName.WAYS).lookup(FLOATING_IP.packed)
    assert way is not None
    hinted = way[:22] + NODE_A_MAC + way[28:]
    for until_ns, verdict in ((2**62, UNSPEC), (1, SHOT)):
        pod_node.map(MapName.WAY_HINTS).update(FLOATING_IP.packed, hinted + struct.pack("=Q", until_ns))
        assert leave(pod_node, NODE_A_MAC + translated()[6:]).verdict == verdict


def test_a_node_that_never_held_the_lease_lets_nothing_out(node: Node) -> None:
    assert leave(node, translated()).verdict == SHOT


def test_the_fence_stands_on_every_uplink(node: Node) -> None:
    assert leave(node, translated(), UPLINK_2).verdict == SHOT


def test_a_lease_of_one_floating_ip_opens_nothing_for_another(holder: Node) -> None:
    holder.floating_ip(OTHER_FLOATING_IP)
    assert leave(holder, translated(OTHER_FLOATING_IP)).verdict == SHOT
    assert holder.drops() == {(OTHER_FLOATING_IP, DropReason.LEASE_EXPIRED_EGRESS): 1}


def test_a_renewed_lease_opens_the_fence_again(holder: Node) -> None:
    holder.end_lease()
    holder.hold()
    assert leave(holder, translated()).verdict == UNSPEC


each_tag = pytest.mark.parametrize(
    "tags", [[(packet.VLAN, 5)], [(packet.VLAN, 0)], [(packet.QINQ, 3), (packet.VLAN, 5)]]
)


@each_tag
def test_h5_a_floating_ip_behind_tags_is_fenced_like_any(holder: Node, tags: list[tuple[int, int]]) -> None:
    """A VLAN device's frames pass the fence of the device below it once more."""
    tagged, announced = (packet.tagged(frame, *tags) for frame in (translated(), arp(1, FLOATING_IP)))
    assert leave(holder, tagged, mark=0).verdict == SHOT
    assert (leave(holder, tagged).verdict, leave(holder, announced, mark=0).verdict) == (UNSPEC, UNSPEC)
    holder.end_lease()
    assert (leave(holder, tagged).verdict, leave(holder, announced, mark=0).verdict) == (SHOT, SHOT)


@each_tag
def test_h5_what_goes_to_the_holder_may_go_by_a_vlan(pod_node: Node, tags: list[tuple[int, int]]) -> None:
    frame = packet.tagged(HOLDER_MAC + translated()[6:], *tags)
    assert leave(pod_node, frame, UPLINK_2).verdict == UNSPEC
    assert leave(pod_node, packet.tagged(translated(), *tags), UPLINK_2).verdict == SHOT


@pytest.mark.parametrize(
    "frame",
    [
        translated(ROUTER),
        translated(POD),
        arp(1, FLOATING_IP, ROUTER),
        packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV6, bytes(40)),
        packet.tagged(translated(POD), (packet.VLAN, 5)),
        packet.ethernet(ROUTER_MAC, UPLINK.mac, 0x88CC, FLOATING_IP.packed * 10),
    ],
    ids=["node", "pod", "who-has-the-floating-ip", "ipv6", "tagged-pod", "lldp"],
)
def test_other_traffic_passes_lease_or_not(node: Node, frame: bytes) -> None:
    assert leave(node, frame, mark=0).verdict == UNSPEC
    assert node.drops() == {}


# ---- the tunnel's port ----


FAR = IPv4Address("10.0.2.11")


def to_tunnel(port: int = TUNNEL_PORT, *, fragment: int = packet.DONT_FRAGMENT, options: bytes = b"") -> bytes:
    datagram = packet.udp(OWN_ADDRESS, FAR, (40000, port))
    return packet.ipv4(OWN_ADDRESS, FAR, packet.UDP, datagram, fragment=fragment, options=options)


@pytest.mark.parametrize(
    "tags", [(), ((packet.VLAN, 5),), ((packet.QINQ, 5), (packet.VLAN, 6))], ids=["bare", "1", "2"]
)
@pytest.mark.parametrize(
    "datagram",
    [to_tunnel(), to_tunnel(fragment=packet.MORE_FRAGMENTS), to_tunnel(options=b"\x94\x04\0\0")],
    ids=["whole", "first-fragment", "options"],
)
def test_h5_nothing_leaves_to_the_tunnels_port_but_what_the_steering_device_made(
    node: Node, datagram: bytes, tags: tuple[tuple[int, int], ...]
) -> None:
    frame = packet.tagged(packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV4, datagram), *tags)
    assert node.programs.run("uplink_egress", frame, device=UPLINK).verdict == SHOT
    assert node.drops() == {(None, DropReason.FORGED_TUNNEL): 1}
    assert node.programs.run("uplink_egress", frame, device=UPLINK, mark=MARK).verdict == UNSPEC


def test_h5_other_ports_are_nobodys_business(node: Node) -> None:
    frame = packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV4, to_tunnel(TUNNEL_PORT + 1))
    assert node.programs.run("uplink_egress", frame, device=UPLINK).verdict == UNSPEC


def test_h5_a_later_fragment_has_no_port_to_ask_for(node: Node) -> None:
    """Whatever its data look like. It is of no use without the first one, which does not leave."""
    for tags in ((), ((packet.VLAN, 5),)):
        frame = packet.tagged(packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV4, to_tunnel(fragment=185)), *tags)
        assert node.programs.run("uplink_egress", frame, device=UPLINK).verdict == UNSPEC
