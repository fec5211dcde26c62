"""A cluster with the service in it, and what its objects and nodes say."""

from collections.abc import Callable
from typing import Any

from service.lab.cluster.clients import USERS, client_name
from service.lab.cluster.cluster import POD_TIMEOUT_S, SERVICE_NAMESPACE
from service.lab.cluster.control_plane import member_of
from service.lab.cluster.fault import apply_cluster_fault
from service.lab.cluster.installation import AGENT, CONTROLLER, deploy_folder, install
from service.lab.fault import Fault
from service.lab.witness import PodStream
from tests.cluster.site import ClusterSite
from tests.e2e.site import FLOATING_IPS, gateway, policy

CLUSTER_NAMESPACE = "cluster-lab"
"""Where the user makes the gateway object."""
GATEWAY = "anthosnetworkgateway.networking.gke.io"
NODE = "anthosnetworkgatewaynode.networking.gke.io"
NODES = ("control1", "worker1", "worker2")
_LONG_LEASE = {"lease": {"max_lease_ms": 15_000}}
_PICTURE = """
ip rule
ip route show table all | grep -v 'dev \\(veth\\|lo\\)' | sort
ip -o link | sed 's/^[0-9]*: //; s/ .*//' | grep -v '^veth'
nft list tables | grep -v 'table ip6* \\(filter\\|nat\\|mangle\\|raw\\)$'
for device in $(ls /sys/class/net | grep -v '^veth'); do
  for way in ingress egress; do tc filter show dev "$device" "$way"; done
done
for device in all default eth0 eth1 cni0 kube-bridge; do
  cat /proc/sys/net/ipv4/conf/$device/send_redirects 2>&1 || true
done
ls -A /sys/fs/bpf /var/lib/egressgw /run/egressgw 2>&1 || true
for device in $(ls /sys/class/net | grep '^veth'); do tc filter show dev "$device" ingress; done
"""


def user_gateway() -> dict[str, Any]:
    document = gateway(*FLOATING_IPS)
    document["metadata"]["namespace"] = CLUSTER_NAMESPACE
    return document


def user_policy() -> dict[str, Any]:
    """The two rules of the documentation's example."""
    document = policy("egress", FLOATING_IPS[0], user="alice")
    document["spec"]["egress"] += policy("", "", user="paul")["spec"]["egress"]
    return document


class ServiceSite(ClusterSite):
    """`ClusterSite` with agents, controllers and the user's two objects."""

    pictures_before: dict[str, str]
    """Of every node before the first installation."""

    # -- installing --

    def install(self) -> None:
        """As the documentation says, with the user's two objects; return when the example's pods are steered."""
        install(self.cluster, _LONG_LEASE)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CLUSTER_NAMESPACE}}
        self.cluster.kubectl.apply(namespace)
        self.cluster.kubectl.apply(user_gateway(), user_policy())
        self.wait_whole()
        for user in USERS:
            for node in NODES:
                self.wait_seen(client_name(user, node), self.node_ip(node) if user == "carol" else FLOATING_IPS[0])

    def uninstall(self) -> None:
        """Take everything away, nodes included, by the steps that `deploy/uninstall.yaml` names."""
        kubectl, folder = self.cluster.kubectl, deploy_folder(self.cluster.folder)
        kubectl("delete", "egressnatpolicies", "--all")
        kubectl("delete", "anthosnetworkgateways", "--all-namespaces", "--all")
        kubectl("-n", SERVICE_NAMESPACE, "patch", AGENT, "--patch-file", str(folder / "uninstall.yaml"))
        self.cluster.wait_rollout(AGENT, namespace=SERVICE_NAMESPACE)
        kubectl("delete", "-k", str(folder))

    def picture(self, node: str) -> str:
        """Everything on the node that the service may touch."""
        return self.cluster.machine(node).run("sh", "-c", _PICTURE)

    # -- what kubectl shows --

    def moved_from(self, holder: str, floating_ip: str = FLOATING_IPS[0]) -> bool:
        """Status names another holder than that."""
        return self.shown_holder(floating_ip) not in (None, holder)

    def gateway_status(self) -> dict[str, Any]:
        """Empty until the leader has written it."""
        status: dict[str, Any] = self.cluster.kubectl.get("-n", "kube-system", GATEWAY, "default").get("status", {})
        return status

    def shown_holder(self, floating_ip: str) -> str | None:
        holder: str | None = self.gateway_status().get("floatingIPs", {}).get(floating_ip)
        return holder

    def policy_status(self, name: str) -> dict[str, Any]:
        """Empty until the leader has written it."""
        status: dict[str, Any] = self.cluster.kubectl.get("egressnatpolicy", name).get("status", {})
        return status

    def node_status(self, node: str) -> dict[str, Any]:
        """Empty until the leader has written it."""
        status: dict[str, Any] = self.cluster.kubectl.get("-n", "kube-system", NODE, node).get("status", {})
        return status

    def said(self, word: str, *command: str) -> str | None:
        """What kubectl prints, once the word is in it. None before: to `wait` an empty text would be an answer."""
        printed: str = self.cluster.kubectl(*command)
        return printed if word in printed else None

    def is_node_ready(self, node: str) -> bool:
        conditions = self.cluster.kubectl.get("node", node)["status"]["conditions"]
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def agents_available(self) -> int:
        found = self.cluster.kubectl.get("-n", SERVICE_NAMESPACE, AGENT)
        return int(found["status"].get("numberAvailable", 0))

    def restarts(self, *, without: str = "") -> dict[str, int]:
        """How often each container of the service was restarted."""
        pods = self.cluster.kubectl.get("-n", SERVICE_NAMESPACE, "pods")["items"]
        return {
            f"{pod['metadata']['name']}/{container['name']}": container["restartCount"]
            for pod in pods
            if pod["spec"].get("nodeName") != without
            for container in pod["status"]["containerStatuses"]
        }

    def set_image(self, image: str) -> None:
        """As the documentation says: another tag in the manifests, applied."""
        folder = self.cluster.folder / "deploy"
        path = folder / "kustomization.yaml"
        text = path.read_text(encoding="utf-8")
        tag = next(line for line in text.splitlines() if "newTag:" in line)
        path.write_text(text.replace(tag, f"  newTag: {image.rpartition(':')[2]}"), encoding="utf-8")
        self.cluster.kubectl("apply", "-k", str(folder))

    def wait_rolled_out(self) -> None:
        for workload in (AGENT, CONTROLLER):
            self.cluster.wait_rollout(workload, namespace=SERVICE_NAMESPACE, timeout_s=400)

    def wait_whole(self) -> None:
        """What the API server says is so too, not only what a node says."""
        super().wait_whole()

        def is_shown() -> bool:
            status = self.gateway_status()
            is_placed = set(status.get("floatingIPs", ())) == set(FLOATING_IPS)
            return is_placed and status["nodes"] == dict.fromkeys(NODES, "Up")

        self.cluster.wait("status to show it", is_shown)

    def wait(self, what: str, question: Callable[[], Any], *, timeout_s: float = POD_TIMEOUT_S) -> Any:
        """Where kubectl fails, that is no answer yet."""
        return self.cluster.wait(what, question, timeout_s=timeout_s)

    # -- faults --

    def fault(self, member: str, *faults: Fault, only: str | None = None) -> None:
        for fault in faults:
            apply_cluster_fault(self.cluster, member, fault, only=only)

    def kill_api_server(self) -> None:
        self.fault(member_of(self.cluster.plan).name, Fault.KILL, only="kube-apiserver")

    def start_api_server(self) -> None:
        self.fault(member_of(self.cluster.plan).name, Fault.RESTART, only="kube-apiserver")
        self.cluster.wait_api()

    # -- traffic --

    def node_ip(self, node: str) -> str:
        return str(self.cluster.node(node).ip)

    def open_stream(self, pod: str, *, interval_ms: float = 5.0) -> PodStream:
        return PodStream(self.lab, self.pod(pod), "udp", "8.8.8.8", interval_ms=interval_ms)
