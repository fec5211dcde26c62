"""Builds a cluster, as much of it at once as may be."""

import dataclasses
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from service.lab.cgroup import missing_for_cgroups
from service.lab.cluster.assets import CLUSTER_PROGRAMS, missing_programs
from service.lab.cluster.cluster import Cluster
from service.lab.cluster.cni import (
    cni_commands,
    cni_objects,
    cni_programs,
    daemon,
    daemon_command,
    missing_for_cni,
    write_cni_files,
)
from service.lab.cluster.image import build_project_image, missing_for_images, prepare_store, store_commands
from service.lab.cluster.installation import write_deploy_folder
from service.lab.cluster.machine import Machine
from service.lab.cluster.runtime import (
    CONTAINERD_ROOT,
    containerd_command,
    kubelet_command,
    missing_for_runtime,
    node_object,
    proxy_command,
    write_node_files,
)
from service.lab.lab import Report, raise_lab
from service.lab.namespace import require_root
from service.lab.plan import LabOptions
from service.lab.site import build_site
from service.lab.state import LabState, create_folder, write_state
from service.model.errors import OperatorError

PHASES_FILE = "phases.txt"
_USUAL = LabOptions(kubernetes=True)


def missing_for_cluster(options: LabOptions = _USUAL) -> str:
    """What stands in the way of such a cluster on this machine; empty where nothing does."""
    reasons = (
        missing_programs(CLUSTER_PROGRAMS),
        missing_programs(cni_programs(options.cni)),
        missing_for_cni(options),
        missing_for_runtime(),
        missing_for_cgroups(),
        missing_for_images(),
    )
    return "; ".join(reason for reason in reasons if reason)


def cluster_up(
    options: LabOptions,
    *,
    images: Iterable[Path] | None = None,
    replace: bool = False,
    report: Report = lambda line: None,
) -> Cluster:
    """Build a cluster and return when every node is Ready.

    `images` (archives as of `docker save`) are what its nodes know; if not given, the project's own is built. Raises
    OperatorError where a lab of the name is up already (without `replace`), or a step fails; what was built so far is
    cleared then.
    """
    require_root()
    options = dataclasses.replace(options, kubernetes=True)
    if reason := missing_for_cluster(options):
        raise OperatorError(f"a cluster cannot be built here: {reason}")
    return raise_lab(options.name, lambda: _Builder(options, images, report).build(), replace=replace)


class _Builder:
    def __init__(self, options: LabOptions, images: Iterable[Path] | None, report: Report) -> None:
        self._options, self._images, self._report = options, images, report
        self._began_s = time.monotonic()
        self._phases: list[str] = []

    def build(self) -> Cluster:
        folder = create_folder(self._options.name)
        state = LabState(options=self._options)
        # Written before the first change, so that `down` can undo whatever comes after.
        write_state(state)
        cluster = Cluster(state)
        with ThreadPoolExecutor() as pool:
            store = pool.submit(self._store, folder)
            self._phase("site")
            for step in build_site(cluster.plan):
                self._report(step)
            self._start_api_server(cluster)
            cluster.start_outside()
            _create_machines(cluster)
            self._phase("images")
            found = store.result()
            self._phase("containerd")
            prepare = partial(_prepare_containerd, store=found, cni=self._options.cni)
            list(pool.map(prepare, cluster.machines.values()))
            for machine in cluster.machines.values():
                cluster.remember(machine.start("containerd", containerd_command(machine.folder)))
            cluster.wait_api()
        write_deploy_folder(folder, self._options)
        self._phase("nodes")
        self._start_nodes(cluster)
        cluster.wait_nodes()
        cluster.wait_pod_routes()
        self._phase("")
        cluster.wait_outside()
        cluster.complete()
        (folder / PHASES_FILE).write_text("".join(self._phases), encoding="ascii")
        return cluster

    def _store(self, folder: Path) -> Path:
        images = list(self._images) if self._images is not None else [build_project_image()]
        return prepare_store(images, folder, self._report)

    def _start_api_server(self, cluster: Cluster) -> None:
        """It gets ready meanwhile; `wait_api` comes later."""
        self._phase("API server")
        cluster.control_plane.write_files()
        for kind in ("etcd", "kube-apiserver"):
            cluster.start_member(kind)

    def _start_nodes(self, cluster: Cluster) -> None:
        for kind in ("kube-controller-manager", "kube-scheduler"):
            cluster.start_member(kind)
        nodes = (node_object(node) for node in cluster.plan.nodes)
        cluster.kubectl.apply(*nodes, *cni_objects(self._options.cni))
        for machine in cluster.machines.values():
            cluster.remember(machine.start("kubelet", kubelet_command(machine.folder, machine.node)))
            if "kube-proxy" in cluster.node_programs:
                proxy = proxy_command(machine.folder, machine.node, self._options.proxy_mode)
                cluster.remember(machine.start("kube-proxy", proxy))
        if name := daemon(self._options.cni):
            # In a pod it would end and be started again until the node has an address.
            cluster.wait_addresses()
            for machine in cluster.machines.values():
                command = daemon_command(machine.folder, machine.node, self._options)
                cluster.remember(machine.start(name, command))

    def _phase(self, name: str) -> None:
        """Begin one; each line says how long after the start."""
        self._phases.append(f"{time.monotonic() - self._began_s:6.1f} s  {name or 'ready'}\n")
        self._report(name)


def _create_machines(cluster: Cluster) -> None:
    for machine in cluster.machines.values():
        machine.create()
        write_node_files(machine.folder, machine.node, machine.cgroup.path)
        write_cni_files(machine.folder, machine.node, cluster.state.options)


def _prepare_containerd(machine: Machine, store: Path, cni: str) -> None:
    for command in (*store_commands(store, CONTAINERD_ROOT), *cni_commands(machine.folder, cni)):
        machine.run(*command)
