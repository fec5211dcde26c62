"""When a block may be used, and when a gateway may believe its owner."""

from service.model.lease import Stamp
from service.port_block.block import TIMES
from service.port_block.owned_block import OwnedBlock
from tests.port_block.site import MS, SECOND


def block(successor: str = "next") -> OwnedBlock:
    one = OwnedBlock(Stamp(1, 1), now_ns=SECOND)
    one.successor = successor
    return one


def usable(one: OwnedBlock, after_ms: int, holder: str = "holder") -> bool:
    return one.is_usable(holder, TIMES, SECOND + after_ms * MS)


def test_q3_it_is_used_when_the_holder_and_the_successor_have_it() -> None:
    one = block()
    one.acknowledge("next", holds=False, sent_ns=SECOND)
    assert not usable(one, 1)
    one.acknowledge("holder", holds=True, sent_ns=SECOND)
    assert usable(one, 1)


def test_q3_a_silent_successor_costs_half_a_second_and_none_costs_nothing() -> None:
    one, alone = block(), block(successor="")
    for each in (one, alone):
        each.acknowledge("holder", holds=True, sent_ns=SECOND)
    assert usable(alone, 0)
    assert [usable(one, ms) for ms in (1, 499, 500)] == [False, False, True]


def test_q3_a_gateway_that_does_not_hold_is_not_enough_for_the_first_use() -> None:
    one = block(successor="")
    one.acknowledge("holder", holds=False, sent_ns=SECOND)
    assert not usable(one, 900)


def test_a_successor_that_has_it_needs_to_be_asked_nothing_when_it_takes_over() -> None:
    one = block()
    one.acknowledge("holder", holds=True, sent_ns=SECOND)
    one.acknowledge("next", holds=False, sent_ns=SECOND)
    assert usable(one, 900, holder="next")
    assert not usable(one, 900, holder="a third")


def test_an_answer_to_what_was_asked_before_the_block_was_got_says_nothing() -> None:
    one = block(successor="")
    one.acknowledge("holder", holds=True, sent_ns=SECOND - 1)
    assert not usable(one, 900)


def test_q9_it_is_believed_for_200_seconds_from_when_the_holder_was_asked() -> None:
    one = block()
    assert not one.is_acknowledged(TIMES, SECOND)
    one.acknowledge("next", holds=False, sent_ns=SECOND)
    assert not one.is_acknowledged(TIMES, SECOND)
    one.acknowledge("holder", holds=True, sent_ns=SECOND)
    assert one.is_acknowledged(TIMES, 200 * SECOND)
    assert not one.is_acknowledged(TIMES, 201 * SECOND)


def test_q5_what_is_about_to_leave_takes_no_new_flows() -> None:
    one = block(successor="")
    one.acknowledge("holder", holds=True, sent_ns=SECOND)
    one.leaving_ns = 2 * SECOND
    assert not usable(one, 2000)
