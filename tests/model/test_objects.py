import pytest

from service.model.gateway_node import NodeRole
from service.model.objects import ClusterNode, Kind, ObjectKey

KEY = ObjectKey(Kind.CLUSTER_NODE, "", "worker1")


def test_an_object_is_written_with_its_namespace_where_it_has_one() -> None:
    assert str(ObjectKey(Kind.POD, "shop", "web")) == "shop/web"
    assert str(KEY) == "worker1"


@pytest.mark.parametrize("is_ready", [True, False, None])
def test_cordon_and_shutdown_keep_floating_ips_away_and_being_unready_does_not(is_ready: bool | None) -> None:
    assert ClusterNode(KEY, NodeRole.WORKER, is_ready=is_ready).is_schedulable
    assert not ClusterNode(KEY, NodeRole.WORKER, is_cordoned=True, is_ready=is_ready).is_schedulable
    assert not ClusterNode(KEY, NodeRole.WORKER, is_shutting_down=True, is_ready=is_ready).is_schedulable
