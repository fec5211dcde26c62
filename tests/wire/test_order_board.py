"""Orders that several members write down and read: the last one counts, and words on it come in their order."""

from dataclasses import replace
from ipaddress import IPv4Address

from service.gateway.order import DRAIN_TABLE
from service.model.order import MoveState
from tests.wire.board import Rows

IP = IPv4Address("192.168.1.100")


def test_o3_the_last_word_on_a_drain_counts_whoever_said_it_and_whatever_its_clock_says() -> None:
    rows = Rows()
    one, other = rows.board("one"), rows.board("other")
    one.drain("worker1", is_drained=True, at_s=1000)
    assert other.drains()["worker1"].is_drained
    other.drain("worker1", is_drained=False, at_s=10)
    assert not one.drains()["worker1"].is_drained
    one.drain("worker1", is_drained=True, at_s=11)
    assert other.drains()["worker1"].is_drained


def test_what_was_said_before_does_not_undo_what_was_said_since() -> None:
    rows = Rows()
    board = rows.board("one")
    former = board.drain("worker1", is_drained=True, at_s=1000)
    board.drain("worker1", is_drained=False, at_s=1001)
    assert not board.remember(former)
    assert not board.drains()["worker1"].is_drained


def test_a_drain_that_ended_with_its_node_is_gone_and_can_be_ordered_again() -> None:
    rows = Rows()
    board = rows.board("one")
    board.drain("worker1", is_drained=True, at_s=1000)
    board.end(DRAIN_TABLE, "worker1", rows.tables[DRAIN_TABLE]["worker1"])
    assert board.drains() == {}
    board.drain("worker1", is_drained=True, at_s=1000)
    assert board.drains()["worker1"].is_drained


def test_o4_a_new_order_takes_the_place_of_the_one_before() -> None:
    rows = Rows()
    one, other = rows.board("one"), rows.board("other")
    former = one.move(IP, "worker1", at_s=1000)
    latter = other.move(IP, "worker2", at_s=1000)
    one.report(replace(former, state=MoveState.DONE), term=9)
    assert one.moves()[IP] == latter


def test_o4_the_word_of_a_later_leader_counts_and_not_that_of_one_that_was_deposed() -> None:
    rows = Rows()
    board = rows.board("one")
    order = board.move(IP, "", at_s=1000)
    board.report(replace(order, state=MoveState.MOVING, target="worker2"), term=8)
    board.report(replace(order, state=MoveState.DONE, target="worker1"), term=7)
    assert board.moves()[IP].target == "worker2"
    board.report(replace(order, state=MoveState.DONE, target="worker2"), term=8)
    assert board.moves()[IP].state is MoveState.DONE


def test_who_ordered_it_can_withdraw_it_until_it_is_over() -> None:
    rows = Rows()
    board = rows.board("one")
    order = board.move(IP, "", at_s=1000)
    moving = replace(order, state=MoveState.MOVING, source="worker1", target="worker2")
    board.report(moving, term=8)
    board.withdraw(order, "enough")
    board.report(replace(moving, state=MoveState.DONE), term=8)
    assert (board.moves()[IP].state, board.moves()[IP].reason) == (MoveState.FAILED, "enough")
    other = board.move(IP, "", at_s=1001)
    board.withdraw(order, "enough")
    assert board.moves()[IP] == other, "another order came after it"
    board.report(replace(other, state=MoveState.DONE), term=8)
    board.withdraw(other, "enough")
    assert board.moves()[IP].state is MoveState.DONE
