"""One address at one gateway: sessions, compare and swap, owners' words, being whole."""

from ipaddress import IPv4Address

import pytest

from service.model.lease import Stamp, Token
from service.port_block.block import NEVER_GIVEN, TIMES, Row
from service.port_block.gateway_table import GatewayTable
from service.port_block.message import Entry
from tests.port_block.site import IP, MS, SECOND, FakeKernel

A, B = "node1", "node2"


class Written:
    """What the kernel is told."""

    def __init__(self) -> None:
        self.owners: dict[int, Row] = {}
        self.trusted: Token | None = None

    def set_owner(self, floating_ip: IPv4Address, block: int, row: Row) -> None:
        self.owners[block] = row

    def trust(self, floating_ip: IPv4Address, tenure: Token) -> None:
        self.trusted = tenure


def table(kernel: FakeKernel, written: Written | None = None) -> GatewayTable:
    return GatewayTable(IP, kernel, TIMES, written or Written(), now_ns=SECOND)


def holding() -> tuple[GatewayTable, FakeKernel]:
    kernel = FakeKernel(Token(1, 1, 1))
    one = table(kernel)
    one.observe(SECOND)
    return one, kernel


def entry(owner: str | None, stamp: tuple[int, int], after: tuple[int, int] = (0, 0), **rest: bool) -> Entry:
    is_resting = rest.get("is_resting", False)
    return Entry(3, Row(owner, Stamp(*stamp), is_resting), Stamp(*after), rest.get("if_idle", False))


def test_q7_a_read_by_a_newer_leader_and_a_new_tenure_each_open_a_session() -> None:
    one, kernel = holding()
    sessions = [one.session]
    one.read_by(5)
    sessions.append(one.session)
    one.read_by(5)
    assert one.session == sessions[-1]
    kernel.token = None
    one.observe(2 * SECOND)
    sessions.append(one.session)
    kernel.token = Token(1, 1, 2)
    one.observe(3 * SECOND)
    sessions.append(one.session)
    assert sessions == sorted(set(sessions))


def test_q7_a_row_that_an_owner_changed_unseen_is_not_overwritten() -> None:
    one, _ = holding()
    assert one.take_push(3, Row(A, Stamp(5, 7)), is_acknowledged=True)
    assert not one.take_grant(entry(B, (6, 1)), 2 * SECOND)
    assert one.row(3).owner == A
    assert one.take_grant(entry(B, (6, 2), (5, 7)), 2 * SECOND)
    assert one.row(3).owner == B


def test_q1_an_older_row_never_replaces_a_newer_one() -> None:
    one, _ = holding()
    one.take_grant(entry(A, (6, 2)), 2 * SECOND)
    assert not one.take_grant(entry(B, (6, 1), (6, 2)), 2 * SECOND)
    assert not one.take_push(3, Row(B, Stamp(5, 9)), is_acknowledged=True)
    assert one.row(3).owner == A


def test_q9_a_row_that_no_holder_confirmed_is_not_taken_from_its_owner() -> None:
    one, _ = holding()
    assert not one.take_push(3, Row(A, Stamp(5, 7)), is_acknowledged=False)
    assert one.row(3) == NEVER_GIVEN


def test_q5_a_block_is_taken_only_by_a_holder_that_saw_nothing_of_it_for_long() -> None:
    one, kernel = holding()
    one.take_grant(entry(A, (1, 1)), SECOND)
    taking = entry(None, (1, 2), (1, 1), is_resting=True, if_idle=True)
    kernel.packets[3] = 100 * SECOND
    assert not one.take_grant(taking, 200 * SECOND), "it has held for less than 240 s"
    assert not one.take_grant(taking, 339 * SECOND), "there was a packet 239 s ago"
    assert one.take_grant(taking, 340 * SECOND)
    assert one.row(3).owner is None


def test_q5_a_gateway_without_the_lease_cannot_say_that_a_block_is_unused() -> None:
    one = table(FakeKernel())
    one.take_grant(entry(A, (1, 1)), SECOND)
    assert not one.take_grant(entry(None, (1, 2), (1, 1), is_resting=True, if_idle=True), 999 * SECOND)


def test_q8_a_successor_is_whole_only_if_it_takes_over_within_400_ms_of_its_asking() -> None:
    for late_ms, is_whole in ((399, True), (400, False)):
        kernel = FakeKernel()
        one = table(kernel)
        one.take_whole(2 * SECOND, 2 * SECOND + 300 * MS)
        kernel.token = Token(1, 1, 1)
        one.observe(2 * SECOND + late_ms * MS)
        assert one.is_whole == is_whole


def test_q8_a_holder_is_whole_from_the_word_to_the_end_of_its_tenure() -> None:
    one, kernel = holding()
    one.take_whole(SECOND // 2, 2 * SECOND)
    assert not one.is_whole, "asked before it held"
    one.take_whole(2 * SECOND, 2 * SECOND)
    one.observe(900 * SECOND)
    assert one.is_whole
    kernel.token = Token(1, 1, 3)
    one.observe(901 * SECOND)
    assert not one.is_whole, "somebody else may have held in between"
    one.take_whole(902 * SECOND, 902 * SECOND)
    kernel.token = None
    one.observe(903 * SECOND)
    assert not one.is_whole
    kernel.token = Token(1, 1, 4)
    one.observe(904 * SECOND)
    assert one.is_whole, "nobody held in between: tokens are counted"


def test_r3_a_whole_holder_takes_no_owners_word() -> None:
    one, _ = holding()
    one.take_whole(2 * SECOND, 2 * SECOND)
    assert not one.take_push(3, Row(A, Stamp(5, 7)), is_acknowledged=True)


def test_r3_rows_of_a_gateway_that_may_have_missed_some_count_for_nothing_when_it_comes_to_hold() -> None:
    for is_whole in (True, False):
        kernel, written = FakeKernel(), Written()
        one = table(kernel, written)
        one.take_grant(entry(A, (1, 1)), SECOND)
        if is_whole:
            one.take_whole(2 * SECOND, 2 * SECOND)
        kernel.token = Token(1, 1, 1)
        one.observe(2 * SECOND + MS)
        assert written.owners[3].owner == (A if is_whole else None)
        assert (one.row(3) == NEVER_GIVEN) != is_whole
        assert written.trusted == kernel.token


def test_a_new_process_in_the_same_tenure_goes_on_with_the_rows() -> None:
    kernel, written = FakeKernel(Token(1, 1, 1)), Written()
    one = table(kernel, written)
    one.restore([(3, Row(A, Stamp(1, 1)))], Token(1, 1, 1))
    one.observe(2 * SECOND)
    assert one.row(3).owner == A
    kernel.token = Token(1, 1, 3)
    one.observe(3 * SECOND)
    assert one.row(3) == NEVER_GIVEN


@pytest.mark.parametrize(
    ("tenure", "is_kept"),
    [(Token(1, 1, 2), True), (Token(1, 1, 3), False), (Token(1, 2, 1), False), (Token(1, 2, 2), False)],
)
@pytest.mark.parametrize("is_seen", [True, False], ids=["gap seen", "gap not seen"])
def test_r3_rows_stay_where_the_lease_came_back_and_nobody_held_in_between(
    tenure: Token, is_kept: bool, is_seen: bool
) -> None:
    """A keeper that is started again, or one that stood still for longer than its lease."""
    one, kernel = holding()
    one.take_push(3, Row(A, Stamp(1, 1)), is_acknowledged=True)
    session = one.session
    if is_seen:
        kernel.token = None
        one.observe(2 * SECOND)
    kernel.token = tenure
    one.observe(3 * SECOND)
    assert (one.row(3).owner == A) == is_kept
    assert not one.is_whole
    assert one.session > session, "what a leader said before is said anew"
