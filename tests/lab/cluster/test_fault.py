"""Which processes a fault of a cluster reaches; that they die of it is proven by tests/cluster."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lab.cluster.fault import apply_cluster_fault
from service.lab.fault import Fault
from service.model.errors import OperatorError
from tests.lab.cluster.fake_cluster import FakeCluster


class Cgroup:
    """Notes what is done to a whole node."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done: list[str] = []

    def kill(self) -> int:
        self.done.append("kill")
        return self.count

    def freeze(self) -> None:
        self.done.append("freeze")

    def thaw(self) -> None:
        self.done.append("thaw")


def with_cgroup(folder: Path, count: int = 17) -> tuple[FakeCluster, Cgroup]:
    cluster, cgroup = FakeCluster(folder), Cgroup(count)
    cluster.machines["worker1"].cgroup = cgroup  # type: ignore[assignment]
    return cluster, cgroup


@pytest.mark.parametrize(
    ("fault", "done", "told"),
    [
        (Fault.KILL, "kill", "SIGKILL to all 17 processes of worker1, containers too"),
        (Fault.STOP, "freeze", "every process of worker1 is frozen, containers too"),
        (Fault.CONT, "thaw", "worker1 runs on"),
    ],
)
def test_a_fault_of_a_node_reaches_all_its_processes_at_once(
    tmp_path: Path, fault: Fault, done: str, told: str
) -> None:
    cluster, cgroup = with_cgroup(tmp_path)
    assert apply_cluster_fault(cluster, "worker1", fault) == [told]
    assert cgroup.done == [done]


def test_killing_a_dead_node_does_nothing_and_says_nothing(tmp_path: Path) -> None:
    cluster, _ = with_cgroup(tmp_path, count=0)
    assert apply_cluster_fault(cluster, "worker1", Fault.KILL) == []


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        yield sleeper
        sleeper.kill()


def test_one_container_is_reached_by_its_name(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    class Known(FakeCluster):
        def container_processes(self, node: str, container: str) -> list[int]:
            return [sleeper.pid] if (node, container) == ("worker1", "agent") else []

    cluster = Known(tmp_path)
    done = apply_cluster_fault(cluster, "worker1", Fault.KILL, only="agent")
    assert done == [f"SIGKILL to agent of worker1 (pid {sleeper.pid})"]
    assert sleeper.wait(10) == -9
    with pytest.raises(OperatorError, match="no container 'keeper' runs on worker1"):
        apply_cluster_fault(cluster, "worker1", Fault.KILL, only="keeper")
    with pytest.raises(OperatorError, match="it is the kubelet that restarts containers"):
        apply_cluster_fault(cluster, "worker1", Fault.RESTART, only="agent")


def test_what_was_never_started_is_not_started_again(tmp_path: Path) -> None:
    assert apply_cluster_fault(FakeCluster(tmp_path), "worker1", Fault.RESTART) == []


def test_an_unknown_member_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="worker9"):
        apply_cluster_fault(FakeCluster(tmp_path), "worker9", Fault.KILL)
