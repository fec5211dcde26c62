"""The lab with a real API server in it: agents, keepers and controllers read it, and the test is its kubelets.

No pod is run: the lab's pods are there, and their objects are written as kubelets would. A cluster in which everything
is real is another test.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from service.lab.cluster.control_plane import ControlPlane
from service.lab.cluster.kubectl import Kubectl
from service.lab.configuration import member_folder
from service.lab.fault import Fault
from service.lab.lab import Lab, lab_down, lab_up, wait_until_ready
from service.lab.plan import LabOptions, PlannedNode, PlannedPod
from service.lab.process import end_processes, spawn
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole
from tests.e2e.site import Site
from tests.kubernetes.control_plane import CRDS

API_MEMBER = "controller1"
GATEWAY = ("anthosnetworkgateway.networking.gke.io", "default", "-n", "kube-system")


class KubernetesSite(Site):
    """A site whose objects are an API server's."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.plane = ControlPlane(lab.folder, lab.plan)
        self.kubectl = Kubectl(self.plane.kubeconfig, script=self.plane.kubectl)

    # -- the control plane --

    def start_plane(self) -> None:
        self.plane.write_files()
        for kind in ("etcd", "kube-apiserver"):
            self.start_api(kind)
        self.kubectl.apply(CRDS_TEXT)
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")

    def start_api(self, kind: str = "kube-apiserver") -> None:
        netns, log = self.lab.plan.controllers[0].netns, self.plane.folder / f"{kind}.log"
        self.lab.remember(spawn(kind, API_MEMBER, netns, self.plane.command(kind), log, self.lab.folder))
        if kind == "kube-apiserver":
            self.wait("the API server", self._is_api_ready, timeout_s=90)

    def _is_api_ready(self) -> bool:
        return self.kubectl.run("get", "--raw", "/readyz", check=False).stdout == "ok"

    def kill_api(self) -> None:
        self.fault(API_MEMBER, Fault.KILL, only="kube-apiserver")

    # -- objects --

    def write_nodes(self) -> None:
        # As deploy/namespace.yaml makes it; the validity of the statuses is kept there.
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "egressgw-system"}})
        for user in {pod.namespace: None for pod in self.lab.plan.pods}:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": user, "labels": {"user": user}}}
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": user}}
            self.kubectl.apply(namespace, account)
        for node in self.lab.plan.nodes:
            self.write_node(node)
        for pod in self.lab.plan.pods:
            self.write_pod(pod)

    def write_node(self, node: PlannedNode) -> None:
        """As its kubelet registers it, with the range that a controller manager would give it."""
        labels = {"node-role.kubernetes.io/control-plane": ""} if node.role is NodeRole.CONTROL_PLANE else {}
        spec = {"podCIDR": str(node.pod_cidr), "podCIDRs": [str(node.pod_cidr)]}
        self.kubectl.apply(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}, "spec": spec}
        )
        self.report_node(node.name, ready="True", address=str(node.ip))

    def report_node(self, name: str, *, ready: str, message: str = "", address: str = "") -> None:
        condition = {"type": "Ready", "status": ready, "reason": "Kubelet", "message": message}
        status: dict[str, Any] = {"conditions": [condition]}
        if address:
            status["addresses"] = [{"type": "InternalIP", "address": address}]
        self._patch_status("node", name, "", status)

    def write_pod(
        self, pod: PlannedPod, *, name: str = "", role: str = "", phase: str = "Running", **spec: Any
    ) -> None:
        """An object for a pod of the lab; another `name` or `role` than the planned one where given."""
        name = name or pod.name
        metadata = {
            "name": name,
            "namespace": pod.namespace,
            "labels": {"role": role or pod.role, "user": pod.namespace},
        }
        full = {
            "nodeName": pod.node,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none"}],
        } | spec
        self.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": full})
        ip = str(pod.ip)
        status = {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]}
        self._patch_status("pod", name, pod.namespace, status)

    def delete_pod(self, namespace: str, name: str) -> None:
        self.kubectl("delete", "pod", name, "-n", namespace, "--force", "--grace-period=0")

    def _patch_status(self, kind: str, name: str, namespace: str, status: dict[str, Any]) -> None:
        place = ("-n", namespace) if namespace else ()
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, *place, "--subresource=status", "--type=strategic", "-p", patch)

    # -- questions --

    def told(self, *where: str) -> dict[str, Any]:
        """The status of an object, empty before the first."""
        found = self.kubectl.run("get", *where, "-o", "json", check=False)
        return json.loads(found.stdout).get("status") or {} if found.returncode == 0 else {}

    def holders(self) -> dict[str, str]:
        """As users read it."""
        held: dict[str, str] = self.told(*GATEWAY).get("floatingIPs", {})
        return held

    def described(self, *where: str) -> str:
        return self.kubectl("describe", *where)


CRDS_TEXT = "---\n".join(path.read_text(encoding="utf-8") for path in sorted(CRDS.glob("*.yaml")))


@contextmanager
def kubernetes_site(name: str) -> Iterator[KubernetesSite]:
    """Build it, start everything, and clear it all away."""
    former = os.environ.get("KUBECONFIG")
    try:
        site = KubernetesSite(lab_up(LabOptions(name=name), processes=False))
        # Programs that are started, or started again, take it from here.
        os.environ["KUBECONFIG"] = str(site.plane.kubeconfig)
        site.start_plane()
        site.write_nodes()
        for member in site.lab.plan.members:
            _configure(site.lab, member)
        _start(site.lab)
        wait_until_ready(site.lab, lambda line: None)
        yield site
    finally:
        os.environ.pop("KUBECONFIG", None)
        if former is not None:
            os.environ["KUBECONFIG"] = former
        lab_down(name)


def _configure(lab: Lab, member: str) -> None:
    """What Kubernetes tells is not configured: role, gossip seeds, ranges."""
    path = member_folder(lab.folder, member) / "config.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings |= {"source": "kubernetes"}
    for key in ("role", "gossip"):
        settings.pop(key)
    for key in ("pod_cidrs", "service_cidrs"):
        settings["datapath"].pop(key)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def _start(lab: Lab) -> None:
    """Controllers first: members may come in any order."""
    for controller in lab.plan.controllers:
        _start_program(lab, "controller", controller.name, controller.netns)
    for node in lab.plan.nodes:
        for kind in ("keeper", "agent"):
            _start_program(lab, kind, node.name, node.netns)


def _start_program(lab: Lab, kind: str, member: str, netns: str) -> None:
    config = str(member_folder(lab.folder, member) / "config.yaml")
    lab.start(kind, member, netns, "service", kind, "--config", config)


def restart_as(lab: Lab, kind: str, node: str) -> None:
    """Stop one program properly and start it again, as a rolling update does."""
    record = lab.state.process(kind, node)
    if record is None:
        raise OperatorError(f"no {kind} on {node}")
    end_processes([record], grace_s=5)
    _start_program(lab, kind, node, record.netns)
