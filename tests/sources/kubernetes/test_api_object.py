"""Node and ServiceCIDR objects as the API server sends them."""

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest

from service.model.gateway_node import NodeRole
from service.model.objects import ClusterNode
from service.sources.kubernetes.api_object import (
    decode_api_servers,
    decode_cluster_node,
    decode_pod,
    decode_service_range,
)


def raw(document: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(document).encode())


def ready(status: str, reason: str = "", message: str = "", **fields: str) -> dict[str, Any]:
    return {"type": "Ready", "status": status, "reason": reason, "message": message, **fields}


def read(*, labels: dict[str, str] | None = None, spec: Any = None, **status: Any) -> ClusterNode:
    document = {"metadata": {"name": "w1", "labels": labels}, "spec": spec or {}, "status": status}
    return decode_cluster_node(raw(document)).value


@pytest.mark.parametrize("value", ["", "true"])
def test_the_control_plane_label_makes_the_role_whatever_its_value(value: str) -> None:
    assert read(labels={"node-role.kubernetes.io/control-plane": value}).role is NodeRole.CONTROL_PLANE
    assert read(labels={"node-role.kubernetes.io/worker": ""}).role is NodeRole.WORKER
    assert read().role is NodeRole.WORKER


def test_o2_labels_are_read_for_the_selector_of_gateway_nodes() -> None:
    assert read(labels={"rack": "a", "gateway": "yes"}).labels == (("gateway", "yes"), ("rack", "a"))
    assert read().labels == ()


def test_only_internal_ipv4_addresses_and_ranges_count() -> None:
    node = read(
        spec={"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]},
        addresses=[
            {"type": "Hostname", "address": "w1"},
            {"type": "ExternalIP", "address": "203.0.113.5"},
            {"type": "InternalIP", "address": "fd00::21"},
            {"type": "InternalIP", "address": "192.168.1.21"},
        ],
    )
    assert node.addresses == (IPv4Address("192.168.1.21"),)
    assert node.pod_ranges == (IPv4Network("10.244.1.0/24"),)


def test_cordoned_and_shutting_down_are_told_from_merely_not_ready() -> None:
    assert read(spec={"unschedulable": True}, conditions=[ready("True")]).is_cordoned
    stopping = read(conditions=[ready("False", "KubeletNotReady", "node is shutting down")])
    assert stopping.is_shutting_down
    assert not stopping.is_schedulable
    silent = read(conditions=[ready("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")])
    broken = read(conditions=[ready("False", "KubeletNotReady", "container runtime is down")])
    assert silent.is_schedulable
    assert broken.is_schedulable
    assert (silent.is_ready, broken.is_ready) == (None, False)
    assert broken.not_ready_reason == "container runtime is down"


def test_a_heartbeat_is_no_news() -> None:
    first = read(conditions=[ready("True", lastHeartbeatTime="2026-11-26T10:00:00Z")], images=[1])
    assert first == read(conditions=[ready("True", lastHeartbeatTime="2026-11-26T10:05:00Z")], images=[2])


def test_w12_api_servers_are_read_whether_ready_or_not_and_each_once() -> None:
    document = {
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["203.0.113.9"], "conditions": {"ready": True}},
            {"addresses": ["203.0.113.10", "203.0.113.9"], "conditions": {"ready": False}},
            {"addresses": ["fd00::1"]},
            {},
        ],
    }
    item = decode_api_servers(raw(document))
    assert (item.identity, item.value.key.namespace) == ("default/kubernetes", "default")
    assert item.value.addresses == (IPv4Address("203.0.113.9"), IPv4Address("203.0.113.10"))
    assert decode_api_servers(raw({"metadata": {"name": "a"}, "endpoints": None})).value.addresses == ()


def test_a_service_range_is_read_without_its_ipv6_part() -> None:
    document = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd01::/112"]}}
    assert decode_service_range(raw(document)).value.networks == (IPv4Network("10.96.0.0/16"),)


@pytest.mark.parametrize(
    ("spec", "phase"), [({"hostNetwork": True}, "Running"), ({}, "Succeeded"), ({}, "Failed")], ids=str
)
def test_host_network_and_finished_pods_own_no_address(spec: dict[str, Any], phase: str) -> None:
    document = {
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"nodeName": "w1", **spec},
        "status": {"phase": phase, "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}]},
    }
    assert decode_pod(raw(document)).value.ip is None
