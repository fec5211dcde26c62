import json
import os
import subprocess
from pathlib import Path

import pytest

from service.lab.cluster.clients import USERS, client_name
from service.lab.cluster.cluster import Cluster
from service.lab.cluster.image import PAUSE_IMAGE
from service.lab.cluster.runtime import CONTROL_PLANE_LABEL
from service.lab.namespace import namespaces_of
from service.lab.witness import check_pod
from tests.cluster.site import ClusterSite, delete

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def _workload(kind: str, name: str) -> dict[str, object]:
    container = {"name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "IfNotPresent"}
    toleration = {"key": CONTROL_PLANE_LABEL, "operator": "Exists", "effect": "NoSchedule"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "tolerations": [toleration]}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    }


def test_every_node_is_ready_with_its_role_and_the_pod_range_it_routes(cluster: Cluster) -> None:
    nodes = {item["metadata"]["name"]: item for item in cluster.kubectl.get("nodes")["items"]}
    assert set(nodes) == {"control1", "worker1", "worker2"}
    assert [name for name, item in nodes.items() if CONTROL_PLANE_LABEL in item["metadata"]["labels"]] == ["control1"]
    for planned in cluster.plan.nodes:
        item = nodes[planned.name]
        assert item["spec"]["podCIDRs"] == [str(planned.pod_cidr)]
        assert {"type": "InternalIP", "address": str(planned.ip)} in item["status"]["addresses"]
        assert item["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")


def test_daemon_sets_and_deployments_roll_out(cluster: Cluster) -> None:
    daemon_set, deployment = _workload("DaemonSet", "everywhere"), _workload("Deployment", "somewhere")
    cluster.kubectl.apply(daemon_set, deployment)
    try:
        cluster.wait_rollout("daemonset/everywhere", namespace="default")
        cluster.wait_rollout("deployment/somewhere", namespace="default")
        assert cluster.kubectl.get("-n", "default", "daemonset", "everywhere")["status"]["numberAvailable"] == 3
    finally:
        delete(cluster, daemon_set, deployment)


def test_before_any_policy_pods_are_seen_outside_as_their_nodes(clients: ClusterSite) -> None:
    for user in USERS:
        for node in clients.cluster.plan.nodes:
            check = check_pod(clients.cluster, clients.pod(client_name(user, node.name)), "8.8.8.8", str(node.ip))
            assert check.holds, check


def test_a_program_in_a_pod_is_seen_outside_as_its_node(clients: ClusterSite) -> None:
    seen = clients.execute("alice/frontend-worker2", "python", "-m", "service.lab.client", "tcp", "8.8.8.8")
    assert seen.split()[0] == "192.168.1.22"


def test_pods_reach_each_other_across_nodes(clients: ClusterSite) -> None:
    other = clients.pod("paul/frontend-worker1").ip
    printed = clients.execute("alice/frontend-worker2", "python", "-m", "service.lab.client", "ping", str(other))
    assert printed.startswith("answered")


def test_pods_reach_the_api_server_by_its_service_address(clients: ClusterSite) -> None:
    program = "import socket; socket.create_connection(('10.96.0.1', 443), timeout=5); print('connected')"
    assert clients.execute("carol/other-worker1", "python", "-c", program) == "connected\n"


def test_the_host_sees_nothing_of_what_the_nodes_keep_in_their_own_folders(clients: ClusterSite) -> None:
    assert namespaces_of("cni") == []
    pods = clients.cluster.machine("worker1").run("ls", "/var/lib/kubelet/pods").split()
    assert len(pods) >= len(USERS)
    assert not [pod for pod in pods if Path(f"/var/lib/kubelet/pods/{pod}").exists()]


def test_info_tells_how_to_reach_nodes_pods_and_api_server(clients: ClusterSite) -> None:
    described = json.loads(json.dumps(clients.cluster.info()))
    assert os.access(described["kubectl"], os.X_OK)
    printed = subprocess.run([described["kubectl"], "get", "nodes"], capture_output=True, text=True, check=True).stdout
    assert "worker2" in printed
    assert Path(described["kubeconfig"]).exists()
    for node in described["nodes"]:
        assert all(Path(f"/proc/{node['programs'][kind]}").exists() for kind in clients.cluster.node_programs)
    pods = {f"{pod['namespace']}/{pod['name']}": pod for pod in described["pods"]}
    assert pods["alice/frontend-worker1"]["ip"].startswith("10.244.1.")
