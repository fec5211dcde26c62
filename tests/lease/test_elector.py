"""One elector, message by message."""

from typing import Any

import pytest

from service.lease.elector import ElectorMachine
from service.lease.elector_output import Persist, Promised, Remember
from service.lease.electorate_message import decode_electorate_message
from service.lease.message import Ack, ClaimRole, Detail, Query, Report, Verdict, encode
from service.lease.promise import Instant, Promise, decode_tokens, encode_promises, encode_tokens
from service.model.errors import InvariantError, PeerError
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Stamp, Token
from service.model.machine import Send
from tests.lease.site import (
    BOOT,
    ELECTORATE,
    IP,
    LEASE_NS_MAX,
    MS,
    acks,
    at,
    claim,
    fresh_elector,
    records,
    renew,
    sent,
    sole_elector,
    source,
)

H, S, C = source("node-h"), source("node-s"), source("node-c")
OTHER = "192.0.2.101"
T1, T2, T3 = Token(1, 1, 1), Token(1, 1, 2), Token(1, 1, 3)


def ask(elector: ElectorMachine, who: Any, payload: bytes, ms: float) -> Ack | None:
    """Send one renewal and return the answer to whoever sent it."""
    elector.receive(who, payload, now=at(ms))
    return acks(elector.drain()).get(who.address.host)


def granted(answer: Ack | None) -> bool:
    assert answer is not None
    return answer.granted == (True,)


def verdict(answer: Ack | None) -> Verdict:
    assert answer is not None
    return answer.details[0].verdict


def restarted(data: bytes | None, now: Instant, tokens: bytes | None = None, boot_id: bytes = BOOT) -> ElectorMachine:
    return ElectorMachine(
        node="node0",
        boot_id=boot_id,
        electorate=ELECTORATE,
        lease_ns_max=LEASE_NS_MAX,
        promises=data,
        tokens=tokens,
        now=now,
    )


def test_a_key_that_nobody_holds_is_granted_at_once() -> None:
    assert granted(ask(fresh_elector(), H, renew(1, claim(T1)), 0))


def test_while_promised_a_key_is_granted_to_nobody_else() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    answer = ask(elector, S, renew(1, claim(T2, ClaimRole.STANDING)), 299)
    assert not granted(answer)
    assert Verdict.PROMISED in verdict(answer)


def test_when_the_promise_ends_the_standing_claim_is_granted_unasked_for_its_last_sequence() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, S, renew(7, claim(T2, ClaimRole.STANDING)), 250)
    assert elector.deadline_ns() == 300 * MS
    elector.advance(now=at(299))
    assert elector.drain() == []
    elector.advance(now=at(300))
    ((to, message),) = sent(elector.drain())
    assert to == S.address
    assert isinstance(message, Ack)
    assert (message.sequence, message.granted) == (7, (True,))


def test_a_standing_claim_not_refreshed_for_three_intervals_is_void() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, S, renew(1, claim(T2, ClaimRole.STANDING)), 100)
    elector.advance(now=at(300))
    assert sent(elector.drain()) == []


def test_a_late_renewal_of_the_old_holder_does_not_win_against_the_standing_claim() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, S, renew(1, claim(T2, ClaimRole.STANDING)), 250)
    elector.receive(H, renew(2, claim(T1, held=True)), now=at(301))
    answers = acks(elector.drain())
    assert answers[S.address.host].granted == (True,)
    assert answers[H.address.host].granted == (False,)


def test_the_promise_is_written_before_the_answer() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1)), now=at(0))
    kinds = [type(output) for output in elector.drain()]
    assert kinds.index(Persist) < kinds.index(Send)


def record_of(outputs: list[object]) -> Remember:
    return next(output for output in outputs if isinstance(output, Remember))


def test_k1_a_leader_hears_of_its_term_when_it_is_on_disk() -> None:
    elector = fresh_elector()
    elector.receive(C, renew(1, claim(Token(1, 0, 1), ClaimRole.STANDING, key=LEADER_KEY)), now=at(0))
    outputs = elector.drain()
    assert acks(outputs)[C.address.host].granted == (False,)
    assert acks(outputs)[C.address.host].details == {0: Detail(Verdict.NONE, ZERO_TOKEN, Stamp(0, 0))}
    elector.confirm_durable(record_of(outputs).number)
    told = acks(elector.drain())[C.address.host]
    assert (told.granted, told.sequence) == ((True,), 1)


def test_k1_a_repeated_answer_does_not_overtake_the_disk_either() -> None:
    elector = fresh_elector()
    token = claim(Token(1, 0, 1), ClaimRole.STANDING, key=LEADER_KEY)
    elector.receive(C, renew(1, token), now=at(0))
    number = record_of(elector.drain()).number
    elector.receive(C, renew(2, token), now=at(60))
    assert acks(elector.drain())[C.address.host].granted == (False,)
    elector.confirm_durable(number)
    assert acks(elector.drain())[C.address.host].sequence == 2
    elector.receive(C, renew(3, token), now=at(120))
    assert acks(elector.drain())[C.address.host].granted == (True,)


def test_k1_of_a_sole_elector_only_the_key_whose_token_is_not_on_disk_waits() -> None:
    elector = sole_elector()
    first, second = claim(T1), claim(T1, key=OTHER)
    elector.receive(H, renew(1, first), now=at(0))
    elector.confirm_durable(record_of(elector.drain()).number)
    elector.drain()
    elector.receive(H, renew(2, first, second), now=at(60))
    outputs = elector.drain()
    assert acks(outputs)[H.address.host].granted == (True, False)
    elector.receive(H, renew(3, first, second), now=at(120))
    assert acks(elector.drain())[H.address.host].granted == (True, False)
    # A record before the one that has it says nothing of it.
    elector.confirm_durable(record_of(outputs).number - 1)
    assert elector.drain() == []
    elector.confirm_durable(record_of(outputs).number)
    assert acks(elector.drain())[H.address.host].granted == (True, True)


def test_k1_what_a_process_could_not_write_any_more_is_waited_for_by_the_next() -> None:
    before = sole_elector()
    before.receive(H, renew(1, claim(T1)), now=at(0))
    (promises,) = records(before.drain())
    elector = sole_elector(promises=promises, now=at(50))
    record = record_of(elector.drain())
    elector.receive(H, renew(2, claim(T1)), now=at(60))
    assert acks(elector.drain())[H.address.host].granted == (False,)
    elector.confirm_durable(record.number)
    assert acks(elector.drain())[H.address.host].granted == (True,)
    assert sole_elector(promises=promises, tokens=record.data, now=at(70)).drain() == []


def test_other_tokens_reach_the_disk_without_anybody_waiting() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1)), now=at(0))
    outputs = elector.drain()
    assert decode_tokens(record_of(outputs).data) == {IP: T1}
    assert acks(outputs)[H.address.host].granted == (True,)


def test_after_a_short_renewal_the_long_promise_still_stands() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1), lease_ns=15_000 * MS), 0)
    ask(elector, H, renew(2, claim(T1)), 100)
    assert not granted(ask(elector, S, renew(1, claim(T2)), 14_999))
    assert granted(ask(elector, S, renew(2, claim(T2)), 15_000))


def test_a_release_frees_the_key_for_the_standing_claim_at_once() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, S, renew(1, claim(T2, ClaimRole.STANDING)), 10)
    elector.receive(H, renew(2, claim(T1, ClaimRole.RELEASED)), now=at(20))
    answers = acks(elector.drain())
    assert answers[S.address.host].granted == (True,)
    assert answers[H.address.host].granted == (True,)


def test_nobody_can_release_what_was_promised_to_another() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, S, renew(1, claim(T3, ClaimRole.RELEASED)), 10)
    assert not granted(ask(elector, S, renew(2, claim(T2)), 20))


def test_a_release_of_an_earlier_tenure_does_not_end_a_later_one() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T2)), 0)
    ask(elector, H, renew(2, claim(T1, ClaimRole.RELEASED)), 10)
    assert not granted(ask(elector, S, renew(1, claim(T3)), 20))


def test_a_renewal_overtaken_by_its_release_changes_nothing() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, H, renew(3, claim(T1, ClaimRole.RELEASED)), 10)
    assert ask(elector, H, renew(2, claim(T1)), 11) is None
    assert granted(ask(elector, S, renew(1, claim(T2)), 12))


def test_a_token_at_or_below_the_highest_is_refused_and_the_highest_named() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T2)), 0)
    ask(elector, H, renew(2, claim(T2, ClaimRole.RELEASED)), 10)
    answer = ask(elector, S, renew(1, claim(T2)), 20)
    assert not granted(answer)
    assert answer is not None
    assert Verdict.STALE in verdict(answer)
    assert answer.details[0].highest == T2
    assert granted(ask(elector, S, renew(2, claim(T3)), 21))


def test_of_two_standing_claims_the_newer_assignment_wins_whoever_came_first() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, S, renew(1, claim(T2, ClaimRole.HOLDER)), 200)
    ask(elector, C, renew(1, claim(Token(1, 2, 1), ClaimRole.STANDING)), 250)
    elector.advance(now=at(300))
    assert list(acks(elector.drain())) == [C.address.host]


def test_within_one_assignment_the_holder_goes_before_the_successor() -> None:
    elector = fresh_elector()
    ask(elector, C, renew(1, claim(T1)), 0)
    ask(elector, S, renew(1, claim(T3, ClaimRole.STANDING)), 200)
    answer = ask(elector, H, renew(1, claim(T2, ClaimRole.HOLDER)), 250)
    assert not granted(answer)
    elector.advance(now=at(300))
    assert list(acks(elector.drain())) == [H.address.host]


def test_a_holder_is_told_of_a_newer_holder_who_waits() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, C, renew(1, claim(Token(1, 2, 1))), 10)
    answer = ask(elector, H, renew(2, claim(T1, held=True)), 60)
    assert granted(answer)
    assert answer is not None
    assert verdict(answer) == Verdict.GRANTED | Verdict.CONTESTED | Verdict.OUTRANKED | Verdict.RIVAL_IS_HOLDER
    assert answer.details[0].rival == Stamp(1, 2)


def test_a_lapsed_holder_that_nobody_replaced_goes_on() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    assert granted(ask(elector, H, renew(2, claim(T1, held=True)), 5_000))


def test_a_new_process_that_happens_to_propose_the_old_token_is_refused() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    again = source("node-h", start_id=2)
    assert not granted(ask(elector, again, renew(1, claim(T1)), 10))
    assert granted(ask(elector, again, renew(2, claim(T1, held=True)), 20))


def test_datagrams_of_a_process_that_was_replaced_are_ignored_while_the_new_one_lives() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(5, claim(T1)), 0)
    ask(elector, source("node-h", start_id=2), renew(1, claim(T1, ClaimRole.RELEASED)), 10)
    assert ask(elector, H, renew(6, claim(T2)), 20) is None
    assert granted(ask(elector, S, renew(1, claim(T2)), 30))


def test_an_elector_that_does_not_know_the_list_promises_nothing_and_asks_for_it() -> None:
    elector = fresh_elector()
    answer = ask(elector, H, renew(1, number=1), 0)
    assert answer is not None
    assert answer.needs_list
    assert granted(ask(elector, S, renew(1, claim(T1)), 1))


def test_a_confirmed_list_need_not_be_sent_again() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1), number=4), 0)
    assert granted(ask(elector, H, renew(2, number=4), 200))
    assert not granted(ask(elector, S, renew(1, claim(T2)), 499))


def test_a_key_dropped_from_the_list_stays_promised_to_its_end() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    ask(elector, H, renew(2, claim(T1, key="192.0.2.9")), 100)
    assert not granted(ask(elector, S, renew(1, claim(T2)), 299))
    assert granted(ask(elector, S, renew(2, claim(T2)), 300))


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_renewal_of_another_epoch_is_promised_nothing_and_told_who_decides(epoch: int) -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1), epoch=epoch), now=at(0))
    (output,) = elector.drain()
    assert isinstance(output, Send)
    assert decode_electorate_message(output.payload) == ELECTORATE
    assert elector.promises() == {}


def test_a_lease_longer_than_the_silence_covers_is_refused() -> None:
    with pytest.raises(PeerError, match="at most"):
        fresh_elector().receive(H, renew(1, claim(T1), lease_ns=LEASE_NS_MAX + 1), now=at(0))


def test_a_restarted_elector_keeps_its_promises() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1)), now=at(0))
    again = restarted(records(elector.drain())[-1], at(10))
    assert again.is_voting
    assert not granted(ask(again, S, renew(1, claim(T2)), 299))
    assert granted(ask(again, S, renew(2, claim(T2)), 300))


@pytest.mark.parametrize("record", [None, b"", b"torn"])
def test_an_elector_without_its_record_is_silent_for_longer_than_any_promise(record: bytes | None) -> None:
    elector = restarted(record, at(0))
    assert not elector.is_voting
    assert ask(elector, H, renew(1, claim(T1)), 17_999) is None
    assert granted(ask(elector, H, renew(2, claim(T1)), 18_000))


def test_after_a_reboot_an_elector_is_silent_for_the_longest_lease_of_its_record_if_that_is_longer() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1)), now=at(0))
    record = records(elector.drain())[-1]
    again = ElectorMachine(
        node="node0",
        boot_id=bytes([1] * 16),
        electorate=ELECTORATE,
        lease_ns_max=1000 * MS,
        promises=record,
        tokens=None,
        now=at(0),
    )
    assert ask(again, S, renew(1, claim(T2)), 17_999) is None


def test_the_silence_lasts_on_both_clocks() -> None:
    elector = restarted(None, at(0))
    elector.advance(now=Instant(20_000 * MS, 17_999 * MS))
    assert not elector.is_voting


def test_tokens_outlive_a_reboot() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T2)), now=at(0))
    remembered = next(output.data for output in elector.drain() if isinstance(output, Remember))
    again = restarted(None, at(0), tokens=remembered, boot_id=bytes([1] * 16))
    answer = ask(again, S, renew(1, claim(T2)), 18_000)
    assert not granted(answer)
    assert granted(ask(again, S, renew(2, claim(T3)), 18_001))


def test_a_disk_that_is_ahead_of_the_record_only_raises_tokens() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1)), now=at(0))
    record = records(elector.drain())[-1]
    elector.receive(H, renew(2, claim(T3)), now=at(1))
    ahead = next(output.data for output in elector.drain() if isinstance(output, Remember))
    again = restarted(record, at(10), tokens=ahead)
    assert not granted(ask(again, S, renew(1, claim(T3)), 299))
    assert not granted(ask(again, S, renew(2, claim(T3)), 300))
    assert granted(ask(again, S, renew(3, claim(Token(1, 1, 4))), 301))


BEYOND = [Token(1 << 24, 0, 1), Token(1, 1 << 24, 1), Token(1, 1, 1 << 16)]


@pytest.mark.parametrize("beyond", BEYOND)
def test_k1_a_token_on_disk_that_a_fence_has_no_bits_for_costs_the_elector_no_other(beyond: Token) -> None:
    """Everybody would refuse each report that names it, and so all that this elector says, for ever."""
    elector = fresh_elector(tokens=encode_tokens({IP: Promise(T2), OTHER: Promise(beyond)}))
    elector.receive(C, encode(Query(1, 9)), now=at(1))
    ((_, report),) = sent(elector.drain())
    assert isinstance(report, Report)
    assert [(row.key, row.token) for row in report.rows] == [(IP, T2)]
    assert not granted(ask(elector, S, renew(1, claim(T2)), 2))
    assert granted(ask(elector, S, renew(2, claim(T3)), 3))
    assert granted(ask(elector, H, renew(1, claim(T1, key=OTHER)), 4))


@pytest.mark.parametrize("beyond", BEYOND)
def test_k1_an_elector_whose_promises_name_such_a_token_is_silent_as_if_it_had_lost_them(beyond: Token) -> None:
    record = encode_promises(BOOT, LEASE_NS_MAX, {IP: Promise(beyond)})
    elector = restarted(record, at(0))
    assert not elector.is_voting
    assert granted(ask(elector, H, renew(1, claim(T1)), 18_000))


def test_a_report_says_who_is_promised_what_and_whether_the_elector_votes() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    elector.receive(C, encode(Query(1, 9)), now=at(100))
    ((_, report),) = sent(elector.drain())
    assert isinstance(report, Report)
    assert report.voting
    assert [(row.key, row.token, row.node, row.remaining_ms) for row in report.rows] == [(IP, T1, "node-h", 200)]


def test_a_silent_elector_says_that_it_does_not_vote() -> None:
    elector = restarted(None, at(0))
    elector.receive(C, encode(Query(1, 9)), now=at(1))
    ((_, report),) = sent(elector.drain())
    assert isinstance(report, Report)
    assert not report.voting


def test_time_never_goes_back() -> None:
    elector = fresh_elector(now=at(10))
    with pytest.raises(InvariantError):
        elector.advance(now=at(9))


def test_sessions_unheard_of_for_a_minute_are_forgotten_but_not_their_tokens() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    elector.advance(now=at(120_000))
    elector.advance(now=at(240_000))
    elector.drain()
    assert elector._claimants.sessions == {}
    assert not granted(ask(elector, S, renew(1, claim(T1)), 240_001))


# --- what an elector leaves on record


def promised(outputs: list[Any]) -> list[Promised]:
    return [output for output in outputs if isinstance(output, Promised)]


def test_a_new_promise_is_for_the_record_once_and_after_the_answer() -> None:
    elector = fresh_elector()
    elector.receive(H, renew(1, claim(T1)), now=at(0))
    outputs = elector.drain()
    assert promised(outputs) == [Promised(IP, "node-h", T1)]
    kinds = [type(output) for output in outputs]
    assert kinds.index(Send) < kinds.index(Promised)
    elector.receive(H, renew(2, claim(T1, held=True)), now=at(60))
    assert promised(elector.drain()) == []


def test_a_promise_to_the_successor_and_a_higher_token_are_for_the_record() -> None:
    elector = fresh_elector()
    ask(elector, H, renew(1, claim(T1)), 0)
    elector.receive(H, renew(2, claim(T2)), now=at(50))
    assert promised(elector.drain()) == [Promised(IP, "node-h", T2)]
    ask(elector, S, renew(7, claim(T3, ClaimRole.STANDING)), 300)
    elector.advance(now=at(350))
    assert promised(elector.drain()) == [Promised(IP, "node-s", T3)]


def test_leadership_is_on_the_controllers_record_and_not_on_the_electors() -> None:
    elector = fresh_elector()
    elector.receive(C, renew(1, claim(Token(1, 0, 1), ClaimRole.STANDING, key=LEADER_KEY)), now=at(0))
    assert promised(elector.drain()) == []
