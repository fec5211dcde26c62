"""A small cluster of real stacks: a pod, its node, two gateways and a router with the server behind it, on one segment,
or with the pod's node on another one, behind the router.

Each is a network namespace; the nodes have the datapath attached as the agent does it, each with maps of its own. What
agent, keeper and leader write, the tests write. Packets are those of real sockets: segments that the device is to cut,
checksums that it is to complete, fragments of the kernel's own. Every port of the switches is watched (rule L1).
"""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from service.datapath import layout
from service.datapath.handover_row import handover_device_value
from service.datapath.layout import BlockKind, ClusterFlag, MapName, WayKind
from service.datapath.loader import load_datapath
from service.network import bpf_call
from service.network.destinations import Destinations
from service.network.handover_device import HANDOVER_DEVICE, ensure_handover_device
from service.network.link import Interface
from service.network.nftables import Carried, NftConfig, ruleset
from service.network.route_socket import RouteSocket
from service.network.sysctl import Sysctl
from tests.datapath.node import (
    FLOATING_IP,
    MARK,
    OTHER_SERVER,
    POD,
    POD_NETWORK,
    ROUTER,
    SERVER,
    SERVICE_NETWORK,
    TOKEN,
    TUNNEL_PORT,
    Node,
)
from tests.datapath.packet import mac
from tests.datapath.program import Device, Namespace, Programs

Result = TypeVar("Result")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

ADDRESSES = {"a": "192.168.1.11", "b": "192.168.1.12", "c": "192.168.1.13", "router": str(ROUTER)}
FAR_ADDRESS, FAR_ROUTER = "10.0.2.11", "10.0.2.1"
"""Of the pod's node on a segment of its own."""
MEMBERS = {"a": 1, "b": 2, "c": 3}
BLOCKS = range(32)
TABLE = 9640


def uplink(name: str) -> Device:
    number = 10 + list(ADDRESSES).index(name)
    return Device("eth0", number, mac(f"02:00:00:00:10:{number:02x}"))


POD_SIDE = Device("pod0", 50, mac("02:00:00:00:10:50"))


def egw(name: str) -> Device:
    return Device("egw0", 60, mac(f"02:00:00:00:60:{10 + list(ADDRESSES).index(name):02x}"))


class Place:
    """A network namespace by name."""

    def __init__(self, name: str) -> None:
        self.name = f"egwt{os.getpid()}-{name}"

    def command(self, text: str) -> str:
        words = ["ip", "netns", "exec", self.name, *text.split()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{text}: {done.stderr}"
        return done.stdout

    def feed(self, text: str, given: str) -> None:
        """A command that reads its input."""
        words = ["ip", "netns", "exec", self.name, *text.split()]
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Do this inside, in a thread of its own."""

        def inside() -> Result:
            with open(f"/run/netns/{self.name}", "rb") as netns:
                assert _libc.setns(netns.fileno(), _CLONE_NEWNET) == 0
            return function(*arguments)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inside).result(timeout=60)


@dataclass
class Segment:
    """The places, and the maps of the nodes."""

    places: dict[str, Place]
    nodes: dict[str, Node]
    is_split: bool = False
    """The pod's node is on another segment than the gateways."""
    is_tunnelled: bool = False
    holder: str = "b"

    @property
    def pod_node_address(self) -> str:
        return FAR_ADDRESS if self.is_split else ADDRESSES["a"]

    def forget_paths(self) -> None:
        """What the stacks have learned of MTUs ends with the routes it is noted at."""
        routes = {"pod": [f"default via {self.pod_node_address} dev eth0 onlink"]}
        routes["router"] = [f"192.168.1.0/24 dev eth0 src {ROUTER}", f"10.0.2.0/24 dev eth1 src {FAR_ROUTER}"]
        for name in MEMBERS:
            is_far = self.is_split and name == "a"
            routes[name] = [f"default via {FAR_ROUTER if is_far else ROUTER} dev eth0"]
        for name, texts in routes.items():
            for text in texts:
                self.places[name].command(f"ip route del {text}")
                self.places[name].command(f"ip route add {text}")

    def use(self, *, tunnel: bool) -> None:
        """Ways and blocks go by the tunnel, or over the segment, from now on."""
        self.is_tunnelled = tunnel
        for name in ("b", "c"):
            node = self.nodes[name]
            if tunnel:
                node.assign_by_tunnel(IPv4Address(self.pod_node_address), BLOCKS)
            else:
                node.assign(BLOCKS, mac=uplink("a").mac, device=uplink(name))
        self.lead(self.holder)

    def lead(self, name: str) -> None:
        """The pod's node knows that this gateway holds it, or that it does so itself."""
        if name == "a":
            self.nodes["a"].assign(BLOCKS, kind=BlockKind.LOCAL, member=0)
            self.nodes["a"].way(WayKind.LOCAL, device=uplink("a"))
            return
        if self.is_tunnelled:
            self.nodes["a"].tunnel_way(IPv4Address(ADDRESSES[name]))
        else:
            self.nodes["a"].way(WayKind.L2, gateway_mac=uplink(name).mac, device=uplink("a"))

    def allow_direct(self, is_allowed: bool) -> None:
        """Nobody shapes the pod's device and the steering devices, or somebody does; what was approved before is asked
        again, and the ways through the tunnel are looked for again."""
        for node in self.nodes.values():
            devices, hops = node.map(MapName.DIRECT_DEVICES), node.map(MapName.TUNNEL_HOPS)
            for device in (POD_SIDE, egw("a")):
                key = layout.device_key(device.ifindex)
                devices.update(key, bytes(4)) if is_allowed else devices.delete(key)
            for key in tuple(hops.items()):
                hops.delete(key)

    def hold(self, name: str) -> None:
        """This gateway has the lease, nobody else, and the pod's node knows the way there."""
        self.move_lease(name)
        self.lead(name)

    def move_lease(self, name: str, token: int = TOKEN) -> None:
        """The router knows it at once, and the pod's node not yet."""
        for node in self.nodes.values():
            node.end_lease()
        self.holder = name
        holder = uplink(name).mac.hex(":")
        self.places["switch"].feed(
            "nft -f -", f"flush set bridge watch holder\nadd element bridge watch holder {{ {holder} }}\n"
        )
        self.nodes[name].hold(token=token)
        announce = f"ip neigh replace {FLOATING_IP} lladdr {holder} dev eth0 nud reachable"
        self.places["router"].command(announce)

    def leaks(self) -> dict[str, int]:
        """Frames that must not have been at any port, by kind, since the last look."""
        switch = self.places["switch"]
        listed = (switch.command(f"nft reset counter bridge watch {name}") for name in LEAKS)
        counts = (int(text.split("packets")[1].split()[0]) for text in listed)
        return {name: count for name, count in zip(LEAKS, counts, strict=True) if count}

    @contextmanager
    def reached(self, port: int) -> Iterator[None]:
        """Somebody outside talks to the pod's own address, at this port: its answers leave by that."""
        element = f"element bridge watch answering {{ {port} }}"
        switch, router = self.places["switch"], self.places["router"]
        switch.command(f"nft add {element}")
        router.command(f"ip route add {POD} via {self.pod_node_address}")
        try:
            yield
        finally:
            router.command(f"ip route del {POD}")
            switch.command(f"nft delete {element}")


def _wire(places: dict[str, Place], *, is_split: bool) -> None:
    """Everybody on one bridge, but for a pod's node that is on another one; the pod behind its node."""
    switch = places["switch"]
    for bridge in ("br0", "br1"):
        switch.command(f"ip link add {bridge} type bridge")
        switch.command(f"ip link set {bridge} up")
    for name, address in ADDRESSES.items():
        device = uplink(name)
        port = f"port-{name}"
        make = f"ip link add eth0 index {device.ifindex} address {device.mac.hex(':')} type veth"
        places[name].command(f"{make} peer name {port} netns {switch.name}")
        is_far = is_split and name == "a"
        switch.command(f"ip link set {port} master {'br1' if is_far else 'br0'} up")
        places[name].command(f"ip addr add {FAR_ADDRESS if is_far else address}/24 dev eth0")
        places[name].command("ip link set eth0 up")
        places[name].command("ip link set lo up")
        places[name].command("sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0")
        if name != "router":
            places[name].command(f"ip route add default via {FAR_ROUTER if is_far else ROUTER}")
    router = places["router"]
    for address in (SERVER, OTHER_SERVER):
        router.command(f"ip addr add {address}/32 dev lo")
    router.command(f"ip link add eth1 type veth peer name port-far netns {switch.name}")
    switch.command("ip link set port-far master br1 up")
    router.command(f"ip addr add {FAR_ROUTER}/24 dev eth1")
    router.command("ip link set eth1 up")
    node, pod = places["a"], places["pod"]
    peer = f"peer name eth0 netns {pod.name}"
    node.command(f"ip link add {POD_SIDE.name} index {POD_SIDE.ifindex} type veth {peer}")
    node.command(f"ip link set {POD_SIDE.name} address {POD_SIDE.mac.hex(':')} up")
    node.command(f"ip route add {POD} dev {POD_SIDE.name}")
    pod.command(f"ip addr add {POD}/32 dev eth0")
    pod.command("ip link set eth0 up")
    pod.command("ip link set lo up")
    gateway = FAR_ADDRESS if is_split else ADDRESSES["a"]
    pod.command(f"ip route add {gateway} dev eth0")
    pod.command(f"ip route add default via {gateway} onlink dev eth0")


def _steer(place: Place, device: Device) -> None:
    """The steering device and its rules, as service/network/steering_device.py makes them."""
    address = device.mac.hex(":")
    for command in (
        f"ip link add {device.name} index {device.ifindex} address {address} type vxlan external nolearning"
        f" dstport {TUNNEL_PORT}",
        f"sysctl -q -e -w net.ipv6.conf.{device.name}.disable_ipv6=1",
        f"ip link set {device.name} arp off up mtu 1500",
        f"ip rule add pref 96 iif lo fwmark {MARK}/{MARK} lookup main",
        f"ip rule add pref 97 fwmark {MARK}/{MARK} lookup {TABLE}",
        f"ip route add default via 169.254.99.1 dev {device.name} onlink table {TABLE}",
        f"sysctl -q -w net.ipv4.conf.{device.name}.rp_filter=0 net.ipv4.conf.all.rp_filter=0",
        "sysctl -q -w net.netfilter.nf_conntrack_tcp_be_liberal=1",
    ):
        place.command(command)


def _make_handover_device() -> Interface:
    with closing(RouteSocket()) as ipr:
        return ensure_handover_device(ipr, Sysctl())


FIREWALL = f"""
table ip firewall {{
  counter asked {{ }}
  chain forward {{
    type filter hook forward priority 0
    ct state invalid drop
    ip daddr {SERVER} counter name asked
    ip saddr {SERVER} counter name asked
  }}
}}
"""
"""As a CNI has one."""


def _netfilter() -> str:
    """Our own table of the pod's node, as its agent writes it; POD is selected for all but OTHER_SERVER."""
    nodes = [IPv4Network(ADDRESSES[name]) for name in MEMBERS] + [IPv4Network(FAR_ADDRESS)]
    config = NftConfig(MARK, (SERVICE_NETWORK, *nodes), (POD_NETWORK,), ("eth0",), tunnel_port=TUNNEL_PORT)
    steered = tuple(IPv4Network("0.0.0.0/0").address_exclude(IPv4Network(OTHER_SERVER)))
    return ruleset(config, Carried(Destinations({POD: 1}, {1: steered})))


def _filter(place: Place) -> None:
    place.feed("nft -f -", _netfilter() + FIREWALL)


LEAKS = ("bare", "stranger")
"""A pod's frame for the outside; one from the floating IP that neither its holder sends, nor a member to a gateway."""


def _watch(switch: Place) -> None:
    """Every frame that comes in by any port of either switch is judged (rule L1), and what must not be is counted."""
    counters = "\n".join(f"  counter {name} {{ }}" for name in LEAKS)
    members, gateways = (", ".join(uplink(name).mac.hex(":") for name in names) for names in (MEMBERS, ("b", "c")))
    inside = f"192.168.1.0/24, 10.0.2.0/24, {POD_NETWORK}, {SERVICE_NETWORK}, {OTHER_SERVER}"
    rules = f"""table bridge watch {{
{counters}
  set answering {{ type inet_service; }}
  set holder {{ type ether_addr; }}
  chain ports {{
    type filter hook prerouting priority -300;
    ip saddr {POD} tcp sport @answering accept
    ip saddr {POD} ip daddr != {{ {inside} }} counter name bare
    arp saddr ip {POD} counter name bare
    ether saddr @holder accept
    ip saddr {FLOATING_IP} ether saddr {{ {members} }} ether daddr {{ {gateways} }} accept
    ip saddr {FLOATING_IP} counter name stranger
    arp saddr ip {FLOATING_IP} counter name stranger
  }}
}}
"""
    switch.feed("nft -f -", rules)


ATTACHED = {
    "pod_ingress": (POD_SIDE.name, "ingress"),
    "pod_egress": (POD_SIDE.name, "egress"),
    "steer_egress": ("egw0", "egress"),
    "steer_ingress": ("egw0", "ingress"),
    "uplink_ingress": ("eth0", "ingress"),
    "uplink_egress": ("eth0", "egress"),
    "handover_egress": (HANDOVER_DEVICE, "egress"),
}


def _attach(place: Place, programs: dict[str, int], bpffs: Path, names: tuple[str, ...]) -> None:
    for device in {ATTACHED[name][0] for name in names}:
        place.command(f"tc qdisc add dev {device} clsact")
    for name in names:
        device, direction = ATTACHED[name]
        path = bpffs / f"{place.name}-{name}"
        bpf_call.pin(programs[name], str(path))
        # Not by `ip netns exec`, whose own mounts hide the pin.
        words = f"nsenter --net=/run/netns/{place.name} tc filter add dev {device} {direction} bpf da pinned {path}"
        subprocess.run(words.split(), check=True, timeout=20)
        path.unlink()


def _fill(nodes: dict[str, Node], *, is_split: bool) -> None:
    addresses = ADDRESSES | ({"a": FAR_ADDRESS} if is_split else {})
    for name, node in nodes.items():
        node.configure(egw=egw(name), uplink=uplink(name))
        node.uplink_address(uplink(name), IPv4Address(addresses[name]))
        for member, number in MEMBERS.items():
            node.member(uplink(member).mac, number, uplink(name))
            node.tunnel_member(IPv4Address(addresses[member]), number)
            node.in_cluster(IPv4Network(addresses[member]), ClusterFlag.NODE)
        node.hold(for_s=-1)
    node = nodes["a"]
    if is_split:
        node.floating_ip(FLOATING_IP, None)
    node.rule()
    node.exclude(f"{OTHER_SERVER}/32")
    node.select(device=POD_SIDE)
    node.own(BLOCKS)


@contextmanager
def build(bpffs: Path, run: Path, *, is_split: bool = False) -> Iterator[Segment]:
    """Everything, and nothing of it left afterwards. With the pod's node apart, all goes by the tunnel."""
    names = ("pod", "a", "b", "c", "router", "switch")
    places = {name: Place(name) for name in names}
    with ExitStack() as stack:
        for place in places.values():
            subprocess.run(["ip", "netns", "add", place.name], check=True, timeout=20)
            stack.callback(subprocess.run, ["ip", "netns", "del", place.name], check=True, timeout=20)
        _wire(places, is_split=is_split)
        waiting = {}
        for name in MEMBERS:
            _steer(places[name], egw(name))
            waiting[name] = places[name].call(_make_handover_device)
        _filter(places["a"])
        _watch(places["switch"])
        nodes = {}
        for name in MEMBERS:
            loaded = stack.enter_context(load_datapath(str(bpffs / f"{run.name}-{name}"), str(run / name)))
            nodes[name] = Node(loaded, Programs(Namespace(), loaded.programs))
            mine = tuple(program for program in ATTACHED if name == "a" or not program.startswith("pod_"))
            _attach(places[name], loaded.programs, bpffs, mine)
        _fill(nodes, is_split=is_split)
        for name, node in nodes.items():
            row = handover_device_value(waiting[name].index, waiting[name].mac)
            node.map(MapName.HANDOVER_DEVICE).update(bytes(4), row)
        segment = Segment(places, nodes, is_split)
        segment.use(tunnel=is_split)
        segment.hold("b")
        yield segment
