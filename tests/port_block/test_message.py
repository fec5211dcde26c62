"""Datagrams: what is strange is refused whole, and nothing is larger than the network carries."""

import random

import msgspec
import pytest

from service.model.errors import PeerError
from service.model.lease import Stamp
from service.port_block.block import BLOCKS, Row
from service.port_block.message import (
    DATAGRAM_BYTES_MAX,
    POLLED_MAX,
    ROWS_MAX,
    Ack,
    Ask,
    Correction,
    Entry,
    Grant,
    HeldRow,
    Holdings,
    Message,
    Poll,
    Push,
    Read,
    Recall,
    Receiver,
    Return,
    Table,
    Whole,
    WireRow,
    cut,
    decode,
    encode,
    entries_of,
    receiver_of,
)

LARGE = (1 << 64) - 1
TOP = (1 << 24) - 1
HELD = tuple(HeldRow(0xFFFFFFFF, BLOCKS - 1 - index, TOP, TOP, True) for index in range(ROWS_MAX))
ENTRIES = [
    Entry(BLOCKS - 1 - index, Row(f"node{index:04}" + "x" * 245, Stamp(TOP, TOP)), Stamp(TOP, TOP), True)
    for index in range(100)
]
NAMES, ROWS = max(cut(ENTRIES), key=lambda batch: len(batch[0]))
MESSAGES: tuple[Message, ...] = (
    Read(TOP, LARGE, 0xFFFFFFFF, LARGE, LARGE),
    Table(TOP, LARGE, LARGE, LARGE, 500, 501, 0xFFFFFFFF, True, True, NAMES, ROWS),
    Holdings(TOP, LARGE, LARGE, LARGE, 1, 2, HELD),
    Grant(TOP, LARGE, LARGE, 0xFFFFFFFF, "s" * 100, NAMES, ROWS),
    Push(LARGE, HELD),
    Ack(LARGE, LARGE, 0xFFFFFFFF, True, (True,) * ROWS_MAX, NAMES, ROWS),
    Ask(0xFFFFFFFF, BLOCKS),
    Return(HELD),
    Recall(TOP, 0xFFFFFFFF, BLOCKS),
    Poll(LARGE, (0xFFFFFFFF,) * POLLED_MAX, (LARGE,) * POLLED_MAX),
    Whole(TOP, LARGE, (0xFFFFFFFF,) * POLLED_MAX),
    Correction(0xFFFFFFFF, NAMES, ROWS),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_datagram_at_its_largest_comes_back_as_it_was_and_is_not_fragmented(message: Message) -> None:
    for receiver in Receiver:
        payload = encode(receiver, message)
        assert len(payload) <= DATAGRAM_BYTES_MAX
        assert receiver_of(payload) is receiver
        assert decode(receiver, payload) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_datagram_that_was_cut_lengthened_or_changed_is_refused_or_is_another_message(message: Message) -> None:
    payload = encode(Receiver.LEADER, message)
    for length in range(len(payload)):
        with pytest.raises(PeerError):
            decode(Receiver.LEADER, payload[:length])
    with pytest.raises(PeerError):
        decode(Receiver.LEADER, payload + b"\0")
    chance = random.Random(7)
    for _ in range(500):
        broken = bytearray(payload)
        broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            decode(Receiver.LEADER, bytes(broken))
        except PeerError:
            continue


def wire(block: int = 1, owner: int | None = 0, **rest: bool) -> WireRow:
    return WireRow(block, 1, 1, owner, **rest)


@pytest.mark.parametrize(
    "message",
    [
        Correction(1, ("a",), (wire(), wire())),
        Correction(1, (), (wire(),)),
        Correction(1, ("a",), (wire(owner=1),)),
        Correction(1, ("a",), (wire(is_resting=True),)),
        Correction(1, ("a",), (wire(block=BLOCKS),)),
        Correction(1, ("a",), (wire(block=-1),)),
        Correction(1 << 32, (), ()),
        Correction(1, ("a" * 254,), ()),
        Correction(1, ("a",), tuple(wire(block) for block in range(ROWS_MAX + 1))),
        Push(1, ()),
        Poll(1, (1, 2), (1,)),
        Push(1, (HeldRow(1, 1, 1, 1), HeldRow(2, 1, 1, 1))),
        Return((HeldRow(1, 1, 1, 1), HeldRow(1, 1, 1, 2))),
        Return((HeldRow(1, 1, TOP + 1, 1),)),
        Holdings(1, 1, 1, 0, 2, 2, ()),
        Ask(1, BLOCKS + 1),
    ],
)
def test_what_cannot_be_is_refused(message: Message) -> None:
    with pytest.raises(PeerError):
        decode(Receiver.OWNER, encode(Receiver.OWNER, message))


def test_a_datagram_for_another_machine_or_for_none_is_refused() -> None:
    with pytest.raises(PeerError):
        decode(Receiver.OWNER, encode(Receiver.LEADER, Ask(1, 1)))
    with pytest.raises(PeerError):
        receiver_of(b"E" + msgspec.msgpack.encode([1]))
    with pytest.raises(PeerError):
        receiver_of(b"")


def test_rows_that_are_cut_come_back_in_order_with_their_owners() -> None:
    batches = cut(ENTRIES)
    assert [entry for batch in batches for entry in entries_of(*batch)] == ENTRIES
    assert len(cut(())) == 1
