"""What pods and their devices do."""

import contextlib
import random
import socket

from loadtest.chaos.event import QUIET, Cost, Event
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS, OUTSIDE
from service.lab.namespace import inside, ip_batch
from service.lab.plan import UDP_PORT

_DEVICES = 60


class DevicesComeAndGo(Event):
    """Dozens of pod devices are made and removed within a second, as by a job with many short pods."""

    name = "device-churn"
    cost = QUIET

    def apply(self) -> None:
        """On the bridge, each gone again at once."""
        for turn in range(3):
            names = [f"churn{turn}x{number}" for number in range(_DEVICES // 3)]
            lines = [f"link add {name} type veth peer name {name}p" for name in names]
            lines += [f"link set {name} master cni0 up" for name in names]
            ip_batch(self.node.netns, lines)
            ip_batch(self.node.netns, [f"link del {name}" for name in names])

    def undo(self) -> None:
        """Whatever a failed batch has left."""
        names = self.site.on(self.node.name, "ip", "-brief", "link", "show", "type", "veth").splitlines()
        for line in names:
            if line.startswith("churn"):
                self.site.on(self.node.name, "ip", "link", "del", line.split("@")[0].split()[0], check=False)


class PodForgesSource(Event):
    """A pod sends with a floating IP, another pod's and an unknown address as its source."""

    name = "forged-source"
    cost = QUIET

    def apply(self) -> None:
        """Raw datagrams to an address that the policy names."""
        pod = self.chance.choice(self.site.pods)
        other = self.chance.choice([one for one in self.site.selected if one != pod])
        inside(pod.netns, lambda: _send_as((self.chance.choice(FLOATING_IPS), str(other.ip), "10.99.1.1")))


def _send_as(sources: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        for source in sources:
            for number in range(20):
                body = UDP_PORT.to_bytes(2, "big") * 2 + (8 + 6).to_bytes(2, "big") + bytes(2) + b"forged"
                header = bytes((0x45, 0, 0, 20 + len(body), 0, number + 1, 0, 0, 64, 17, 0, 0))
                packet = header + socket.inet_aton(source) + socket.inet_aton(OUTSIDE) + body
                with contextlib.suppress(OSError):
                    sender.sendto(packet, (OUTSIDE, 0))


class PodFloods(Event):
    """A selected pod sends to thousands of ports and addresses, each once."""

    name = "flood"

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self._pod = chance.choice([pod for pod in site.selected if pod.node == self.node.name])

    def apply(self) -> None:
        """Ten thousand datagrams, as fast as one loop sends them."""
        inside(self._pod.netns, _flood)


def _flood() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for number in range(10_000):
            with contextlib.suppress(OSError):
                sender.sendto(b"flood", (f"8.8.8.{2 + number % 200}", 1024 + number % 60_000))


class PodRelabelled(Event):
    """Nothing of a pod changes but an annotation-like edit of its file: the same objects again."""

    name = "same-objects-again"
    cost = Cost(loses=False, breaks=False)

    def apply(self) -> None:
        """Each pod's file is written again, byte by byte the same."""
        for node in self.site.nodes:
            path = self.site.lab.manifests / f"pods-{node.name}.yaml"
            self.site.write_file(path.name, path.read_text(encoding="utf-8"))


EVENTS: tuple[type[Event], ...] = (
    DevicesComeAndGo,
    PodForgesSource,
    PodFloods,
    PodRelabelled,
)
"""Of this module."""
