"""Beside the CNIs that people run: each on a cluster of its own, with real pods, installed as a user does it."""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import USERS, client_name, create_clients
from service.lab.lab import lab_down
from service.lab.plan import KUBE_ROUTER, LabOptions
from service.lab.traffic.frame import Frame, read_frames
from service.lab.witness import check_pod
from tests.cluster.service_site import NODES, ServiceSite
from tests.cluster.site import delete, require
from tests.e2e.site import ELSEWHERE, FLOATING_IPS, OUTSIDE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
COMBINATIONS = (("flannel-vxlan", "nftables"), ("flannel-host-gw", "iptables"), (KUBE_ROUTER, "iptables"))
"""CNI and mode of kube-proxy."""
ENFORCING = tuple(one for one in COMBINATIONS if one[0] == KUBE_ROUTER)
"""Flannel enforces no NetworkPolicy: there is nothing to be asked of it."""
FORBIDDING: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "alice", "name": "not-there"},
    "spec": {
        "podSelector": {"matchLabels": {"role": "frontend"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["8.8.8.0/24"]}}]}],
    },
}


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def beside(request: pytest.FixtureRequest) -> Iterator[ServiceSite]:
    """A cluster with that CNI and a pod of alice, carol and paul on every node; nothing of the service yet."""
    cni, proxy_mode = request.param
    options = LabOptions(name=f"egwn{os.getpid() % 1000000}", kubernetes=True, cni=cni, proxy_mode=proxy_mode)
    require(options)
    try:
        cluster = cluster_up(options)
        create_clients(cluster)
        yield ServiceSite(cluster)
    finally:
        lab_down(options.name)


@pytest.fixture(scope="module")
def steering(beside: ServiceSite) -> ServiceSite:
    """The same with the service installed and the user's two objects in force."""
    beside.install()
    return beside


@pytest.fixture
def enforced(steering: ServiceSite) -> Iterator[ServiceSite]:
    """The same with a NetworkPolicy in force."""
    pods = [client_name("alice", node) for node in NODES]
    steering.cluster.kubectl.apply(FORBIDDING)
    try:
        steering.wait(
            "the NetworkPolicy to be enforced on every node",
            lambda: all(steering.seen(pod, timeout_s=0.3) == "nothing came" for pod in pods),
        )
        yield steering
    finally:
        delete(steering.cluster, FORBIDDING)
    for pod in pods:
        steering.wait_seen(pod, FLOATING_IPS[0])


def _assert_seen(site: ServiceSite, user: str, destination: str, floating_ip: str = "") -> None:
    """Pods of that user on every node are seen there by this address, else as their nodes; TCP, UDP and ping."""
    for node in NODES:
        pod = site.pod(client_name(user, node))
        check = check_pod(site.cluster, pod, destination, floating_ip or site.node_ip(node))
        assert check.holds, check


def test_pods_have_addresses_of_their_nodes_ranges_and_are_seen_outside_as_their_nodes(beside: ServiceSite) -> None:
    for node in beside.cluster.plan.nodes:
        assert all(IPv4Address(beside.pod(client_name(user, node.name)).ip) in node.pod_cidr for user in USERS)
    for user in USERS:
        _assert_seen(beside, user, OUTSIDE)


def test_pods_reach_each_other_on_their_own_node_and_across_nodes(beside: ServiceSite) -> None:
    for node in NODES:
        for other in NODES:
            ip = str(beside.pod(client_name("paul", other)).ip)
            said = beside.execute(client_name("alice", node), "python", "-m", "service.lab.client", "ping", ip)
            assert said.startswith("answered"), (node, other)


def test_pods_on_every_node_reach_the_api_server_by_its_service_address(beside: ServiceSite) -> None:
    program = "import socket; socket.create_connection(('10.96.0.1', 443), timeout=5); print('connected')"
    for node in NODES:
        assert beside.execute(client_name("carol", node), "python", "-c", program) == "connected\n"


def test_selected_pods_are_seen_by_the_floating_ip_and_nothing_leaks(steering: ServiceSite, tmp_path: Path) -> None:
    with steering.captured(tmp_path / "capture") as leaks:
        for user in USERS:
            _assert_seen(steering, user, OUTSIDE, FLOATING_IPS[0] if user != "carol" else "")
            _assert_seen(steering, user, ELSEWHERE)
    assert leaks() == []


def test_pods_reach_each_other_and_services_beside_the_service(steering: ServiceSite) -> None:
    test_pods_reach_each_other_on_their_own_node_and_across_nodes(steering)
    test_pods_on_every_node_reach_the_api_server_by_its_service_address(steering)


def _frames_to(site: ServiceSite, destination: str, path: Path, user: str) -> list[Frame]:
    """What is on the wires, in tunnels too, while pods of that user on every node open connections to it.

    No pings: those of one process are one flow, and the enforcer itself lets pass what is established.
    """
    site.lab.start_capture(path)
    try:
        for node, proto in product(NODES, ("udp", "tcp")):
            site.seen(client_name(user, node), destination, proto, timeout_s=0.5)
    finally:
        assert site.lab.stop_capture(path)["lost"] == 0
    return [frame for frame in read_frames(path) if frame.destination == IPv4Address(destination)]


@pytest.mark.parametrize("beside", ENFORCING, ids="-".join, indirect=True)
def test_what_a_network_policy_forbids_reaches_no_gateway_and_the_rest_goes_on(
    enforced: ServiceSite, tmp_path: Path
) -> None:
    assert _frames_to(enforced, OUTSIDE, tmp_path / "forbidden", "alice") == []
    assert _frames_to(enforced, OUTSIDE, tmp_path / "allowed", "paul")
    _assert_seen(enforced, "alice", ELSEWHERE)
    _assert_seen(enforced, "paul", OUTSIDE, FLOATING_IPS[0])
