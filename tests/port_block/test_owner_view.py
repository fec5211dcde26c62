"""What the leader knows of an owner."""

from service.model.lease import Stamp
from service.port_block.block import TIMES, Row
from service.port_block.message import HeldRow, Holdings
from service.port_block.owner_view import OwnerView
from tests.port_block.site import HOSTS, IP, SECOND

DAY_NS = 86_400 * SECOND


def view() -> OwnerView:
    one = OwnerView("node1", HOSTS["node1"], TIMES, now_ns=0)
    one.down_ns = None
    return one


def test_q7_a_member_that_said_what_it_has_is_settled_and_one_that_forgot_is_not_for_480_seconds() -> None:
    old, young = view(), view()
    old.take_holdings(Holdings(1, 1, 5, DAY_NS, 0, 1, ()), 0)
    young.take_holdings(Holdings(1, 1, 5, 10 * SECOND, 0, 1, ()), 0)
    assert old.is_settled(0, 0)
    assert not young.is_settled(0, 469 * SECOND)
    assert young.is_settled(0, 470 * SECOND)


def test_q7_a_member_that_does_not_answer_is_waited_for_until_it_was_down_for_480_seconds() -> None:
    one = view()
    assert not one.is_settled(0, DAY_NS), "up, and silent"
    one.down_ns = 100 * SECOND
    assert not one.is_settled(0, 579 * SECOND)
    assert one.is_settled(0, 580 * SECOND)
    assert not one.is_settled(200 * SECOND, 679 * SECOND), "an earlier holder may have taken its packets"


def test_another_process_has_to_be_read_again_and_a_late_word_of_a_former_one_does_not_bring_it_back() -> None:
    one = view()
    assert one.is_followed_by(1, 5)
    one.begin(1, 0)
    one.take_holdings(Holdings(1, 5, 5, DAY_NS, 0, 1, ()), 0)
    assert one.is_read
    assert not one.is_followed_by(1, 6)
    assert one.is_followed_by(2, 7)
    one.begin(2, 0)
    assert not one.is_read
    assert not one.is_followed_by(1, 6)
    assert not one.is_followed_by(1, 7)


def test_a_process_that_is_not_the_one_that_is_known_makes_the_leader_ask_at_once() -> None:
    one = view()
    one.take_holdings(Holdings(1, 1, 5, DAY_NS, 0, 1, ()), 0)
    assert not one.is_due(SECOND)
    one.doubt(SECOND)
    assert one.is_due(SECOND)
    assert one.asks(SECOND)


def test_a_row_is_told_to_its_owner_and_to_whoever_thinks_it_is_its_own() -> None:
    one = view()
    one.take_holdings(Holdings(1, 1, 5, DAY_NS, 0, 1, (HeldRow(int(IP), 3, 1, 1),)), 0)
    one.want((IP, 3), Row("node1", Stamp(1, 1)), 0)
    one.want((IP, 4), Row("node2", Stamp(2, 1)), 0)
    assert list(one.pending) == []
    one.want((IP, 3), Row("node2", Stamp(2, 1)), 0)
    one.want((IP, 5), Row("node1", Stamp(2, 1)), 0)
    assert list(one.pending) == [(IP, 3), (IP, 5)]
