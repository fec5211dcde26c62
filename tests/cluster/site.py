"""A real cluster, and the questions that end-to-end tests ask of it; those of a lab without Kubernetes among them."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.lab.cluster.build import missing_for_cluster
from service.lab.cluster.cluster import Cluster
from service.lab.cluster.fault import apply_cluster_fault
from service.lab.fault import Fault
from service.lab.plan import LabOptions, PlannedPod
from tests.e2e.site import Site


def require(options: LabOptions) -> None:
    """In CI a failure where such a cluster cannot be built here, elsewhere a skip; both say what is missing."""
    if reason := missing_for_cluster(options):
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def runs(pid: int) -> bool:
    """The process is there, and no zombie that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def delete(cluster: Cluster, *documents: dict[str, Any]) -> None:
    """Ask for it and return at once; what is not there is no error."""
    cluster.kubectl.run("delete", "--ignore-not-found", "--wait=false", "-f", "-", text=yaml.safe_dump_all(documents))


class ClusterSite(Site):
    """`Site` whose objects are in the API server and whose pods are real."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.cluster = cluster
        self._pods: dict[str, PlannedPod] = {}

    def pod(self, name: str) -> PlannedPod:
        """Known from an earlier call while its sandbox lives, so that it can be asked for without an API server."""
        known = self._pods.get(name)
        if known is None or not Path(known.netns).exists():
            known = self._pods[name] = self.cluster.pod(name)
        return known

    def apply(self, file_name: str, *documents: dict[str, Any]) -> None:
        """The name of a file means nothing here."""
        self.cluster.kubectl.apply(*documents)

    def remove(self, *documents: dict[str, Any]) -> None:
        delete(self.cluster, *documents)

    def relabel(self, pod: PlannedPod, role: str) -> None:
        self.cluster.kubectl("-n", pod.namespace, "label", "--overwrite", "pod", pod.name, f"role={role}")

    def execute(self, pod: str, *command: str) -> str:
        """Run a command in a pod as a user does."""
        namespace, _, name = pod.partition("/")
        return self.cluster.kubectl("-n", namespace, "exec", name, "--", *command)

    def fault(self, member: str, *faults: Fault, only: str | None = None) -> None:
        for fault in faults:
            apply_cluster_fault(self.cluster, member, fault, only=only)

    def bare_pod_sources(self) -> set[str]:
        pods = {str(pod.ip) for pod in self.cluster.pods()}
        return {source for source in self.sources_of(0) if source in pods}
