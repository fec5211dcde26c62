"""What happens to a node's uplinks and their addresses."""

import random
from collections.abc import Mapping

from loadtest.chaos.event import QUIET, Cost, Event
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.capture_site import mac_bytes
from service.lab.plan import NETWORKS, ROUTER_OCTET, SECOND_UPLINK_DESTINATION, SEGMENTS, PlannedNode
from service.lab.site import set_port_state

MOVED = Cost(moves=True)


def restore(site: ChaosSite, node: PlannedNode, lines: list[str]) -> None:
    """Run `ip` lines of the node one by one: where another event has a device down, its own undo does the rest."""
    for line in lines:
        site.on(node.name, "ip", *line.split(), check=False)


def routes(site: ChaosSite, node: PlannedNode) -> list[str]:
    """What the node's first uplink needs beside its address, as `ip` lines; idempotent."""
    lines = [f"route replace default via {NETWORKS[node.segments[0]][ROUTER_OCTET]}"]
    near = [other for other in site.nodes if other is not node and other.segments == node.segments]
    return lines + [f"route replace {other.pod_cidr} via {other.ip}" for other in near]


def first_uplink(node: PlannedNode) -> str:
    """The device by whose address the node is known to the others."""
    return f"eth{node.segments[0]}"


class CarrierLost(Event):
    """A cable is pulled: the uplink has no carrier."""

    name = "carrier-lost"
    cost = MOVED

    def apply(self) -> None:
        """At the switch."""
        self.site.on("fabric", "ip", "link", "set", self.node.port(self.node.segments[0]), "down")

    def undo(self) -> None:
        """Plugged in again."""
        self.site.on("fabric", "ip", "link", "set", self.node.port(self.node.segments[0]), "up")

    def trouble(self) -> tuple[str, str] | None:
        """The node itself sees it."""
        return self.node.name, "carrier"


class SilentCut(Event):
    """The switch forwards nothing for a port, and says nothing of it."""

    name = "silent-cut"
    cost = MOVED

    def apply(self) -> None:
        """All segments of the node."""
        for segment in self.node.segments:
            set_port_state(self.site.lab.plan, self.node.port(segment), forwarding=False)

    def undo(self) -> None:
        """It forwards again."""
        for segment in self.node.segments:
            set_port_state(self.site.lab.plan, self.node.port(segment), forwarding=True)


class AddressLost(Event):
    """An uplink loses its address for a while, as a DHCP client or a bond's failover does it."""

    name = "address-lost"
    cost = MOVED

    def apply(self) -> None:
        """With it go its routes."""
        self.site.on(self.node.name, "ip", "address", "flush", "dev", first_uplink(self.node))

    def undo(self) -> None:
        """The same address, and the routes."""
        address = f"address replace {self.node.ip}/24 broadcast + dev {first_uplink(self.node)}"
        restore(self.site, self.node, [address, *routes(self.site, self.node)])


class AllUplinksVanish(Event):
    """All uplinks lose carrier and address at once."""

    name = "no-uplink"
    cost = MOVED

    def apply(self) -> None:
        """Devices stay, down and without addresses."""
        for segment in self.node.segments:
            self.site.on(self.node.name, "ip", "address", "flush", "dev", f"eth{segment}")
            self.site.on(self.node.name, "ip", "link", "set", f"eth{segment}", "down")

    def undo(self) -> None:
        """Everything as it was."""
        lines = []
        for segment in self.node.segments:
            lines.append(f"address replace {self.node.address(segment)}/24 broadcast + dev eth{segment}")
            lines.append(f"link set eth{segment} up")
        lines += routes(self.site, self.node)
        if not self.node.is_far:
            lines.append(f"route replace {SECOND_UPLINK_DESTINATION} via {SEGMENTS[1][ROUTER_OCTET]}")
        restore(self.site, self.node, lines)


class SecondAddress(Event):
    """An uplink gets a second address of the same subnet, and loses it."""

    name = "second-address"
    cost = QUIET
    _host = 77

    @property
    def _address(self) -> str:
        network = NETWORKS[self.node.segments[0]]
        return f"{network[self._host]}/{network.prefixlen}"

    def apply(self) -> None:
        """Behind the first one."""
        self.site.on(self.node.name, "ip", "address", "add", self._address, "dev", first_uplink(self.node))

    def undo(self) -> None:
        """Whether or not another event has flushed it."""
        self.site.on(self.node.name, "ip", "address", "del", self._address, "dev", first_uplink(self.node), check=False)


class MtuChanged(Event):
    """An uplink's MTU is changed at run time."""

    name = "mtu"

    def apply(self) -> None:
        """As somebody who brings an overlay in."""
        self.site.on(self.node.name, "ip", "link", "set", first_uplink(self.node), "mtu", "1400")

    def undo(self) -> None:
        """The usual."""
        self.site.on(self.node.name, "ip", "link", "set", first_uplink(self.node), "mtu", "1500")


class MacChanged(Event):
    """An uplink gets another MAC, as by a bond's failover."""

    name = "mac"
    cost = MOVED

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self._mac = f"02:65:67:ee:00:{self.node.octet:02x}"

    def apply(self) -> None:
        """And it says so, as the kernel does with arp_notify."""
        self.site.on(self.node.name, "ip", "link", "set", first_uplink(self.node), "address", self._mac)

    def undo(self) -> None:
        """Its own."""
        mac = self.node.mac(self.node.segments[0])
        self.site.on(self.node.name, "ip", "link", "set", first_uplink(self.node), "address", mac)

    def macs(self) -> Mapping[str, bytes]:
        """The other one."""
        return {self.node.name: mac_bytes(self._mac)}


class UnlikeMtus(Event):
    """The last uplink has a smaller MTU than the others', or than other nodes' where it is the only one."""

    name = "unlike-mtus"

    def apply(self) -> None:
        """As an uplink through a tunnel has it."""
        self.site.on(self.node.name, "ip", "link", "set", f"eth{self.node.segments[-1]}", "mtu", "1300")

    def undo(self) -> None:
        """The usual."""
        self.site.on(self.node.name, "ip", "link", "set", f"eth{self.node.segments[-1]}", "mtu", "1500")


class SlowQueue(Event):
    """A shaper on the uplink holds packets for longer than a lease."""

    name = "slow-queue"
    cost = MOVED

    def apply(self) -> None:
        """A token bucket that is too small for what goes out."""
        queue = "root tbf rate 200kbit burst 2k latency 600ms"
        self.site.on(self.node.name, "tc", "qdisc", "add", "dev", first_uplink(self.node), *queue.split())

    def undo(self) -> None:
        """The usual queue."""
        self.site.on(self.node.name, "tc", "qdisc", "del", "dev", first_uplink(self.node), "root", check=False)

    def strangers(self) -> frozenset[tuple[str, str]]:
        """What left the fence under a lease waits behind it, and says nothing of who holds an address now."""
        return frozenset((self.node.name, address) for address in FLOATING_IPS)


class VipOfMember(Event):
    """A node gets one of our addresses as its own, as kube-vip or keepalived would give it."""

    name = "member-vip"
    cost = MOVED

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self._address = chance.choice(FLOATING_IPS)

    def apply(self) -> None:
        """As a virtual address, on the uplink."""
        self.site.on(self.node.name, "ip", "address", "add", f"{self._address}/32", "dev", first_uplink(self.node))

    def undo(self) -> None:
        """It goes elsewhere."""
        line = f"address del {self._address}/32 dev {first_uplink(self.node)}"
        self.site.on(self.node.name, "ip", *line.split(), check=False)

    def strangers(self) -> frozenset[tuple[str, str]]:
        """The node's kernel answers for it whatever we do."""
        return frozenset(((self.node.name, self._address),))


EVENTS: tuple[type[Event], ...] = (
    CarrierLost,
    SilentCut,
    AddressLost,
    AllUplinksVanish,
    SecondAddress,
    MtuChanged,
    MacChanged,
    UnlikeMtus,
    SlowQueue,
    VipOfMember,
)
"""Of this module."""
