"""What an elector forgets, and how tokens grow all the same (rule K1)."""

import pytest

from service.lease import oblivion
from service.lease.elector_output import Persist, Remember
from service.lease.message import ClaimRole, Query, Report, encode
from service.lease.oblivion import FORGOTTEN, forget_idle, highest_token
from service.lease.promise import Identity, Instant, Promise, decode_promises, decode_tokens
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Token
from tests.lease.site import BOOT, IP, acks, at, claim, fresh_elector, renew, sent, source

HOLDER = Identity("node-h", BOOT)
H = source("node-h")


@pytest.fixture(autouse=True)
def few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oblivion, "IDLE_KEYS_MAX", 2)


def key(number: int) -> str:
    return f"192.0.2.{number}"


def test_the_keys_with_the_lowest_tokens_go_first_and_the_highest_of_them_counts_for_all_that_are_unknown() -> None:
    promises = {key(number): Promise(Token(1, number, 7)) for number in (4, 1, 3, 2)}
    assert forget_idle(promises, (), at(0))
    assert promises == {
        key(4): Promise(Token(1, 4, 7)),
        key(3): Promise(Token(1, 3, 7)),
        FORGOTTEN: Promise(Token(1, 2, 7)),
    }
    assert highest_token(promises, key(4)) == Token(1, 4, 7)
    assert highest_token(promises, key(1)) == highest_token(promises, key(9)) == Token(1, 2, 7)
    assert not forget_idle(promises, (), at(0))


def test_what_is_promised_claimed_or_leadership_stays_and_is_not_counted() -> None:
    promised = Promise(Token(1, 1, 1), HOLDER, Instant(5, 5))
    promises = {key(1): promised, key(2): Promise(), LEADER_KEY: Promise(), key(3): Promise(), key(4): Promise()}
    assert not forget_idle(promises, (key(2),), Instant(4, 4))
    assert len(promises) == 5
    # The later of two clocks (T3).
    assert not forget_idle(promises, (key(2),), Instant(5, 4))
    assert forget_idle(promises, (key(2),), Instant(5, 5))


def test_of_a_key_that_nobody_ever_granted_nothing_is_known() -> None:
    assert highest_token({}, IP) == ZERO_TOKEN


def test_k1_an_elector_that_forgot_a_key_grants_it_only_above_all_it_has_forgotten() -> None:
    elector = fresh_elector()
    granted = [claim(Token(1, number, 5), key=key(number)) for number in range(1, 6)]
    elector.receive(H, renew(1, *granted), now=at(0))
    elector.drain()
    # Its holder is gone: after a minute nothing is claimed, and it is looked again a minute later.
    elector.advance(now=at(61_000))
    elector.advance(now=at(122_000))
    outputs = elector.drain()
    (record,) = [output for output in outputs if isinstance(output, Remember)]
    assert decode_tokens(record.data) == {
        FORGOTTEN: Token(1, 3, 5),
        key(4): Token(1, 4, 5),
        key(5): Token(1, 5, 5),
    }
    (promises,) = [decode_promises(output.data) for output in outputs if isinstance(output, Persist)]
    assert promises is not None
    assert set(promises.promises) == {FORGOTTEN, key(4), key(5)}
    for sequence, token, is_granted in ((2, Token(1, 3, 5), False), (3, Token(1, 3, 6), True)):
        elector.receive(H, renew(sequence, claim(token, key=key(1))), now=at(122_000 + sequence))
        answer = acks(elector.drain())[H.address.host]
        assert answer.granted == (is_granted,)
        # Whoever is refused hears what to go above.
        assert is_granted or answer.details[0].highest == Token(1, 3, 5)


def test_k1_what_was_forgotten_is_forgotten_by_the_next_process_too_and_counts_there() -> None:
    tokens = decode_tokens(None) or {}
    assert tokens == {}
    elector = fresh_elector()
    elector.receive(H, renew(1, *(claim(Token(1, number, 5), key=key(number)) for number in range(1, 6))), now=at(0))
    elector.advance(now=at(61_000))
    elector.advance(now=at(122_000))
    record = [output for output in elector.drain() if isinstance(output, Remember)][-1]
    again = fresh_elector(now=at(123_000), tokens=record.data)
    again.receive(H, renew(2, claim(Token(1, 3, 5), key=key(1))), now=at(123_001))
    assert acks(again.drain())[H.address.host].granted == (False,)


def test_no_report_speaks_of_what_was_forgotten() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, *(claim(Token(1, number, 5), key=key(number)) for number in range(1, 6))), now=at(0))
    elector.advance(now=at(61_000))
    elector.advance(now=at(122_000))
    elector.drain()
    elector.receive(H, encode(Query(1, 1)), now=at(122_001))
    (report,) = [message for _, message in sent(elector.drain()) if isinstance(message, Report)]
    assert [row.key for row in report.rows] == [key(4), key(5)]


def test_news_of_a_key_that_nobody_claims_any_more_are_forgotten() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(Token(1, 1, 1), ClaimRole.STANDING)), now=at(0))
    assert list(elector._claimants._news) == [IP]
    elector.advance(now=at(61_000))
    elector.advance(now=at(122_000))
    assert elector._claimants._news == {}
