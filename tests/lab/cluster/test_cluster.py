"""What is asked of a cluster that is up; that it really comes up is proven by tests/cluster."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.lab import state as state_module
from service.lab.cluster.cluster import Cluster, find_lab
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.state import LabState, lab_folder, write_state
from service.model.errors import OperatorError, TransientError
from tests.lab.cluster.fake_cluster import FakeCluster


def pod(name: str, uid: str, *, node: str = "worker1", host: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "alice", "name": name, "uid": uid},
        "spec": {"nodeName": node, "hostNetwork": host},
        "status": {"podIP": "10.244.1.2", "phase": "Running"},
    }


def test_a_pod_is_known_by_the_processes_of_its_cgroup(tmp_path: Path) -> None:
    answers = {"get -n alice pod one": pod("one", "u1"), "get -n alice pod two": pod("two", "u2")}
    cluster = FakeCluster(tmp_path, answers, pids={("worker1", "podu1"): [72, 71]})
    assert cluster.pod("alice/one").netns == "/proc/71/ns/net"
    with pytest.raises(OperatorError, match="the pod alice/two does not run"):
        cluster.pod("alice/two")


def test_pods_that_do_not_run_or_are_on_the_hosts_network_are_left_out(tmp_path: Path) -> None:
    items = [pod("one", "u1"), pod("two", "u2"), pod("three", "u3", host=True)]
    pids = {("worker1", "podu1"): [1], ("worker1", "podu3"): [3]}
    cluster = FakeCluster(tmp_path, {"get pods": {"items": items}}, pids)
    assert [found.full_name for found in cluster.pods()] == ["alice/one"]
    assert [found.full_name for found in cluster.pods("-n", "alice")] == ["alice/one"]
    assert cluster.asked() == ["get pods --all-namespaces -o json", "get pods -n alice -o json"]


def test_a_command_runs_in_a_pod_by_kubectl_on_a_node_with_its_files_and_elsewhere_as_in_any_lab(
    tmp_path: Path,
) -> None:
    cluster = FakeCluster(tmp_path)
    kubectl = str(cluster.control_plane.kubectl)
    assert cluster.enter("alice/one", "ls") == [kubectl, "-n", "alice", "exec", "one", "--", "ls"]
    assert cluster.enter("worker1", "ls") == cluster.machine("worker1").enter("ls")
    assert cluster.enter("router", "ls") == ["nsenter", "--net=/run/netns/mine-router", "ls"]
    with pytest.raises(OperatorError, match="worker9"):
        cluster.enter("worker9", "ls")


def test_pods_are_waited_for_by_namespace(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    cluster.wait_pods("alice/one", "paul/two", "alice/three", timeout_s=30)
    assert cluster.asked() == [
        "-n alice wait --for=condition=Ready --timeout=30s pod/one pod/three",
        "-n paul wait --for=condition=Ready --timeout=30s pod/two",
    ]


@pytest.mark.parametrize("error", [OperatorError("not found"), subprocess.TimeoutExpired("kubectl", 1)])
def test_where_kubectl_fails_there_is_no_answer_yet(tmp_path: Path, error: Exception) -> None:
    answers: list[object] = [error, "at last"]

    def question() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cluster = FakeCluster(tmp_path)
    assert cluster.wait("a pod", question, timeout_s=30) == "at last"
    with pytest.raises(TransientError, match="in vain for a pod"):
        cluster.wait("a pod", lambda: None, timeout_s=0)


def test_a_node_counts_when_it_is_ready_and_pods_may_be_placed_on_it(tmp_path: Path) -> None:
    def node(name: str, *, ready: str = "True", taint: str = "") -> dict[str, Any]:
        taints = [{"key": taint, "effect": "NoSchedule"}] if taint else []
        return {
            "metadata": {"name": name},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }

    ready = [node("control1", taint="node-role.kubernetes.io/control-plane"), node("worker1")]
    for number, (last, told) in enumerate(
        [
            (node("worker2", ready="Unknown"), False),
            (node("worker2", taint="node.kubernetes.io/not-ready"), False),
            (node("worker2"), True),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        cluster = FakeCluster(folder, {"get nodes": {"items": [*ready, last]}})
        if told:
            cluster.wait_nodes(timeout_s=0)
        else:
            with pytest.raises(TransientError, match="every node to be Ready"):
                cluster.wait_nodes(timeout_s=0)


def test_a_lab_is_found_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "RUN_FOLDER", tmp_path)
    for name, kubernetes in (("plain", False), ("real", True)):
        lab_folder(name).mkdir()
        write_state(LabState(options=LabOptions(name=name, kubernetes=kubernetes), complete=True))
    assert type(find_lab("plain")) is Lab
    assert type(find_lab("real")) is type(Cluster.find("real")) is Cluster
    with pytest.raises(OperatorError, match="'plain' has no Kubernetes"):
        Cluster.find("plain")
    with pytest.raises(OperatorError, match="no lab 'other'"):
        find_lab("other")
