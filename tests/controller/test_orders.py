"""What a leader makes of orders to move an address: every one of them ends, and says how."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.controller.orders import AGE_S_MAX, PATIENCE_NS, MoveOrders
from service.controller.placement import NOTICE_NS, Placement
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode
from service.model.order import MoveOrder, MoveState
from tests.report.facts import FIRST, SECOND, node

A, B = IPv4Address(FIRST), IPv4Address(SECOND)
NOW_S = 1_000_000
TURN_NS = NOTICE_NS // 2


class Office:
    """A leader with its orders and its table; every node takes what it is assigned, and gives up what it is not."""

    def __init__(self, *nodes: GatewayNode) -> None:
        self.nodes = nodes or (node("worker1", 1), node("worker2", 2), node("worker3", 3))
        self.board: dict[IPv4Address, MoveOrder] = {}
        self.holders = {A: "worker1", B: "worker2"}
        self.rows: dict[IPv4Address, Assignment] = {}
        self.seen: list[tuple[str | None, str | None]] = []
        self.now_ns, self.now_s = 0, NOW_S
        self.obeys = True
        self.elect()

    def elect(self, term: int = 7) -> None:
        self.orders, self.placement = MoveOrders(), Placement(term)

    def order(self, target: str = "", floating_ip: IPv4Address = A, *, number: int = NOW_S) -> None:
        self.board[floating_ip] = MoveOrder(floating_ip, (number, 1), target)

    def turn(self) -> None:
        self.now_ns += TURN_NS
        ended = self.orders.decide(self.board, (A, B), self.nodes, self.holders, now_ns=self.now_ns, now_s=self.now_s)
        revision = self.placement.revise(
            (A, B), self.nodes, self.holders, {}, self.rows, ordered=self.orders.ordered, now_ns=self.now_ns
        )
        for order in (*ended, *self.orders.begun(self.placement.moves)):
            self.board[order.floating_ip] = order
        self.rows |= {row.floating_ip: row for row in revision.changed}
        self.seen.append((self.rows[A].holder, self.rows[A].successor))
        if self.obeys:
            self.holders |= {ip: row.holder for ip, row in self.rows.items() if row.holder is not None}

    def turns(self, count: int = 8) -> MoveOrder:
        for _ in range(count):
            self.turn()
        return self.board[A]


def test_o4_an_address_goes_where_it_was_ordered_and_the_order_says_so() -> None:
    office = Office()
    office.order("worker3")
    done = office.turns()
    assert (done.state, done.source, done.target) == (MoveState.DONE, "worker1", "worker3")
    assert office.holders == {A: "worker3", B: "worker2"}


def test_o1_the_target_has_notice_before_the_holder_gives_anything_up() -> None:
    office = Office()
    office.order("worker3")
    office.turns()
    first = office.seen.index(("worker3", None))
    assert first >= 2
    assert set(office.seen[:first]) == {("worker1", "worker3")}
    assert office.seen[-1][1] is not None, "and then there is a successor again"


def test_o1_nobody_else_stands_by_until_the_heir_has_it() -> None:
    """P4: a claim under the newest row goes before that of an heir which has not heard of it yet."""
    office = Office()
    office.order("worker3")
    office.turn()
    office.obeys = False
    office.turns(4)
    assert office.seen[-1] == ("worker3", None)
    office.obeys = True
    office.turns(2)
    assert office.holders[A] == "worker3"
    assert office.seen[-1][1] in ("worker1", "worker2")


def test_o4_with_no_node_named_it_goes_to_its_successor_once_and_stays() -> None:
    office = Office()
    office.turn()
    heir = office.rows[A].successor
    office.order()
    done = office.turns(20)
    assert (done.state, done.source, done.target) == (MoveState.DONE, "worker1", heir)
    assert office.holders[A] == heir


def test_what_is_there_already_is_not_moved() -> None:
    office = Office()
    office.order("worker1")
    done = office.turns(1)
    assert (done.state, done.reason) == (MoveState.DONE, "worker1 has it already")
    assert not office.placement.moves


@pytest.mark.parametrize(
    ("target", "fit", "reason"),
    [
        ("worker9", {}, "there is no node worker9"),
        ("worker3", {"ready": False}, "node worker3 cannot hold it: not ready"),
        ("worker3", {"schedulable": False}, "node worker3 cannot hold it: cordoned or draining"),
        ("worker3", {"selected": False}, "node worker3 cannot hold it: not selected by spec.nodeSelector"),
        ("worker3", {"segments": ()}, "node worker3 cannot hold it: has no interface on its subnet"),
    ],
)
def test_o4_an_order_that_cannot_be_carried_out_fails_at_once_with_why(
    target: str, fit: dict[str, object], reason: str
) -> None:
    office = Office(node("worker1", 1), node("worker2", 2), replace(node("worker3", 3), **fit))  # type: ignore[arg-type]
    office.order(target)
    failed = office.turns(1)
    assert (failed.state, failed.reason) == (MoveState.FAILED, reason)
    assert office.turns(4).state is MoveState.FAILED
    assert office.holders[A] == "worker1"


def test_of_a_lone_node_nothing_can_be_moved() -> None:
    office = Office(node("worker1", 1))
    office.order()
    assert office.turns(1).reason == "no other node can hold it"


def test_an_address_that_is_not_listed_is_not_moved() -> None:
    office = Office()
    other = IPv4Address("192.168.1.109")
    office.order("worker2", other)
    office.turn()
    assert office.board[other].reason == "192.168.1.109 is no floating IP of the gateway"


def test_o4_a_target_that_does_not_take_it_costs_nothing_and_the_order_fails() -> None:
    office = Office()
    office.obeys = False
    office.order("worker3")
    failed = office.turns(PATIENCE_NS // TURN_NS + 2)
    assert (failed.state, failed.reason) == (MoveState.FAILED, "worker3 has not taken it from worker1 within 20 s")
    office.turn()
    assert office.rows[A].holder == "worker1"


def test_o4_a_new_leader_goes_on_with_the_order_and_with_its_target() -> None:
    office = Office()
    office.order()
    office.turn()
    target = office.board[A].target
    assert office.board[A].state is MoveState.MOVING
    office.elect(9)
    assert office.turns().state is MoveState.DONE
    assert office.holders[A] == target


def test_o4_an_order_that_nobody_saw_for_long_is_carried_out_no_more() -> None:
    office = Office()
    office.order("worker3", number=NOW_S - AGE_S_MAX - 1)
    failed = office.turns()
    assert failed.state is MoveState.FAILED
    assert "nobody led for so long" in failed.reason
    assert office.holders[A] == "worker1"


def test_an_order_that_is_withdrawn_moves_nothing_more() -> None:
    office = Office()
    office.order("worker3")
    office.turn()
    office.board[A] = replace(office.board[A], state=MoveState.FAILED, reason="withdrawn")
    office.turns()
    assert office.holders[A] == "worker1"


def test_o4_an_address_that_is_moved_off_a_drained_node_goes_where_the_operator_says() -> None:
    office = Office(
        replace(node("worker1", 1), schedulable=False, drained=True), node("worker2", 2), node("worker3", 3)
    )
    office.order("worker3")
    assert office.turns().state is MoveState.DONE
    assert office.holders[A] == "worker3"


FLAGS = st.tuples(*(st.sampled_from([True, True, True, False]) for _ in range(3)))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(FLAGS, FLAGS, FLAGS), min_size=1, max_size=6),
    st.sampled_from(["", "worker1", "worker2", "worker3", "worker9"]),
    st.booleans(),
)
def test_o4_every_order_ends_whatever_becomes_of_the_nodes(
    fates: list[tuple[tuple[bool, bool, bool], ...]], target: str, obeys: bool
) -> None:
    office = Office()
    office.obeys = obeys
    office.order(target)
    for fate in fates:
        office.nodes = tuple(
            replace(node(f"worker{number}", number), ready=ready, schedulable=schedulable, selected=selected)
            for number, (ready, schedulable, selected) in enumerate(fate, start=1)
        )
        office.turn()
        # Whoever the row newly names can be given it now.
        named = next(one for one in office.nodes if one.name == office.rows[A].holder)
        before = office.seen[-2][0] if len(office.seen) > 1 else "worker1"
        assert office.rows[A].holder in (before, "worker1") or (named.ready and named.schedulable and named.selected)
    assert office.turns(PATIENCE_NS // TURN_NS + 2).state.is_over
