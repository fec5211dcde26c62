"""Whether a device that an address is behind is believed to be its pod's (rule W11). Pure.

An address passes from pod to pod, and a new pod may have it, behind its own device, before its object says so, while
the object of the former one is still there. What is told of the former one must not be done for the new one. So another
device under the same pod is believed after a while only; one under the object of another pod, at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

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
    """Remembers where each local pod was. Whoever learns of a pod or a device says so; then time passes."""

    def __init__(self) -> None:
        self._places: dict[IPv4Address, _Place] = {}
        self._doubted: dict[IPv4Address, None] = {}

    def is_doubted(self, pod_ip: IPv4Address) -> bool:
        """Whether the device of this address is not believed yet."""
        return pod_ip in self._doubted

    def inherit(self, devices: Mapping[IPv4Address, int]) -> None:
        """Devices that a former agent believed in."""
        self._places = {pod_ip: _Place("", device, -SETTLED_NS) for pod_ip, device in devices.items()}

    def learn(self, pod_ip: IPv4Address, uid: str | None, device: int | None, *, now_ns: int) -> None:
        """Take which pod has the address now, and behind which device it was seen last; None: none."""
        if uid is None or device is None:
            # Where a pod has been is known as long as its object stays: what comes after is another device.
            if uid is None:
                self._places.pop(pod_ip, None)
            self._doubted.pop(pod_ip, None)
            return
        place = self._places[pod_ip] = _place(self._places.get(pod_ip), uid, device, now_ns)
        if place.since_ns > now_ns:
            self._doubted[pod_ip] = None
        else:
            self._doubted.pop(pod_ip, None)

    def pass_time(self, *, now_ns: int) -> tuple[IPv4Address, ...]:
        """The addresses whose device is believed from now on."""
        believed = tuple(pod_ip for pod_ip in self._doubted if self._places[pod_ip].since_ns <= now_ns)
        for pod_ip in believed:
            del self._doubted[pod_ip]
        return believed


def _place(before: _Place | None, uid: str, device: int, now_ns: int) -> _Place:
    if before is None or before.uid not in ("", uid):
        return _Place(uid, device, now_ns)
    if before.device == device:
        return _Place(uid, device, before.since_ns)
    is_settled = now_ns - before.since_ns >= SETTLED_NS
    return _Place(uid, device, now_ns + DOUBT_NS if is_settled else now_ns)
