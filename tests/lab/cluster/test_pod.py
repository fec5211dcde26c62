"""Real pods described as those of a lab without Kubernetes, so that the same witnesses serve for both."""

from typing import Any

import pytest

from service.lab.cluster.pod import client_pod, find_pod, is_ready, namespace_object


def document(*, host: bool = False, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "alice", "name": "frontend-1", "uid": "u-1", "labels": {"role": "frontend"}},
        "spec": {"nodeName": "worker1"} | ({"hostNetwork": True} if host else {}),
        "status": {"podIP": "10.244.1.2", "phase": "Running"} | status,
    }


def processes(node: str, uid: str) -> list[int]:
    return [70, 71] if (node, uid) == ("worker1", "u-1") else []


def test_a_pod_that_runs_is_entered_by_its_first_process() -> None:
    pod = find_pod(document(), processes)
    assert pod is not None
    assert (pod.full_name, pod.role, pod.node, str(pod.ip)) == ("alice/frontend-1", "frontend", "worker1", "10.244.1.2")
    assert pod.netns == "/proc/70/ns/net"
    assert pod.mac == "0a:58:0a:f4:01:02"
    assert pod.on_bridge


def test_a_pod_on_the_hosts_network_is_on_no_bridge() -> None:
    pod = find_pod(document(host=True), processes)
    assert pod is not None
    assert not pod.on_bridge


@pytest.mark.parametrize("status", [{"podIP": ""}, {"phase": "Succeeded"}, {"phase": "Failed"}])
def test_a_pod_that_does_not_run_is_none_though_its_process_may_still_be_there(status: dict[str, str]) -> None:
    assert find_pod(document(**status), processes) is None


def test_a_pod_without_a_node_or_a_process_is_none_yet() -> None:
    assert find_pod(document(), lambda node, uid: []) is None
    pending = document()
    del pending["spec"]["nodeName"], pending["status"]
    assert find_pod(pending, processes) is None


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "Unknown"}], False),
        ([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}], False),
        ([], False),
    ],
)
def test_ready_is_what_the_condition_of_that_name_says(conditions: list[dict[str, str]], ready: bool) -> None:
    assert is_ready({"status": {"conditions": conditions}}) is ready
    assert not is_ready({})


def test_a_client_pod_stays_on_its_node_and_ends_at_once() -> None:
    labels = {"user": "alice", "role": "frontend"}
    pod = client_pod("alice", "frontend-1", node="worker2", labels=labels, image="example:1")
    assert pod["metadata"] == {"namespace": "alice", "name": "frontend-1", "labels": labels}
    assert (pod["spec"]["nodeName"], pod["spec"]["terminationGracePeriodSeconds"]) == ("worker2", 0)
    (container,) = pod["spec"]["containers"]
    assert (container["image"], container["command"]) == ("example:1", ["sleep", "infinity"])


def test_a_namespace_has_the_labels_that_policies_select_by() -> None:
    assert namespace_object("alice", {"user": "alice"})["metadata"] == {"name": "alice", "labels": {"user": "alice"}}
