"""From an earlier version to this one and back, in a real cluster, node by node, under open connections.

The earlier version is a commit: its image and its manifests are made of it. Each step is what an operator does:
`kubectl apply -k` of the other manifests, and the DaemonSet rolls. The way back begins as CHANGELOG.md says, with
programs on tc filters, which every version knows.
"""

import contextlib
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtest import gateway, peer
from loadtest.chaos.judge import judge_speakers
from loadtest.gateway import FLOATING_IPS, SOURCE_IP, Report
from loadtest.rows.flood import check
from loadtest.rows.moves import PORT, dealt
from loadtest.station import Station
from service.lab.capture_site import capture_site
from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import client_name, create_clients
from service.lab.cluster.cluster import CTR, SERVICE_NAMESPACE, Cluster
from service.lab.cluster.image import REPOSITORY, build_project_image
from service.lab.cluster.installation import AGENT, CONTROLLER, deploy_folder, wait_installed, write_deploy_folder
from service.lab.lab import lab_down
from service.lab.plan import PLAIN_BRIDGE, PROXY_MODES, LabOptions, PlannedPod
from service.lab.traffic.frame import read_frames
from service.lab.witness import PodStream
from service.model.errors import OperatorError, TransientError
from service.version import VERSION

BEFORE_VERSION = "0.1.99"
"""What the earlier image says of itself."""
_LONG_LEASE = {"lease": {"max_lease_ms": 15_000}}
_ON_FILTERS = {**_LONG_LEASE, "datapath": {"tcx": False}}
_GIT_TIMEOUT_S, _ROLLOUT_S, _OPEN_S, _ALIVE_S = 60.0, 600.0, 60.0, 20.0
_STREAM_INTERVAL_MS = 5.0


@dataclass(frozen=True, slots=True)
class UpgradeOptions:
    """`before`: a commit or tag of this repository."""

    before: str
    count: int = 1000
    name: str = "egwup"
    cni: str = PLAIN_BRIDGE
    proxy_mode: str = PROXY_MODES[0]


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests each 5 ms of a pod during a step."""

    sent: int
    lost: int
    gap_max_ms: float


@dataclass(frozen=True, slots=True)
class Step:
    """One rollout. Connections by kind: those that were open before it, and those that were opened after it."""

    told: str
    asked: dict[str, int]
    alive: dict[str, int]
    opened: int
    alive_after: int
    streams: dict[str, Stream]
    """Of a pod on each node."""
    sources: tuple[str, ...]
    """That the outside has seen meanwhile, of pods that are to have the floating IP."""
    speakers: tuple[str, ...]
    """Frames of two nodes for one address."""

    @property
    def failures(self) -> list[str]:
        """What must hold whatever is lost."""
        found = [f"{self.told}: two speakers: {told}" for told in self.speakers]
        found += [f"{self.told}: seen as {source}" for source in self.sources if source != SOURCE_IP]
        if self.alive_after != self.opened:
            found.append(f"{self.told}: of {self.opened} connections opened afterwards {self.alive_after} live")
        return found


@dataclass(slots=True)
class Upgrade:
    """There and back."""

    options: UpgradeOptions
    steps: list[Step] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Of all steps."""
        return [failure for step in self.steps for failure in step.failures]


def measure_upgrade(options: UpgradeOptions, report: Report) -> Upgrade:
    """In a cluster of its own. Raises OperatorError where the commit, an image or the cluster cannot be made."""
    result = Upgrade(options)
    with tempfile.TemporaryDirectory(prefix="egressgw-before-") as folder, contextlib.ExitStack() as stack:
        before = Path(folder)
        _check_out(options.before, before)
        report(f"the image of {options.before}")
        image = build_project_image(BEFORE_VERSION, checkout=before)
        lab = LabOptions(name=options.name, cni=options.cni, proxy_mode=options.proxy_mode)
        stack.callback(lab_down, options.name)
        site = _Site(cluster_up(lab, replace=True, report=report), before, image)
        report(f"installing {options.before}")
        site.install(earlier=True)
        stack.enter_context(site.serving())
        for told, settings, is_earlier in (
            ("to the present version", _LONG_LEASE, False),
            ("to tc filters", _ON_FILTERS, False),
            (f"back to {options.before}", _LONG_LEASE, True),
        ):
            report(told)
            result.steps.append(site.roll(told, settings, earlier=is_earlier, count=options.count))
    return result


def _check_out(commit: str, folder: Path) -> None:
    command = ["git", "-C", str(REPOSITORY), "archive", "--format=tar", commit]
    archive = folder / "archive.tar"
    with archive.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, timeout=_GIT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise OperatorError(f"--before {commit}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()


class _Site:
    """The cluster with the one version or the other in it, a pod with connections on each node, and the server."""

    def __init__(self, cluster: Cluster, before: Path, image: Path) -> None:
        self.cluster, self._before = cluster, before
        self._server: Station
        self._sources: set[str] = set()
        for machine in cluster.machines.values():
            machine.run(*CTR, "images", "import", str(image))

    def install(self, *, earlier: bool) -> None:
        self._apply(_LONG_LEASE, earlier=earlier)
        create_clients(self.cluster)
        self.cluster.kubectl.apply(*gateway.manifests((f"{gateway.OUTSIDE}/32", peer.SERVER_NETWORK)))
        self._wait_steered()

    def _apply(self, settings: dict[str, Any], *, earlier: bool) -> None:
        """The manifests of that version, as `kubectl apply -k` takes them; returns when all has rolled out."""
        cluster, folder = self.cluster, deploy_folder(self.cluster.folder)
        checkout = self._before if earlier else REPOSITORY
        write_deploy_folder(cluster.folder, cluster.state.options, settings, checkout=checkout)
        path = folder / "kustomization.yaml"
        path.write_text(retagged(path.read_text(encoding="utf-8"), BEFORE_VERSION if earlier else VERSION), "utf-8")
        cluster.kubectl("apply", "-k", str(folder))
        for workload in (AGENT, CONTROLLER):
            cluster.wait_rollout(workload, namespace=SERVICE_NAMESPACE, timeout_s=_ROLLOUT_S)
        wait_installed(cluster)

    def _wait_steered(self) -> None:
        for pod in self._pods():
            gateway.wait_until_translated(self.cluster, pod)

    def _pods(self) -> list[PlannedPod]:
        return [self.cluster.pod(client_name("alice", node.name)) for node in self.cluster.plan.nodes]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        peer.add_server(self.cluster)
        with Station(self.cluster.plan.router, "conversation") as self._server:
            self._server.ask("serve", address=peer.SERVER, port=PORT)
            yield

    def roll(self, told: str, settings: dict[str, Any], *, earlier: bool, count: int) -> Step:
        """Open connections, let everything roll, and count; what the outside has seen is of this step alone."""
        cluster, pods = self.cluster, self._pods()
        capture = cluster.folder / "upgrade.capture"
        self._sources = set()
        with self._conversations(pods, count) as clients:
            streams = {pod.node: self._stream(pod) for pod in pods}
            cluster.start_capture(capture)
            try:
                self._apply(settings, earlier=earlier)
                self._wait_steered()
                reports = {node: stream.report() for node, stream in streams.items()}
            finally:
                summary = cluster.stop_capture(capture)
                for stream in streams.values():
                    stream.close()
            asked, alive = self._alive(clients)
        if summary["lost"]:
            raise TransientError(f"the capture missed {summary['lost']} frames, so it proves nothing")
        with self._conversations(pods, count) as clients:
            opened, alive_after = self._alive(clients)
        site = capture_site(cluster.plan, FLOATING_IPS)
        speakers = tuple(judge_speakers(read_frames(capture), site))
        capture.unlink()
        self._sources.update(source for report in reports.values() for source in report["sources"])
        return Step(
            told,
            dict(asked),
            dict(alive),
            opened.total(),
            alive_after.total(),
            {node: Stream(one["sent"], one["lost"], one["gap_max_ms"]) for node, one in reports.items()},
            tuple(sorted(self._sources)),
            speakers,
        )

    def _stream(self, pod: PlannedPod) -> PodStream:
        return PodStream(self.cluster, pod, "udp", gateway.OUTSIDE, interval_ms=_STREAM_INTERVAL_MS)

    @contextlib.contextmanager
    def _conversations(self, pods: Sequence[PlannedPod], count: int) -> Iterator[list[Station]]:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Station(pod.netns, "conversation")) for pod in pods]
            for client, counts in zip(clients, dealt(count, len(clients)), strict=True):
                opened = client.ask("open", timeout_s=_OPEN_S, address=peer.SERVER, port=PORT, counts=counts)
                self._sources.update(opened["sources"])
            yield clients

    def _alive(self, clients: Sequence[Station]) -> tuple[Counter[str], Counter[str]]:
        asked: Counter[str] = Counter()
        living: Counter[str] = Counter()
        for client in clients:
            checked = check(client, self._server, _ALIVE_S)
            self._sources.update(checked["sources"])
            asked.update(checked["asked"])
            living.update(checked["alive"])
        return asked, living


def retagged(kustomization: str, version: str) -> str:
    """The same with the image of that version."""
    document = yaml.safe_load(kustomization)
    for image in document.get("images", ()):
        image["newTag"] = version
    return yaml.safe_dump(document, sort_keys=False)
