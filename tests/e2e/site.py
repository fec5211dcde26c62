"""A lab with everything running, and the questions that end-to-end tests ask of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from service.audit.journal import CorruptRecord, read_outbox
from service.lab.capture_site import capture_site
from service.lab.configuration import member_folder
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab
from service.lab.manifest import apply_manifest, write_manifest
from service.lab.plan import PlannedPod
from service.lab.status import fetch_json, wait_for
from service.lab.traffic.frame import read_frames
from service.lab.traffic.leak_check import Violation, find_leaks, is_steered, tenures_of
from service.lab.witness import PodStream, look
from service.model.audit_record import AuditRecord
from service.model.errors import TransientError

FLOATING_IPS = ("192.168.1.100", "192.168.1.101", "192.168.1.102")
OUTSIDE = "8.8.8.8"
ELSEWHERE = "9.9.9.9"
PATIENCE_S = 45.0
RECORD_SLACK_NS = 100_000_000


def gateway(*floating_ips: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "AnthosNetworkGateway",
        "metadata": {"namespace": "kube-system", "name": "default"},
        "spec": {"floatingIPs": list(floating_ips)},
    }


def policy(
    name: str, source_ip: str, *, user: str, role: str = "frontend", destinations: tuple[str, ...] = ("8.8.8.0/24",)
) -> dict[str, Any]:
    rule = {
        "namespaceSelector": {"matchLabels": {"user": user}},
        "podSelector": {"matchLabels": {"role": role}},
    }
    return {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "EgressNATPolicy",
        "metadata": {"name": name},
        "spec": {"egress": [rule], "destinationCIDRs": list(destinations), "egressSourceIP": source_ip},
    }


class Site:
    """One lab under test."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    # -- objects --

    def apply(self, file_name: str, *documents: dict[str, Any]) -> None:
        apply_manifest(self.lab.manifests, file_name, list(documents))

    def write(self, file_name: str, text: str) -> None:
        write_manifest(self.lab.manifests, file_name, text)

    def delete(self, file_name: str) -> None:
        (self.lab.manifests / file_name).unlink(missing_ok=True)

    def relabel(self, pod: PlannedPod, role: str) -> None:
        """Change one pod's label in the manifests, as a user edits the file."""
        path = self.lab.manifests / f"pods-{pod.node}.yaml"
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        for document in documents:
            if (document["metadata"]["namespace"], document["metadata"]["name"]) == (pod.namespace, pod.name):
                document["metadata"]["labels"]["role"] = role
        apply_manifest(self.lab.manifests, path.name, documents)

    # -- questions --

    def pod(self, name: str) -> PlannedPod:
        return self.lab.pod(name)

    def status(self, node: str = "control1") -> dict[str, Any]:
        planned = self.lab.node(node)
        return fetch_json(planned.netns, str(planned.ip), "/v1/status")

    def holder(self, floating_ip: str, *, asked: str = "control1") -> str | None:
        row = self.status(asked)["floatingIPs"].get(floating_ip, {})
        return row.get("holder")

    def seen(self, pod: str, destination: str = OUTSIDE, proto: str = "udp", *, timeout_s: float = 1.0) -> str:
        return look(self.lab, self.pod(pod), proto, destination, timeout_s=timeout_s)

    def wait(self, what: str, question: Callable[[], Any], *, timeout_s: float = PATIENCE_S) -> Any:
        return wait_for(what, question, timeout_s=timeout_s)

    def wait_seen(self, pod: str, source: str, destination: str = OUTSIDE) -> None:
        self.wait(
            f"{pod} to be seen at {destination} as {source}",
            lambda: self.seen(pod, destination, timeout_s=0.3) == source,
        )

    def wait_held(self, *floating_ips: str) -> None:
        self.wait(
            "every floating IP to have a holder",
            lambda: all(self.holder(floating_ip) for floating_ip in floating_ips),
        )

    def wait_whole(self) -> None:
        """Every node is up and ready, and every floating IP has holder and successor."""

        def is_whole() -> bool:
            status = self.status()
            nodes_fit = all(node["state"] == "Up" and node["ready"] for node in status["nodes"].values())
            rows = status["floatingIPs"].values()
            return nodes_fit and all(row["holder"] and row["successor"] for row in rows)

        self.wait("the cluster to be whole", is_whole)

    def drops(self, reason: str) -> int:
        """Of all nodes together."""
        return sum(self._drops_of(node.name, reason) for node in self.lab.plan.nodes)

    def _drops_of(self, node: str, reason: str) -> int:
        try:
            return int(self.status(node)["drops"].get(reason, 0))
        except TransientError:
            return 0

    def fault(self, member: str, *faults: Fault, only: str | None = None) -> None:
        for fault in faults:
            apply_fault(self.lab, member, fault, only=only)

    @contextmanager
    def stream(
        self, pod: str, *, proto: str = "udp", destination: str = OUTSIDE, interval_ms: float = 5.0
    ) -> Iterator[PodStream]:
        length = self.log_length()
        stream = PodStream(self.lab, self.pod(pod), proto, destination, interval_ms=interval_ms)
        try:
            self.wait("the stream to begin", lambda: self.log_length() > length)
            yield stream
        finally:
            stream.close()

    # -- evidence --

    def records(self) -> list[AuditRecord]:
        found = []
        for name in self.lab.plan.members:
            for folder in sorted((member_folder(self.lab.folder, name) / "state").glob("*/")):
                if any(folder.glob("*.audit")):
                    found += [record for record in read_outbox(folder) if not isinstance(record, CorruptRecord)]
        return found

    @contextmanager
    def captured(
        self, path: Path, floating_ips: tuple[str, ...] = FLOATING_IPS
    ) -> Iterator[Callable[[], list[Violation]]]:
        """Capture every port of both segments meanwhile; the value tells the leaks once it is over (rule L1)."""
        leaks: list[Violation] = []
        self.lab.start_capture(path)
        try:
            yield lambda: leaks
        finally:
            summary = self.lab.stop_capture(path)
        assert summary["lost"] == 0, "the capture missed frames, so it proves nothing"
        frames = list(read_frames(path))
        site = capture_site(self.lab.plan, floating_ips)
        tunnelled = (frame.encapsulated and frame.source in site.floating_ips for frame in frames)
        steered = (is_steered(frame, site) for frame in frames)
        assert any(steered) or any(tunnelled), "nothing was steered, so nothing is proved"
        leaks += find_leaks(frames, tenures_of(self.records()), site, slack_ns=RECORD_SLACK_NS)

    def sources_of(self, since: int) -> set[str]:
        """Every source that the outside server has logged since its log was so long."""
        with self.lab.outside_log.open("rb") as log:
            log.seek(since)
            return {json.loads(line)["source"] for line in log if line.endswith(b"\n")}

    def log_length(self) -> int:
        return self.lab.outside_log.stat().st_size

    def bare_pod_sources(self) -> set[str]:
        """Pod addresses that the outside server ever saw: there must be none."""
        pods = {str(pod.ip) for pod in self.lab.plan.pods}
        return {source for source in self.sources_of(0) if source in pods}
