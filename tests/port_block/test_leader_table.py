"""One leader's table of one address."""

from service.model.lease import Stamp
from service.port_block.block import TIMES, Row
from service.port_block.gateway_view import GatewayView
from service.port_block.leader_table import LeaderTable
from service.port_block.message import Table
from tests.port_block.site import HOSTS, IP


def table() -> LeaderTable:
    return LeaderTable(blocks=4, rest_ns=10, quiet_until_ns=0)


def opened(one: LeaderTable, *, holds: bool) -> GatewayView:
    view = one.gateways["node1"] = GatewayView("node1", HOSTS["node1"], TIMES, now_ns=0)
    view.take_table(Table(1, 1, 7, 1, 0, 1, int(IP), holds, False, (), ()), 0)
    one.open(view, 0)
    return view


def test_blocks_that_lay_longest_are_given_first_and_those_that_rest_not_at_all() -> None:
    one = table()
    one.set(0, Row(None, Stamp(1, 2)), 0)
    one.set(1, Row(None, Stamp(1, 1)), 0)
    one.set(2, Row(None, Stamp(1, 3), is_resting=True), 0)
    assert one.free(9) == [3, 1, 0]
    assert one.free(10) == [3, 1, 0, 2]


def test_q5_a_gateway_that_comes_to_hold_and_had_another_owner_until_now_begins_the_rest_anew() -> None:
    one = table()
    view = opened(one, holds=True)
    one.set(2, Row(None, Stamp(1, 3), is_resting=True), 0)
    one.confirm(view, 2, Stamp(1, 3), 8)
    assert 2 not in one.free(17)
    one.confirm(view, 2, Stamp(1, 3), 17)
    assert 2 in one.free(18), "an answer that comes twice is no news"


def test_a_row_counts_as_confirmed_when_a_gateway_that_holds_has_it() -> None:
    for holds in (True, False):
        one = table()
        view = opened(one, holds=holds)
        one.set(0, Row("a", Stamp(1, 1)), 0)
        assert list(view.pending) == [0]
        one.confirm(view, 0, Stamp(1, 1), 0)
        assert one.rows[0].is_confirmed == holds
        assert list(view.pending) == []


def test_a_wish_is_news_where_it_is_for_more_than_the_one_before() -> None:
    one = table()
    assert [one.wish("node1", wanted, 10) for wanted in (2, 2, 3, 1)] == [True, False, True, False]
    assert one.has_use("node1")
