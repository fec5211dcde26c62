"""Whatever is left of a cluster, `lab down` clears it: processes, mounts, cgroups, namespaces, files."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lab.cgroup import cgroups_of
from service.lab.cluster.build import cluster_up
from service.lab.cluster.cluster import Cluster
from service.lab.lab import lab_down
from service.lab.namespace import namespaces_of
from service.lab.plan import LabOptions
from service.lab.process import MARK
from service.lab.state import lab_folder
from service.model.errors import OperatorError
from tests.cluster.site import runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture
def name() -> Iterator[str]:
    name = f"egwd{os.getpid() % 100000}x{next(_numbers)}"
    yield name
    lab_down(name)


def _traces(name: str) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"egressgw-lab-{name}" in line]
    cgroups = [cgroup.name for cgroup in cgroups_of(name)]
    return [
        *namespaces_of(name),
        *mounts,
        *cgroups,
        *map(str, Path("/run").glob(f"egressgw-lab-{name}*")),
        *_marked(name),
    ]


def _marked(name: str) -> list[str]:
    mark = f"{MARK}={lab_folder(name)}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(str(path))
        except OSError:
            continue
    return found


def test_a_cluster_interrupted_while_it_is_built_leaves_nothing(name: str) -> None:
    def interrupt(step: str) -> None:
        if step == "nodes":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster_up(LabOptions(name=name), report=interrupt)
    assert _traces(name) == []


def test_down_clears_a_cluster_whose_state_is_lost_and_whose_node_is_frozen(name: str) -> None:
    cluster = cluster_up(LabOptions(name=name))
    pids = [pid for machine in cluster.machines.values() for pid in machine.cgroup.processes()]
    cluster.machine("worker1").cgroup.freeze()
    (lab_folder(name) / "state.json").write_text("{")
    before = sorted(Path("/sys/fs/bpf").iterdir()) if Path("/sys/fs/bpf").exists() else []
    assert lab_down(name)
    assert _traces(name) == []
    assert not [pid for pid in pids if runs(pid)]
    assert before == (sorted(Path("/sys/fs/bpf").iterdir()) if Path("/sys/fs/bpf").exists() else [])
    assert not lab_down(name)


def test_ctrl_c_clears_what_the_command_has_built(name: str) -> None:
    command = [sys.executable, "-m", "service", "lab", "--kubernetes", "--name", name]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 120
        while not (lab_folder(name) / "worker2" / "kubelet.log").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    assert _traces(name) == []


def test_a_cluster_is_found_by_its_name_only_once_it_is_whole(name: str) -> None:
    lab_folder(name).mkdir()
    with pytest.raises(OperatorError, match="there is no lab"):
        Cluster.find(name)
