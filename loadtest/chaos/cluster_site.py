"""The same site as a real cluster: its objects are in an API server, its pods and our programs are in containers."""

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import yaml

from loadtest.chaos.site import ChaosSite
from loadtest.gateway import defect
from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import create_clients
from service.lab.cluster.cluster import SERVICE_NAMESPACE, Cluster
from service.lab.cluster.fault import apply_cluster_fault
from service.lab.cluster.installation import install
from service.lab.fault import Fault
from service.lab.plan import LabOptions, PlannedNode, PlannedPod
from service.lab.status import fetch_json
from service.model.errors import OperatorError, TransientError

CALM_S = 45.0
"""A kubelet may wait ten seconds and more before it starts a container again."""


def raise_cluster(options: LabOptions, report: Any) -> "ClusterSite":
    """A cluster with the service and a pod of each user on each node. Raises OperatorError where a step fails."""
    cluster = cluster_up(options, replace=True, report=report)
    report("installing the service")
    install(cluster)
    report("pods of alice, carol and paul")
    return ClusterSite(cluster, names=create_clients(cluster))


@dataclass
class ClusterSite(ChaosSite):
    """`ChaosSite` of a real cluster."""

    lab: Cluster
    names: tuple[str, ...] = ()
    """Of the pods with traffic."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Of each container of the service, as last seen."""
    calm_s: float = CALM_S
    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What was put, by name."""

    @cached_property
    def pods(self) -> tuple[PlannedPod, ...]:
        """Those with traffic, as they are when first asked for."""
        return tuple(self.lab.pod(name) for name in self.names)

    @cached_property
    def nodes(self) -> tuple[PlannedNode, ...]:
        """With their real pods."""
        return tuple(
            replace(node, pods=tuple(pod for pod in self.pods if pod.node == node.name)) for node in self.lab.plan.nodes
        )

    @property
    def controllers(self) -> tuple[str, ...]:
        """Names of their pods, by the API server."""
        items = self._get("-n", SERVICE_NAMESPACE, "pods", "-l", "app.kubernetes.io/name=egressgw-controller")["items"]
        return tuple(item["metadata"]["name"] for item in items)

    def _get(self, *arguments: str) -> Any:
        try:
            return self.lab.kubectl.get(*arguments)
        except (OperatorError, subprocess.TimeoutExpired) as error:
            raise TransientError(str(error)) from error

    def wait_until_whole(self) -> None:
        """Every agent sees the whole cluster in order."""
        names = tuple(node.name for node in self.lab.plan.nodes)

        def is_whole() -> bool:
            for name in names:
                if missing := defect(self.status(name), names):
                    raise TransientError(f"{name} says: {missing}")
            return True

        self.lab.wait("the cluster to be whole", is_whole)

    # -- objects --

    def put(self, name: str, *documents: dict[str, Any]) -> None:
        """By the API server. What was there under that name and is not any more is deleted."""
        former, self.documents[name] = self.documents.get(name, []), list(documents)
        if documents:
            self.lab.wait(f"{name} to be applied", lambda: self._apply(*documents), timeout_s=30.0)
        kept = [_identity(document) for document in documents]
        gone = [document for document in former if _identity(document) not in kept]
        if gone:
            self.delete(*gone)

    def _apply(self, *documents: dict[str, Any]) -> bool:
        self.lab.kubectl.apply(*documents)
        return True

    def delete(self, *documents: dict[str, Any]) -> None:
        """And do not wait for it."""
        words = ("delete", "--ignore-not-found", "--wait=false", "-f", "-")
        self.lab.kubectl.run(*words, text=yaml.safe_dump_all(documents))

    # -- programs --

    def status(self, member: str) -> dict[str, Any]:
        """What an agent or controller says. Raises TransientError where it does not answer."""
        node = next((node for node in self.lab.plan.nodes if node.name == member), None)
        if node is not None:
            return fetch_json(node.netns, str(node.ip), "/v1/status")
        try:
            pod = self.lab.pod(f"{SERVICE_NAMESPACE}/{member}")
        except OperatorError as error:
            raise TransientError(str(error)) from error
        return fetch_json(pod.netns, str(pod.ip), "/v1/status")

    def fault(self, member: str, fault: Fault, only: str | None = None) -> None:
        """As `egressgw lab fault`."""
        if fault is Fault.KILL:
            self.ended[only or "all", member] = fault.value
        apply_cluster_fault(self.lab, member, fault, only=only)

    def signal_containers(self, container: str, node: str, number: signal.Signals) -> None:
        """To every process of these containers of a node."""
        for pid in self.lab.container_processes(node, container):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def ended_by_themselves(self) -> Iterator[str]:
        """Containers that were restarted although no event has ended one of that name, and our own programs."""
        yield from super().ended_by_themselves()
        now = self._restarts()
        touched = {kind for kind, _ in self.ended}
        for name, count in now.items():
            if count > self.restarts[name] and not touched & {"all", name.rpartition("/")[2]}:
                yield f"{name} was restarted {count - self.restarts[name]} times"
        self.restarts = now
        self.ended.clear()

    def _restarts(self) -> Counter[str]:
        pods = self._get("-n", SERVICE_NAMESPACE, "pods")["items"]
        return Counter(
            {
                f"{pod['metadata']['name']}/{container['name']}": container["restartCount"]
                for pod in pods
                for container in pod["status"].get("containerStatuses", [])
            }
        )

    def start_traffic(self) -> None:
        """From here on every restart of a container counts."""
        self.restarts = self._restarts()
        super().start_traffic()

    def restore_cni(self, node: PlannedNode) -> None:
        """Nobody does it here: events that need it are not played."""
        raise OperatorError("kube-proxy and the CNI plugins write their own rules")


def _identity(document: dict[str, Any]) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]
