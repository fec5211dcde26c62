"""Orders on the wire: what is written is read, and what nobody could use is refused."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from service.gateway.order import (
    DRAIN_TABLE,
    MOVE_TABLE,
    NUMBER_MAX,
    decode_drain,
    decode_move,
    encode_drain,
    encode_move,
    ended_order,
)
from service.gateway.row import check
from service.gossip.message import VALUE_BYTES_MAX
from service.model.errors import PeerError
from service.model.lease import TERM_MAX
from service.model.order import Drain, MoveOrder, MoveState

IP = IPv4Address("192.168.1.100")
ORDER = MoveOrder(IP, (1000, 7), "worker2", MoveState.MOVING, "worker1")


@pytest.mark.parametrize("is_drained", [True, False])
def test_o3_a_drain_is_read_as_it_was_written(is_drained: bool) -> None:
    drain = Drain("worker1", is_drained, (1000, 7))
    assert decode_drain("worker1", *encode_drain(drain)) == drain


def test_o4_an_order_is_read_as_it_was_written_and_fits_into_a_row() -> None:
    assert decode_move(str(IP), *encode_move(ORDER, term=5)) == ORDER
    long = replace(ORDER, target="n" * 63, source="m" * 63, state=MoveState.FAILED, reason="why " * 500)
    _, value = encode_move(long, term=5)
    assert len(value) <= VALUE_BYTES_MAX


def test_each_word_on_an_order_is_above_the_one_before() -> None:
    asked, moving, done = (
        encode_move(replace(ORDER, state=state), term=term)[0]
        for state, term in ((MoveState.ASKED, 0), (MoveState.MOVING, 5), (MoveState.DONE, 5))
    )
    withdrawn, _ = encode_move(ORDER, is_withdrawn=True, progress=moving[2])
    next_leaders, _ = encode_move(ORDER, term=6)
    assert asked < moving < done < withdrawn < next_leaders
    assert ended_order(encode_move(ORDER, term=TERM_MAX)[0]) > encode_move(ORDER, term=TERM_MAX)[0]
    assert ended_order(asked) > encode_move(replace(ORDER, state=MoveState.DONE), term=TERM_MAX)[0]
    assert ended_order(asked) < encode_move(replace(ORDER, id=(1001, 0)))[0]


@pytest.mark.parametrize(
    ("table", "key", "number", "value"),
    [
        (DRAIN_TABLE, "worker1", 1, b"\xff"),
        (DRAIN_TABLE, "worker1", NUMBER_MAX + 1, encode_drain(Drain("worker1", True, (1, 1)))[1]),
        (MOVE_TABLE, "worker1", 1, encode_move(ORDER)[1]),
        (MOVE_TABLE, str(IP), 1, b"\x91\x01"),
        (MOVE_TABLE, str(IP), NUMBER_MAX + 1, encode_move(ORDER)[1]),
    ],
)
def test_a_row_that_nobody_could_use_is_refused(table: str, key: str, number: int, value: bytes) -> None:
    with pytest.raises(PeerError):
        check(table, key, (number, 0, 0), value)


def test_a_tombstone_says_nothing() -> None:
    assert decode_drain("worker1", (1, 2, 3), b"") is None
    assert decode_move(str(IP), (1, 2, 3), b"") is None
