"""When the leader may place, which nodes count, and what changes in its table."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from service.controller.placement import (
    DOUBT_NS,
    NOTICE_NS,
    PATIENCE_NS,
    UNRESPONSIVE_NS,
    Placement,
    Revision,
    has_caught_up,
)
from service.gateway.assignment import assign
from service.gateway.row import MemberMetadata
from service.gossip.member import Member, MemberState
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeRole
from service.model.lease import Elector, Stamp
from service.model.machine import Address
from tests.report.facts import FIRST, SECOND, node

A, B = IPv4Address(FIRST), IPv4Address(SECOND)
WORKERS = (node("worker1", 1), node("worker2", 2))
ELECTORS = tuple(Elector(name, f"10.0.0.{index}") for index, name in enumerate("ab", start=1))


# -- when it may place --


def member(name: str, *, ready: bool = True) -> tuple[Member, MemberMetadata]:
    metadata = MemberMetadata(NodeRole.WORKER, ready, True, (), "1", 1)
    return Member(name, Address("10.0.0.1", 9640), MemberState.ALIVE, b"", 1), metadata


def settled(**changed: Any) -> bool:
    members = {name: member(name) for name in "ab"}
    facts = {"is_synced": True, "has_observed": True, "electors": ELECTORS, "members": members, "waited_ns": 0}
    return has_caught_up(**(facts | changed))


def test_a_leader_that_knows_objects_holders_and_every_elector_places_at_once() -> None:
    assert settled()


@pytest.mark.parametrize("waited_ns", [0, 100 * PATIENCE_NS])
@pytest.mark.parametrize("missing", ["is_synced", "has_observed"])
def test_without_objects_or_holders_nothing_is_ever_placed(missing: str, waited_ns: int) -> None:
    assert not settled(**{missing: False}, waited_ns=waited_ns)


@pytest.mark.parametrize("members", [{"a": member("a")}, {"a": member("a"), "b": member("b", ready=False)}])
def test_an_elector_that_is_absent_or_not_ready_is_waited_for_and_not_for_ever(members: Any) -> None:
    assert not settled(members=members, waited_ns=PATIENCE_NS)
    assert settled(members=members, waited_ns=PATIENCE_NS + 1)


# -- what it changes --


class Table:
    """The table as it is known everywhere once a turn has been published, with the site that it is for."""

    def __init__(self, *floating_ips: IPv4Address, nodes: tuple[GatewayNode, ...] = WORKERS) -> None:
        self.floating_ips = floating_ips
        self.nodes = nodes
        self.holders: dict[IPv4Address, str] = {}
        self.conflicts: dict[IPv4Address, bytes] = {}
        self.rows: dict[IPv4Address, Assignment] = {}
        self.placement = Placement(7)
        self.now_ns = 0

    def turn(self, *, after_ns: int = 0) -> Revision:
        self.now_ns += after_ns
        revision = self.placement.revise(
            self.floating_ips, self.nodes, self.holders, self.conflicts, self.rows, now_ns=self.now_ns
        )
        self.rows |= {row.floating_ip: row for row in revision.changed}
        for row in revision.removed:
            del self.rows[row.floating_ip]
        return revision

    def holder(self, floating_ip: IPv4Address = A) -> str | None:
        return self.rows[floating_ip].holder

    def obey(self) -> None:
        """Every holder takes what it was assigned."""
        self.holders = {key: row.holder for key, row in self.rows.items() if row.holder is not None}


def test_each_floating_ip_gets_a_row_and_all_rows_of_a_turn_one_stamp() -> None:
    table = Table(A, B)
    revision = table.turn()
    assert [(row.floating_ip, row.holder, row.stamp) for row in revision.changed] == [
        (A, "worker1", Stamp(7, 1)),
        (B, "worker2", Stamp(7, 1)),
    ]


def test_a_turn_that_changes_nothing_publishes_nothing_and_uses_no_version() -> None:
    table = Table(A)
    table.turn()
    table.obey()
    assert table.turn(after_ns=1).is_empty
    table.floating_ips = (A, B)
    (row,) = table.turn(after_ns=1).changed
    assert (row.floating_ip, row.stamp) == (B, Stamp(7, 2))


def test_a_turn_in_which_nothing_is_new_works_nothing_out_and_any_news_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand nodes and five hundred addresses are looked at twice a second."""
    asked: list[Any] = []

    def counted(*given: Any, **named: Any) -> Any:
        asked.append(given)
        return assign(*given, **named)

    monkeypatch.setattr("service.controller.placement.assign", counted)
    table = Table(A, B)
    table.turn()
    table.turn()
    asked.clear()
    for _ in range(3):
        assert table.turn().is_empty
    assert asked == []
    table.nodes = (replace(WORKERS[0], ready=False), WORKERS[1])
    table.turn()
    table.holders = {A: "worker2"}
    table.turn()
    table.floating_ips = (A,)
    table.turn()
    assert len(asked) == 3


def test_an_address_that_is_no_longer_listed_is_withdrawn_under_a_new_stamp_with_who_had_it() -> None:
    table = Table(A, B)
    table.turn()
    table.floating_ips = (B,)
    revision = table.turn()
    assert revision.changed == ()
    assert [(row.floating_ip, row.holder, row.stamp) for row in revision.removed] == [(A, "worker1", Stamp(7, 2))]


def test_the_rows_of_an_earlier_leader_stay_as_they_are() -> None:
    table = Table(A)
    table.rows = {A: Assignment(A, "worker2", "worker1", Stamp(6, 9))}
    table.holders = {A: "worker2"}
    assert table.turn().is_empty


def test_versions_begin_anew_in_each_term() -> None:
    table = Table(A)
    table.turn()
    table.placement = Placement(8)
    table.floating_ips = (A, B)
    (row,) = table.turn().changed
    assert row.stamp == Stamp(8, 1)


def test_s2_a_node_that_does_not_take_its_address_in_time_loses_it_to_another() -> None:
    table = Table(A)
    table.turn()
    assert table.turn(after_ns=UNRESPONSIVE_NS).is_empty
    (row,) = table.turn(after_ns=1).changed
    assert (row.holder, row.stamp) == ("worker2", Stamp(7, 2))


def test_s2_the_next_one_has_as_much_time_as_the_first() -> None:
    table = Table(A, nodes=(*WORKERS, node("worker3", 3)))
    table.turn()
    table.turn(after_ns=UNRESPONSIVE_NS + 1)
    assert table.holder() == "worker2"
    assert table.turn(after_ns=UNRESPONSIVE_NS).is_empty


def test_s2_a_silent_node_gets_nothing_else_either() -> None:
    table = Table(A, B)
    table.turn()
    table.holders = {B: "worker2"}
    table.floating_ips = (A, B, IPv4Address("192.168.1.102"))
    table.turn(after_ns=UNRESPONSIVE_NS + 1)
    assert {row.holder for row in table.rows.values()} == {"worker2"}


def test_s2_a_held_address_waits_for_nobody_whoever_holds_it() -> None:
    table = Table(A)
    table.turn()
    table.holders = {A: "worker2"}
    table.turn(after_ns=10 * UNRESPONSIVE_NS)
    del table.holders[A]
    table.turn(after_ns=UNRESPONSIVE_NS)
    assert table.holder() == "worker2", "its time began when it was last seen to be held"
    table.turn(after_ns=1)
    assert table.holder() == "worker1"


def test_a_node_that_must_not_take_an_address_because_of_a_stranger_is_not_silent() -> None:
    table = Table(A)
    table.turn()
    table.conflicts = {A: b"\x02\0\0\0\0\x63"}
    assert table.turn(after_ns=10 * UNRESPONSIVE_NS).is_empty
    table.conflicts = {}
    assert table.turn(after_ns=UNRESPONSIVE_NS).is_empty
    assert not table.turn(after_ns=1).is_empty


def test_the_rows_of_another_leader_give_their_holders_new_time() -> None:
    table = Table(A)
    table.turn()
    table.rows = {A: replace(table.rows[A], stamp=Stamp(8, 1))}
    assert table.turn(after_ns=10 * UNRESPONSIVE_NS).is_empty
    assert table.turn(after_ns=UNRESPONSIVE_NS).is_empty
    assert not table.turn(after_ns=1).is_empty


def test_who_takes_over_leadership_gives_every_holder_its_time() -> None:
    table = Table(A)
    table.rows = {A: Assignment(A, "worker1", "worker2", Stamp(6, 9))}
    assert table.turn(after_ns=10 * UNRESPONSIVE_NS).is_empty
    assert table.turn(after_ns=UNRESPONSIVE_NS).is_empty
    assert not table.turn(after_ns=1).is_empty


def test_an_address_for_nobody_makes_nobody_silent() -> None:
    table = Table(A, nodes=(node("worker1", 1, ready=False),))
    table.turn()
    assert table.holder() is None
    assert table.turn(after_ns=10 * UNRESPONSIVE_NS).is_empty


def test_o1_a_drained_node_keeps_its_address_until_the_heir_has_had_notice() -> None:
    table = Table(A, nodes=(*WORKERS, node("worker3", 3)))
    table.turn()
    table.obey()
    heir = table.rows[A].successor
    table.nodes = (node("worker1", 1, schedulable=False), *table.nodes[1:])
    table.turn()
    assert [(move.source, move.heir) for move in table.placement.moves] == [("worker1", heir)]
    table.turn(after_ns=NOTICE_NS - 1)
    assert table.holder() == "worker1"
    table.turn(after_ns=1)
    assert table.holder() == heir
    assert table.turn(after_ns=NOTICE_NS).is_empty, "it stays so while the former holder has not let go"
    assert table.placement.moves
    table.obey()
    table.turn()
    assert table.placement.moves == ()


def test_o1_an_heir_that_changes_has_notice_of_its_own() -> None:
    table = Table(A, nodes=(*WORKERS, node("worker3", 3)))
    table.turn()
    table.obey()
    table.nodes = (node("worker1", 1, schedulable=False), *table.nodes[1:])
    table.turn()
    table.nodes = (table.nodes[0], node("worker2", 2, ready=False), table.nodes[2])
    table.turn(after_ns=NOTICE_NS)
    assert (table.holder(), table.rows[A].successor) == ("worker1", "worker3")
    table.turn(after_ns=NOTICE_NS - 1)
    assert table.holder() == "worker1"
    table.turn(after_ns=1)
    assert table.holder() == "worker3"


def test_o1_a_drain_that_ends_in_time_moves_nothing() -> None:
    table = Table(A)
    table.turn()
    table.obey()
    table.nodes = (node("worker1", 1, schedulable=False), WORKERS[1])
    table.turn()
    table.nodes = WORKERS
    table.turn(after_ns=NOTICE_NS)
    assert table.holder() == "worker1"
    assert table.placement.moves == ()


def test_o1_the_next_leader_gives_notice_anew() -> None:
    table = Table(A)
    table.turn()
    table.obey()
    table.nodes = (node("worker1", 1, schedulable=False), WORKERS[1])
    table.turn()
    table.placement = Placement(8)
    table.turn(after_ns=NOTICE_NS)
    assert table.holder() == "worker1"
    table.turn(after_ns=NOTICE_NS)
    assert table.holder() == "worker2"


def test_o1_a_selector_that_leaves_nobody_right_after_a_move_finds_the_address_where_it_went() -> None:
    table = Table(A)
    table.turn()
    table.obey()
    table.nodes = (replace(WORKERS[0], selected=False), WORKERS[1])
    table.turn()
    table.turn(after_ns=NOTICE_NS)
    assert table.holder() == "worker2"
    table.nodes = tuple(replace(worker, selected=False) for worker in WORKERS)
    table.turn()
    assert table.holder() == "worker2", "the electors' word on it is late"
    table.obey()
    table.turn()
    assert (table.holder(), table.placement.moves) == ("worker2", ())
    assert "worker2 is not selected by spec.nodeSelector, and no other node" in table.rows[A].reason


C = IPv4Address("192.168.1.102")
THREE = (*WORKERS, node("worker3", 3))


def test_a_node_that_has_lost_its_address_is_not_made_the_successor_of_everything() -> None:
    """It seems to be empty, and nobody has noticed yet that it is dead."""
    table = Table(A, B, C, nodes=THREE)
    table.holders = {A: "worker1", B: "worker2", C: "worker2"}
    table.turn()
    table.holders = {A: "worker3", B: "worker2", C: "worker2"}
    table.turn(after_ns=1)
    assert {row.successor for row in table.rows.values()} == {"worker2", "worker3"}
    table.turn(after_ns=DOUBT_NS)
    assert table.rows[A].successor == "worker1", "it lives, and has less than others"


def test_a_node_that_gave_an_address_up_on_purpose_is_not_doubted() -> None:
    table = Table(A, nodes=WORKERS)
    table.turn()
    table.holders = {A: "worker1"}
    table.nodes = (replace(WORKERS[0], drained=True), WORKERS[1])
    table.turn()
    table.turn(after_ns=NOTICE_NS)
    table.holders = {A: "worker2"}
    table.nodes = THREE
    table.turn(after_ns=1)
    assert table.rows[A].successor == "worker1"


def test_where_there_is_no_other_a_doubtful_node_is_the_successor_all_the_same() -> None:
    table = Table(A, nodes=WORKERS)
    table.turn()
    table.holders = {A: "worker1"}
    table.turn()
    table.holders = {A: "worker2"}
    table.turn(after_ns=1)
    assert table.rows[A].successor == "worker1"
