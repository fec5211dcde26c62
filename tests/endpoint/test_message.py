"""Claims of the wire form: what goes in comes out, and nothing else gets in."""

import random

import pytest

from service.endpoint.message import (
    CHANNEL,
    Acks,
    EndpointRow,
    LocationRow,
    Rows,
    Status,
    WithdrawnRow,
    decode,
    encode,
    encode_row,
    encode_rows,
)
from service.model.errors import PeerError

U64 = (1 << 64) - 1
ROWS = (
    EndpointRow(1, 0xFFFFFFFF, "uid", (b"\x02" * 6,), U64, (U64, 0), U64),
    WithdrawnRow(2, 0),
    LocationRow(3, 7, 1, 2, 3),
)


def test_rows_come_out_as_they_went_in() -> None:
    assert decode(encode_rows(9, [encode_row(row) for row in ROWS])) == Rows(9, ROWS)


@pytest.mark.parametrize("message", [Acks(U64, (1, U64)), Status(1, True, 2, U64, U64, 4, 5, 6, False)])
def test_messages_come_out_as_they_went_in(message: Acks | Status) -> None:
    assert encode(message)[:1] == CHANNEL
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        CHANNEL,
        b"X" + encode_rows(1, [])[1:],
        CHANNEL + b"\xc1",
        encode_rows(1, [])[:-1],
        encode_rows(1, []) + b"\x00",
        encode_rows(-1, []),
        encode(Acks(-1, ())),
        encode_rows(1, [encode_row(WithdrawnRow(1, 1 << 32))]),
        encode_rows(1, [encode_row(EndpointRow(1, 1, "u", (b"short",), 1, (), 1))]),
        encode_rows(1, [encode_row(EndpointRow(1, 1, "u" * 129, (), 1, (), 1))]),
        encode_rows(1, [encode_row(LocationRow(1, 7, 1 << 24, 2, 3))]),
        encode_rows(1, [encode_row(LocationRow(1, 7, 1, 1 << 24, 3))]),
        encode_rows(1, [encode_row(LocationRow(1, 7, 1, 2, 1 << 16))]),
        CHANNEL + b"\x93\x01\x01\x91\x93\x04\x01\x01",
        CHANNEL + b"\x93\x02\x01\x91\xa1x",
    ],
)
def test_anything_else_is_a_peer_error(payload: bytes) -> None:
    with pytest.raises(PeerError):
        decode(payload)


def test_flipped_bytes_are_a_message_or_a_peer_error() -> None:
    rng = random.Random(5)
    valid = encode_rows(3, [encode_row(row) for row in ROWS])
    refused = 0
    for _ in range(3000):
        payload = bytearray(valid)
        for _ in range(rng.randint(1, 4)):
            payload[rng.randrange(len(payload))] = rng.randrange(256)
        try:
            decode(bytes(payload))
        except PeerError:
            refused += 1
    assert refused > 1000
