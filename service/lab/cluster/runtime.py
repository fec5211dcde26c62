"""Settings of what runs on every node, whatever its CNI: containerd, kubelet, kube-proxy."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from service.lab.cluster.assets import program
from service.lab.cluster.cni import BIN_FOLDER, CONFIGURATION_FOLDER, PLUGINS
from service.lab.cluster.image import PAUSE_IMAGE
from service.lab.plan import POD_CIDR, PlannedNode
from service.model.gateway_node import NodeRole

CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
CONTAINERD_ROOT = Path("/var/lib/containerd")
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
STATUS_PERIOD_S, LEASE_S = 4, 12
"""How often a kubelet reports, and how long its lease lasts: quicker than usual, so that a death shows in seconds."""

_CONTAINERD = f"""\
version = 2
root = "{CONTAINERD_ROOT}"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{BIN_FOLDER}"
  conf_dir = "{CONFIGURATION_FOLDER}"
"""


def missing_for_runtime() -> str:
    """What is not installed of what a node needs; empty where all is."""
    absent = [name for name in ("containerd", "ctr", "runc", "iptables", "conntrack") if shutil.which(name) is None]
    absent += [str(path) for path in PLUGINS if not path.exists()]
    packages = "Debian's docker.io, containernetworking-plugins, iptables and conntrack"
    return f"not installed: {', '.join(absent)} ({packages})" if absent else ""


def write_node_files(folder: Path, node: PlannedNode, cgroup: str) -> None:
    """Settings of containerd and kubelet, into the node's folder."""
    (folder / "containerd.toml").write_text(_CONTAINERD, encoding="ascii")
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(node, cgroup)), encoding="ascii")


def _kubelet(node: PlannedNode, cgroup: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "enforceNodeAllocatable": [],
        # It tolerates rights that a container on a build machine does not have.
        "featureGates": {"KubeletInUserNamespace": True},
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "evictionHard": dict.fromkeys(("memory.available", "nodefs.available", "imagefs.available"), "0%"),
        "imageGCHighThresholdPercent": 100,
        "resolvConf": "",
        # Only the API server's network reaches it.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "volumePluginDir": "/var/lib/kubelet/plugins",
        "nodeStatusUpdateFrequency": f"{STATUS_PERIOD_S}s",
        "nodeLeaseDurationSeconds": LEASE_S,
        "syncFrequency": "10s",
        "readOnlyPort": 0,
    }
    if node.role is NodeRole.CONTROL_PLANE:
        settings["registerWithTaints"] = [{"key": CONTROL_PLANE_LABEL, "effect": "NoSchedule"}]
    return settings


def node_object(node: PlannedNode) -> dict[str, Any]:
    """The Node as an installer makes it: role and pod range are settled before its kubelet first reports."""
    is_control = node.role is NodeRole.CONTROL_PLANE
    labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"}
    taints = [{"key": CONTROL_PLANE_LABEL, "effect": "NoSchedule"}] if is_control else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels | ({CONTROL_PLANE_LABEL: ""} if is_control else {})},
        "spec": {"podCIDR": str(node.pod_cidr), "podCIDRs": [str(node.pod_cidr)], "taints": taints},
    }


def containerd_command(folder: Path) -> tuple[str, ...]:
    """With the settings of `write_node_files`, which name paths of the machine's own /run and /var."""
    return ("containerd", "--config", str(folder / "containerd.toml"))


def kubelet_command(folder: Path, node: PlannedNode) -> tuple[str, ...]:
    """Under the node's identity; `ControlPlane.write_files` has made its kubeconfig."""
    return (
        str(program("kubelet")),
        f"--config={folder / 'kubelet.yaml'}",
        f"--kubeconfig={folder / 'kubelet.kubeconfig'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.ip}",
    )


def proxy_command(folder: Path, node: PlannedNode, mode: str) -> tuple[str, ...]:
    """`mode`: one of PROXY_MODES. All nodes share one kubeconfig."""
    return (
        str(program("kube-proxy")),
        f"--kubeconfig={folder.parent / 'kube-proxy.kubeconfig'}",
        f"--hostname-override={node.name}",
        f"--proxy-mode={mode}",
        f"--cluster-cidr={POD_CIDR}",
        # Limits of the whole machine, which are not this node's to change.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--healthz-bind-address=127.0.0.1:10256",
    )
