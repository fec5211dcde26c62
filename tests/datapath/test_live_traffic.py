"""The programs attached to real devices: where a redirected packet comes out, which test runs do not tell."""

import asyncio
import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.datapath.layout import WayKind
from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from service.network import bpf_call
from service.network.arp import ArpPacket
from service.network.arp_listener import ArpListener
from service.network.tcx import TcxLinks
from tests.datapath import packet
from tests.datapath.node import (
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    NEIGHBOUR,
    NEIGHBOUR_MAC,
    NODE_A_MAC,
    OTHER_FLOATING_IP,
    OWN_ADDRESS,
    POD,
    ROUTER,
    ROUTER_MAC,
    SERVER,
    STRANGER_MAC,
    TCP_FLOW,
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
) -> Iterator[None]:
    """On each kind of hook the programs do the same (rule W13)."""
    for command in (
        f"ip addr add {OWN_ADDRESS}/24 dev {UPLINK.name}",
        f"ip route add default via {ROUTER}",
        f"ip neigh replace {ROUTER} lladdr {ROUTER_MAC.hex(':')} dev {UPLINK.name} nud permanent",
    ):
        namespace.command(*command.split())
    with attached_to_tcx(namespace, loaded, bpffs) if request.param == "tcx" else filters(namespace, loaded, bpffs):
        yield
    namespace.command("ip", "addr", "flush", "dev", UPLINK.name)


@contextmanager
def attached_to_tcx(namespace: Namespace, loaded: LoadedDatapath, bpffs: Path) -> Iterator[None]:
    links = TcxLinks(bpffs / "live-links")
    for name, (device, direction) in ATTACHED.items():
        namespace.call(links.attach, device.ifindex, direction, loaded.programs[name])
    yield
    namespace.call(links.clear)


@contextmanager
def filters(namespace: Namespace, loaded: LoadedDatapath, bpffs: Path) -> Iterator[None]:
    for device in (EGW, UPLINK):
        namespace.command("tc", "qdisc", "add", "dev", device.name, "clsact")
    for name, (device, direction) in ATTACHED.items():
        path = bpffs / name
        bpf_call.pin(loaded.programs[name], str(path))
        namespace.command("tc", "filter", "add", "dev", device.name, direction, "bpf", "da", "pinned", str(path))
        path.unlink()
    yield
    for device in (EGW, UPLINK):
        namespace.command("tc", "qdisc", "del", "dev", device.name, "clsact")


@pytest.fixture
def wires(attached: None, namespace: Namespace) -> Iterator[Wires]:
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


def test_a_steered_packet_leaves_by_the_uplink_of_its_way(node: Node, wires: Wires) -> None:
    node.rule()
    node.select()
    node.way()
    reach_egw(wires, TCP_FLOW.outbound())
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source) == (HOLDER_MAC, UPLINK.mac)
    assert frame.payload == TCP_FLOW.outbound()


@each_protocol
def test_a_translated_packet_leaves_by_the_floating_ips_uplink_to_the_router(
    gateway: Node, wires: Wires, flow: Flow
) -> None:
    from_uplink(wires, flow.steered())
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source) == (ROUTER_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (FLOATING_IP, SERVER, 63)
    assert frame.ip.is_sound()


@each_protocol
def test_w12_a_translated_packet_for_a_host_of_the_segment_goes_to_it_and_not_to_the_router(
    gateway: Node, wires: Wires, flow: Flow
) -> None:
    with neighbour(gateway, f"lladdr {NEIGHBOUR_MAC.hex(':')} nud permanent"):
        from_uplink(wires, flow.to(NEIGHBOUR).steered())
        [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.source) == (NEIGHBOUR_MAC, UPLINK.mac)
    assert (frame.ip.source, frame.ip.destination, frame.ip.ttl) == (FLOATING_IP, NEIGHBOUR, 63)
    assert frame.ip.is_sound()


def test_w12_an_unknown_host_of_the_segment_is_asked_for_from_the_nodes_own_address_and_then_gets_what_waited(
    gateway: Node, wires: Wires
) -> None:
    """The floating IP is no address of the node: it never asks by it (rule G1), nor sends to the router meanwhile."""
    with neighbour(gateway):
        from_uplink(wires, TCP_FLOW.to(NEIGHBOUR).steered())
        [question] = wires.leaving(UPLINK)
        assert (question.arp.sender_ip, question.arp.target_ip) == (OWN_ADDRESS, NEIGHBOUR)
        answer = packet.arp(2, NEIGHBOUR_MAC, NEIGHBOUR, UPLINK.mac, OWN_ADDRESS)
        from_uplink(wires, packet.ethernet(UPLINK.mac, NEIGHBOUR_MAC, packet.ARP, answer))
        [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.ip.source, frame.ip.destination) == (NEIGHBOUR_MAC, FLOATING_IP, NEIGHBOUR)


@each_protocol
def test_w12_the_reply_of_a_host_of_the_segment_goes_to_the_pods_node(gateway: Node, wires: Wires, flow: Flow) -> None:
    question = packet.arp(1, NEIGHBOUR_MAC, NEIGHBOUR, bytes(6), FLOATING_IP)
    from_uplink(wires, packet.ethernet(packet.BROADCAST, NEIGHBOUR_MAC, packet.ARP, question))
    [answer] = wires.leaving(UPLINK)
    assert (answer.destination, answer.arp.sender_mac) == (NEIGHBOUR_MAC, UPLINK.mac)
    with neighbour(gateway, f"lladdr {NEIGHBOUR_MAC.hex(':')} nud permanent"):
        from_uplink(wires, flow.to(NEIGHBOUR).steered())
        wires.leaving(UPLINK)
    from_uplink(wires, UPLINK.mac + NEIGHBOUR_MAC + flow.to(NEIGHBOUR).reply()[12:])
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.ip.source, frame.ip.destination) == (NODE_A_MAC, NEIGHBOUR, POD)
    assert frame.ip.is_sound()


def test_a_reply_leaves_by_the_interface_the_flow_came_in_on(gateway: Node, wires: Wires) -> None:
    gateway.announce(device=UPLINK_2)
    came_in = UPLINK_2.mac + TCP_FLOW.steered()[6:]
    gateway.uplink_ingress(came_in, device=UPLINK_2)
    from_uplink(wires, TCP_FLOW.reply())
    [frame] = wires.leaving(UPLINK_2)
    assert (frame.destination, frame.ip.destination) == (NODE_A_MAC, POD)


def test_a_local_pods_packet_goes_through_the_steering_device_and_out_of_the_uplink(
    gateway: Node, wires: Wires
) -> None:
    gateway.select()
    gateway.way(WayKind.LOCAL)
    gateway.announce(device=EGW)
    reach_egw(wires, TCP_FLOW.outbound())
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.ip.source) == (ROUTER_MAC, FLOATING_IP)


def test_a_question_is_answered_where_it_was_asked(gateway: Node, wires: Wires) -> None:
    question = packet.arp(1, ROUTER_MAC, ROUTER, bytes(6), FLOATING_IP)
    from_uplink(wires, packet.ethernet(packet.BROADCAST, ROUTER_MAC, packet.ARP, question))
    [frame] = wires.leaving(UPLINK)
    assert (frame.destination, frame.arp.sender_mac, frame.arp.sender_ip) == (ROUTER_MAC, UPLINK.mac, FLOATING_IP)


def test_a2_who_asks_as_an_address_held_here_is_heard_and_not_answered(gateway: Node, wires: Wires) -> None:
    """Not by the host's proxy ARP either, which has a route to what is asked for: the fence is before it."""
    gateway.floating_ip(OTHER_FLOATING_IP)
    question = packet.arp(1, STRANGER_MAC, FLOATING_IP, bytes(6), OTHER_FLOATING_IP)
    namespace = gateway.programs.namespace
    proxy_arp = f"net.ipv4.conf.{UPLINK.name}.proxy_arp"
    namespace.command("ip", "route", "add", str(OTHER_FLOATING_IP), "dev", UPLINK_2.name)
    namespace.command("sysctl", "-q", "-w", f"{proxy_arp}=1", "net.ipv4.ip_forward=1")
    try:
        heard = namespace.call(
            asyncio.run, _heard_of(packet.ethernet(packet.BROADCAST, STRANGER_MAC, packet.ARP, question))
        )
        # The host puts off its answers by proxy, by up to 0.8 s.
        time.sleep(1)
        assert wires.leaving(UPLINK) == []
    finally:
        namespace.command("sysctl", "-q", "-w", f"{proxy_arp}=0", "net.ipv4.ip_forward=0")
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


def test_a_ping_is_answered_where_it_came_from(gateway: Node, wires: Wires) -> None:
    request = packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 9))
    from_uplink(wires, from_outside(request))
    [frame] = wires.leaving(UPLINK)
    assert (frame.ip.source, frame.ip.icmp_type) == (FLOATING_IP, packet.ECHO_REPLY)


@pytest.mark.parametrize("ask", ["arp", "ping", "packet", "reply"])
def test_after_the_lease_nothing_comes_out_whatever_goes_in(gateway: Node, wires: Wires, ask: str) -> None:
    gateway.send(ECHO_FLOW)
    gateway.end_lease()
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
def test_the_fence_holds_for_whatever_the_host_itself_sends(gateway: Node, wires: Wires, is_held: bool) -> None:
    if not is_held:
        gateway.end_lease()
    segment = packet.ipv4(FLOATING_IP, SERVER, packet.TCP, packet.tcp(FLOATING_IP, SERVER, (1, 2)))
    announcement = packet.arp(1, UPLINK.mac, FLOATING_IP, bytes(6), FLOATING_IP)
    wires.send(UPLINK.name, packet.ethernet(ROUTER_MAC, UPLINK.mac, packet.IPV4, segment))
    wires.send(UPLINK.name, packet.ethernet(packet.BROADCAST, UPLINK.mac, packet.ARP, announcement))
    assert len(wires.leaving(UPLINK)) == (2 if is_held else 0)


def test_an_unannounced_pods_packet_is_not_forwarded_by_the_host(gateway: Node, wires: Wires) -> None:
    """Even where the host routes (rule G3)."""
    gateway.withdraw()
    gateway.programs.namespace.command("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    from_uplink(wires, TCP_FLOW.steered())
    gateway.programs.namespace.command("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    assert wires.leaving(UPLINK) == []


@pytest.mark.parametrize("length", [14, 15, 20, 33])
def test_an_ipv4_frame_without_a_whole_header_goes_nowhere(gateway: Node, wires: Wires, length: int) -> None:
    """The kernel's test runs refuse such frames; a wire does not."""
    gateway.select()
    gateway.way()
    wires.send(EGW.name, packet.ethernet(bytes(6), EGW.mac, packet.IPV4, TCP_FLOW.outbound())[:length])
    from_uplink(wires, TCP_FLOW.steered()[:length])
    from_uplink(wires, TCP_FLOW.reply()[:length])
    assert wires.leaving(UPLINK) == []
    assert gateway.drops() == {(None, DropReason.MALFORMED): 1}


def test_the_steering_device_lets_nothing_through_to_its_other_end(node: Node, wires: Wires) -> None:
    reach_egw(wires, TCP_FLOW.outbound())
    wires.send(EGW.name, packet.ethernet(bytes(6), EGW.mac, packet.IPV6, bytes(40)))
    assert wires.leaving(EGW) == []
