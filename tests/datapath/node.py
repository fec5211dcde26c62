"""One node under test: its maps filled in the words of the datapath, its counters, drops and flows read back.

The cast: POD is selected for 0.0.0.0/0 through FLOATING_IP; SERVER is outside. As the pod's node the one under test has
POD on POD_DEVICE and sends to the holder at HOLDER_MAC, a member. As the holder it has the lease, and node A is the
member that the pod's block of ports belongs to. The programs run with the devices of `program.DEVICES`.
"""

import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from service.datapath import flow_row, layout
from service.datapath.bpf_map import BpfMap
from service.datapath.flow_row import FlowRow
from service.datapath.handover_row import handover_value
from service.datapath.layout import BlockKind, ClusterFlag, Limits, MapName, SelectedState, WayKind
from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from service.port_block.block import block_of
from tests.datapath import packet
from tests.datapath.packet import ICMP, IPV4, SYN, TCP, UDP
from tests.datapath.program import EGW, POD_DEVICE, REDIRECT, UPLINK, Device, Outcome, Programs

FLOATING_IP = IPv4Address("192.168.1.100")
OTHER_FLOATING_IP = IPv4Address("192.168.1.101")
POD = IPv4Address("10.244.1.10")
OTHER_POD = IPv4Address("10.244.1.11")
SERVER = IPv4Address("203.0.113.7")
OTHER_SERVER = IPv4Address("203.0.113.8")
ROUTER = IPv4Address("192.168.1.1")
NODE = IPv4Interface("192.168.1.2/24")
POD_NETWORK = IPv4Network("10.244.0.0/16")
SERVICE_NETWORK = IPv4Network("10.96.0.0/12")
OWN_ADDRESS = IPv4Address("192.168.1.2")
NEIGHBOUR_NODE = IPv4Address("192.168.1.22")
NEIGHBOUR = IPv4Address("192.168.1.50")
"""A host of the nodes' subnet that is no node."""

NODE_A_MAC = packet.mac("02:00:00:00:0a:01")
HOLDER_MAC = packet.mac("02:00:00:00:0c:01")
ROUTER_MAC = packet.mac("02:00:00:00:0e:01")
STRANGER_MAC = packet.mac("02:00:00:00:0f:01")
NEIGHBOUR_MAC = packet.mac("02:00:00:00:50:01")

MARK = 0x1000
TUNNEL_PORT = 9643
RULE_SET = 0x1122334455667788
POD_PORT = 40000
SERVER_PORT = 443
SECOND_NS = 1_000_000_000
TOKEN = 7

POD_NUMBER = 71
NODE_A, HOLDER = 1, 2
"""Numbers of members."""
OWN_BLOCKS = (block_of(POD_PORT), block_of(POD_PORT) + 1)
"""Of the pod's node: the pod's own port lies in the first one."""
SEED = 0x1234567

NEW, ESTABLISHED, POD_FIN, REMOTE_FIN, CLOSING = range(5)
"""`enum flow_state`."""


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as the pod sees it. ICMP echo: `pod_port` is the id."""

    protocol: int
    pod: IPv4Address = POD
    pod_port: int = POD_PORT
    server: IPv4Address = SERVER
    server_port: int = SERVER_PORT

    @property
    def remote_port(self) -> int:
        return 0 if self.protocol == ICMP else self.server_port

    def l4(
        self, source: IPv4Address, destination: IPv4Address, ports: tuple[int, int], flags: int, **tcp: int
    ) -> bytes:
        if self.protocol == TCP:
            return packet.tcp(source, destination, ports, flags, b"" if flags & SYN else b"segment", **tcp)
        return packet.udp(source, destination, ports)

    def outbound(self, *, flags: int = SYN, ttl: int = 64, options: bytes = b"", **tcp: int) -> bytes:
        """The IPv4 packet the pod sends."""
        if self.protocol == ICMP:
            payload = packet.echo(packet.ECHO_REQUEST, self.pod_port)
        else:
            payload = self.l4(self.pod, self.server, (self.pod_port, self.server_port), flags, **tcp)
        return packet.ipv4(self.pod, self.server, self.protocol, payload, ttl=ttl, options=options)

    def translated(
        self, nat_port: int | None = None, *, floating_ip: IPv4Address = FLOATING_IP, **fields: int
    ) -> bytes:
        """The same as node A sends it to the holder."""
        outer = replace(self, pod=floating_ip, pod_port=self.pod_port if nat_port is None else nat_port)
        return outer.outbound(**fields)

    def steered(
        self, nat_port: int | None = None, *, source_mac: bytes = NODE_A_MAC, device: Device = UPLINK, **fields: int
    ) -> bytes:
        """The frame in which node A sends it to this holder."""
        return packet.ethernet(device.mac, source_mac, IPV4, self.translated(nat_port, **fields))

    def reply(
        self,
        nat_port: int | None = None,
        *,
        floating_ip: IPv4Address = FLOATING_IP,
        flags: int = SYN | packet.ACK,
        ttl: int = 64,
        source_mac: bytes = ROUTER_MAC,
        **tcp: int,
    ) -> bytes:
        """The frame in which the server's answer arrives; `nat_port` is the pod's own where not given."""
        port = self.pod_port if nat_port is None else nat_port
        if self.protocol == ICMP:
            payload = packet.echo(packet.ECHO_REPLY, port)
        else:
            payload = self.l4(self.server, floating_ip, (self.server_port, port), flags, **tcp)
        return from_outside(packet.ipv4(self.server, floating_ip, self.protocol, payload, ttl=ttl), source_mac)

    def to(self, server: IPv4Address) -> "Flow":
        return replace(self, server=server)


def from_outside(datagram: bytes, source_mac: bytes = ROUTER_MAC) -> bytes:
    return packet.ethernet(UPLINK.mac, source_mac, IPV4, datagram)


class Node:
    """Fills and reads the maps; runs the programs."""

    def __init__(self, loaded: LoadedDatapath, programs: Programs) -> None:
        self._maps = loaded.maps
        self.programs = programs

    def map(self, name: str) -> BpfMap:
        return self._maps[name]

    def empty(self) -> None:
        """Nothing in any map, all counters zero."""
        for name, target in self._maps.items():
            if name == MapName.GENERATIONS:
                # It never goes back: nothing that was judged before is in force.
                continue
            if name not in _ARRAYS:
                for key in tuple(target.items()):
                    target.delete(key)
                continue
            for key, value in target.items().items():
                target.update(key, bytes(len(value)))

    # ---- what the agent and the keeper write ----

    def configure(self, *, egw: Device = EGW, uplink: Device = UPLINK) -> None:
        """Settings, cluster networks, one floating IP with this node's interface on its segment."""
        self.map(MapName.CONFIG).update(
            struct.pack("=I", 0), layout.config_value(MARK, egw.ifindex, egw.mac, TUNNEL_PORT)
        )
        self.in_cluster(POD_NETWORK, ClusterFlag.POD)
        self.in_cluster(SERVICE_NETWORK, ClusterFlag.SERVICE)
        for address in (OWN_ADDRESS, NEIGHBOUR_NODE):
            self.in_cluster(IPv4Network(address), ClusterFlag.NODE)
        self.floating_ip(FLOATING_IP, uplink)
        self.uplink_address(uplink)
        self.member(NODE_A_MAC, NODE_A)
        self.member(HOLDER_MAC, HOLDER)
        self.flow_settings()

    def flow_settings(
        self, *, seed: int = SEED, ephemeral: range = range(32768, 61000), is_direct: bool = True
    ) -> None:
        value = layout.flow_settings_value(seed, ephemeral, is_direct=is_direct)
        self.map(MapName.FLOW_SETTINGS).update(bytes(4), value)

    def limit(self, rule_set: int = 0, **limits: int) -> None:
        self.map(MapName.LIMITS).update(struct.pack("=Q", rule_set), Limits(**limits).packed())

    def own(self, blocks: Sequence[int] = OWN_BLOCKS, floating_ip: IPv4Address = FLOATING_IP) -> None:
        """The blocks this node may take ports from."""
        self.map(MapName.OWN_BLOCKS).update(floating_ip.packed, layout.own_blocks_value(blocks))

    def assign(
        self,
        blocks: Sequence[int] = OWN_BLOCKS,
        *,
        kind: int = BlockKind.L2,
        member: int = NODE_A,
        mac: bytes = NODE_A_MAC,
        device: Device = UPLINK,
        floating_ip: IPv4Address = FLOATING_IP,
    ) -> None:
        """Whose blocks these are, as the holder knows it."""
        value = struct.pack("=QII6s6sI", 0, member, device.ifindex, device.mac, mac, kind)
        for block in blocks:
            self.map(MapName.BLOCKS).update(layout.block_key(floating_ip, block), value)

    def in_cluster(self, network: IPv4Network, flag: ClusterFlag) -> None:
        self.map(MapName.CLUSTER).update(layout.cluster_key(network), layout.cluster_value(flag))

    def floating_ip(self, address: IPv4Address, device: Device | None = UPLINK) -> None:
        value = (
            layout.floating_ip_value(device.ifindex, device.mac) if device else layout.floating_ip_value(0, bytes(6))
        )
        self.map(MapName.FLOATING_IPS).update(address.packed, value)

    def uplink_address(self, device: Device = UPLINK, address: IPv4Address = OWN_ADDRESS) -> None:
        """The node's own on that uplink."""
        self.map(MapName.UPLINK_ADDRESSES).update(*layout.uplink_address_row(device.ifindex, address))

    def hold(self, address: IPv4Address = FLOATING_IP, *, for_s: float = 60, token: int = TOKEN) -> None:
        deadline_ns = boot_ns() + int(for_s * SECOND_NS)
        self.map(MapName.LEASE_DEADLINES).update(address.packed, layout.lease_value(deadline_ns, token))
        self.trust(address, token)

    def trust(self, address: IPv4Address = FLOATING_IP, token: int = TOKEN) -> None:
        """The agent vouches for the rows of blocks under that tenure of the lease."""
        self.map(MapName.TRUSTS).update(address.packed, struct.pack("=Q", token))

    def release(self, address: IPv4Address = FLOATING_IP) -> None:
        """The keeper closes the fence before the lease is over."""
        self.map(MapName.LEASE_DEADLINES).delete(address.packed)

    def hand_over(self, address: IPv4Address = FLOATING_IP, *, token: int = TOKEN, age_s: float = 0.0) -> None:
        """Its holder has said so long ago that it lets go on purpose; before 0: it will."""
        value = handover_value(token, boot_ns() - int(age_s * SECOND_NS))
        self.map(MapName.HANDOVERS).update(address.packed, value)

    def end_lease(self, address: IPv4Address = FLOATING_IP) -> None:
        self.hold(address, for_s=-1e-6)

    def rule(
        self, destination: str = "0.0.0.0/0", floating_ip: IPv4Address = FLOATING_IP, *, rule_set: int = RULE_SET
    ) -> None:
        key = layout.rule_key(rule_set, IPv4Network(destination))
        self.map(MapName.RULES).update(key, layout.rule_value(floating_ip))

    def exclude(self, destination: str) -> None:
        key = layout.rule_key(RULE_SET, IPv4Network(destination))
        self.map(MapName.RULES).update(key, layout.rule_value(None))

    def select(
        self,
        pod: IPv4Address = POD,
        *,
        state: SelectedState = SelectedState.STEER,
        device: Device = POD_DEVICE,
        rule_set: int = RULE_SET,
        number: int = POD_NUMBER,
    ) -> None:
        """The pod's two rows: on its device, and for lookups behind the bridge."""
        for ifindex in (device.ifindex, 0):
            key, value = layout.selected_key(pod, ifindex), layout.selected_value(rule_set, state, number)
            self.map(MapName.SELECTED).update(key, value)

    def leave_alone(self, pod: IPv4Address, *, device: Device = POD_DEVICE) -> None:
        """No policy selects it."""
        key, value = layout.selected_key(pod, device.ifindex), layout.selected_value(0, SelectedState.NOT, 0)
        self.map(MapName.SELECTED).update(key, value)

    def withdraw(self, pod: IPv4Address = POD, *, device: Device = POD_DEVICE) -> None:
        for ifindex in (device.ifindex, 0):
            assert self.map(MapName.SELECTED).delete(layout.selected_key(pod, ifindex))

    def way(
        self,
        kind: int = WayKind.L2,
        *,
        floating_ip: IPv4Address = FLOATING_IP,
        gateway_mac: bytes = HOLDER_MAC,
        token: int = TOKEN,
        device: Device = UPLINK,
    ) -> None:
        value = struct.pack("=QII6s6s4x", token, kind, device.ifindex, device.mac, gateway_mac)
        self.map(MapName.WAYS).update(floating_ip.packed, value)

    def tunnel_way(self, node: IPv4Address, *, floating_ip: IPv4Address = FLOATING_IP, token: int = TOKEN) -> None:
        """To the holder by its own address."""
        self.map(MapName.WAYS).update(floating_ip.packed, layout.tunnel_way_value(token, node))

    def assign_by_tunnel(self, node: IPv4Address, blocks: Sequence[int] = OWN_BLOCKS, *, member: int = NODE_A) -> None:
        """Whose blocks these are, and that it is reached by its own address."""
        for block in blocks:
            value = layout.tunnelled_block_value(member, node, seen_ns=0)
            self.map(MapName.BLOCKS).update(layout.block_key(FLOATING_IP, block), value)

    def tunnel_member(self, address: IPv4Address, number: int = NODE_A) -> None:
        self.map(MapName.TUNNEL_MEMBERS).update(address.packed, layout.member_value(number))

    def member(self, mac: bytes, number: int = NODE_A, device: Device = UPLINK) -> None:
        self.map(MapName.MEMBERS).update(layout.member_key(device.ifindex, mac), layout.member_value(number))

    # ---- running ----

    def uplink_ingress(self, frame: bytes, *, device: Device = UPLINK, mark: int = 0) -> Outcome:
        return self.programs.run("uplink_ingress", frame, device=device, mark=mark)

    def leave_pod(self, datagram: bytes, *, device: Device = POD_DEVICE, priority: int = 0) -> Outcome:
        """A packet of the pod at its device."""
        frame = packet.ethernet(POD_DEVICE.mac, b"\x02pod\0\1", IPV4, datagram)
        return self.programs.run("pod_ingress", frame, device=device, priority=priority)

    def steer(self, datagram: bytes) -> Outcome:
        """A packet at egw0, after netfilter."""
        return self.programs.run("steer_egress", egw_frame(datagram), device=EGW, mark=MARK)

    def send(self, flow: Flow, *, flags: int = SYN, ttl: int = 64, **tcp: int) -> Outcome:
        """A packet of this node's pod, after netfilter."""
        return self.steer(flow.outbound(flags=flags, ttl=ttl, **tcp))

    def sent_port(self, flow: Flow, *, flags: int = SYN) -> int:
        """The port that a packet of this node's pod leaves from."""
        outcome = self.send(flow, flags=flags)
        assert outcome.verdict == REDIRECT, self.drops()
        return packet.read(outcome.frame).ip.ports[0]

    def answer(
        self, flow: Flow, nat_port: int | None = None, *, flags: int = SYN | packet.ACK, **fields: int
    ) -> Outcome:
        """The server's packet, sent on by the holder to this node."""
        return self.uplink_ingress(flow.reply(nat_port, flags=flags, source_mac=HOLDER_MAC, **fields))

    def forward(self, flow: Flow, nat_port: int | None = None, **fields: int) -> Outcome:
        """Node A's packet arrives at this holder."""
        return self.uplink_ingress(flow.steered(nat_port, **fields))

    def come_back(self, flow: Flow, nat_port: int | None = None, **fields: int) -> Outcome:
        """The server's packet arrives at this holder from outside."""
        return self.uplink_ingress(flow.reply(nat_port, **fields))

    # ---- what came of it ----

    def drops(self) -> dict[tuple[IPv4Address | None, DropReason], int]:
        """Packets per (floating IP, None where none was known yet; reason)."""
        found = {}
        for key, value in self.map(MapName.DROPS).items().items():
            address, reason, packets, _bytes = layout.parse_drop(key, value)
            found[None if int(address) == 0 else address, DropReason(reason)] = packets
        return found

    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        content = self.map(MapName.COUNTS).items()
        counts = (layout.parse_counter(content[struct.pack("=I", index)]) for index in range(len(layout.COUNTER_NAMES)))
        return {name: value for name, value in zip(layout.COUNTER_NAMES, counts, strict=True) if value}

    def way_mac(self, floating_ip: IPv4Address = FLOATING_IP) -> bytes | None:
        value = self.map(MapName.WAYS).lookup(floating_ip.packed)
        return value[22:28] if value else None

    def hint_mac(self, floating_ip: IPv4Address = FLOATING_IP) -> bytes | None:
        value = self.map(MapName.WAY_HINTS).lookup(floating_ip.packed)
        return value[22:28] if value and any(value[32:40]) else None

    def beat(self, *, age_s: float = 0.0) -> None:
        """The agent lived so long ago."""
        for key, value in layout.beat_rows(boot_ns() - round(age_s * 1e9)).items():
            self.map(MapName.AGENT_BEAT).update(key, value)

    def place(self, flow: Flow) -> str | None:
        """The map that a flow is in; in no two of them."""
        found = [name for name in FLOW_MAPS if self.map(name).lookup(_flow_key(flow)) is not None]
        assert len(found) < 2
        return found[0] if found else None

    def flow(self, flow: Flow) -> FlowRow | None:
        place = self.place(flow)
        return flow_row.parse_flow(_flow_key(flow), self.map(place).lookup(_flow_key(flow))) if place else None

    def state(self, flow: Flow) -> int:
        present = self.flow(flow)
        assert present is not None
        return present.state

    def change(self, flow: Flow, **fields: Any) -> None:
        """Write other fields into the row of a flow."""
        place, present = self.place(flow), self.flow(flow)
        assert place is not None
        assert present is not None
        self.map(place).update(_flow_key(flow), replace(present, **fields).value())

    def plant_ended(self, flow: Flow) -> None:
        """What the agent writes of a connection that is older than the pod's selection: it has no port."""
        row = FlowRow(
            pod=flow.pod,
            pod_port=flow.pod_port,
            remote=flow.server,
            remote_port=flow.remote_port,
            protocol=flow.protocol,
            floating_ip=IPv4Address(0),
            nat_port=0,
            rule_set=RULE_SET,
            last_ns=time.monotonic_ns(),
            life_s=240,
            pod_number=POD_NUMBER,
            state=ESTABLISHED,
            is_ended=True,
            acked=0,
            ifindex=0,
        )
        name = MapName.FLOWS_YOUNG if flow.protocol == TCP else MapName.FLOWS_DATAGRAM
        self.map(name).update(_flow_key(flow), row.value())

    def age(self, flow: Flow, seconds: float) -> None:
        """Make the last packet of a flow that much older."""
        present = self.flow(flow)
        assert present is not None
        self.change(flow, last_ns=present.last_ns - int(seconds * SECOND_NS))

    def end(self, flow: Flow) -> None:
        """Its time is over."""
        self.change(flow, life_s=0, last_ns=1)

    def forget(self, flow: Flow) -> None:
        place = self.place(flow)
        assert place is not None
        assert self.map(place).delete(_flow_key(flow))

    def owner(self, flow: Flow, nat_port: int | None = None) -> tuple[IPv4Address, int] | None:
        """Pod and port that a reservation names."""
        for name in MIRROR_MAPS:
            value = self.map(name).lookup(mirror_key(flow, nat_port))
            if value is not None:
                return IPv4Address(value[8:12]), int.from_bytes(value[12:14], "big")
        return None

    def forget_mirror(self, flow: Flow, nat_port: int | None = None) -> None:
        deleted = [self.map(name).delete(mirror_key(flow, nat_port)) for name in MIRROR_MAPS]
        assert any(deleted)

    def hints(self) -> dict[bytes, int]:
        content = self.map(MapName.PORT_HINTS).items()
        return {key: int.from_bytes(value, sys.byteorder) for key, value in content.items()}

    def forget_hints(self) -> None:
        for key in self.hints():
            self.map(MapName.PORT_HINTS).delete(key)

    def occupy(self, flow: Flow, ports: Sequence[int], **fields: Any) -> None:
        """Another pod's open flows on these ports, to the same place; their reservations a while old."""
        row = FlowRow(
            pod=OTHER_POD,
            pod_port=0,
            remote=flow.server,
            remote_port=flow.remote_port,
            protocol=flow.protocol,
            floating_ip=FLOATING_IP,
            nat_port=0,
            rule_set=RULE_SET,
            last_ns=time.monotonic_ns(),
            life_s=600,
            pod_number=POD_NUMBER + 1,
            state=ESTABLISHED,
            is_ended=False,
            acked=0,
            ifindex=0,
        )
        row = replace(row, **fields)
        is_tcp = flow.protocol == TCP
        flows = MapName.FLOWS_OPEN if is_tcp else MapName.FLOWS_DATAGRAM
        mirrors = MapName.MIRRORS_OPEN if is_tcp else MapName.MIRRORS_DATAGRAM
        if is_tcp and row.state in (NEW, CLOSING):
            flows, mirrors = MapName.FLOWS_YOUNG, MapName.MIRRORS_YOUNG
        for port in ports:
            other = replace(flow, pod=OTHER_POD, pod_port=port)
            self.map(flows).update(_flow_key(other), replace(row, pod_port=port, nat_port=port).value())
            value = struct.pack("=Q4s2s2x", 1, OTHER_POD.packed, port.to_bytes(2, "big"))
            self.map(mirrors).update(mirror_key(flow, port), value)


_ARRAYS = (
    MapName.CONFIG,
    MapName.COUNTS,
    MapName.AGENT_BEAT,
    MapName.FLOW_SETTINGS,
    MapName.BLOCK_MEMORY,
    MapName.PROBE_TARGET,
    MapName.HANDOVER_DEVICE,
)
FLOW_MAPS = (MapName.FLOWS_OPEN, MapName.FLOWS_YOUNG, MapName.FLOWS_DATAGRAM)
MIRROR_MAPS = (MapName.MIRRORS_OPEN, MapName.MIRRORS_YOUNG, MapName.MIRRORS_DATAGRAM)


def egw_frame(datagram: bytes) -> bytes:
    return packet.ethernet(bytes(6), EGW.mac, IPV4, datagram)


def ports_of(block: int) -> range:
    first = layout.FIRST_PORT + block * layout.PORTS_PER_BLOCK
    return range(first, first + layout.PORTS_PER_BLOCK)


def _flow_key(flow: Flow) -> bytes:
    ports = struct.pack(">HH", flow.pod_port, flow.remote_port)
    return flow.pod.packed + flow.server.packed + ports + bytes((flow.protocol, 0, 0, 0))


def mirror_key(flow: Flow, nat_port: int | None = None, floating_ip: IPv4Address = FLOATING_IP) -> bytes:
    ports = struct.pack(">HH", flow.remote_port, flow.pod_port if nat_port is None else nat_port)
    return flow.server.packed + floating_ip.packed + ports + bytes((flow.protocol, 0, 0, 0))


TCP_FLOW, UDP_FLOW, ECHO_FLOW = Flow(TCP), Flow(UDP), Flow(ICMP)
FLOWS = {"tcp": TCP_FLOW, "udp": UDP_FLOW, "echo": ECHO_FLOW}
