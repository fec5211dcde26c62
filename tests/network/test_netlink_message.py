"""Netlink messages as bytes: split, cut off, put together."""

import pytest

from service.network.netlink_message import (
    ATTRIBUTE,
    NESTED,
    attribute,
    attribute_values,
    error_code,
    message,
    raise_error,
    split_attributes,
    split_messages,
)

ONE = message(5, 2, 7, b"ab") + bytes(2)


def split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    return [(kind, flags, sequence, bytes(body)) for kind, flags, sequence, body in split_messages(data)]


def test_messages_are_split_as_they_were_made_and_one_of_no_length_ends_it() -> None:
    assert split(ONE + ONE) == [(5, 2, 7, b"ab")] * 2
    assert split(ONE + bytes(16) + ONE) == [(5, 2, 7, b"ab")]


@pytest.mark.parametrize("end", range(18))
def test_a_message_that_is_cut_off_is_none(end: int) -> None:
    assert split(ONE[:end]) == []
    assert split(ONE + ONE[:end]) == [(5, 2, 7, b"ab")]


def test_attributes_are_split_whole_or_as_values_without_the_bits_of_their_coding() -> None:
    first, second = attribute(1, b"abc"), attribute(NESTED | 2, attribute(9, b"x"))
    assert [(kind, bytes(whole)) for kind, whole in split_attributes(memoryview(first + second))] == [
        (1, first),
        (2, second),
    ]
    values = attribute_values(first + second)
    assert values == {1: b"abc", 2: attribute(9, b"x")[: ATTRIBUTE.size + 1] + bytes(3)}
    assert attribute_values(values[2]) == {9: b"x"}


@pytest.mark.parametrize("end", range(7))
def test_an_attribute_that_is_cut_off_or_has_no_length_ends_the_walk(end: int) -> None:
    whole = attribute(1, b"abc")
    assert attribute_values(whole + whole[:end]) == {1: b"abc"}
    assert attribute_values(whole + bytes(4) + whole) == {1: b"abc"}


def test_an_error_is_raised_by_its_number_and_an_acknowledgement_is_none() -> None:
    refused = (-13).to_bytes(4, "little", signed=True)
    assert error_code(memoryview(refused)) == 13
    with pytest.raises(PermissionError, match="Permission denied"):
        raise_error(memoryview(refused))
    for fine in (bytes(4), b""):
        assert error_code(memoryview(fine)) == 0
        raise_error(memoryview(fine))
