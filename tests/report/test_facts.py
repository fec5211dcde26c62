from dataclasses import FrozenInstanceError

import pytest

from service.model.gateway_node import NodeRole
from service.model.objects import ClusterNode, Kind, ObjectKey
from service.report.facts import Facts

HERE = {"worker1": ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", "worker1"), NodeRole.WORKER)}


def test_a_node_is_removed_where_the_cluster_has_nodes_and_not_that_one() -> None:
    facts = Facts(term=7, cluster_nodes=HERE)
    assert facts.is_removed("worker2")
    assert not facts.is_removed("worker1")


def test_no_node_is_removed_where_the_source_has_no_node_objects() -> None:
    assert not Facts(term=7).is_removed("worker1")


def test_facts_cannot_be_changed_by_who_reports_them() -> None:
    with pytest.raises(FrozenInstanceError):
        Facts(term=7).term = 8  # type: ignore[misc]
