"""Which CNI enforces NetworkPolicy in eBPF or OVS on this node, where nothing that we hang beside it was tested (N2).

Told by the devices that it makes on every node. Open vSwitch alone is none: hosts have it for virtual machines.
Sources: cilium pkg/defaults (`HostDevice`), calico felix/dataplane/linux (`bpfin.cali`), antrea pkg/agent/config
(`antrea-gw0`), ovn-kubernetes pkg/types (`ovn-k8s-mp0`), kube-ovn pkg/util (`ovn0`).
"""

from collections.abc import Iterable

_DEVICES = {
    "cilium_host": "Cilium",
    "bpfin.cali": "Calico with its eBPF data plane",
    "antrea-gw0": "Antrea",
    "ovn-k8s-mp0": "OVN-Kubernetes",
    "ovn0": "Kube-OVN",
}


def unsupported_cni(devices: Iterable[str]) -> tuple[str, str]:
    """(its name, the device that tells it) by the names of the node's devices; two empty words where there is none."""
    present = frozenset(devices)
    return next(((name, device) for device, name in _DEVICES.items() if device in present), ("", ""))
