"""What strangers send to our ports and addresses."""

import contextlib
import random
import socket
import time

from loadtest.chaos.event import QUIET, Event
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.namespace import inside, open_socket
from service.lab.plan import HTTP_PORT

_CONNECTIONS = 80
_GARBAGE_S = 1.0
_PORTS = (9640, 9641, 9643, 9644, 9645, 9646, 9647)


class IdleConnections(Event):
    """Dozens of connections to a node's HTTP port that never say anything."""

    name = "idle-http"
    cost = QUIET

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self._open: list[socket.socket] = []

    def apply(self) -> None:
        """From the router."""
        for _ in range(_CONNECTIONS):
            client = open_socket(self.site.lab.plan.router, socket.AF_INET, socket.SOCK_STREAM)
            client.settimeout(1.0)
            self._open.append(client)
            with contextlib.suppress(OSError):
                client.connect((str(self.node.ip), HTTP_PORT))

    def answers(self) -> str:
        """Probes and commands find a place all the same."""
        return self.node.name

    def undo(self) -> None:
        """They go as they came."""
        for client in self._open:
            client.close()


class Garbage(Event):
    """Random datagrams on each of our ports at full rate."""

    name = "garbage"
    cost = QUIET

    def apply(self) -> None:
        """For a second, from the router."""
        chance = random.Random(self.chance.getrandbits(32))
        inside(self.site.lab.plan.router, lambda: _send_garbage(str(self.node.ip), chance))


def _send_garbage(address: str, chance: random.Random) -> None:
    datagrams = [chance.randbytes(chance.randrange(1, 1200)) for _ in range(64)]
    until_s = time.monotonic() + _GARBAGE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        while time.monotonic() < until_s:
            for datagram in datagrams:
                with contextlib.suppress(OSError):
                    sender.sendto(datagram, (address, chance.choice(_PORTS)))


class Scan(Event):
    """A scan of a floating IP: TCP and UDP to hundreds of ports."""

    name = "scan"
    cost = QUIET

    def apply(self) -> None:
        """From outside, where customers are."""
        address = self.chance.choice(FLOATING_IPS)
        inside(self.site.lab.plan.outside, lambda: _scan(address))


def _scan(address: str) -> None:
    for port in range(1, 60_000, 150):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
            client.setblocking(False)
            client.connect((address, port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, contextlib.suppress(OSError):
            client.sendto(b"scan", (address, port))


class Replays(Event):
    """Datagrams between members are recorded, and come again at full rate under their senders' addresses."""

    name = "replays"
    cost = QUIET

    def apply(self) -> None:
        """Those to one node, for a second, each a few times."""
        heard = inside(
            self.site.lab.plan.fabric, lambda: _record(self.node.ip.packed, self.node.port(self.node.segments[0]))
        )
        inside(self.site.lab.plan.router, lambda: _send_again(heard))


def _record(address: bytes, port: str) -> list[bytes]:
    """IP packets of UDP to our ports of that address, as they leave the switch by the node's port."""
    heard: list[bytes] = []
    until_s = time.monotonic() + _GARBAGE_S
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as listener:
        listener.bind((port, 0x0003))
        listener.settimeout(0.1)
        while time.monotonic() < until_s and len(heard) < 2000:
            # Silence; or the port is down for a while, which another event may see to.
            with contextlib.suppress(OSError):
                packet = listener.recv(2048)[14:]
                is_ours = int.from_bytes(packet[22:24], "big") in _PORTS
                if packet[:1] == b"\x45" and packet[9] == socket.IPPROTO_UDP and packet[16:20] == address and is_ours:
                    heard.append(packet)
    return heard


def _send_again(packets: list[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        for packet in packets * 3:
            with contextlib.suppress(OSError):
                sender.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))


EVENTS: tuple[type[Event], ...] = (
    IdleConnections,
    Garbage,
    Scan,
    Replays,
)
"""Of this module."""
