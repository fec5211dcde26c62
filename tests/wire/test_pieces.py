"""What is longer than a datagram arrives whole or not at all, and no sender makes the receiver keep more than that."""

import os
import struct
import zlib

import pytest

from service.model.errors import PeerError
from service.wire.pieces import MESSAGE_BYTES_MAX, PIECE_BYTES_MAX, PIECES_MAX, PLAIN_BYTES_MAX, Joiner, Splitter

LONG = os.urandom(3 * PIECE_BYTES_MAX)


def piece(number: int, index: int, count: int, part: bytes) -> bytes:
    return struct.pack("!2sQHH", b"\x00P", number, index, count) + part


def test_a_short_message_travels_as_it_is() -> None:
    assert Splitter().split(b"x" * PLAIN_BYTES_MAX) == [b"x" * PLAIN_BYTES_MAX]
    assert Joiner().join(b"{}") == b"{}"


def test_a_long_one_is_cut_and_put_together_in_whatever_order_its_pieces_come() -> None:
    pieces = Splitter().split(LONG)
    assert len(pieces) > 3
    assert max(map(len, pieces)) <= PIECE_BYTES_MAX + 14
    joiner = Joiner()
    assert [joiner.join(each) for each in reversed(pieces)] == [None] * (len(pieces) - 1) + [LONG]


def test_a_message_without_one_of_its_pieces_is_dropped_by_the_next() -> None:
    splitter, joiner = Splitter(), Joiner()
    first, second = splitter.split(LONG), splitter.split(LONG[::-1])
    for each in first[:-1]:
        assert joiner.join(each) is None
    assert [joiner.join(each) for each in second][-1] == LONG[::-1]
    assert joiner.join(first[-1]) is None


def test_two_processes_do_not_complete_each_others_messages() -> None:
    """As a restarted sender would its former life's, if both counted from one."""
    former, later = Splitter().split(LONG), Splitter().split(LONG[::-1])
    joiner = Joiner()
    for each in former[:-1]:
        joiner.join(each)
    assert joiner.join(later[-1]) is None


def test_what_is_too_long_for_all_pieces_is_not_said_in_part() -> None:
    assert Splitter().split(os.urandom((PIECES_MAX + 1) * PIECE_BYTES_MAX)) == []
    assert Splitter().split(bytes(MESSAGE_BYTES_MAX + 1)) == []


@pytest.mark.parametrize(
    "nonsense",
    [
        piece(1, 0, 1, b""),
        piece(1, 0, 1, bytes(PIECE_BYTES_MAX + 1)),
        piece(1, 0, 0, b"x"),
        piece(1, 1, 1, b"x"),
        piece(1, 0, PIECES_MAX + 1, b"x"),
        piece(1, 0, 1, b"not compressed"),
        piece(1, 0, 1, zlib.compress(b"cut short")[:-6]),
        piece(1, 0, 1, zlib.compress(bytes(MESSAGE_BYTES_MAX + 1))),
    ],
)
def test_pieces_that_no_sender_of_ours_cuts_are_refused(nonsense: bytes) -> None:
    joiner = Joiner()
    with pytest.raises(PeerError):
        joiner.join(nonsense)
    assert [joiner.join(each) for each in Splitter().split(LONG)][-1] == LONG
