import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit.segment import HEAD, MARK, PAYLOAD_BYTES_MAX, Damage, Frame, frame, scan

PAYLOADS = [b'{"n":1}', b'{"n":22}', b'{"n":333}']


def segment(payloads: list[bytes] = PAYLOADS, zeros: int = 100) -> bytes:
    return HEAD + b"".join(frame(payload) for payload in payloads) + bytes(zeros)


def payloads_of(data: bytes) -> list[bytes]:
    return [item.payload for item in scan(data).items if isinstance(item, Frame)]


def test_a_preallocated_segment_ends_where_zeros_begin() -> None:
    found = scan(segment())
    assert payloads_of(segment()) == PAYLOADS
    assert (found.end, found.torn_bytes) == (len(segment(zeros=0)), 0)


def test_an_empty_segment_holds_nothing() -> None:
    assert scan(HEAD + bytes(50)).items == ()
    assert scan(HEAD + bytes(50)).end == len(HEAD)
    assert scan(bytes(50)).end == 0
    assert scan(b"").end == 0


@given(st.integers(0, len(segment(zeros=0))))
def test_a_cut_at_any_byte_keeps_every_whole_record_before_it(cut: int) -> None:
    data = segment(zeros=0)[:cut]
    ends = [len(segment(PAYLOADS[:count], zeros=0)) for count in range(4)]
    whole = sum(end <= cut for end in ends[1:])
    found = scan(data)
    assert payloads_of(data) == PAYLOADS[:whole]
    assert not any(isinstance(item, Damage) for item in found.items)


@given(st.integers(0, len(segment(zeros=0)) - 1), st.integers(1, 255))
def test_one_wrong_byte_costs_one_record_at_most(position: int, flip: int) -> None:
    data = bytearray(segment(zeros=0))
    data[position] ^= flip
    found = payloads_of(bytes(data))
    assert [payload for payload in PAYLOADS if payload in found] == found
    assert len(found) >= len(PAYLOADS) - 1


@given(st.integers(0, len(segment(zeros=0))), st.binary(max_size=200))
def test_what_is_found_was_written(position: int, garbage: bytes) -> None:
    data = segment(zeros=0)[:position] + garbage + segment(zeros=0)[position:]
    assert set(payloads_of(data)) <= set(PAYLOADS)


def test_damage_in_the_middle_is_isolated_and_reported() -> None:
    data = bytearray(segment())
    start = len(HEAD) + len(frame(PAYLOADS[0]))
    data[start + 14] ^= 1
    items = scan(bytes(data)).items
    assert [type(item) for item in items] == [Frame, Damage, Frame]
    assert (items[1].offset, items[1].length) == (start, len(frame(PAYLOADS[1])))


def test_a_length_beyond_the_bound_is_damage() -> None:
    data = HEAD + MARK + (PAYLOAD_BYTES_MAX + 1).to_bytes(4, "big") + bytes(4) + frame(b"{}")
    assert payloads_of(data) == [b"{}"]


@pytest.mark.parametrize("size", [0, PAYLOAD_BYTES_MAX + 1])
def test_an_unframeable_payload_is_our_bug(size: int) -> None:
    with pytest.raises(AssertionError):
        frame(bytes(size))
