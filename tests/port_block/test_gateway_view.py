"""What the leader knows of a gateway."""

from service.model.lease import Stamp
from service.port_block.block import TIMES, Row
from service.port_block.gateway_view import GatewayView
from service.port_block.message import Entry, Table, cut
from tests.port_block.site import HOSTS, IP, MS


def view() -> GatewayView:
    return GatewayView("node1", HOSTS["node1"], TIMES, now_ns=0)


def answer(session: int, *, parts: int = 1, holds: bool = True) -> Table:
    batch = cut([Entry(3, Row("a", Stamp(1, 4)))])[0] if parts else ((), ())
    return Table(1, 1, session, 2, 0, parts, int(IP), holds, False, *batch)


def test_nothing_is_pending_for_a_gateway_that_was_not_read() -> None:
    one = view()
    one.want(3, Row("b", Stamp(2, 1)), 0)
    assert list(one.pending) == []


def test_a_row_is_sent_in_place_of_what_the_gateway_has() -> None:
    one = view()
    assert one.take_table(answer(7), 0)
    one.want(3, Row("a", Stamp(1, 4)), 0)
    assert list(one.pending) == []
    row = Row("b", Stamp(2, 1))
    one.want(3, row, 0)
    assert one.entry(3, row) == Entry(3, row, Stamp(1, 4))


def test_q5_a_holder_lets_a_block_rest_only_where_nothing_moves() -> None:
    one, other = view(), view()
    one.take_table(answer(7), 0)
    other.take_table(answer(7, holds=False), 0)
    resting = Row(None, Stamp(2, 1), is_resting=True)
    assert one.entry(3, resting).if_idle
    assert not other.entry(3, resting).if_idle


def test_another_process_is_read_anew_though_its_clock_was_set_back() -> None:
    one = view()
    one.take_table(answer(700), 0)
    assert one.session == 700
    one.close(0)
    assert one.session is None
    one.take_table(answer(5), 0)
    assert one.session == 5


def test_patience_doubles_and_ends_with_news() -> None:
    one = view()
    waits = []
    for _ in range(7):
        one.again(0)
        waits.append(one.due_ns // MS)
    assert waits == [100, 200, 400, 800, 1600, 2000, 2000]
    one.wake(0)
    one.again(0)
    assert one.due_ns == 100 * MS
