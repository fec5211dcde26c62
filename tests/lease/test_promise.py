"""Promises and the records in which they outlive a process."""

from hypothesis import given
from hypothesis import strategies as st

from service.lease.promise import (
    Identity,
    Instant,
    Promise,
    decode_promises,
    decode_tokens,
    encode_promises,
    encode_tokens,
)
from service.model.lease import Token

BOOT = bytes(range(16))
HOLDER = Identity("node0", BOOT)


def table() -> dict[str, Promise]:
    return {
        "192.0.2.100": Promise(Token(1, 2, 3), HOLDER, Instant(10**18, 5), 77),
        "192.0.2.101": Promise(Token(1, 2, 4), Identity("node-é", bytes(16)), Instant(7, 8), 78),
        "leader": Promise(Token(9, 0, 1)),
    }


def test_promises_come_back_as_they_were_written() -> None:
    stored = decode_promises(encode_promises(BOOT, 15 * 10**9, table()))
    assert stored is not None
    assert (stored.boot_id, stored.lease_ns_max, stored.promises) == (BOOT, 15 * 10**9, table())


def test_what_an_earlier_longer_record_left_behind_does_not_matter() -> None:
    data = encode_promises(BOOT, 1, table())
    assert decode_promises(data + b"leftovers") == decode_promises(data)


@given(st.data())
def test_a_torn_record_counts_as_missing(data: st.DataObject) -> None:
    record = encode_promises(BOOT, 1, table())
    assert decode_promises(record[: data.draw(st.integers(0, len(record) - 1))]) is None


@given(st.data())
def test_a_corrupt_record_counts_as_missing(data: st.DataObject) -> None:
    record = bytearray(encode_promises(BOOT, 1, table()))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode_promises(bytes(record)) is None


def test_the_record_of_tokens_is_not_taken_for_one_of_promises() -> None:
    assert decode_promises(encode_tokens(table())) is None
    assert decode_tokens(encode_promises(BOOT, 1, table())) is None
    assert decode_promises(None) is None
    assert decode_tokens(b"") is None


def test_tokens_come_back_as_they_were_written() -> None:
    assert decode_tokens(encode_tokens(table())) == {key: promise.token for key, promise in table().items()}


def test_a_promise_never_shrinks() -> None:
    promise = Promise(Token(1, 1, 1), HOLDER, Instant(1000, 1000))
    promise.extend(Instant(500, 1500))
    assert promise.until == Instant(1000, 1500)


def test_a_promise_has_ended_only_when_both_clocks_have_passed_it() -> None:
    promise = Promise(Token(1, 1, 1), HOLDER, Instant(1000, 500))
    assert not promise.is_over(Instant(2000, 499))
    assert not promise.is_over(Instant(999, 2000))
    assert promise.is_over(Instant(1000, 500))


def test_a_released_promise_is_over_and_its_token_is_remembered() -> None:
    promise = Promise(Token(1, 1, 1), HOLDER, Instant(1000, 1000))
    promise.release()
    assert promise.is_over(Instant(0, 0))
    assert promise.token == Token(1, 1, 1)
