"""The programs attached to real devices: where a redirected packet comes out, which test runs do not tell."""

import asyncio
import errno
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from service.network import bpf_call
from service.network.arp import ArpPacket
from service.network.arp_listener import ArpListener
from service.network.tcx import TcxLinks
from tests.datapath import packet
from tests.datapath.conversation import IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_DO
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    NEIGHBOUR,
    NEIGHBOUR_MAC,
    NODE,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    ROUTER,
    ROUTER_MAC,
    SERVER,
    STRANGER_MAC,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    from_outside,
)
from tests.datapath.program import EGW, UPLINK, UPLINK_2, Device, Namespace

pytestmark = [pytest.mark.bpf, pytest.mark.root]
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)

ATTACHED = {
    "steer_egress": (EGW, "egress"),
    "steer_ingress": (EGW, "ingress"),
    "uplink_ingress": (UPLINK, "ingress"),
    "uplink_egress": (UPLINK, "egress"),
}
_SO_MARK = 36
_LAST_WORD = 0x88B5
"""Local experimental EtherType (IEEE 802): left alone by every program, it marks the end of what there is to read."""


class Wires:
    """The far ends of the devices, and the devices themselves as the stack uses them."""

    def __init__(self, namespace: Namespace) -> None:
        names = [end for device in (UPLINK, UPLINK_2, EGW) for end in (device.name, f"{device.name}-wire")]
        self._sockets = {name: namespace.call(_open, name) for name in names}

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()

    def send(self, device: str, frame: bytes, *, mark: int = 0) -> None:
        self._sockets[device].setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        try:
            self._sockets[device].send(frame)
        except OSError as error:
            # How the sender learns that a program at the device's egress dropped the frame.
            if error.errno != errno.ENOBUFS:
                raise

    def leaving(self, device: Device) -> list[packet.Frame]:
        """What came out of a device. A last word follows through the uplink, so that nothing has to be waited for."""
        self.send(UPLINK.name, packet.ethernet(packet.BROADCAST, bytes(6), _LAST_WORD, bytes(46)))
        seen: dict[str, list[packet.Frame]] = {}
        for each in (UPLINK, UPLINK_2, EGW):
            seen[each.name] = list(self._arrived(self._sockets[f"{each.name}-wire"], is_last_word_due=each is UPLINK))
        return seen[device.name]

    @staticmethod
    def _arrived(wire: socket.socket, *, is_last_word_due: bool) -> Iterator[packet.Frame]:
        wire.settimeout(5 if is_last_word_due else 0)
        while True:
            try:
                frame, address = wire.recvfrom(4096)
            except BlockingIOError:
                return
            read = packet.read(frame)
            if read.kind == _LAST_WORD:
                return
            if address[2] != socket.PACKET_OUTGOING and read.kind != packet.IPV6:
                yield read


def _open(name: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.bind((name, 3))
    return opened


@pytest.fixture(scope="module", params=["tcx", "clsact"])
def attached(
    request: pytest.FixtureRequest, namespace: Namespace, loaded: LoadedDatapath, bpffs: Path
) -> Iterator[str]:
    """On each kind of hook the programs do the same (rule W13)."""
    permanent = f"ip neigh replace {ROUTER} lladdr {ROUTER_MAC.hex(':')} dev {UPLINK.name} nud permanent"
    namespace.command(*permanent.split())
    with attached_as(request.param, namespace, loaded, bpffs, ATTACHED):
        yield request.param
    namespace.command("ip", "neigh", "del", str(ROUTER), "dev", UPLINK.name)


Places = Mapping[str, tuple[Device, str]]


@contextmanager
def attached_as(kind: str, namespace: Namespace, loaded: LoadedDatapath, bpffs: Path, places: Places) -> Iterator[None]:
    attach = attached_to_tcx if kind == "tcx" else filters
    with attach(namespace, loaded, bpffs, places):
        yield


@contextmanager
def attached_to_tcx(namespace: Namespace, loaded: LoadedDatapath, bpffs: Path, places: Places) -> Iterator[None]:
    device, _ = next(iter(places.values()))
    links = TcxLinks(bpffs / f"live-links-{device.name}")
    for name, (device, direction) in places.items():
        namespace.call(links.attach, device.ifindex, direction, loaded.programs[name])
    yield
    namespace.call(links.clear)


@contextmanager
def filters(namespace: Namespace, loaded: LoadedDatapath, bpffs: Path, places: Places) -> Iterator[None]:
    devices = {device.name for device, _ in places.values()}
    for device in devices:
        namespace.command("tc", "qdisc", "add", "dev", device, "clsact")
    for name, (attached, direction) in places.items():
        path = bpffs / name
        bpf_call.pin(loaded.programs[name], str(path))
        namespace.command("tc", "filter", "add", "dev", attached.name, direction, "bpf", "da", "pinned", str(path))
        path.unlink()
    yield
    for device in devices:
        namespace.command("tc", "qdisc", "del", "dev", device, "clsact")


@pytest.fixture
def wires(attached: str, namespace: Namespace) -> Iterator[Wires]:
    opened = Wires(namespace)
    yield opened
    opened.close()


def from_uplink(wires: Wires, frame: bytes) -> None:
    wires.send(f"{UPLINK.name}-wire", frame)


@contextmanager
def neighbour(node: Node, entry: str = "") -> Iterator[None]:
    """The host of the segment in the node's neighbour table, as `ip neigh` has it; not there at all where empty."""
    namespace, place = node.programs.namespace, f"{NEIGHBOUR} dev {UPLINK.name}"
    if entry:
        namespace.command("ip", "neigh", "replace", *f"{place} {entry}".split())
    yield
    namespace.command("ip", "neigh", "del", *place.split())


def reach_egw(wires: Wires, datagram: bytes) -> None:
    wires.send(EGW.name, packet.ethernet(bytes(6), EGW.mac, packet.IPV4, datagram), mark=MARK)


def test_w1_a_steered_packet_leaves_by_the_uplink_of_its_way_from_the_floating_ip(pod_node: Node, wires: Wires) -> None:
    reach_egw(wires, TCP_FLOW.outbound())
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source, frame.ip.source) == (HOLDER_MAC, UPLINK.mac, FLOATING_IP)
    assert frame.ip.is_sound()


@each_protocol
def test_h1_a_members_packet_leaves_by_the_floating_ips_uplink_to_the_router(
    holder: Node, wires: Wires, flow: Flow
) -> None:
    from_uplink(wires, flow.steered())
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source) == (ROUTER_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (FLOATING_IP, SERVER, 63)
    assert frame.ip.is_sound()


def test_c7_a_packet_leaves_by_the_floating_ips_own_uplink_wherever_the_nodes_routes_lead(
    holder: Node, wires: Wires
) -> None:
    """The holder's route there is by another uplink."""
    route = f"203.0.113.0/24 dev {UPLINK_2.name}".split()
    holder.programs.namespace.command("ip", "route", "add", *route)
    try:
        from_uplink(wires, TCP_FLOW.steered())
        [frame] = wires.leaving(UPLINK)
        from_uplink(wires, TCP_FLOW.steered())
        assert wires.leaving(UPLINK_2) == []
    finally:
        holder.programs.namespace.command("ip", "route", "del", *route)
    assert (frame.destination, frame.ip.source) == (ROUTER_MAC, FLOATING_IP)


@each_protocol
def test_w12_a_packet_for_a_host_of_the_segment_goes_to_it_and_not_to_the_router(
    holder: Node, wires: Wires, flow: Flow
) -> None:
    with neighbour(holder, f"lladdr {NEIGHBOUR_MAC.hex(':')} nud permanent"):
        from_uplink(wires, flow.to(NEIGHBOUR).steered())
        [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source) == (NEIGHBOUR_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (FLOATING_IP, NEIGHBOUR, 63)
    assert frame.ip.is_sound()


def test_w12_an_unknown_host_of_the_segment_is_asked_for_from_the_nodes_own_address_and_then_gets_what_waited(
    holder: Node, wires: Wires
) -> None:
    """The floating IP is no address of the node: it never asks by it (rule G1), nor sends to the router meanwhile."""
    with neighbour(holder):
        from_uplink(wires, TCP_FLOW.to(NEIGHBOUR).steered())
        [question] = wires.leaving(UPLINK)
        assert (question.arp.sender_ip, question.arp.target_ip) == (NODE.ip, NEIGHBOUR)
        answer = packet.arp(2, NEIGHBOUR_MAC, NEIGHBOUR, UPLINK.mac, NODE.ip)
        from_uplink(wires, packet.ethernet(UPLINK.mac, NEIGHBOUR_MAC, packet.ARP, answer))
        [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.ip.source, frame.ip.destination) == (NEIGHBOUR_MAC, FLOATING_IP, NEIGHBOUR)


@each_protocol
def test_w12_the_reply_of_a_host_of_the_segment_goes_to_the_pods_node(holder: Node, wires: Wires, flow: Flow) -> None:
    question = packet.arp(1, NEIGHBOUR_MAC, NEIGHBOUR, bytes(6), FLOATING_IP)
    from_uplink(wires, packet.ethernet(packet.BROADCAST, NEIGHBOUR_MAC, packet.ARP, question))
    [answer] = wires.leaving(UPLINK)
    assert (answer.destination, answer.arp.sender_mac) == (NEIGHBOUR_MAC, UPLINK.mac)
    from_uplink(wires, UPLINK.mac + NEIGHBOUR_MAC + flow.to(NEIGHBOUR).reply()[12:])
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.ip.source, frame.ip.destination) == (NODE_A_MAC, NEIGHBOUR, FLOATING_IP)
    assert frame.ip.is_sound()


def test_g7_a_next_hop_that_is_not_resolved_is_asked_for_and_then_gets_the_packet(holder: Node, wires: Wires) -> None:
    """It waits in the kernel, and the fence lets it out because it has our mark and the lease lives."""
    with unresolved(holder.programs.namespace):
        from_uplink(wires, TCP_FLOW.steered())
        [question] = wires.leaving(UPLINK)
        assert (question.kind, question.arp.target_ip) == (packet.ARP, ROUTER)
        answer_for_router(wires)
        frames = [frame for frame in wires.leaving(UPLINK) if frame.kind == packet.IPV4]
    assert [(frame.destination, frame.ip.source) for frame in frames] == [(ROUTER_MAC, FLOATING_IP)]


def test_g2_a_packet_that_waited_for_its_neighbour_does_not_leave_after_the_lease(holder: Node, wires: Wires) -> None:
    with unresolved(holder.programs.namespace):
        from_uplink(wires, TCP_FLOW.steered())
        wires.leaving(UPLINK)
        holder.end_lease()
        answer_for_router(wires)
        assert [frame for frame in wires.leaving(UPLINK) if frame.kind == packet.IPV4] == []
    assert holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_EGRESS): 1}


@contextmanager
def unresolved(namespace: Namespace) -> Iterator[None]:
    namespace.command("ip", "neigh", "del", str(ROUTER), "dev", UPLINK.name)
    try:
        yield
    finally:
        permanent = f"{ROUTER} lladdr {ROUTER_MAC.hex(':')} dev {UPLINK.name} nud permanent"
        namespace.command("ip", "neigh", "replace", *permanent.split())


def answer_for_router(wires: Wires) -> None:
    answer = packet.arp(2, ROUTER_MAC, ROUTER, UPLINK.mac, NODE.ip)
    from_uplink(wires, packet.ethernet(UPLINK.mac, ROUTER_MAC, packet.ARP, answer))


def test_h2_a_reply_leaves_to_the_node_of_its_block(holder: Node, wires: Wires) -> None:
    from_uplink(wires, TCP_FLOW.reply())
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source, frame.ip.destination) == (NODE_A_MAC, UPLINK.mac, FLOATING_IP)


def test_h4_a_packet_of_the_holders_own_pod_goes_in_by_the_uplink_and_out_again(own_holder: Node, wires: Wires) -> None:
    reach_egw(wires, TCP_FLOW.outbound(ttl=63))
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.ip.source, frame.ip.ttl) == (ROUTER_MAC, FLOATING_IP, 63)
    assert frame.ip.is_sound()


@pytest.mark.parametrize("ttl", [1, 0])
def test_h2_a_packet_at_the_end_of_its_hops_comes_back_to_its_node_as_an_error(
    holder: Node, wires: Wires, ttl: int
) -> None:
    """traceroute sees the holder: its stack tells the floating IP, and that goes to the node of the block."""
    from_uplink(wires, UDP_FLOW.steered(ttl=ttl))
    frames = [frame for frame in wires.leaving(UPLINK) if frame.kind == packet.IPV4]
    holder.programs.namespace.command("ip", "neigh", "flush", str(FLOATING_IP))
    assert [(frame.destination, frame.ip.source, frame.ip.destination) for frame in frames] == [
        (NODE_A_MAC, NODE.ip, FLOATING_IP)
    ]
    assert (frames[0].ip.icmp_type, frames[0].ip.quoted.ports) == (packet.TIME_EXCEEDED, (UDP_FLOW.pod_port, 443))


def test_h2_a_reply_at_the_end_of_its_hops_is_told_to_the_remote(holder: Node, wires: Wires) -> None:
    from_uplink(wires, UDP_FLOW.reply(ttl=1))
    frames = [frame for frame in wires.leaving(UPLINK) if frame.kind == packet.IPV4]
    assert [(frame.ip.destination, frame.ip.icmp_type) for frame in frames] == [(SERVER, packet.TIME_EXCEEDED)]


def test_h5_a_tagged_frame_is_not_for_this_device(holder: Node, wires: Wires) -> None:
    """The kernel has taken the tag out of the frame when the program sees it. VLAN 0 is no VLAN."""
    from_uplink(wires, packet.tagged(TCP_FLOW.steered(), (packet.VLAN, 7)))
    assert wires.leaving(UPLINK) == []
    from_uplink(wires, packet.tagged(TCP_FLOW.steered(), (packet.VLAN, 0)))
    assert [frame.ip.source for frame in wires.leaving(UPLINK)] == [FLOATING_IP]
    assert holder.drops() == {}


UPPER = Device("upper", 70, packet.mac("02:00:00:00:0b:70"))


@pytest.fixture
def upper(attached: str, namespace: Namespace, loaded: LoadedDatapath, bpffs: Path) -> Iterator[Device]:
    """An uplink above the other one; both have a fence. A macvlan, because not every kernel has VLANs."""
    make = f"ip link add link {UPLINK.name} name {UPPER.name} index {UPPER.ifindex} address {UPPER.mac.hex(':')}"
    neighbour = f"ip neigh add {SERVER} lladdr {ROUTER_MAC.hex(':')} dev {UPPER.name} nud permanent"
    namespace.command(*make.split(), *["type", "macvlan", "mode", "bridge"])
    namespace.command("ip", "link", "set", UPPER.name, "addrgenmode", "none", "up")
    namespace.command("ip", "route", "add", str(SERVER), "dev", UPPER.name)
    namespace.command(*neighbour.split())
    names = ("uplink_ingress", "uplink_egress")
    with attached_as(attached, namespace, loaded, bpffs, {name: (UPPER, ATTACHED[name][1]) for name in names}):
        yield UPPER
    namespace.command("ip", "link", "del", UPPER.name)


def test_h3_what_the_holder_sends_passes_the_fence_of_the_device_below_too(
    node: Node, wires: Wires, upper: Device
) -> None:
    node.floating_ip(FLOATING_IP, upper)
    node.member(NODE_A_MAC, device=upper)
    node.hold()
    node.assign(device=upper)
    for frame in (TCP_FLOW.steered(), TCP_FLOW.steered(), TCP_FLOW.reply()):
        from_uplink(wires, upper.mac + frame[6:])
    heads = [(frame.destination, frame.ip.source, frame.ip.destination) for frame in wires.leaving(UPLINK)]
    out, back = (ROUTER_MAC, FLOATING_IP, SERVER), (NODE_A_MAC, SERVER, FLOATING_IP)
    assert heads == [out, out, back]
    assert node.drops() == {}


def test_h3_what_goes_to_the_holder_passes_the_fence_of_the_device_below_too(
    pod_node: Node, wires: Wires, upper: Device
) -> None:
    pod_node.way(device=upper)
    reach_egw(wires, TCP_FLOW.outbound())
    assert [(frame.destination, frame.ip.source) for frame in wires.leaving(UPLINK)] == [(HOLDER_MAC, FLOATING_IP)]


def test_h2_the_node_itself_finds_what_it_holds(holder: Node, wires: Wires) -> None:
    """Its own question is answered by its own program, and its packet goes to the node of the block."""
    neighbour = (str(FLOATING_IP), "dev", UPLINK.name)
    holder.programs.namespace.call(say, (str(FLOATING_IP), UDP_FLOW.pod_port))
    try:
        frames = wires.leaving(UPLINK)
    finally:
        holder.programs.namespace.command("ip", "neigh", "del", *neighbour)
    assert [(frame.destination, frame.kind) for frame in frames] == [(NODE_A_MAC, packet.IPV4)]
    assert frames[0].ip.destination == FLOATING_IP


def test_c31_a_program_of_the_holder_is_told_what_is_too_big_for_the_way_to_the_node(
    holder: Node, wires: Wires
) -> None:
    """A datagram that may not be cut, to a block that is reached by another, narrower uplink."""
    holder.assign(device=UPLINK_2)
    command = holder.programs.namespace.command
    command("ip", "link", "set", UPLINK_2.name, "mtu", "600")
    try:
        told = holder.programs.namespace.call(ask_for_too_much, (str(FLOATING_IP), UDP_FLOW.pod_port))
    finally:
        command("ip", "link", "set", UPLINK_2.name, "mtu", "1500")
        command("ip", "neigh", "del", str(FLOATING_IP), "dev", UPLINK.name)
        command("ip", "route", "flush", "cache")
    assert told == (errno.EMSGSIZE, 600)
    assert wires.leaving(UPLINK) == []


def ask_for_too_much(address: tuple[str, int]) -> tuple[int | None, int]:
    """What the socket hears, and what it knows of the way then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
        speaker.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        speaker.settimeout(2)
        speaker.connect(address)
        speaker.send(bytes(1400))
        try:
            speaker.recv(1)
        except OSError as error:
            return error.errno, speaker.getsockopt(socket.IPPROTO_IP, IP_MTU)
        return None, 0


def say(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(b"hello", address)


def test_a_question_is_answered_where_it_was_asked(holder: Node, wires: Wires) -> None:
    question = packet.arp(1, ROUTER_MAC, ROUTER, bytes(6), FLOATING_IP)
    from_uplink(wires, packet.ethernet(packet.BROADCAST, ROUTER_MAC, packet.ARP, question))
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.arp.sender_mac, frame.arp.sender_ip) == (ROUTER_MAC, UPLINK.mac, FLOATING_IP)


def test_a2_who_asks_as_an_address_held_here_is_heard_and_not_answered(holder: Node, wires: Wires) -> None:
    """Not by the host's proxy ARP either, which has a route to what is asked for: the fence is before it."""
    holder.floating_ip(OTHER_FLOATING_IP)
    question = packet.arp(1, STRANGER_MAC, FLOATING_IP, bytes(6), OTHER_FLOATING_IP)
    namespace = holder.programs.namespace
    proxy_arp = f"net.ipv4.conf.{UPLINK.name}.proxy_arp"
    namespace.command("ip", "route", "add", str(OTHER_FLOATING_IP), "dev", UPLINK_2.name)
    namespace.command("sysctl", "-q", "-w", f"{proxy_arp}=1")
    try:
        heard = namespace.call(
            asyncio.run, _heard_of(packet.ethernet(packet.BROADCAST, STRANGER_MAC, packet.ARP, question))
        )
        # The host puts off its answers by proxy, by up to 0.8 s.
        time.sleep(1)
        assert wires.leaving(UPLINK) == []
    finally:
        namespace.command("sysctl", "-q", "-w", f"{proxy_arp}=0")
        namespace.command("ip", "route", "del", str(OTHER_FLOATING_IP), "dev", UPLINK_2.name)
    assert [(packet.sender, packet.sender_mac) for packet in heard] == [(FLOATING_IP, STRANGER_MAC)]


async def _heard_of(frame: bytes) -> list[ArpPacket]:
    """What the agent hears of a frame that comes in by the uplink."""
    heard: asyncio.Queue[ArpPacket] = asyncio.Queue(maxsize=9)
    with ArpListener(lambda _, packet: heard.put_nowait(packet)) as listener:
        listener.listen([(UPLINK.name, UPLINK.ifindex)])
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((f"{UPLINK.name}-wire", 0))
            wire.send(frame)
        return [await asyncio.wait_for(heard.get(), 5)]


def test_a_ping_is_answered_where_it_came_from(holder: Node, wires: Wires) -> None:
    request = packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 9))
    from_uplink(wires, from_outside(request))
    [frame] = wires.leaving(UPLINK)
    assert (frame.ip.source, frame.ip.icmp_type) == (FLOATING_IP, packet.ECHO_REPLY)


@pytest.mark.parametrize("ask", ["arp", "ping", "packet", "reply"])
def test_c32_after_the_lease_nothing_comes_out_of_the_former_holder_whatever_goes_in(
    holder: Node, wires: Wires, ask: str
) -> None:
    holder.end_lease()
    question = packet.arp(1, ROUTER_MAC, ROUTER, bytes(6), FLOATING_IP)
    request = packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 9))
    frames = {
        "arp": packet.ethernet(packet.BROADCAST, ROUTER_MAC, packet.ARP, question),
        "ping": from_outside(request),
        "packet": TCP_FLOW.steered(),
        "reply": ECHO_FLOW.reply(),
    }
    from_uplink(wires, frames[ask])
    assert wires.leaving(UPLINK) == []


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "over"])
def test_h3_the_fence_holds_for_whatever_the_host_itself_sends(holder: Node, wires: Wires, is_held: bool) -> None:
    """The host announces what it holds, and says nothing else in its name."""
    if not is_held:
        holder.end_lease()
    segment = packet.ipv4(FLOATING_IP, SERVER, packet.TCP, packet.tcp(FLOATING_IP, SERVER, (1, 2)))
    announcement = packet.arp(1, UPLINK.mac, FLOATING_IP, bytes(6), FLOATING_IP)
    wires.send(UPLINK.name, packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV4, segment))
    wires.send(UPLINK.name, packet.ethernet(packet.BROADCAST, UPLINK.mac, packet.ARP, announcement))
    assert [frame.kind for frame in wires.leaving(UPLINK)] == ([packet.ARP] if is_held else [])


@pytest.mark.parametrize("frame", [TCP_FLOW.steered(80), TCP_FLOW.steered(source_mac=STRANGER_MAC)])
def test_h1_what_is_refused_is_not_forwarded_by_the_host(holder: Node, wires: Wires, frame: bytes) -> None:
    from_uplink(wires, frame)
    assert wires.leaving(UPLINK) == []


@pytest.mark.parametrize("length", [14, 15, 20, 33])
def test_an_ipv4_frame_without_a_whole_header_goes_nowhere(holder: Node, wires: Wires, length: int) -> None:
    """The kernel's test runs refuse such frames; a wire does not."""
    wires.send(EGW.name, packet.ethernet(bytes(6), EGW.mac, packet.IPV4, TCP_FLOW.outbound())[:length])
    from_uplink(wires, TCP_FLOW.steered()[:length])
    from_uplink(wires, TCP_FLOW.reply()[:length])
    assert wires.leaving(UPLINK) == []
    assert holder.drops() == {(None, DropReason.MALFORMED): 1}


def test_the_steering_device_lets_nothing_through_to_its_other_end(node: Node, wires: Wires) -> None:
    reach_egw(wires, TCP_FLOW.outbound())
    wires.send(EGW.name, packet.ethernet(bytes(6), EGW.mac, packet.IPV6, bytes(40)))
    assert wires.leaving(EGW) == []
