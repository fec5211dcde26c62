from dataclasses import replace
from typing import Any

import pytest

from service.lab.plan import SEGMENTS, LabOptions, far_nodes, make_plan
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole


def test_three_nodes_are_one_control_plane_node_and_two_workers() -> None:
    plan = make_plan(LabOptions())
    assert [(node.name, str(node.ip), node.role) for node in plan.nodes] == [
        ("control1", "192.168.1.11", NodeRole.CONTROL_PLANE),
        ("worker1", "192.168.1.21", NodeRole.WORKER),
        ("worker2", "192.168.1.22", NodeRole.WORKER),
    ]
    assert [str(controller.ip) for controller in plan.controllers] == ["192.168.1.5", "192.168.1.6"]


def test_every_name_and_address_is_used_once() -> None:
    plan = make_plan(LabOptions(nodes=80, pods_per_node=10))
    assert len(set(plan.namespaces)) == len(plan.namespaces)
    addresses = [node.ip for node in plan.nodes] + [pod.ip for pod in plan.pods]
    addresses += [controller.ip for controller in plan.controllers]
    assert len(set(addresses)) == len(addresses)
    macs = [node.mac(segment) for node in plan.nodes for segment in range(len(SEGMENTS))]
    assert len(set(macs)) == len(macs)


def test_far_nodes_are_the_last_ones_and_on_a_segment_of_their_own() -> None:
    plan = make_plan(LabOptions(nodes=3, far_nodes=1))
    assert [node.segments for node in plan.nodes] == [(0, 1), (0, 1), (2,)]
    assert str(plan.nodes[-1].ip) == "172.30.2.22"
    with pytest.raises(OperatorError, match="--far-nodes"):
        make_plan(LabOptions(nodes=3, far_nodes=3))


def test_a_half_of_a_clusters_nodes_is_behind_the_router_where_there_are_two_segments() -> None:
    far = far_nodes(4, 2)
    plan = make_plan(LabOptions(nodes=4, far_nodes=far, kubernetes=True, cni="flannel-vxlan"))
    assert [node.is_far for node in plan.nodes] == [False, False, True, True]
    assert far_nodes(4, 1) == 0


def test_a_transport_that_there_is_not_is_refused() -> None:
    with pytest.raises(OperatorError, match="--transport"):
        make_plan(LabOptions(transport="geneve"))


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"cni": "calico"}, "--cni: bridge, flannel-vxlan"),
        ({"proxy_mode": "ipvs"}, "--proxy-mode: iptables"),
        ({"far_nodes": 1, "cni": "kube-router"}, "--segments: "),
        ({"proxy_mode": "none", "cni": "flannel-vxlan"}, "--proxy-mode: none is for --cni kube-router"),
    ],
)
def test_what_connects_the_pods_of_a_cluster_and_its_services_is_checked(change: dict[str, Any], option: str) -> None:
    with pytest.raises(OperatorError, match=option):
        make_plan(replace(LabOptions(kubernetes=True), **change))


def test_a_disk_of_negative_size_is_refused() -> None:
    with pytest.raises(OperatorError, match="-1 KiB"):
        make_plan(LabOptions(state_kib=-1))


def test_addresses_from_100_on_are_left_to_floating_ips() -> None:
    assert max(node.octet for node in make_plan(LabOptions(nodes=80)).nodes) < 100


def test_interface_names_fit_into_the_kernels_fifteen_characters() -> None:
    plan = make_plan(LabOptions(nodes=80, pods_per_node=200))
    assert max(len(node.port(1)) for node in plan.nodes) <= 15
    assert max(len(pod.device) for pod in plan.pods) <= 15


def test_the_last_pod_of_every_node_is_on_a_bare_veth() -> None:
    nodes = make_plan(LabOptions()).nodes
    assert [[pod.on_bridge for pod in node.pods] for node in nodes] == [[True, True, False]] * 3
    assert [node.pods[-1].labels for node in nodes] == [{"user": "paul", "role": "frontend"}] * 3


def test_with_one_pod_per_node_one_of_them_is_on_a_bare_veth() -> None:
    plan = make_plan(LabOptions(pods_per_node=1))
    assert [pod.on_bridge for pod in plan.pods] == [True, True, False]


@pytest.mark.parametrize(("nodes", "electors"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (50, 5)])
def test_as_many_electors_as_there_are_nodes_for(nodes: int, electors: int) -> None:
    assert len(make_plan(LabOptions(nodes=nodes)).electors) == electors


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"nodes": 0}, "--nodes"),
        ({"nodes": 81}, "--nodes"),
        ({"pods_per_node": 246}, "--pods-per-node"),
        ({"controllers": 4}, "--controllers"),
        ({"electors": 2}, "--electors"),
        ({"electors": 5}, "--electors"),
        ({"name": "egw-x"}, "--name"),
    ],
)
def test_an_option_that_does_not_fit_is_named(change: dict[str, object], option: str) -> None:
    with pytest.raises(OperatorError, match=option):
        make_plan(replace(LabOptions(), **change))
