"""What breaks a node of the cluster breaks all of it, and is mended. The service is not needed for that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lab.cluster.cluster import Cluster
from service.lab.cluster.fault import apply_cluster_fault
from service.lab.cluster.pod import is_ready
from service.lab.fault import Fault
from service.lab.process import is_alive
from service.lab.status import wait_for
from service.model.errors import OperatorError
from tests.cluster.site import ClusterSite, runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
POD = "alice/frontend-worker1"


def _is_ready(cluster: Cluster, node: str) -> bool:
    return is_ready(cluster.kubectl.get("node", node))


def _programs_alive(cluster: Cluster, node: str) -> list[bool]:
    records = [cluster.state.process(kind, node) for kind in cluster.node_programs]
    return [record is not None and is_alive(record) for record in records]


@pytest.fixture
def mended(clients: ClusterSite) -> Iterator[ClusterSite]:
    yield clients
    for fault in (Fault.CONT, Fault.HEAL, Fault.RESTART):
        clients.fault("worker1", fault)
    clients.cluster.wait_nodes()
    clients.cluster.wait_pods(POD)


def test_a_killed_node_has_no_process_left_and_the_cluster_says_not_ready(mended: ClusterSite) -> None:
    cluster = mended.cluster
    client = int(mended.pod(POD).netns.split("/")[2])
    mended.fault("worker1", Fault.KILL)
    assert cluster.machine("worker1").cgroup.processes() == []
    assert not runs(client)
    assert not any(_programs_alive(cluster, "worker1"))
    assert all(_programs_alive(cluster, "worker2"))
    cluster.wait("worker1 to be NotReady", lambda: not _is_ready(cluster, "worker1"))
    assert _is_ready(cluster, "worker2")


def test_a_restarted_node_runs_its_pods_again(mended: ClusterSite) -> None:
    cluster = mended.cluster
    mended.fault("worker1", Fault.KILL)
    mended.fault("worker1", Fault.RESTART)
    assert all(_programs_alive(cluster, "worker1"))
    cluster.wait("the pod to be made again", lambda: cluster.pod(POD).ip)
    mended.wait_seen(POD, "192.168.1.21")


def test_a_stopped_node_stands_still_with_its_containers_and_goes_on(mended: ClusterSite) -> None:
    pid = int(mended.pod(POD).netns.split("/")[2])
    mended.fault("worker1", Fault.STOP)
    # The freezer of cgroups leaves a process where it is: neither stopped by a signal nor runnable.
    switches = _context_switches(pid), _context_switches(_containerd(mended.cluster))
    assert not mended.cluster.kubectl.run(
        "get", "--raw", "/api/v1/nodes/worker1/proxy/healthz", "--request-timeout=2s", check=False
    ).stdout
    assert (_context_switches(pid), _context_switches(_containerd(mended.cluster))) == switches
    mended.fault("worker1", Fault.CONT)
    wait_for("containerd to go on", mended.cluster.machine("worker1").containerd_answers, timeout_s=20)


def _containerd(cluster: Cluster) -> int:
    record = cluster.state.process("containerd", "worker1")
    assert record is not None
    return record.pid


def _context_switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_a_cut_node_neither_reaches_the_outside_nor_the_api_server(mended: ClusterSite) -> None:
    mended.fault("worker1", Fault.CUT)
    assert mended.seen(POD, timeout_s=0.5) == "nothing came"
    mended.cluster.wait("worker1 to be NotReady", lambda: not _is_ready(mended.cluster, "worker1"))
    mended.fault("worker1", Fault.HEAL)
    mended.wait_seen(POD, "192.168.1.21")


def test_the_api_server_alone_can_be_killed_and_comes_back(clients: ClusterSite) -> None:
    cluster = clients.cluster
    clients.pod(POD)
    clients.fault("kubernetes", Fault.KILL, only="kube-apiserver")
    try:
        with pytest.raises(OperatorError):
            cluster.kubectl("get", "nodes", "--request-timeout=2s")
        assert clients.seen(POD) == "192.168.1.21"
    finally:
        clients.fault("kubernetes", Fault.RESTART)
        cluster.wait_api()
        cluster.wait_nodes()


def test_a_container_that_does_not_exist_is_told(clients: ClusterSite) -> None:
    with pytest.raises(OperatorError, match="no container 'keeper' runs on worker2"):
        apply_cluster_fault(clients.cluster, "worker2", Fault.KILL, only="keeper")
    with pytest.raises(OperatorError, match="no node 'worker9'"):
        apply_cluster_fault(clients.cluster, "worker9", Fault.KILL)
