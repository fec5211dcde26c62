"""What the leader publishes and puts on record, and that nobody else does."""

from dataclasses import replace
from typing import Any, cast

import pytest

from service.audit.recorder import LeaderRecorder
from service.controller.holders import AGE_NS_MAX
from service.controller.leader import Leader
from service.controller.placement import NOTICE_NS, UNRESPONSIVE_NS
from service.lease.holder import CloseFence, OpenFence
from service.model.gateway_node import NodeRole, NodeState
from service.model.lease import LEADER_KEY, Stamp, Token
from service.model.order import MoveState
from service.wire.cluster_view import ClusterView
from tests.controller.cluster import member
from tests.controller.site import A, B, Site
from tests.report.facts import node


class Recorder:
    """Keeps what is put on record, each as its name and what it is about."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def record(subject: Any, *details: Any) -> bool:
            self.records.append((name, subject))
            return True

        return record

    def of(self, name: str) -> list[Any]:
        return [subject for record, subject in self.records if record == name]


class Office:
    """A leader to be, of a site whose objects and electors are known."""

    def __init__(self) -> None:
        self.site = Site()
        self.site.list_only(A, B)
        self.site.answer()
        self.recorder = Recorder()
        self.leader = Leader(
            cast(ClusterView, self.site.cluster),
            self.site.knowledge,
            cast(LeaderRecorder, self.recorder),
            clock=lambda: self.site.now_ns,
            wall_clock=lambda: self.site.now_ns,
        )

    def elect(self, term: int = 7) -> None:
        self.leader.leadership.opened(OpenFence(LEADER_KEY, Token(term, 0, 1), 1000, True))

    def depose(self, term: int = 7) -> None:
        self.leader.leadership.closed(CloseFence(LEADER_KEY, Token(term, 0, 1), "expired"))

    def rows(self) -> dict[Any, tuple[str | None, Stamp]]:
        self.leader.place()
        return {key: (row.holder, row.stamp) for key, row in self.site.cluster.rows.items()}


def test_k2_who_is_elected_says_so_to_all_and_puts_it_on_record() -> None:
    office = Office()
    office.elect()
    assert office.site.cluster.terms == [7]
    assert office.recorder.of("elected") == [Token(7, 0, 1)]
    office.depose()
    assert office.recorder.of("deposed") == [Token(7, 0, 1)]


def test_k2_who_does_not_lead_places_nothing() -> None:
    office = Office()
    assert office.rows() == {}
    office.elect()
    office.depose()
    assert office.rows() == {}
    assert office.recorder.of("gateway") == []


def test_a_leader_that_knows_too_little_places_nothing() -> None:
    office = Office()
    office.elect()
    office.site.now_ns += AGE_NS_MAX
    assert office.rows() == {}


def test_a_leader_places_each_floating_ip_and_records_it_once() -> None:
    office = Office()
    office.elect()
    expected = {A: ("worker1", Stamp(7, 1)), B: ("worker2", Stamp(7, 1))}
    assert office.rows() == expected
    assert office.rows() == expected
    assert [row.floating_ip for row in office.recorder.of("assigned")] == [A, B]


def test_an_address_that_is_listed_no_longer_is_withdrawn_and_put_on_record() -> None:
    office = Office()
    office.elect()
    office.leader.place()
    office.site.list_only(B)
    assert list(office.rows()) == [B]
    (row,) = office.recorder.of("removed")
    assert (row.floating_ip, row.holder, row.stamp) == (A, "worker1", Stamp(7, 2))


def test_what_is_said_of_addresses_that_are_listed_no_longer_ends_by_the_leaders_word_alone() -> None:
    office = Office()
    office.leader.place()
    assert office.site.cluster.tidied == []
    office.elect()
    office.leader.place()
    office.site.list_only(B)
    office.leader.place()
    assert office.site.cluster.tidied == [(A, B), (B,)]


def test_without_a_gateway_every_row_is_withdrawn() -> None:
    office = Office()
    office.elect()
    office.leader.place()
    office.site.list_only()
    assert office.rows() == {}


def test_s2_a_node_that_does_not_take_its_address_loses_it() -> None:
    office = Office()
    office.elect()
    office.leader.place()
    office.site.now_ns += UNRESPONSIVE_NS + 1
    office.site.answer(b="worker2")
    assert office.rows()[A] == ("worker2", Stamp(7, 2))


def test_s2_who_the_electors_name_keeps_the_address_that_the_table_gave_to_another() -> None:
    office = Office()
    office.elect()
    office.leader.place()
    office.site.answer(a="worker2", b="worker2")
    assert office.rows()[A] == ("worker2", Stamp(7, 2))


def test_the_next_term_counts_its_versions_from_one() -> None:
    office = Office()
    office.elect()
    office.leader.place()
    office.depose()
    office.elect(9)
    office.site.answer(a="worker2", b="worker2")
    assert office.rows() == {A: ("worker2", Stamp(9, 1)), B: ("worker2", Stamp(7, 1))}


@pytest.mark.parametrize(("name", "is_noted"), [("worker1", True), ("controller-a", False), ("stranger", False)])
def test_of_members_only_agents_are_put_on_record(name: str, is_noted: bool) -> None:
    office = Office()
    office.site.cluster.known["controller-a"] = member("controller-a", role=NodeRole.CONTROLLER)
    office.leader.note_member(name, NodeState.DOWN)
    assert office.recorder.of("member") == ([name] if is_noted else [])


def test_o4_what_an_operator_orders_is_carried_out_and_reported_in_the_leaders_term() -> None:
    office = Office()
    office.elect()
    office.leader.place()
    office.site.answer(a="worker1", b="worker2")
    office.site.cluster.orders.move(A, "worker2", at_s=0)
    office.leader.place()
    order = office.site.cluster.orders.moves()[A]
    assert (order.state, order.source, order.target) == (MoveState.MOVING, "worker1", "worker2")
    assert [(move.source, move.heir) for move in office.leader.moves] == [("worker1", "worker2")]
    office.site.now_ns += NOTICE_NS
    office.site.answer(a="worker1", b="worker2")
    assert office.rows()[A][0] == "worker2"
    office.site.answer(a="worker2", b="worker2")
    office.leader.place()
    assert office.site.cluster.orders.moves()[A].state is MoveState.DONE
    assert office.leader.moves == ()


def test_o4_who_does_not_lead_carries_out_nothing() -> None:
    office = Office()
    office.site.answer(a="worker1", b="worker2")
    office.site.cluster.orders.move(A, "worker2", at_s=0)
    office.leader.place()
    assert office.site.cluster.orders.moves()[A].state is MoveState.ASKED
    assert office.leader.moves == ()


def test_o3_nodes_that_are_to_be_emptied_are_noted_whoever_leads() -> None:
    office = Office()
    office.site.cluster.nodes = (replace(node("worker1", 1), schedulable=False, drained=True), node("worker2", 2))
    office.leader.place()
    assert office.recorder.of("drains")[-1] == {"worker1": "by egressgw drain"}
