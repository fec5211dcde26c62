"""Whether a device that an address is behind is believed to be its pod's (rule W11). Pure.

An address passes from pod to pod, and a new pod may have it, behind its own device, before its object says so, while
the object of the former one is still there. What is told of the former one must not be done for the new one. So another
device under the same pod is believed after a while only; one under the object of another pod, at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.objects import Pod

DOUBT_NS = 5_000_000_000
"""How long another device of the same pod is doubted: kubelet tells of a new pod's address within a second or two. One
whose sandbox was made anew under its old address waits as long."""
SETTLED_NS = 1_000_000_000
"""A device that a pod has had for less was perhaps still that of the address's former owner: its own is just found."""


@dataclass(frozen=True, slots=True)
class _Place:
    uid: str
    """Empty: of a pod that a former agent knew."""
    device: int
    since_ns: int
    """From when on it is believed."""


class Classification:
    """Remembers where each local pod was; what it says is as of the last `learn`."""

    def __init__(self) -> None:
        self._places: dict[IPv4Address, _Place] = {}
        self.doubted: frozenset[IPv4Address] = frozenset()
        """Addresses whose device is not believed yet."""

    def inherit(self, devices: Mapping[IPv4Address, int]) -> None:
        """Devices that a former agent believed in."""
        self._places = {pod_ip: _Place("", device, -SETTLED_NS) for pod_ip, device in devices.items()}

    def learn(self, pods: Iterable[Pod], devices: Mapping[IPv4Address, int], *, now_ns: int) -> None:
        """Take the local pods, and behind which device each address was seen last."""
        before, self._places = self._places, {}
        for pod in pods:
            device = devices.get(pod.ip) if pod.ip is not None else None
            if pod.ip is not None and device is not None:
                self._places[pod.ip] = _place(before.get(pod.ip), pod.uid, device, now_ns)
        self.doubted = frozenset(pod_ip for pod_ip, place in self._places.items() if place.since_ns > now_ns)


def _place(before: _Place | None, uid: str, device: int, now_ns: int) -> _Place:
    if before is None or before.uid not in ("", uid):
        return _Place(uid, device, now_ns)
    if before.device == device:
        return _Place(uid, device, before.since_ns)
    is_settled = now_ns - before.since_ns >= SETTLED_NS
    return _Place(uid, device, now_ns + DOUBT_NS if is_settled else now_ns)
