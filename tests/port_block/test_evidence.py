"""What a leader makes of rows that others have."""

import pytest

from service.model.lease import Stamp
from service.port_block.block import Row
from service.port_block.evidence import Judgement, Witness, judge, merge
from service.port_block.leader_table import LeaderRow

TERM = 6
OLD, NEW = Stamp(5, 3), Stamp(5, 9)
KEEP, TAKE, RESTAMP, YIELD = Judgement.KEEP, Judgement.TAKE, Judgement.RESTAMP, Judgement.YIELD
OWNER, HOLDER, GATEWAY = Witness.OWNER, Witness.HOLDER, Witness.GATEWAY


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (None, Row("a", NEW), {OWNER: TAKE, HOLDER: TAKE, GATEWAY: KEEP}),
        (Row("a", NEW), Row("a", NEW), {OWNER: KEEP, HOLDER: KEEP, GATEWAY: KEEP}),
        (Row(None, OLD), Row("a", NEW), {OWNER: TAKE, HOLDER: YIELD, GATEWAY: KEEP}),
        (Row(None, OLD, is_resting=True), Row("a", NEW), {OWNER: RESTAMP, HOLDER: YIELD, GATEWAY: RESTAMP}),
        (Row("b", OLD), Row("a", NEW), {OWNER: RESTAMP, HOLDER: YIELD, GATEWAY: RESTAMP}),
        (Row("b", NEW), Row("a", OLD), {OWNER: KEEP, HOLDER: YIELD, GATEWAY: KEEP}),
        (Row("b", OLD), Row(None, NEW), {HOLDER: RESTAMP, GATEWAY: RESTAMP}),
        (Row("b", Stamp(6, 1)), Row(None, Stamp(6, 2), is_resting=True), {HOLDER: TAKE, GATEWAY: RESTAMP}),
    ],
)
def test_q7_a_stamp_alone_proves_nothing(own: Row | None, other: Row, expected: dict[Witness, Judgement]) -> None:
    one = None if own is None else LeaderRow(own)
    assert {witness: judge(one, other, witness, term=TERM) for witness in expected} == expected


def test_q7_a_row_that_a_holder_confirmed_yields_to_nobody() -> None:
    one = LeaderRow(Row("b", Stamp(6, 1)), is_confirmed=True)
    assert judge(one, Row("a", OLD), HOLDER, term=TERM) is KEEP
    assert judge(one, Row("a", Stamp(7, 1)), HOLDER, term=TERM) is RESTAMP


def test_q1_while_the_table_is_made_the_highest_stamp_counts() -> None:
    one = LeaderRow(Row("b", OLD))
    assert merge(one, Row("a", NEW), OWNER, term=TERM) is TAKE
    assert merge(one, Row("a", Stamp(5, 1)), OWNER, term=TERM) is KEEP


def test_q7_a_holder_that_is_merely_late_is_not_yielded_to() -> None:
    one = LeaderRow(Row("b", Stamp(6, 2)), superseded=NEW)
    assert judge(one, Row("a", NEW), HOLDER, term=TERM) is KEEP
    assert judge(one, Row("a", Stamp(5, 10)), HOLDER, term=TERM) is YIELD
