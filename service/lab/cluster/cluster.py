"""A whole cluster: the lab's site with an API server and real nodes in it; built, found again, described."""

import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from typing import Any

from service.lab.cluster.cni import brings_routes, daemon
from service.lab.cluster.control_plane import ControlPlane, member_of
from service.lab.cluster.kubectl import Kubectl
from service.lab.cluster.machine import Machine
from service.lab.cluster.pod import find_pod, is_ready
from service.lab.cluster.runtime import CONTAINERD_SOCKET
from service.lab.lab import Lab
from service.lab.plan import PlannedPod
from service.lab.process import ProcessRecord, is_alive, log_tail, spawn
from service.lab.state import LabState
from service.lab.status import wait_for
from service.model.errors import OperatorError, TransientError

SERVICE_NAMESPACE = "egressgw-system"
POD_TIMEOUT_S = 120.0
CTR = ("ctr", "--address", str(CONTAINERD_SOCKET), "--namespace", "k8s.io")


class Cluster(Lab):
    """A cluster that is up. Like `Lab` it holds no resources; its pods are asked of the API server each time."""

    def __init__(self, state: LabState) -> None:
        super().__init__(state)
        self.control_plane = ControlPlane(self.folder, self.plan)
        self.machines = {node.name: Machine(state.options.name, self.folder, node) for node in self.plan.nodes}
        self.kubectl = Kubectl(self.control_plane.kubeconfig, script=self.control_plane.kubectl)

    @classmethod
    def find(cls, name: str) -> "Cluster":
        """The cluster of that name. Raises OperatorError where there is none, or only a half-built one."""
        found = Lab.find(name)
        if not found.state.options.kubernetes:
            raise OperatorError(f"the lab {name!r} has no Kubernetes; `egressgw lab up --kubernetes` builds a cluster")
        return cls(found.state)

    # -- programs --

    @property
    def node_programs(self) -> tuple[str, ...]:
        """What runs on every node, in the order it is started in: a kubelet that finds no containerd ends."""
        options = self.state.options
        proxy = "" if options.proxy_mode == "none" else "kube-proxy"
        return tuple(kind for kind in ("containerd", "kubelet", proxy, daemon(options.cni)) if kind)

    def start_member(self, kind: str) -> ProcessRecord:
        """Start one program of the control plane, if it is not running."""
        member = member_of(self.plan)
        log = self.control_plane.folder / f"{kind}.log"
        known = self.state.process(kind, member.name)
        if known is not None and is_alive(known):
            return known
        record = spawn(kind, member.name, member.netns, self.control_plane.command(kind), log, self.folder)
        self.remember(record)
        return record

    def machine(self, node: str) -> Machine:
        """Raises OperatorError where there is no such node."""
        return self.machines[self.node(node).name]

    def container_processes(self, node: str, container: str) -> list[int]:
        """Host pids in the containers of that name on the node, by its own containerd: needs no API server."""
        label = f'labels."io.kubernetes.container.name"=={container}'
        machine = self.machine(node)
        identifiers = machine.run(*CTR, "containers", "ls", "-q", label).split()
        return [pid for identifier in identifiers for pid in machine.cgroup.processes(identifier)]

    # -- pods --

    def pod(self, full_name: str) -> PlannedPod:
        """By `namespace/name`. Raises OperatorError where it is not there or does not run."""
        namespace, _, name = full_name.partition("/")
        found = find_pod(self.kubectl.get("-n", namespace, "pod", name), self._processes_of_pod)
        if found is None:
            raise OperatorError(f"the pod {full_name} does not run")
        return found

    def pods(self, *selection: str) -> list[PlannedPod]:
        """Those that run, of all namespaces or as `selection` (for kubectl) says, without host-network pods."""
        documents = self.kubectl.get("pods", *(selection or ("--all-namespaces",)))["items"]
        found = [find_pod(document, self._processes_of_pod) for document in documents]
        return [pod for pod in found if pod is not None and pod.on_bridge]

    def _processes_of_pod(self, node: str, uid: str) -> list[int]:
        return sorted(self.machine(node).cgroup.processes(f"pod{uid}"))

    # -- waiting --

    def wait(self, what: str, question: Callable[[], Any], *, timeout_s: float = POD_TIMEOUT_S) -> Any:
        """As `wait_for`; where kubectl fails, that is no answer yet."""

        def ask() -> Any:
            try:
                return question()
            except (OperatorError, subprocess.TimeoutExpired) as error:
                raise TransientError(str(error)) from error

        return wait_for(what, ask, timeout_s=timeout_s)

    def wait_api(self, *, timeout_s: float = 60.0) -> None:
        """Until the API server says that it is ready. Raises TransientError when time is up."""
        self.wait(
            "the API server to be ready", lambda: self.kubectl("get", "--raw", "/readyz") == "ok", timeout_s=timeout_s
        )

    def wait_nodes(self, *, timeout_s: float = POD_TIMEOUT_S) -> None:
        """Until every node is Ready and pods may be placed on it."""
        names = {node.name for node in self.plan.nodes}

        def are_ready() -> bool:
            self.assert_alive()
            items = self.kubectl.get("nodes")["items"]
            return names <= {item["metadata"]["name"] for item in items if is_ready(item) and not _is_new(item)}

        self.wait("every node to be Ready", are_ready, timeout_s=timeout_s)

    def wait_addresses(self, *, timeout_s: float = POD_TIMEOUT_S) -> None:
        """Until the kubelet of every node has told its address."""

        def are_told() -> bool:
            self.assert_alive()
            items = self.kubectl.get("nodes")["items"]
            return all(item.get("status", {}).get("addresses") for item in items)

        self.wait("every node to have an address", are_told, timeout_s=timeout_s)

    def wait_pod_routes(self, *, timeout_s: float = POD_TIMEOUT_S) -> None:
        """Until the CNI has laid ways from every node to the pods of every other."""
        if not brings_routes(self.state.options.cni):
            return
        pairs = list(permutations(self.plan.nodes, 2))

        def are_laid() -> bool:
            self.assert_alive()
            return all(
                self.machines[node.name].run("ip", "route", "show", str(other.pod_cidr)) for node, other in pairs
            )

        self.wait("ways to the pods of every node", are_laid, timeout_s=timeout_s)

    def wait_rollout(self, kind_and_name: str, *, namespace: str, timeout_s: float = POD_TIMEOUT_S) -> None:
        """Until a DaemonSet or Deployment (`daemonset/NAME`) is whole, as `kubectl rollout status` sees it."""
        limit = f"--timeout={timeout_s:.0f}s"
        self.kubectl.run("-n", namespace, "rollout", "status", kind_and_name, limit, timeout_s=timeout_s + 10)

    def wait_pods(self, *full_names: str, timeout_s: float = POD_TIMEOUT_S) -> None:
        """Until these pods are Ready."""
        by_namespace: dict[str, list[str]] = {}
        for full_name in full_names:
            namespace, _, name = full_name.partition("/")
            by_namespace.setdefault(namespace, []).append(f"pod/{name}")
        for namespace, names in by_namespace.items():
            words = ("-n", namespace, "wait", "--for=condition=Ready", f"--timeout={timeout_s:.0f}s", *names)
            self.kubectl.run(*words, timeout_s=timeout_s + 10)

    def assert_alive(self) -> None:
        """Raise OperatorError with the last words of a program that has ended."""
        for record in self.state.processes:
            if record.kind != "capture" and not is_alive(record):
                raise OperatorError(f"{record.kind} of {record.member} ended:\n{log_tail(record)}")

    # -- description --

    def enter(self, place: str, *command: str) -> list[str]:
        """The command that runs `command` in a pod (by kubectl), on a node with its files, or at another place."""
        if "/" in place:
            namespace, _, name = place.partition("/")
            terminal = ["-it"] if sys.stdin.isatty() and sys.stdout.isatty() else []
            return [str(self.control_plane.kubectl), "-n", namespace, "exec", *terminal, name, "--", *command]
        if place in self.machines:
            return self.machines[place].enter(*command)
        return super().enter(place, *command)

    def info(self) -> dict[str, Any]:
        """What `lab info --json` prints: as of any lab, and how to reach the API server."""
        described = super().info()
        for node in described["nodes"]:
            node["programs"] = {kind: self._pid(kind, node["name"]) for kind in self.node_programs}
            node["mount_namespace"] = str(self.machines[node["name"]].mount_namespace)
            node["cgroup"] = self.machines[node["name"]].cgroup.path
            node["config"] = None
            for container in ("agent", "keeper"):
                node[f"{container}_pid"] = self._container_pid(node["name"], container)
        member = member_of(self.plan)
        described["controllers"] = []
        described["manifests"] = str(self.folder / "deploy")
        described["pods"] = [self._describe(document) for document in self._documents()]
        described["kubeconfig"] = str(self.control_plane.kubeconfig)
        described["kubectl"] = str(self.control_plane.kubectl)
        described["api_server"] = {"netns": member.netns, "ip": str(member.ip), "port": self.control_plane.port}
        return described

    def _documents(self) -> list[dict[str, Any]]:
        documents: list[dict[str, Any]] = self.kubectl.get("pods", "--all-namespaces")["items"]
        return documents

    def _container_pid(self, node: str, container: str) -> int | None:
        try:
            pids = self.container_processes(node, container)
        except OperatorError:
            # Its containerd is dead.
            return None
        return pids[0] if pids else None

    def _describe(self, document: dict[str, Any]) -> dict[str, Any]:
        metadata, spec = document["metadata"], document["spec"]
        found = find_pod(document, self._processes_of_pod)
        return {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "labels": metadata.get("labels", {}),
            "netns": found.netns if found else None,
            "ip": document.get("status", {}).get("podIP"),
            "node": spec.get("nodeName"),
            "device": None,
            "attached": "host" if spec.get("hostNetwork") else "bridge",
        }


def find_lab(name: str) -> Lab:
    """The lab of that name, a cluster or not. Raises OperatorError where there is none, or only a half-built one."""
    found = Lab.find(name)
    return Cluster(found.state) if found.state.options.kubernetes else found


def _is_new(node: dict[str, Any]) -> bool:
    """Ready, but the controller manager has not noticed it."""
    return any(taint["key"].startswith("node.kubernetes.io/") for taint in node["spec"].get("taints", []))
