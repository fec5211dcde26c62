"""Frames that nobody should send: cut anywhere, bent anywhere. None passes that should not, none is too short."""

import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from service.datapath.compiler import PROGRAMS
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    ROUTER,
    ROUTER_MAC,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Node,
    from_outside,
)
from tests.datapath.packet import ETHERNET_BYTES
from tests.datapath.program import (
    EGW,
    POD_DEVICE,
    REDIRECT,
    SHOT,
    UNSPEC,
    UPLINK,
    Outcome,
    native_code_bytes,
    verified_steps,
)

pytestmark = pytest.mark.bpf

each_program = pytest.mark.parametrize("program", PROGRAMS)
HEADER_BYTES = ETHERNET_BYTES + 20
L4_BYTES = {packet.TCP: 20, packet.UDP: 8, packet.ICMP: 8}
"""What must be there for NAT to rewrite it with its checksum."""
DEVICES = {"pod_ingress": POD_DEVICE, "steer_egress": EGW, "steer_ingress": EGW}
QUOTE = packet.ipv4(FLOATING_IP, SERVER, packet.TCP, packet.tcp(FLOATING_IP, SERVER, (40000, 443)))
FRAMES = {
    "steered-tcp": TCP_FLOW.steered(),
    "steered-udp": UDP_FLOW.steered(),
    "steered-echo": ECHO_FLOW.steered(),
    "steered-options": TCP_FLOW.steered(options=bytes(40)),
    "pod-tcp": from_outside(TCP_FLOW.outbound()),
    "pod-udp": from_outside(UDP_FLOW.outbound()),
    "pod-options": from_outside(TCP_FLOW.outbound(options=bytes(40))),
    "delivered-tcp": TCP_FLOW.reply(source_mac=HOLDER_MAC),
    "reply-tcp": TCP_FLOW.reply(),
    "reply-udp": UDP_FLOW.reply(),
    "reply-echo": ECHO_FLOW.reply(),
    "ping": from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 5))),
    "icmp-error": from_outside(packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.icmp(3, 4, bytes(4), QUOTE))),
    "arp": packet.ethernet(
        packet.BROADCAST, ROUTER_MAC, packet.ARP, packet.arp(1, ROUTER_MAC, ROUTER, bytes(6), FLOATING_IP)
    ),
}


@pytest.fixture
def busy(pod_node: Node) -> Node:
    """The pod's node, with one flow of each protocol open, and holder of an address that others have blocks of."""
    pod_node.hold()
    pod_node.assign()
    for flow in FLOWS.values():
        pod_node.send(flow)
    return pod_node


def run(node: Node, program: str, frame: bytes) -> Outcome | None:
    """None where the kernel's own test harness refuses the frame (an IPv4 type without a whole IPv4 header)."""
    try:
        return node.programs.run(program, frame, device=DEVICES.get(program, UPLINK), mark=MARK)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


@each_program
def test_the_program_runs_as_machine_code(node: Node, program: str) -> None:
    """The interpreter is several times slower: a figure measured with it says nothing."""
    assert native_code_bytes(node.programs.descriptors[program]) > 0


@each_program
def test_the_verifier_has_room_left(node: Node, program: str) -> None:
    """Another compiler or kernel needs other steps for the same program."""
    assert 0 < verified_steps(node.programs.descriptors[program]) < 500_000


@each_program
@pytest.mark.parametrize("kind", [packet.ARP, 0x88CC], ids=["arp", "lldp"])
def test_a_frame_of_14_bytes_is_judged(busy: Node, program: str, kind: int) -> None:
    outcome = run(busy, program, packet.ethernet(UPLINK.mac, ROUTER_MAC, kind, b""))
    assert outcome is not None
    # What comes to devices of our own is nobody else's.
    assert outcome.verdict == (SHOT if program.startswith(("steer", "handover")) else UNSPEC)


@each_program
@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_anywhere_is_never_sent_on_unless_it_is_whole_enough_to_translate(
    busy: Node, program: str, name: str
) -> None:
    whole = FRAMES[name]
    judged = 0
    for length in range(ETHERNET_BYTES, len(whole)):
        outcome = run(busy, program, whole[:length])
        if outcome is None:
            continue
        judged += 1
        assert len(outcome.frame) == length
        if outcome.verdict == REDIRECT and program in ("steer_egress", "uplink_ingress"):
            header = whole[ETHERNET_BYTES:]
            needed = 28 if name == "arp" else (header[0] & 0x0F) * 4 + L4_BYTES[header[9]]
            assert length >= ETHERNET_BYTES + needed
    # The kernel itself refuses to run a program on what is shorter than an IP header, and on nothing else.
    assert judged >= len(whole) - HEADER_BYTES


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "arp" and not name.startswith("pod")])
def test_what_is_ours_is_dropped_and_counted_when_cut_behind_its_ip_header(busy: Node, name: str) -> None:
    """Never up the stack, which would forward or answer it."""
    whole = FRAMES[name]
    header_bytes = (whole[ETHERNET_BYTES] & 0x0F) * 4
    lengths = range(HEADER_BYTES, ETHERNET_BYTES + header_bytes + 8)
    for length in lengths:
        outcome = busy.uplink_ingress(whole[:length])
        assert outcome.verdict == SHOT
    assert busy.drops() == {(FLOATING_IP, DropReason.MALFORMED): len(lengths)}


@pytest.mark.parametrize("l4_bytes", [8, 13, 14, 18, 19])
def test_half_a_tcp_header_is_dropped_and_makes_no_flow(pod_node: Node, l4_bytes: int) -> None:
    assert pod_node.steer(TCP_FLOW.outbound()[: 20 + l4_bytes]).verdict == SHOT
    assert pod_node.uplink_ingress(TCP_FLOW.reply(source_mac=HOLDER_MAC)[: HEADER_BYTES + l4_bytes]).verdict == SHOT
    assert set(pod_node.drops().items()) == {
        ((None, DropReason.MALFORMED), 1),
        ((FLOATING_IP, DropReason.MALFORMED), 1),
    }
    assert pod_node.flow(TCP_FLOW) is None


@pytest.mark.parametrize("version_ihl", [0x44, 0x40, 0x65, 0x05], ids=["ihl-4", "ihl-0", "version-6", "version-0"])
@each_program
def test_a_header_that_is_not_ipv4_is_never_translated(busy: Node, program: str, version_ihl: int) -> None:
    for flow in FLOWS.values():
        for frame in (flow.steered(), flow.reply()):
            bent = frame[:ETHERNET_BYTES] + bytes((version_ihl,)) + frame[ETHERNET_BYTES + 1 :]
            outcome = run(busy, program, bent)
            assert outcome is not None
            assert outcome.verdict != REDIRECT
            assert outcome.verdict == SHOT or program != "steer_egress"
            assert outcome.frame == bent


@dataclass(frozen=True, slots=True)
class Bent:
    frame: bytes
    outcome: Outcome


def bend(node: Node, program: str, seed: int) -> Iterator[Bent]:
    """Whole frames with a few random bytes behind the MACs replaced."""
    source = random.Random(seed)
    for frame in FRAMES.values():
        for _ in range(60):
            bent = bytearray(frame[: source.randrange(HEADER_BYTES, len(frame) + 1)])
            for _ in range(source.randrange(1, 6)):
                bent[source.randrange(12, len(bent))] = source.randrange(256)
            outcome = run(node, program, bytes(bent))
            if outcome is not None:
                yield Bent(bytes(bent), outcome)


def is_error(outcome: Outcome) -> bool:
    """A sound one, about the end of a packet's hops: the only way in which these frames cannot go on (rule X3)."""
    message = packet.read(outcome.frame).ip
    return message.protocol == packet.ICMP and message.icmp_type == packet.TIME_EXCEEDED and message.is_sound()


@each_program
@pytest.mark.parametrize("seed", range(4))
def test_whatever_arrives_the_verdict_is_one_of_three_and_no_byte_is_added_but_of_an_error(
    busy: Node, program: str, seed: int
) -> None:
    judged = 0
    for bent in bend(busy, program, seed):
        judged += 1
        assert bent.outcome.verdict in (UNSPEC, SHOT, REDIRECT)
        assert len(bent.outcome.frame) == len(bent.frame) or is_error(bent.outcome)
        if program == "steer_egress":
            assert bent.outcome.verdict != UNSPEC
        if bent.outcome.verdict == UNSPEC:
            assert bent.outcome.frame == bent.frame
    assert judged > 30 * len(FRAMES)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_arrives_the_holder_sends_nothing_but_from_or_to_the_floating_ip(busy: Node, seed: int) -> None:
    sent = 0
    for bent in bend(busy, "uplink_ingress", seed):
        frame = packet.read(bent.outcome.frame)
        if bent.outcome.verdict == REDIRECT and frame.kind == packet.IPV4:
            sent += 1
            datagram = packet.read_ipv4(frame.payload)
            assert FLOATING_IP in (datagram.source, datagram.destination) or is_error(bent.outcome)
    assert sent, "nothing was sent, so nothing is proved"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_pod_sends_leaves_its_node_from_the_floating_ip_only(busy: Node, seed: int) -> None:
    sent = 0
    for bent in bend(busy, "steer_egress", seed):
        if bent.outcome.verdict == REDIRECT:
            sent += 1
            assert packet.read(bent.outcome.frame).ip.source == FLOATING_IP
    assert sent, "nothing was sent, so nothing is proved"
