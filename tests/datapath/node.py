"""One node under test: its maps filled in the words of the datapath, its counters and drops read back.

The cast: POD lives on node A and is selected by RULES for 0.0.0.0/0 through FLOATING_IP; the programs run on a gateway
with the devices of `program.DEVICES`; SERVER is outside and reached through a router on the uplink.
"""

import struct
import time
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from service.datapath import layout
from service.datapath.bpf_map import BpfMap
from service.datapath.layout import ClusterFlag, MapName, SelectedState, WayKind
from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.packet import ICMP, IPV4, SYN, TCP, UDP
from tests.datapath.program import EGW, POD_DEVICE, UPLINK, Device, Outcome, Programs

FLOATING_IP = IPv4Address("192.168.1.100")
OTHER_FLOATING_IP = IPv4Address("192.168.1.101")
POD = IPv4Address("10.244.1.10")
OTHER_POD = IPv4Address("10.244.1.11")
SERVER = IPv4Address("203.0.113.7")
OTHER_SERVER = IPv4Address("203.0.113.8")
ROUTER = IPv4Address("192.168.1.1")
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
RULE_SET = 0x1122334455667788
POD_PORT = 40000
SERVER_PORT = 443
SECOND_NS = 1_000_000_000
TOKEN = 7

NEW, ESTABLISHED, POD_FIN, REMOTE_FIN, CLOSING = range(5)
"""`enum binding_state`."""


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

    def l4(self, source: IPv4Address, destination: IPv4Address, ports: tuple[int, int], flags: int) -> bytes:
        if self.protocol == TCP:
            return packet.tcp(source, destination, ports, flags, b"" if flags & SYN else b"segment")
        return packet.udp(source, destination, ports)

    def outbound(self, *, flags: int = SYN, ttl: int = 64, options: bytes = b"") -> bytes:
        """The IPv4 packet the pod sends."""
        if self.protocol == ICMP:
            payload = packet.echo(packet.ECHO_REQUEST, self.pod_port)
        else:
            payload = self.l4(self.pod, self.server, (self.pod_port, self.server_port), flags)
        return packet.ipv4(self.pod, self.server, self.protocol, payload, ttl=ttl, options=options)

    def steered(
        self, *, flags: int = SYN, ttl: int = 64, options: bytes = b"", source_mac: bytes = NODE_A_MAC
    ) -> bytes:
        """The frame in which node A steers it to this gateway."""
        return packet.ethernet(UPLINK.mac, source_mac, IPV4, self.outbound(flags=flags, ttl=ttl, options=options))

    def reply(
        self,
        nat_port: int | None = None,
        *,
        floating_ip: IPv4Address = FLOATING_IP,
        flags: int = SYN | packet.ACK,
        ttl: int = 64,
    ) -> bytes:
        """The frame in which the server's answer arrives; `nat_port` is the pod's own where not given."""
        port = self.pod_port if nat_port is None else nat_port
        if self.protocol == ICMP:
            payload = packet.echo(packet.ECHO_REPLY, port)
        else:
            payload = self.l4(self.server, floating_ip, (self.server_port, port), flags)
        return from_outside(packet.ipv4(self.server, floating_ip, self.protocol, payload, ttl=ttl))

    def to(self, server: IPv4Address) -> "Flow":
        return replace(self, server=server)


def from_outside(datagram: bytes) -> bytes:
    return packet.ethernet(UPLINK.mac, ROUTER_MAC, IPV4, datagram)


@dataclass(frozen=True, slots=True)
class Binding:
    floating_ip: IPv4Address
    nat_port: int


@dataclass(frozen=True, slots=True)
class ReverseBinding:
    last_ns: int
    pod: IPv4Address
    ifindex: int
    pod_port: int
    state: int


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
            if name not in _ARRAYS:
                for key in tuple(target.items()):
                    target.delete(key)
                continue
            for key, value in target.items().items():
                target.update(key, bytes(len(value)))

    # ---- what the agent and the keeper write ----

    def configure(self) -> None:
        """Settings, cluster networks, one floating IP with this node's interface on its segment."""
        self.map(MapName.CONFIG).update(struct.pack("=I", 0), layout.config_value(MARK, EGW.ifindex, EGW.mac))
        self.in_cluster(POD_NETWORK, ClusterFlag.POD)
        self.in_cluster(SERVICE_NETWORK, ClusterFlag.SERVICE)
        for address in (OWN_ADDRESS, NEIGHBOUR_NODE):
            self.in_cluster(IPv4Network(address), ClusterFlag.NODE)
        self.floating_ip(FLOATING_IP)

    def in_cluster(self, network: IPv4Network, flag: ClusterFlag) -> None:
        self.map(MapName.CLUSTER).update(layout.cluster_key(network), layout.cluster_value(flag))

    def floating_ip(self, address: IPv4Address, device: Device | None = UPLINK) -> None:
        value = (
            layout.floating_ip_value(device.ifindex, device.mac) if device else layout.floating_ip_value(0, bytes(6))
        )
        self.map(MapName.FLOATING_IPS).update(address.packed, value)

    def hold(self, address: IPv4Address = FLOATING_IP, *, for_s: float = 60) -> None:
        deadline_ns = boot_ns() + int(for_s * SECOND_NS)
        self.map(MapName.LEASE_DEADLINES).update(address.packed, layout.lease_value(deadline_ns, TOKEN))

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
        self, pod: IPv4Address = POD, *, state: SelectedState = SelectedState.STEER, device: Device = POD_DEVICE
    ) -> None:
        """The pod's two rows: on its device, and for lookups behind the bridge."""
        for ifindex in (device.ifindex, 0):
            key, value = layout.selected_key(pod, ifindex), layout.selected_value(RULE_SET, state)
            self.map(MapName.SELECTED).update(key, value)

    def leave_alone(self, pod: IPv4Address, *, device: Device = POD_DEVICE) -> None:
        """No policy selects it."""
        key, value = layout.selected_key(pod, device.ifindex), layout.selected_value(0, SelectedState.NOT)
        self.map(MapName.SELECTED).update(key, value)

    def way(
        self,
        kind: int = WayKind.L2,
        *,
        floating_ip: IPv4Address = FLOATING_IP,
        gateway_mac: bytes = HOLDER_MAC,
        token: int = TOKEN,
    ) -> None:
        value = struct.pack("=QII6s6s4x", token, kind, UPLINK.ifindex, UPLINK.mac, gateway_mac)
        self.map(MapName.WAYS).update(floating_ip.packed, value)

    def announce(self, pod: IPv4Address = POD, *, device: Device = UPLINK, node_mac: bytes = NODE_A_MAC) -> None:
        """The pod's node has told this gateway of the pod."""
        key, value = layout.endpoint_key(pod, device.ifindex), layout.endpoint_value(RULE_SET, node_mac)
        self.map(MapName.ENDPOINTS).update(key, value)

    def withdraw(self, pod: IPv4Address = POD, *, device: Device = UPLINK) -> None:
        assert self.map(MapName.ENDPOINTS).delete(layout.endpoint_key(pod, device.ifindex))

    def member(self, mac: bytes, device: Device = UPLINK) -> None:
        self.map(MapName.MEMBERS).update(layout.member_key(device.ifindex, mac), layout.MEMBER_VALUE)

    # ---- running ----

    def uplink_ingress(self, frame: bytes, *, device: Device = UPLINK) -> Outcome:
        return self.programs.run("uplink_ingress", frame, device=device)

    def send(self, flow: Flow, *, flags: int = SYN, ttl: int = 64) -> Outcome:
        """A packet of the pod arrives from node A."""
        return self.uplink_ingress(flow.steered(flags=flags, ttl=ttl))

    def answer(
        self, flow: Flow, nat_port: int | None = None, *, flags: int = SYN | packet.ACK, ttl: int = 64
    ) -> Outcome:
        """A packet of the server arrives from outside."""
        return self.uplink_ingress(flow.reply(nat_port, flags=flags, ttl=ttl))

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
        content = self.map(MapName.COUNTERS).items()
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

    def binding(self, flow: Flow) -> Binding | None:
        value = self.map(MapName.BINDINGS).lookup(_binding_key(flow))
        return Binding(IPv4Address(value[:4]), int.from_bytes(value[4:6], "big")) if value else None

    def forget_binding(self, flow: Flow) -> None:
        assert self.map(MapName.BINDINGS).delete(_binding_key(flow))

    def reverse(
        self, flow: Flow, nat_port: int | None = None, *, floating_ip: IPv4Address = FLOATING_IP
    ) -> ReverseBinding | None:
        value = self.map(MapName.REVERSE_BINDINGS).lookup(reverse_key(flow, nat_port, floating_ip))
        if value is None:
            return None
        last_ns, pod, ifindex, port, state = struct.unpack("=Q4sI2sB5x", value)
        return ReverseBinding(last_ns, IPv4Address(pod), ifindex, int.from_bytes(port, "big"), state)

    def forget_reverse(self, flow: Flow, nat_port: int | None = None) -> None:
        assert self.map(MapName.REVERSE_BINDINGS).delete(reverse_key(flow, nat_port, FLOATING_IP))

    def occupy(self, flow: Flow, ports: range | list[int], *, age_s: float = 0, state: int = ESTABLISHED) -> None:
        """Another pod's bindings on these ports, to the same place."""
        value = reverse_value(
            ReverseBinding(boot_ns() - int(age_s * SECOND_NS), OTHER_POD, UPLINK.ifindex, 50000, state)
        )
        target = self.map(MapName.REVERSE_BINDINGS)
        items = [(reverse_key(flow, port, FLOATING_IP), value) for port in ports]
        assert target.update_many(items) == len(items)

    def age(self, flow: Flow, seconds: float, nat_port: int | None = None) -> None:
        """Make the last packet of a flow that much older."""
        present = self.reverse(flow, nat_port)
        assert present is not None
        older = replace(present, last_ns=present.last_ns - int(seconds * SECOND_NS))
        self.map(MapName.REVERSE_BINDINGS).update(reverse_key(flow, nat_port, FLOATING_IP), reverse_value(older))


_ARRAYS = (MapName.CONFIG, MapName.COUNTERS, MapName.AGENT_BEAT)


def _binding_key(flow: Flow) -> bytes:
    ports = struct.pack(">HH", flow.pod_port, flow.remote_port)
    return flow.pod.packed + flow.server.packed + ports + bytes((flow.protocol, 0, 0, 0))


def reverse_key(flow: Flow, nat_port: int | None, floating_ip: IPv4Address) -> bytes:
    ports = struct.pack(">HH", flow.remote_port, flow.pod_port if nat_port is None else nat_port)
    return flow.server.packed + floating_ip.packed + ports + bytes((flow.protocol, 0, 0, 0))


def reverse_value(binding: ReverseBinding) -> bytes:
    port = binding.pod_port.to_bytes(2, "big")
    return struct.pack("=Q4sI2sB5x", binding.last_ns, binding.pod.packed, binding.ifindex, port, binding.state)


TCP_FLOW, UDP_FLOW, ECHO_FLOW = Flow(TCP), Flow(UDP), Flow(ICMP)
FLOWS = {"tcp": TCP_FLOW, "udp": UDP_FLOW, "echo": ECHO_FLOW}
