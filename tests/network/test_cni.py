"""A CNI beside which nothing was tested is known by what it makes on every node (rule N2)."""

import pytest

from service.network.cni import unsupported_cni


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cilium_host", "Cilium"),
        ("bpfin.cali", "Calico with its eBPF data plane"),
        ("antrea-gw0", "Antrea"),
        ("ovn-k8s-mp0", "OVN-Kubernetes"),
        ("ovn0", "Kube-OVN"),
    ],
)
def test_a_cni_that_enforces_in_ebpf_or_ovs_is_told_by_its_device(device: str, name: str) -> None:
    assert unsupported_cni(["lo", "eth0", device, "veth1"]) == (name, device)


@pytest.mark.parametrize(
    "devices",
    [
        ["lo", "eth0", "cni0", "vethd2f31c0a", "flannel.1"],
        ["lo", "eth0", "kube-bridge", "kube-dummy-if", "tunl0"],
        ["lo", "eth0", "cali0a1b2c3d4e5", "vxlan.calico", "tunl0"],
        ["lo", "eth0", "ovs-system", "br-vms"],
    ],
    ids=["bridge or flannel", "kube-router", "Calico with iptables", "Open vSwitch for virtual machines"],
)
def test_what_leaves_pods_to_the_nodes_own_stack_is_none(devices: list[str]) -> None:
    assert unsupported_cni(devices) == ("", "")
