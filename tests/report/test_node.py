"""What is told of a gateway node: by its gossip, its leases and its Node object."""

from dataclasses import replace
from typing import Any

import pytest

from service.gateway.row import MemberMetadata
from service.gossip.member import Member, MemberState
from service.model.gateway_node import GatewayNode, Hearing, NodeRole, NodeState
from service.model.machine import Address
from service.model.objects import ClusterNode, Kind, ObjectKey, Upsert
from service.report.node import node_status
from tests.report.facts import FIRST, SECOND, Site, node, two_held


def say(site: Site, name: str, **fields: Any) -> None:
    """What the cluster's Node object of that name says."""
    site.take(Upsert(ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", name), NodeRole.WORKER, **fields)))


def status(site: Site) -> dict[str, Any]:
    """Of the first node."""
    return node_status(site.nodes[0], site.facts())


def conditions(site: Site) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in status(site)["conditions"]}


def test_without_node_objects_nothing_is_said_of_kubernetes() -> None:
    assert conditions(two_held()) == {"Ready": ("True", "Ready"), "Schedulable": ("True", "Schedulable")}


@pytest.mark.parametrize(
    ("found", "kind", "expected"),
    [
        (node("worker1", 1, state=NodeState.DOWN), "Ready", ("False", "Down")),
        (node("worker1", 1, state=NodeState.DOWN, ready=False), "Ready", ("False", "Down")),
        (node("worker1", 1, ready=False), "Ready", ("False", "NotReady")),
        (node("worker1", 1, schedulable=False), "Schedulable", ("False", "Draining")),
        (replace(node("worker1", 1), schedulable=False, drained=True), "Schedulable", ("False", "Drained")),
        (replace(node("worker1", 1), selected=False), "Schedulable", ("False", "NotSelected")),
    ],
)
def test_what_a_node_says_of_itself_is_shown(found: GatewayNode, kind: str, expected: tuple[str, str]) -> None:
    site = two_held()
    site.nodes = (found,)
    assert conditions(site)[kind] == expected


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({"is_cordoned": True}, "Schedulable", ("False", "Cordoned")),
        ({"is_cordoned": True, "is_shutting_down": True}, "Schedulable", ("False", "ShuttingDown")),
        ({"is_ready": True}, "KubernetesReady", ("True", "KubeletReady")),
        ({"is_ready": False, "not_ready_reason": "down"}, "KubernetesReady", ("False", "KubeletNotReady")),
        ({}, "KubernetesReady", ("Unknown", "KubeletUnknown")),
    ],
)
def test_what_the_cluster_says_of_a_node_is_shown(fields: Any, kind: str, expected: tuple[str, str]) -> None:
    site = two_held()
    say(site, "other")
    say(site, "worker1", **fields)
    assert conditions(site)[kind] == expected


def test_a_node_without_a_node_object_is_told_where_others_have_one() -> None:
    site = two_held()
    say(site, "other")
    assert conditions(site)["KubernetesReady"] == ("False", "NodeGone")


def test_a_node_that_kubernetes_thinks_dead_is_ready_all_the_same() -> None:
    site = two_held()
    say(site, "worker1", is_ready=False)
    assert conditions(site)["Ready"] == ("True", "Ready")


def test_a_node_status_names_interfaces_terms_and_tokens() -> None:
    site = two_held()
    (segment,) = site.nodes[0].segments
    site.nodes = (replace(site.nodes[0], segments=(replace(segment, interface="eth0"),)),)
    found = status(site)
    assert found["segments"][0]["interface"] == "eth0"
    assert found["floatingIPs"] == [{"address": FIRST, "term": 7, "token": "7.1.1"}]


def test_all_addresses_that_a_node_holds_stand_in_one_text_for_tables() -> None:
    site = two_held()
    site.place(SECOND, "worker1")
    assert status(site)["addresses"] == f"{FIRST}, {SECOND}"
    site.held.clear()
    assert status(site)["addresses"] == ""


def test_what_a_member_says_of_its_agent_is_shown_and_nothing_where_there_is_no_member() -> None:
    site = two_held()
    assert "agentVersion" not in status(site)
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (), "1.2.3", 5)
    site.members = {"worker1": (Member("worker1", Address("10.0.0.1", 9640), MemberState.ALIVE, b"", 1), metadata)}
    assert (status(site)["agentVersion"], status(site)["tunnelEndpoint"]) == ("1.2.3", "10.0.0.1")


def test_n2_a_node_beside_a_cni_that_was_not_tested_with_says_which_and_what_to_do() -> None:
    site = two_held()
    metadata = MemberMetadata(NodeRole.WORKER, False, True, (), "1.2.3", 5, unsupported_cni="Cilium")
    site.members = {"worker1": (Member("worker1", Address("10.0.0.1", 9640), MemberState.ALIVE, b"", 1), metadata)}
    (told,) = (item for item in status(site)["conditions"] if item["type"] == "Ready")
    assert (told["status"], told["reason"]) == ("False", "UnsupportedCNI")
    assert "Cilium" in told["message"]
    assert "datapath.unsupported_cni: try" in told["message"]


def test_s5_a_segment_that_does_not_reach_the_node_is_named_while_it_is_so() -> None:
    site = two_held()
    segment = replace(site.nodes[0].segments[0], hearing=Hearing.DEAF)
    site.nodes = (replace(site.nodes[0], segments=(segment,)), *site.nodes[1:])
    (told,) = (item for item in status(site)["conditions"] if item["type"] == "SegmentsReachable")
    assert (told["status"], told["reason"]) == ("False", "Deaf")
    assert str(segment.network) in told["message"]
    site.nodes = (replace(site.nodes[0], segments=(replace(segment, hearing=Hearing.SILENT),)),)
    assert "SegmentsReachable" not in conditions(site)
