"""The parts of the status document that agents and controllers share."""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.audit.outbox import Outbox, OutboxState
from service.audit.publisher import Publisher, PublisherState
from service.gossip.member import Member, MemberState
from service.model.assignment import Assignment
from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Elector, Electorate, HeldBy, Stamp, Token
from service.model.machine import Address
from service.model.objects import LabelSelector, Synced, Upsert
from service.model.order import MoveOrder, MoveState
from service.settings import DatapathSettings
from service.sources.intake import Intake
from service.sources.source import Source
from service.sources.source_state import SourceState
from service.web.document import audit_status, cluster_status, electorate_status, objects_status
from service.wire.cluster_view import ClusterView
from tests.gateway.nodes import node
from tests.policy.objects import gateway, policy

IP, OTHER = IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101")
HELD = {IP: HeldBy("worker1", Token(4, 1, 2))}


@dataclass
class Cluster:
    """What gossip says."""

    nodes: tuple[GatewayNode, ...] = (node("worker1", "192.0.2.1/24"), node("worker2", "192.0.2.2/24"))
    rows: dict[IPv4Address, Assignment] = field(default_factory=dict)
    strangers: dict[IPv4Address, bytes] = field(default_factory=dict)
    elected: tuple[str, int] | None = ("controller-a", 4)
    ordered: dict[IPv4Address, MoveOrder] = field(default_factory=dict)
    states: dict[str, MemberState] = field(default_factory=lambda: {"controller-a": MemberState.ALIVE})

    @property
    def orders(self) -> Any:
        return SimpleNamespace(moves=lambda: self.ordered)

    def leader(self) -> tuple[str, int] | None:
        return self.elected

    def keys(self) -> dict[str, dict[str, tuple[str, ...] | None]]:
        return {"worker1": {"agent": ("0a0b0c0d",), "keeper": None}}

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        return self.nodes

    def assignments(self) -> dict[IPv4Address, Assignment]:
        return self.rows

    def conflicts(self) -> dict[IPv4Address, bytes]:
        return self.strangers

    def members(self) -> dict[str, tuple[Member, None]]:
        return {
            name: (Member(name, Address("192.0.2.9", 1), state, b"", 1), None) for name, state in self.states.items()
        }


def known(*changes: Any) -> Intake:
    intake = Intake(DatapathSettings(pod_cidrs=("10.244.0.0/16",)))
    intake.take(changes)
    return intake


def shown(cluster: Cluster, intake: Intake | None = None, holders: Any = None) -> dict[str, Any]:
    intake = intake or known(Upsert(gateway(str(IP))))
    return cluster_status(cast(ClusterView, cluster), intake, HELD if holders is None else holders)


def row(holder: str | None = "worker1", successor: str | None = "worker2", reason: str = "") -> Assignment:
    return Assignment(IP, holder, successor, Stamp(4, 1), reason)


def test_a_floating_ip_is_shown_with_who_has_it_who_shall_and_who_comes_next() -> None:
    assert shown(Cluster(rows={IP: row("worker2", "worker1")}))["floatingIPs"] == {
        "192.0.2.100": {
            "holder": "worker1",
            "assigned": "worker2",
            "successor": "worker1",
            "token": "4.1.2",
            "lastHeard": None,
            "reason": "",
        }
    }


@pytest.mark.parametrize(
    ("state", "assigned", "expected"),
    [
        (NodeState.UP, "worker2", "worker1"),
        (NodeState.DOWN, "worker1", "worker1"),
        (NodeState.DOWN, "worker2", None),
        (NodeState.DOWN, None, None),
    ],
)
def test_a_node_thought_dead_is_shown_as_the_holder_only_where_the_leader_agrees(
    state: NodeState, assigned: str | None, expected: str | None
) -> None:
    nodes = (replace(node("worker1", "192.0.2.1/24"), state=state),)
    found = shown(Cluster(nodes, {IP: row(assigned)}))["floatingIPs"][str(IP)]
    assert (found["holder"], found["assigned"]) == (expected, assigned)


def test_an_address_that_nobody_holds_is_shown_with_why() -> None:
    cluster = Cluster()

    def reason() -> str:
        found = shown(cluster, holders={})["floatingIPs"][str(IP)]
        assert (found["holder"], found["token"]) == (None, None)
        return str(found["reason"])

    assert reason() == "not assigned yet"
    cluster.rows = {IP: row(None, None, "no node is ready")}
    assert reason() == "no node is ready"
    cluster.strangers = {IP: b"\x02\0\0\0\0\x63"}
    assert reason().startswith("FloatingIPConflict: 02:00:00:00:00:63")


def test_addresses_come_in_the_order_of_the_spec_and_then_those_that_are_still_in_the_table() -> None:
    intake = known(Upsert(gateway("192.0.2.200", "192.0.2.150")))
    found = shown(Cluster(rows={IP: row()}), intake)
    assert list(found["floatingIPs"]) == ["192.0.2.200", "192.0.2.150", "192.0.2.100"]


def test_nodes_and_the_leader_are_shown_as_gossip_names_them() -> None:
    found = shown(Cluster())
    assert (found["leader"], found["term"]) == ("controller-a", 4)
    assert found["nodes"]["worker1"] == {
        "state": "Up",
        "role": "worker",
        "ready": True,
        "schedulable": True,
        "drained": False,
        "selected": True,
        "segments": ["192.0.2.1/24"],
    }
    without = shown(Cluster(elected=None))
    assert (without["leader"], without["term"]) == (None, 0)


@pytest.mark.parametrize(
    ("state", "shown_as"),
    [(MemberState.SUSPECT, "Up"), (MemberState.DEAD, "Down"), (MemberState.LEFT, "Left"), (None, "Unknown")],
)
def test_the_leader_is_shown_with_whether_it_can_be_reached(state: MemberState | None, shown_as: str) -> None:
    cluster = Cluster(states={"controller-a": state} if state else {})
    assert shown(cluster)["leaderState"] == shown_as
    assert shown(Cluster(elected=None))["leaderState"] is None


def test_what_was_last_heard_of_an_address_is_shown_beside_a_holder_that_nobody_vouches_for() -> None:
    cluster = Cluster(rows={IP: row()})
    intake = known(Upsert(gateway(str(IP))))
    found = cluster_status(cast(ClusterView, cluster), intake, {}, HELD)["floatingIPs"][str(IP)]
    assert (found["holder"], found["lastHeard"]) == (None, "worker1")


def test_policies_are_shown_by_name_with_their_verdict_and_refused_objects_as_text() -> None:
    intake = known(Upsert(gateway(str(IP))), Upsert(policy("web", ip=str(IP))), Upsert(policy("late", ip=str(OTHER))))
    intake.errors = (ObjectError("a.yaml", "EgressNATPolicy", "bad", "spec", "is wrong"),)
    found = shown(Cluster(), intake)
    assert list(found["policies"]) == ["late", "web"]
    assert (found["policies"]["late"]["reason"], found["policies"]["late"]["accepted"]) == ("UnknownEgressIP", True)
    assert found["policies"]["web"]["egressSourceIP"] == "192.0.2.100"
    assert "is wrong" in found["errors"][0]


def test_who_grants_leases_is_shown_by_address_with_what_stands_in_the_way_of_a_change() -> None:
    found = electorate_status(
        Electorate(3, (Elector("a", "10.0.0.1"), Elector("b", "10.0.0.2"))),
        "behind",
        has_majority=False,
        silent_s={"b": 2.34},
    )
    assert found == {
        "epoch": 3,
        "members": {"a": "10.0.0.1", "b": "10.0.0.2"},
        "trouble": "behind",
        "majority": False,
        "silentSeconds": {"b": 2.3},
    }


def test_objects_are_unknown_before_the_source_is_open_and_later_as_fresh_as_it_says() -> None:
    assert objects_status(known(), None) == {"synced": False, "trouble": "", "restoredFrom": None}
    source = SimpleNamespace(state=lambda: SourceState("away", "2024-05-05T00:00:00Z"))
    found = objects_status(known(Synced()), cast(Source, source))
    assert found == {"synced": True, "trouble": "away", "restoredFrom": "2024-05-05T00:00:00Z"}


DISK = OutboxState(healthy=True, reason="", pending=1, written=2, lost=3, removed=4, damaged=5)
TOPIC = PublisherState(
    configured=True,
    healthy=True,
    reason="",
    published=6,
    lag_records=7,
    lag_seconds=0.12345,
    retries=8,
    unpublishable=9,
    damaged=10,
)


def audit(disk: OutboxState = DISK, topic: PublisherState = TOPIC) -> dict[str, Any]:
    return audit_status(cast(Outbox, SimpleNamespace(state=disk)), cast(Publisher, SimpleNamespace(state=topic)))


def test_the_audit_log_is_healthy_where_disk_and_brokers_are_and_else_says_what_is_not() -> None:
    assert (audit()["healthy"], audit()["reason"]) == (True, "")
    full = replace(DISK, healthy=False, reason="the disk is full")
    away = replace(TOPIC, healthy=False, reason="no broker answers")
    assert (audit(full)["healthy"], audit(full)["reason"]) == (False, "the disk is full")
    assert (audit(topic=away)["healthy"], audit(topic=away)["reason"]) == (False, "no broker answers")
    assert audit(full, away)["reason"] == "the disk is full; no broker answers"


def test_what_is_lost_and_how_far_behind_the_brokers_are_is_counted() -> None:
    found = audit()
    counts = ("pending", "lost", "removedUnpublished", "published", "lagRecords", "unpublishable")
    assert [found[name] for name in counts] == [1, 3, 4, 6, 7, 9]
    assert (found["kafka"], found["lagSeconds"]) == (True, 0.123)


def test_o2_a_node_that_the_selector_leaves_out_is_shown_as_such() -> None:
    selector = LabelSelector((("kubernetes.io/hostname", "worker2"),))
    gateway_object = replace(gateway(str(IP)), node_selector=selector)
    nodes = shown(Cluster(), known(Upsert(gateway_object)))["nodes"]
    assert {name: row["selected"] for name, row in nodes.items()} == {"worker1": False, "worker2": True}


def test_o4_the_last_order_for_an_address_is_shown_with_how_far_it_is() -> None:
    order = MoveOrder(IP, (1000, 1), "worker2", MoveState.FAILED, "worker1", "not ready")
    assert shown(Cluster(ordered={IP: order}))["orders"] == [
        {"floatingIP": str(IP), "from": "worker1", "to": "worker2", "state": "failed", "reason": "not ready"}
    ]
