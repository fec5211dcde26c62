from typing import Any

import msgspec

from service.model.objects import Kind
from service.sources.kubernetes.api_object import ApiObject, decode_own
from service.sources.kubernetes.gateway_mirror import MIRRORED_FROM, Follow, Withdraw, mirror_step

SPEC = {"floatingIPs": ["192.168.1.100"]}


def gateway(
    namespace: str, *, created: str = "2024-01-01T00:00:00Z", spec: Any = SPEC, **annotations: str
) -> ApiObject:
    metadata = {
        "namespace": namespace,
        "name": "default",
        "uid": f"uid-{namespace}",
        "creationTimestamp": created,
        "annotations": annotations,
    }
    return decode_own(msgspec.Raw(msgspec.json.encode({"metadata": metadata, "spec": spec})), Kind.GATEWAY).value


def mirrored(source: str, spec: Any = SPEC) -> ApiObject:
    return gateway("kube-system", spec=spec, **{MIRRORED_FROM: source})


def test_a_cluster_namespaces_object_is_followed_until_in_step() -> None:
    assert mirror_step([gateway("cluster-a")], {}) == Follow("cluster-a", SPEC)
    assert mirror_step([gateway("cluster-a"), mirrored("cluster-a")], {}) is None


def test_an_edit_of_either_side_is_brought_in_step() -> None:
    other = {"floatingIPs": []}
    assert mirror_step([gateway("cluster-a", spec=other), mirrored("cluster-a")], {}) == Follow("cluster-a", other)
    assert mirror_step([gateway("cluster-a"), mirrored("cluster-a", other)], {}) == Follow("cluster-a", SPEC)


def test_what_was_followed_goes_with_its_source_and_what_users_made_stays() -> None:
    assert mirror_step([mirrored("cluster-a")], {}) == Withdraw("uid-kube-system")
    assert mirror_step([gateway("kube-system")], {}) is None
    assert mirror_step([], {}) is None


def test_the_oldest_cluster_namespace_counts() -> None:
    objects = [gateway("cluster-a", created="2024-01-02T00:00:00Z"), gateway("cluster-b")]
    assert mirror_step(objects, {}) == Follow("cluster-b", SPEC)


def test_objects_of_other_namespaces_are_not_followed() -> None:
    assert mirror_step([gateway("default"), gateway("clusters")], {}) is None


def test_a_cluster_that_is_switched_off_withdraws_everything() -> None:
    objects = [gateway("cluster-a"), mirrored("cluster-a")]
    assert mirror_step(objects, {"cluster-a": True}) is None
    assert mirror_step(objects, {"cluster-a": False}) == Withdraw("uid-kube-system")
    assert mirror_step(objects[:1], {"cluster-a": False}) is None
