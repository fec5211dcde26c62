import pytest

from service.model.errors import InvariantError
from service.model.objects import Kind, ObjectKey
from service.sources.kubernetes.custom_resource import collection_path, is_custom, manifest, object_path

BASE = "/apis/networking.gke.io/v1alpha1"


def test_paths_are_those_of_the_resource_definitions() -> None:
    assert collection_path(Kind.POLICY) == f"{BASE}/egressnatpolicies"
    assert collection_path(Kind.GATEWAY) == f"{BASE}/anthosnetworkgateways"
    assert collection_path(Kind.GATEWAY, "kube-system") == f"{BASE}/namespaces/kube-system/anthosnetworkgateways"
    node = ObjectKey(Kind.NODE, "kube-system", "worker1")
    assert object_path(node) == f"{BASE}/namespaces/kube-system/anthosnetworkgatewaynodes/worker1"
    assert object_path(ObjectKey(Kind.POLICY, "", "egress")) == f"{BASE}/egressnatpolicies/egress"


@pytest.mark.parametrize("kind", [Kind.POD, Kind.NAMESPACE, Kind.CLUSTER_NODE, Kind.SERVICE_RANGE])
def test_objects_of_others_are_never_written(kind: Kind) -> None:
    assert not is_custom(kind)
    with pytest.raises(InvariantError, match="not ours"):
        object_path(ObjectKey(kind, "shop", "a"))


def test_a_document_says_what_is_known_of_its_object_and_nothing_empty() -> None:
    assert manifest(ObjectKey(Kind.POLICY, "", "egress")) == {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "EgressNATPolicy",
        "metadata": {"name": "egress"},
    }
    found = manifest(ObjectKey(Kind.NODE, "kube-system", "worker1"), "u1")
    assert found["metadata"] == {"name": "worker1", "namespace": "kube-system", "uid": "u1"}
