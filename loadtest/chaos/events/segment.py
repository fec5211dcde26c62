"""What others on the segment do with our addresses."""

import random
import socket
from ipaddress import IPv4Address

from loadtest.chaos.event import Cost, Event
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.capture_site import mac_bytes
from service.lab.namespace import inside, nft
from service.lab.plan import ROUTER_OCTET, segment_mac
from service.network.arp import gratuitous_arp_frames


def send_frames(netns: str, device: str, frames: list[bytes]) -> None:
    """From a device of the namespace, as they are."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((device, 0))
            for frame in frames:
                sender.send(frame)

    inside(netns, send)


class ForgedGratuitousArp(Event):
    """Somebody sends gratuitous ARP for a floating IP with another member's MAC."""

    name = "forged-garp"

    def apply(self) -> None:
        """From the router's port, in both forms."""
        mac = mac_bytes(self.node.mac(self.node.segments[0]))
        frames = gratuitous_arp_frames(mac, IPv4Address(self.chance.choice(FLOATING_IPS)))
        send_frames(self.site.lab.plan.router, "eth0", list(frames))


class StrangerTakesAddress(Event):
    """Another host configures a floating IP, says so, and answers for it."""

    name = "stranger-answers"
    cost = Cost(moves=True)

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self._address = chance.choice(FLOATING_IPS)

    def apply(self) -> None:
        """The router, of all hosts."""
        self.site.on("router", "ip", "address", "add", f"{self._address}/32", "dev", "eth0")
        mac = mac_bytes(segment_mac(0, ROUTER_OCTET))
        send_frames(self.site.lab.plan.router, "eth0", list(gratuitous_arp_frames(mac, IPv4Address(self._address))))

    def undo(self) -> None:
        """It is found out, and gives the address up."""
        self.site.on("router", "ip", "address", "del", f"{self._address}/32", "dev", "eth0", check=False)
        self.site.on("router", "ip", "neigh", "flush", "all", check=False)


class SwitchForgets(Event):
    """The switch's table of addresses is flushed."""

    name = "switch-forgets"
    cost = Cost(loses=False, breaks=False)

    def apply(self) -> None:
        """All that it has learned on both segments."""
        self.site.on("fabric", "ip", "link", "set", "segment0", "type", "bridge", "fdb_flush")
        self.site.on("fabric", "ip", "link", "set", "segment1", "type", "bridge", "fdb_flush")


class FramesSwallowed(Event):
    """The switch swallows what a node sends from a floating IP to other nodes: only the tunnel is left (X1).

    Towards the router it lets pass what it swallows else, or no holder behind that port could speak.
    """

    name = "port-security"

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self._port = chance.choice(site.near).port(0)

    def apply(self) -> None:
        """As a filter by address on the port does."""
        addresses, router = ", ".join(FLOATING_IPS), segment_mac(0, ROUTER_OCTET)
        rule = f'iifname "{self._port}" ether type ip ether daddr != {router} ip saddr {{ {addresses} }} drop'
        hook = "type filter hook prerouting priority 0; policy accept;"
        nft(self.site.lab.plan.fabric, f"table bridge security {{\nchain incoming {{ {hook} {rule}; }}\n}}")

    def undo(self) -> None:
        """The filter goes, whichever of two put it there."""
        table = "table bridge security"
        nft(self.site.lab.plan.fabric, f"{table}\ndelete {table}")


EVENTS: tuple[type[Event], ...] = (
    ForgedGratuitousArp,
    StrangerTakesAddress,
    SwitchForgets,
    FramesSwallowed,
)
"""Of this module."""
