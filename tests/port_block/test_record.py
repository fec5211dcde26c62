"""What a leader tells for the record: first its whole table, then each change with its cause."""

from typing import Any

import pytest

from service.model.lease import Stamp
from service.port_block.block import TIMES, Row
from service.port_block.message import Ack, Ask, Entry, Grant, HeldRow, Holdings, Recall, Return, cut
from service.port_block.record import BlockMoved, Cause, TableRead
from tests.port_block.site import IP, MS, SECOND, of, say
from tests.port_block.test_leader import DAY_NS, HOLDER, LEADER, NEXT, NUMBER, A, B, Site, complete


def record(outputs: list[Any]) -> list[Any]:
    return [one for one in outputs if isinstance(one, BlockMoved | TableRead)]


def test_what_was_read_is_told_as_one_table_before_anything_that_changes() -> None:
    site = Site()
    site.later()
    site.table(HOLDER, Entry(3, Row(B, Stamp(4, 1))), Entry(4, Row(None, Stamp(4, 2))), whole=True)
    first, *moves = record(site.later(SECOND))
    assert first == TableRead(IP, ((3, B, Stamp(4, 1)),))
    assert {(one.former, one.row.owner, one.cause) for one in moves} == {(None, A, Cause.GIVEN)}


def test_of_an_address_that_nobody_has_ports_of_that_is_told() -> None:
    site = complete(demand=())
    assert record(site.later(SECOND)) == [TableRead(IP, ())]


def test_the_whole_table_is_told_again_after_a_day() -> None:
    site = complete(demand=())
    site.holdings(A, HeldRow(NUMBER, 3, 4, 1))
    site.later(SECOND)
    site.leader.set_leading_until(10 * TIMES.state_ns, now_ns=site.now_ns)
    # Nothing but time passes.
    assert record(site.later(TIMES.state_ns - 2 * SECOND)) == []
    assert record(site.later(2 * SECOND)) == [TableRead(IP, ((3, A, Stamp(4, 1)),))]


def test_what_a_node_turns_out_to_have_later_is_told_too_though_a_former_leader_gave_it() -> None:
    site = complete(demand=())
    site.later(SECOND)
    said = Holdings(5, 9, 1, DAY_NS, 0, 1, (HeldRow(NUMBER, 3, 4, 1),))
    (moved,) = record(say(site.leader, LEADER, A, said, now_ns=site.now_ns))
    assert (moved.block, moved.former, moved.row, moved.cause) == (3, None, Row(A, Stamp(4, 1)), Cause.FOUND)


@pytest.mark.parametrize(("demand", "cause"), [((), Cause.RETURNED), ((A,), Cause.RECALLED)])
def test_what_a_node_gives_back_at_once_is_told_under_one_stamp(demand: tuple[str, ...], cause: Cause) -> None:
    site = complete(demand=demand)
    rows = tuple(HeldRow(NUMBER, block, 4, block) for block in range(1, 41))
    site.holdings(A, *rows)
    site.later(100 * MS)
    moved = record(say(site.leader, LEADER, A, Return(rows), now_ns=site.now_ns))
    assert [(one.block, one.former, one.row.owner, one.cause) for one in moved] == [
        (block, A, None, cause) for block in range(1, 41)
    ]
    assert len({one.row.stamp for one in moved}) == 1


def test_what_the_holder_took_from_a_node_that_is_down_is_told_as_that() -> None:
    site = Site(demand=())
    site.later()
    site.table(HOLDER, Entry(3, Row(A, Stamp(4, 1))), whole=True)
    site.later(SECOND)
    site.members(down=(A,))
    site.later(239 * SECOND)
    grants = [one for one in of(Grant, site.later(2 * SECOND)) if any(row.if_idle for row in one.rows)]
    taken = Ack(grants[-1].sequence, 7, NUMBER, True, (True,) * len(grants[-1].rows))
    (moved,) = record(say(site.leader, LEADER, HOLDER, taken, now_ns=site.now_ns))
    assert (moved.former, moved.row.owner, moved.cause) == (A, None, Cause.RECLAIMED)


def test_a_block_that_is_told_under_a_newer_stamp_has_not_moved() -> None:
    site = complete()
    grant = next(one for one in of(Grant, site.later(SECOND)) if one.session == 7)
    newer = Entry(grant.rows[0].block, Row(A, Stamp(4, 9)), Stamp(4, 9))
    names, rows = cut([newer])[0]
    ack = Ack(grant.sequence, 7, NUMBER, True, (False,) + (True,) * (len(grant.rows) - 1), names, rows)
    assert record(say(site.leader, LEADER, HOLDER, ack, now_ns=site.now_ns)) == []


def test_q7_a_leader_whose_lease_is_over_tells_nothing() -> None:
    site = complete(demand=())
    site.holdings(A, HeldRow(NUMBER, 3, 4, 1))
    site.later(SECOND)
    site.leader.set_leading_until(site.now_ns, now_ns=site.now_ns)
    site.holdings(B, HeldRow(NUMBER, 9, 4, 1))
    assert record(site.later(SECOND)) == []


def test_q2_what_was_asked_for_and_given_is_told_and_the_question_and_the_recall_are_not() -> None:
    site = complete()
    site.holdings(A)
    site.later(SECOND)
    say(site.leader, LEADER, A, Ask(NUMBER, 70), now_ns=site.now_ns)
    moved = record(site.later(100 * MS))
    assert [(one.row.owner, one.cause) for one in moved] == 6 * [(A, Cause.GIVEN)]
    site.leader.set_demand({IP: (NEXT,)}, now_ns=site.now_ns)
    outputs = site.later(2 * SECOND)
    assert of(Recall, outputs)
    assert {one.row.owner for one in record(outputs)} == {NEXT}
