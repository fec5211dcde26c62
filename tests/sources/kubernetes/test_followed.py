import json
from typing import Any

import msgspec
import pytest

from service.model.objects import Kind
from service.sources.kubernetes.followed import followed_resources, followed_switches

BASE = "/apis/networking.gke.io/v1alpha1"


def test_an_agent_reads_nothing_that_grows_with_the_cluster_but_what_selects_and_routes() -> None:
    found = followed_resources("worker1")
    assert found[Kind.POD].field_selector == "spec.nodeName=worker1"
    assert found[Kind.GATEWAY].path == f"{BASE}/namespaces/kube-system/anthosnetworkgateways"
    assert Kind.NODE not in found


def test_a_controller_reads_everything() -> None:
    found = followed_resources(None)
    assert found[Kind.POD].field_selector == ""
    assert found[Kind.GATEWAY].path == f"{BASE}/anthosnetworkgateways"
    assert found[Kind.NODE].path == f"{BASE}/namespaces/kube-system/anthosnetworkgatewaynodes"


@pytest.mark.parametrize("node", ["worker1", None])
def test_only_what_one_can_do_without_may_be_missing(node: str | None) -> None:
    found = followed_resources(node)
    optional = [kind for kind, resource in found.items() if resource.is_optional]
    assert optional == [Kind.SERVICE_RANGE, Kind.API_SERVERS]
    assert followed_switches().is_optional


@pytest.mark.parametrize("node", ["worker1", None])
def test_w12_of_all_services_only_the_api_servers_endpoints_are_read(node: str | None) -> None:
    found = followed_resources(node)[Kind.API_SERVERS]
    assert found.path == "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    assert found.field_selector == "metadata.name=kubernetes"


@pytest.mark.parametrize("node", ["worker1", None])
def test_every_resource_reads_objects_of_its_kind(node: str | None) -> None:
    raw = msgspec.Raw(b'{"metadata": {"name": "a"}, "spec": {}, "status": {}}')
    for kind, resource in followed_resources(node).items():
        assert resource.decode(raw).value.key.kind is kind


@pytest.mark.parametrize(("value", "is_on"), [("true", True), ("false", False), (None, False)])
def test_a_cluster_is_on_where_its_annotation_says_so(value: Any, is_on: bool) -> None:
    annotations = {"baremetal.cluster.gke.io/enable-anthos-network-gateway": value} if value else None
    document = {"metadata": {"name": "a", "namespace": "cluster-a", "annotations": annotations}}
    item = followed_switches().decode(msgspec.Raw(json.dumps(document).encode()))
    assert (item.identity, item.value.namespace, item.value.is_on) == ("cluster-a/a", "cluster-a", is_on)
