"""The datagrams: what goes in comes out, what is malformed is refused, nothing outgrows a datagram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lease.codec import DATAGRAM_BYTES_MAX, key_name, key_number
from service.lease.message import (
    GROUP_KEYS,
    Ack,
    ClaimRole,
    Detail,
    Entry,
    Query,
    Renew,
    Report,
    Row,
    Verdict,
    decode,
    encode,
    reports,
)
from service.model.errors import PeerError
from service.model.lease import COUNTER_MAX, LEADER_KEY, TERM_MAX, VERSION_MAX, Stamp, Token
from service.wire.envelope import OVERHEAD_MAX

BIND_BYTES = 1
"""The sealed socket's own kind byte."""
ROOM = DATAGRAM_BYTES_MAX - OVERHEAD_MAX - BIND_BYTES

u32 = st.integers(0, 2**32 - 1)
tokens = st.builds(Token, st.integers(0, TERM_MAX), st.integers(0, VERSION_MAX), st.integers(0, COUNTER_MAX))
entries = st.builds(Entry, u32.map(key_name), st.sampled_from(list(ClaimRole)), tokens, st.booleans())
renews = st.builds(
    Renew,
    u32,
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 254),
    u32,
    st.none() | st.lists(entries, max_size=GROUP_KEYS, unique_by=lambda entry: entry.key).map(tuple),
)


@given(renews)
def test_a_renewal_comes_out_as_it_went_in_and_fits_a_datagram(message: Renew) -> None:
    payload = encode(message)
    assert decode(payload) == message
    assert len(payload) <= ROOM


def test_the_largest_acknowledgement_fits_a_datagram() -> None:
    detail = Detail(Verdict.CONTESTED | Verdict.OUTRANKED, Token(1, 2, 3), Stamp(4, 5))
    ack = Ack(1, 2, 3, 4, 5, False, (False,) * GROUP_KEYS, dict.fromkeys(range(GROUP_KEYS), detail))
    payload = encode(ack)
    assert decode(payload) == ack
    assert len(payload) <= ROOM


def test_a_report_of_many_keys_and_long_names_is_cut_into_parts_that_fit() -> None:
    rows = [Row(f"10.0.{i // 256}.{i % 256}", Token(1, 2, i), f"{i:03d}" + "x" * 60, i) for i in range(300)]
    parts = reports(1, 7, voting=True, rows=rows)
    payloads = [encode(part) for part in parts]
    assert max(map(len, payloads)) <= ROOM
    decoded = [decode(payload) for payload in payloads]
    assert [row for part in decoded if isinstance(part, Report) for row in part.rows] == rows


def test_an_empty_table_is_an_answer_too() -> None:
    (only,) = reports(1, 7, voting=False, rows=())
    assert decode(encode(only)) == only


def test_leadership_is_key_zero() -> None:
    assert key_number(LEADER_KEY) == 0
    assert key_name(0) == LEADER_KEY
    assert key_name(key_number("192.0.2.100")) == "192.0.2.100"


@given(st.binary(max_size=200))
def test_noise_is_refused_with_a_peer_error_or_understood(noise: bytes) -> None:
    for payload in (noise, b"\x01\x01" + noise, b"\x02\x01" + noise, b"\x03\x01" + noise, b"\x04\x01" + noise):
        try:
            message = decode(payload)
        except PeerError:
            continue
        assert decode(encode(message)) == message or isinstance(message, Ack | Report)


@given(renews, st.data())
def test_a_cut_off_datagram_is_refused(message: Renew, data: st.DataObject) -> None:
    payload = encode(message)
    with pytest.raises(PeerError):
        decode(payload[: data.draw(st.integers(0, len(payload) - 1))])
    with pytest.raises(PeerError):
        decode(payload + b"\0")


def test_a_key_listed_twice_is_refused() -> None:
    twice = (Entry("192.0.2.1", ClaimRole.HOLDER, Token(1, 1, 1)), Entry("192.0.2.1", ClaimRole.HOLDER, Token(1, 1, 2)))
    with pytest.raises(PeerError):
        decode(encode(Renew(1, bytes(16), 1, 1, 1, 0, 1, twice)))


def test_another_format_is_refused() -> None:
    payload = bytearray(encode(Query(1, 2)))
    payload[1] = 99
    with pytest.raises(PeerError):
        decode(bytes(payload))
