"""The network of a cluster's pods: configuration of its CNI, the program it has on every node, and its rights."""

import json
import shutil
from pathlib import Path
from typing import Any

from service.lab.cluster.assets import program
from service.lab.plan import KUBE_ROUTER, PLAIN_BRIDGE, POD_CIDR, SERVICE_CIDR, LabOptions, PlannedNode
from service.lab.site import POD_BRIDGE

PLUGINS_FOLDER = Path("/usr/lib/cni")
"""Of Debian's package."""
PLUGINS = tuple(PLUGINS_FOLDER / name for name in ("bridge", "host-local", "portmap", "bandwidth", "loopback"))
BIN_FOLDER, CONFIGURATION_FOLDER = Path("/var/lib/cni/bin"), Path("/var/lib/cni/net.d")
"""Of each node: the folders containerd looks into."""
_CONFIGURATION = CONFIGURATION_FOLDER / "10-lab.conflist"
_ROUTING_TABLES = "/etc/iproute2/rt_tables"
_FLANNEL_SUBNET = "/run/flannel/subnet.env"
_BACKENDS = {"flannel-vxlan": "vxlan", "flannel-host-gw": "host-gw"}
_READ = ["get", "list", "watch"]
_RULES = {
    "flanneld": [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": _READ},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    ],
    "kube-router": [
        {
            "apiGroups": [""],
            "resources": ["namespaces", "pods", "services", "nodes", "endpoints"],
            "verbs": _READ,
        },
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": _READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["update"]},
    ],
}
"""As the manifests of each project have them."""


def daemon(cni: str) -> str:
    """Name of the program that the CNI has on every node; empty where it has none."""
    if cni in _BACKENDS:
        return "flanneld"
    return "kube-router" if cni == KUBE_ROUTER else ""


def cni_programs(cni: str) -> tuple[str, ...]:
    """What has to be built for it (`build_cni.sh`)."""
    if cni in _BACKENDS:
        return ("flanneld", "flannel")
    return ("kube-router",) if cni == KUBE_ROUTER else ()


def missing_for_cni(options: LabOptions, ip_vs: Path = Path("/proc/net/ip_vs")) -> str:
    """What its daemon needs and this machine has not, beside what `build_cni.sh` builds; empty where all is there."""
    if options.cni != KUBE_ROUTER:
        return ""
    if shutil.which("ipset") is None:
        return "not installed: ipset"
    if options.proxy_mode == "none" and not ip_vs.exists():
        return "this kernel has no IPVS (CONFIG_IP_VS), by which kube-router is the service proxy"
    return ""


def cni_configuration(cni: str, node: PlannedNode) -> dict[str, Any]:
    """Pods on a bridge, addresses from the node's pod range, host ports, and a limit for pods that are given one."""
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    bandwidth = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    return {"cniVersion": "0.3.1", "name": "egressgw-lab", "plugins": [_first_plugin(cni, node), portmap, bandwidth]}


def _first_plugin(cni: str, node: PlannedNode) -> dict[str, Any]:
    if cni in _BACKENDS:
        # It takes range, MTU and masquerading from what flanneld has written.
        delegate = {"hairpinMode": True, "isDefaultGateway": True}
        return {"type": "flannel", "subnetFile": _FLANNEL_SUBNET, "delegate": delegate}
    if cni == KUBE_ROUTER:
        # kube-router itself writes the node's range and the MTU into it.
        return {"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": True, "ipam": {"type": "host-local"}}
    return {
        "type": "bridge",
        "bridge": POD_BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(node.pod_cidr)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/run/cni-addresses",
        },
    }


def write_cni_files(folder: Path, node: PlannedNode, options: LabOptions) -> None:
    """Configuration of plugin and daemon, into the node's folder."""
    configuration = cni_configuration(options.cni, node)
    (folder / "cni.conflist").write_text(json.dumps(configuration, indent=2), encoding="ascii")
    if options.cni in _BACKENDS:
        (folder / "flannel.json").write_text(json.dumps(_flannel(options), indent=2), encoding="ascii")


def _flannel(options: LabOptions) -> dict[str, Any]:
    # It writes its rules by the same tool as kube-proxy.
    return {
        "Network": str(POD_CIDR),
        "EnableNFTables": options.proxy_mode == "nftables",
        "Backend": {"Type": _BACKENDS[options.cni]},
    }


def cni_commands(folder: Path, cni: str) -> list[list[str]]:
    """What puts plugins and configuration where containerd looks, within the node's mount namespace."""
    commands = [
        ["mkdir", "-p", str(BIN_FOLDER), str(CONFIGURATION_FOLDER)],
        ["cp", "-rs", f"{PLUGINS_FOLDER}/.", str(BIN_FOLDER)],
        ["cp", str(folder / "cni.conflist"), str(_CONFIGURATION)],
    ]
    if cni in _BACKENDS:
        commands.append(["ln", "-s", str(program("flannel")), str(BIN_FOLDER)])
    if cni == KUBE_ROUTER:
        # It names its routing tables there, and /etc is the host's.
        own = "/var/lib/rt_tables"
        commands += [["cp", _ROUTING_TABLES, own], ["mount", "-n", "--bind", own, _ROUTING_TABLES]]
    return commands


def daemon_command(folder: Path, node: PlannedNode, options: LabOptions) -> tuple[str, ...]:
    """Of a CNI that has one."""
    name = daemon(options.cni)
    kubeconfig = folder.parent / f"{name}.kubeconfig"
    if name == "flanneld":
        return (
            *("env", f"NODE_NAME={node.name}", str(program(name))),
            "--kube-subnet-mgr",
            f"--kubeconfig-file={kubeconfig}",
            f"--net-config-path={folder / 'flannel.json'}",
            f"--subnet-file={_FLANNEL_SUBNET}",
            f"--iface={node.ip}",
            "--ip-masq",
        )
    return (
        *("env", f"KUBE_ROUTER_CNI_CONF_FILE={_CONFIGURATION}", str(program(name))),
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        "--run-router=true",
        "--run-firewall=true",
        f"--run-service-proxy={str(options.proxy_mode == 'none').lower()}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        # Every node is on the segment of the others; a tunnel would be IPIP, which not every kernel has.
        "--enable-overlay=false",
        "--routes-sync-period=5s",
        "--injected-routes-sync-period=5s",
    )


def cni_objects(cni: str) -> list[dict[str, Any]]:
    """The rights of its daemon, which goes by its own name at the API server."""
    name = daemon(cni)
    if not name:
        return []
    api, metadata = "rbac.authorization.k8s.io", {"name": f"lab:{name}"}
    role = {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": _RULES[name]}
    binding = {
        "apiVersion": f"{api}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": metadata["name"]},
        "subjects": [{"apiGroup": api, "kind": "User", "name": f"system:{name}"}],
    }
    return [role, binding]


def brings_routes(cni: str) -> bool:
    """The nodes' ways to each other's pods are the CNI's business, not the site's."""
    return cni != PLAIN_BRIDGE
