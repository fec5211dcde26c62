"""The handover device `egw1`: where packets of a floating IP that moves on purpose wait for the successor (rule R4).

They wait in the kernel's queue of a neighbour that is not resolved. Both ends of the pair are on this node, and nothing
ever leaves by it: the program on its egress takes every frame. Synchronous: called in the thread that owns the socket.
"""

from service.model.errors import OperatorError, TransientError
from service.network.link import Interface, find_interface
from service.network.route_socket import RouteSocket
from service.network.sysctl import Sysctl

HANDOVER_DEVICE = "egw1"
HANDOVER_PEER = "egw1-end"
"""A veth device has two ends, and nothing listens at this one."""
HANDOVER_DEVICES = (HANDOVER_DEVICE, HANDOVER_PEER)
_QUEUE_BYTES = 8 << 20
"""Of each address that moves: what a node sends in a few milliseconds at 10 Gbit/s."""
_ASK_MS = 12
"""Between two questions, as short as kernels have it; after the last one it gives up what waits."""
_ASKS = 9


def ensure_handover_device(ipr: RouteSocket, sysctl: Sysctl) -> Interface:
    """Make it where it is not there, and set it up. Raises OperatorError where the name is somebody else's."""
    present = find_interface(ipr, HANDOVER_DEVICE)
    if present is not None and present.kind != "veth":
        raise OperatorError(
            f"interface {HANDOVER_DEVICE} exists and is not ours ({present.kind or 'a physical device'}); rename it"
        )
    if present is None:
        ipr.link("add", ifname=HANDOVER_DEVICE, kind="veth", peer={"ifname": HANDOVER_PEER})
    for key, value in handover_sysctls().items():
        sysctl.write(key, value, keep_former=False)
    for name in HANDOVER_DEVICES:
        device = find_interface(ipr, name)
        if device is None:
            raise TransientError(f"{name} was deleted while it was being set up")
        if not device.up:
            ipr.link("set", index=device.index, state="up")
    found = find_interface(ipr, HANDOVER_DEVICE)
    if found is None:
        raise TransientError(f"{HANDOVER_DEVICE} was deleted while it was being set up")
    return found


def handover_sysctls() -> dict[str, str]:
    """Keys below /proc/sys/net (kernel: networking/ip-sysctl, arp(7))."""
    neighbour = f"ipv4/neigh/{HANDOVER_DEVICE}"
    return {f"ipv6/conf/{name}/disable_ipv6": "1" for name in HANDOVER_DEVICES} | {
        f"{neighbour}/unres_qlen_bytes": str(_QUEUE_BYTES),
        f"{neighbour}/retrans_time_ms": str(_ASK_MS),
        f"{neighbour}/mcast_solicit": str(_ASKS),
    }


def remove_handover_device(ipr: RouteSocket) -> None:
    """With its other end, and with what waits there."""
    device = find_interface(ipr, HANDOVER_DEVICE)
    if device is not None and device.kind == "veth":
        ipr.link("del", index=device.index)
