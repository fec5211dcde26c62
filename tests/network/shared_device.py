"""A pod's device as several owners share it: `v0` of one namespace, with its peer in another that sends to it.

Ours are attached as an agent does it; others by hand, as a CNI does it.
"""

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from service.network.attachment import Attachments
from service.network.bpf_call import bpf_call, make_attributes
from service.network.hook import Direction
from service.network.netlink import Netlink
from service.network.tcx import TcxLinks, read_links
from service.network.traffic_control import FILTER_HANDLE
from tests.network import tiny_program
from tests.network.namespace import Namespace, namespaces

MARK = 0x1000
BEFORE = 8
_LINK_CREATE = 28
_PORT = 7000
_ADDRESS = {"ingress": "10.1.1.1", "egress": "10.1.1.2"}
_COUNTER = """
table ip seen {
    counter marked { }
    chain input { type filter hook input priority 0; meta mark and 0x1000 == 0x1000 counter name marked; }
}
"""


class SharedDevice:
    """The thread that enters it is in its namespace."""

    def __init__(self, links: Path) -> None:
        self._links = links
        self._stack = ExitStack()

    def __enter__(self) -> "SharedDevice":
        self.here, self.there = self._stack.enter_context(namespaces("a", "b"))
        self.here.link("v0", self.there, "eth0")
        # What is dropped must be packets, and not the question for a neighbour.
        for side, name, mac in ((self.here, "v0", "02:00:00:00:00:01"), (self.there, "eth0", "02:00:00:00:00:02")):
            side.ip(f"link set {name} address {mac}")
        for side, name, address, peer, mac in (
            (self.here, "v0", "10.1.1.1", "10.1.1.2", "02:00:00:00:00:02"),
            (self.there, "eth0", "10.1.1.2", "10.1.1.1", "02:00:00:00:00:01"),
        ):
            side.ip(f"addr add {address}/24 dev {name}")
            side.ip(f"neigh replace {peer} lladdr {mac} dev {name} nud permanent")
        self.here.run("nft -f -", text=_COUNTER)
        self._stack.enter_context(self.here.entered())
        self.ifindex = socket.if_nametoindex("v0")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def agent(self, *, tcx: bool) -> Netlink:
        """As one comes up on a kernel with or without tcx."""
        return Netlink(attachments=Attachments(TcxLinks(self._links), wants_tcx=tcx))

    def program(self, code: int, *, mark: int = 0) -> int:
        """One that lives as long as the device, unless somebody attaches it."""
        descriptor = tiny_program.load(code, mark=mark)
        self._stack.callback(os.close, descriptor)
        return descriptor

    # -- what others do --

    def add_tcx(self, direction: Direction, program: int, *, flags: int = 0) -> None:
        """Somebody's program on tcx: at the end, as Cilium does it, unless `flags` say otherwise."""
        kind = {"ingress": 46, "egress": 47}[direction]
        fields = ("=I", 0, program), ("=I", 4, self.ifindex), ("=I", 8, kind), ("=I", 12, flags)
        self._stack.callback(os.close, bpf_call(_LINK_CREATE, make_attributes(*fields)))

    def add_filter(self, program: int, *, direction: Direction = "ingress") -> None:
        """Somebody's filter in a clsact that is made where there is none."""
        if "clsact" not in self.qdiscs():
            self.here.run("tc qdisc add dev v0 clsact")

        def add() -> None:
            with IPRoute() as ipr:
                parent = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}[direction]
                arguments = {"parent": parent, "prio": 1, "protocol": 3, "direct_action": True}
                ipr.tc("add-filter", "bpf", self.ifindex, 1, fd=program, name="cni", **arguments)

        # Its socket has an event loop of its own, of which a thread has room for one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(add).result(timeout=10)

    def shape(self) -> None:
        """Have the CNI's bandwidth plugin limit what the pod sends, or do what it does where it is not installed."""
        plugin = shutil.which("bandwidth", path="/usr/lib/cni:/opt/cni/bin")
        if plugin:
            self._add_by_plugin(plugin)
            return
        self.here.ip("link add bwp0 type ifb")
        self.here.ip("link set bwp0 up")
        for command in (
            "qdisc add dev v0 handle ffff: ingress",
            "filter add dev v0 parent ffff: protocol all prio 1 u32 match u32 0 0 flowid 1:1 "
            "action mirred egress redirect dev bwp0",
            "qdisc add dev bwp0 root handle 1: tbf rate 80mbit burst 64kb latency 25ms",
        ):
            self.here.run(f"tc {command}")

    def _add_by_plugin(self, plugin: str) -> None:
        sandbox = f"/run/netns/{self.there.name}"
        previous = {
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "v0"}, {"name": "eth0", "sandbox": sandbox}],
            "ips": [{"version": "4", "address": "10.1.1.2/24", "interface": 1}],
        }
        limit = {"egressRate": 80_000_000, "egressBurst": 800_000}
        network = {"cniVersion": "0.4.0", "name": "net", "type": "bandwidth", "prevResult": previous, **limit}
        environment = f"CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS={sandbox} CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni"
        self.here.run(f"env {environment} {plugin}", text=json.dumps(network))

    # -- what is to be seen --

    def qdiscs(self) -> str:
        return self.here.run("tc qdisc show dev v0")

    def ours(self, direction: Direction = "ingress") -> int:
        """How many programs of ours a packet meets on v0."""
        filters = self.here.run(f"tc filter show dev v0 {direction}").count(f"handle {FILTER_HANDLE:#x}")
        return filters + sum(1 for path in self._links.glob(f"{self.ifindex}-{direction}"))

    def on_tcx(self, direction: Direction = "ingress") -> int:
        """How many programs, of whomever."""
        return len(read_links(self.ifindex, direction))

    def arrives(self, direction: Direction = "ingress") -> bool:
        """Whether a packet gets through v0, that way."""
        sender, receiver = self._ends(direction)
        with receiver.udp(port=_PORT) as server, sender.udp() as client:
            server.settimeout(0.3)
            client.sendto(b"x", (_ADDRESS[direction], _PORT))
            try:
                return server.recv(10) == b"x"
            except TimeoutError:
                return False

    def arrives_marked(self) -> bool:
        """Whether a packet gets through that has our mark by then."""
        before = self._marked()
        return self.arrives() and self._marked() == before + 1

    def _marked(self) -> int:
        words = self.here.run("nft list counter ip seen marked").split()
        return int(words[words.index("packets") + 1])

    def shaped(self) -> int:
        """Packets that went through the device that shapes."""
        (link,) = json.loads(self.here.ip("-s -j link show type ifb"))
        return int(link["stats64"]["tx"]["packets"])

    @contextmanager
    def flooded(self, direction: Direction) -> Iterator[list[bytes]]:
        """As many packets as can be sent meanwhile; whatever got through is in the list at the end."""
        leaked: list[bytes] = []
        over = threading.Event()
        sender, receiver = self._ends(direction)
        with receiver.udp(port=_PORT) as server, sender.udp() as client:

            def send() -> None:
                while not over.is_set():
                    client.sendto(b"x", (_ADDRESS[direction], _PORT))

            thread = threading.Thread(target=send)
            thread.start()
            try:
                yield leaked
            finally:
                over.set()
                thread.join()
            server.settimeout(0.1)
            try:
                while True:
                    leaked.append(server.recv(10))
            except TimeoutError:
                pass

    def _ends(self, direction: Direction) -> tuple[Namespace, Namespace]:
        return (self.there, self.here) if direction == "ingress" else (self.here, self.there)
