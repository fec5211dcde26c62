"""Nodes on two subnets with a router between them, flannel's VXLAN beside ours, and a floating IP on each subnet."""

import os
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import USERS, client_name, create_clients
from service.lab.cluster.installation import install
from service.lab.lab import lab_down
from service.lab.plan import FLANNEL_VXLAN, LabOptions, far_nodes
from service.lab.traffic.frame import read_frames
from service.lab.witness import check_pod
from tests.cluster.service_site import CLUSTER_NAMESPACE, ServiceSite
from tests.cluster.site import require
from tests.e2e.site import ELSEWHERE, OUTSIDE, gateway, policy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
NEAR_IP, FAR_IP = "192.168.1.100", "172.30.2.100"
NODES = ("control1", "worker1", "worker2", "worker3")
NEAR_NODES, FAR_NODES = NODES[:2], NODES[2:]


@pytest.fixture(scope="module")
def spread() -> Iterator[ServiceSite]:
    """Two near nodes and two far ones; alice leaves by an address of the near subnet, paul by one of the far one."""
    name = f"egws{os.getpid() % 1000000}"
    options = LabOptions(name=name, kubernetes=True, nodes=4, far_nodes=far_nodes(4, 2), cni=FLANNEL_VXLAN)
    require(options)
    try:
        cluster = cluster_up(options)
        create_clients(cluster)
        site = ServiceSite(cluster)
        install(cluster)
        site.apply("", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CLUSTER_NAMESPACE}})
        listed = gateway(NEAR_IP, FAR_IP)
        listed["metadata"]["namespace"] = CLUSTER_NAMESPACE
        site.apply("", listed, policy("alice", NEAR_IP, user="alice"), policy("paul", FAR_IP, user="paul"))
        for user, address in (("alice", NEAR_IP), ("paul", FAR_IP)):
            for node in NODES:
                site.wait_seen(client_name(user, node), address)
        yield site
    finally:
        lab_down(name)


def _is_tunnelled(site: ServiceSite, pod: str, path: Path) -> set[bool]:
    """How what the pod asks outside leaves its node: within a tunnel, or over the segment as it is."""
    node = site.cluster.node(site.pod(pod).node)
    site.lab.start_capture(path)
    try:
        assert site.seen(pod) in (NEAR_IP, FAR_IP)
    finally:
        assert site.lab.stop_capture(path)["lost"] == 0
    ports = {node.port(segment) for segment in node.segments}
    frames = [frame for frame in read_frames(path) if frame.port in ports]
    return {frame.encapsulated for frame in frames if frame.destination == IPv4Address(OUTSIDE)}


def _is_proven(site: ServiceSite, node: str, floating_ip: str) -> bool:
    """The node has seen that the segment lets frames of the address pass to its holder."""
    told: dict[str, str] = site.status(node)["transports"].get(floating_ip, {})
    return told.get(site.holder(floating_ip) or "") == "l2"


def test_pods_reach_each_other_across_the_router(spread: ServiceSite) -> None:
    for node, other in (("worker1", "worker2"), ("worker3", "worker1"), ("worker2", "worker3")):
        ip = str(spread.pod(client_name("paul", other)).ip)
        said = spread.execute(client_name("alice", node), "python", "-m", "service.lab.client", "ping", ip)
        assert said.startswith("answered"), (node, other)


def test_each_floating_ip_is_held_on_its_own_subnet(spread: ServiceSite) -> None:
    assert spread.holder(NEAR_IP) in NEAR_NODES
    assert spread.holder(FAR_IP) in FAR_NODES


def test_pods_of_every_node_leave_by_the_floating_ips_of_both_subnets_and_nothing_leaks(
    spread: ServiceSite, tmp_path: Path
) -> None:
    expected = {"alice": NEAR_IP, "paul": FAR_IP}
    with spread.captured(tmp_path / "capture", (NEAR_IP, FAR_IP)) as leaks:
        for user in USERS:
            for node in NODES:
                pod = spread.pod(client_name(user, node))
                for check in (
                    check_pod(spread.cluster, pod, OUTSIDE, expected.get(user, spread.node_ip(node))),
                    check_pod(spread.cluster, pod, ELSEWHERE, spread.node_ip(node)),
                ):
                    assert check.holds, check
    assert leaks() == []


def test_a_gateway_of_the_own_subnet_is_reached_by_the_segment_and_one_of_the_other_through_the_tunnel(
    spread: ServiceSite, tmp_path: Path
) -> None:
    for user, floating_ip, here, there in (
        ("alice", NEAR_IP, NEAR_NODES, FAR_NODES),
        ("paul", FAR_IP, FAR_NODES, NEAR_NODES),
    ):
        other = next(node for node in here if node != spread.holder(floating_ip))
        spread.wait(f"the segment to {floating_ip}", partial(_is_proven, spread, other, floating_ip))
        assert _is_tunnelled(spread, client_name(user, other), tmp_path / f"{user}-{other}") == {False}
        for node in there:
            assert _is_tunnelled(spread, client_name(user, node), tmp_path / f"{user}-{node}") == {True}
