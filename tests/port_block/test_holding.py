"""The blocks of one address that a node has: given, lost, called back, let go of."""

from service.model.lease import Stamp
from service.port_block.block import TIMES
from service.port_block.holding import Holding
from tests.port_block.site import SECOND


def holding(*blocks: int) -> Holding:
    one = Holding(TIMES)
    for block in blocks:
        one.grant(block, Stamp(1, 1), "", SECOND)
    return one


def test_q5_a_block_goes_only_after_a_scan_that_began_after_the_grace_and_found_nothing() -> None:
    one = holding(1, 2)
    assert one.call_back(1, 10 * SECOND) == [2]
    assert one.let_go([], 11 * SECOND) == [], "begun within the grace"
    assert one.let_go([2], 13 * SECOND) == [], "a flow is in it"
    assert one.let_go([], 14 * SECOND) == [2]
    assert list(one.blocks) == [1]
    assert one.returned == {2: Stamp(1, 1)}


def test_a_block_with_flows_is_not_called_back_and_what_leaves_already_counts() -> None:
    one = holding(1, 2, 3)
    one.let_go([3], SECOND)
    assert one.call_back(1, SECOND) == [2]
    assert one.call_back(1, SECOND) == []
    assert one.call_back(9, SECOND) == [1]


def test_a_node_that_is_short_again_keeps_what_was_about_to_leave() -> None:
    one = holding(1)
    one.call_back(1, SECOND)
    assert one.keep() == [1]
    assert one.let_go([], 99 * SECOND) == []


def test_q5_what_was_given_back_is_not_taken_again_by_a_grant_that_comes_late() -> None:
    one = holding(1)
    one.call_back(1, SECOND)
    one.let_go([], 9 * SECOND)
    one.grant(1, Stamp(1, 1), "", 9 * SECOND)
    assert one.blocks == {}
    one.grant(1, Stamp(1, 5), "", 9 * SECOND)
    assert list(one.blocks) == [1]
    assert one.returned == {}


def test_only_a_newer_row_takes_a_block_away() -> None:
    one = holding(1)
    assert not one.lose(1, Stamp(1, 1))
    assert not one.lose(1, Stamp(0, 9))
    assert one.lose(1, Stamp(1, 2))
    assert one.blocks == {}


def test_q9_flows_go_on_under_a_new_stamp_if_a_holder_confirmed_the_block_lately_and_end_otherwise() -> None:
    one = holding(1)
    one.blocks[1].acknowledge("holder", holds=True, sent_ns=SECOND)
    assert not one.grant(1, Stamp(2, 1), "", 100 * SECOND)
    assert one.grant(1, Stamp(3, 1), "", 999 * SECOND)
