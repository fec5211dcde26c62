"""One holder against electors played by the test."""

import random

import pytest

from service.lease.holder import CloseFence, DesiredClaim, Holder, OpenFence, boot_id_bytes
from service.lease.message import Ack, ClaimRole, Detail, Renew, Verdict, decode, encode
from service.model.errors import InvariantError, PeerError
from service.model.lease import LEADER_KEY, LeaseProfile, Stamp, Token
from service.model.machine import Address, Send, Source
from tests.lease.site import ELECTORATE, IP, LEASE_NS, MS, RENEW_NS

START_ID = 5
T1 = Token(1, 1, 1)
CLAIM = {IP: DesiredClaim("holder", Stamp(1, 1))}


def holder() -> Holder:
    return Holder(
        node="node-h",
        boot_id="0" * 32,
        start_id=START_ID,
        electorate=ELECTORATE,
        profile=LeaseProfile(LEASE_NS, RENEW_NS),
        lease_port=9644,
        random=random.Random(1),
        now_ns=0,
    )


class Play:
    """Remembers the newest renewal to each elector and answers for them."""

    def __init__(self, machine: Holder) -> None:
        self.machine = machine
        self.renewals: dict[int, Renew] = {}
        self.entries: dict[int, object] = {}
        self.outputs: list[object] = []
        self.look()

    def look(self) -> list[object]:
        new = self.machine.drain()
        self.outputs += new
        for output in new:
            if isinstance(output, Send):
                message = decode(output.payload)
                assert isinstance(message, Renew)
                self.renewals[int(output.to.host[-1])] = message
        return list(new)

    def answer(
        self,
        elector: int,
        ms: float,
        *,
        granted: bool = True,
        detail: Detail | None = None,
        renewal: Renew | None = None,
        epoch: int = 1,
        start_id: int = START_ID,
        name: str | None = None,
    ) -> list[object]:
        asked = renewal or self.renewals[elector]
        count = len(asked.entries) if asked.entries is not None else 1
        ack = Ack(
            epoch,
            start_id,
            asked.sequence,
            asked.group,
            asked.list_number,
            False,
            (granted,) * count,
            {} if detail is None else {0: detail},
        )
        origin = Source(Address(f"10.0.0.{elector}", 9644), name or f"node{elector}", 1)
        self.machine.receive(origin, encode(ack), now_ns=int(ms * MS))
        return self.look()

    def advance(self, ms: float) -> list[object]:
        self.machine.advance(now_ns=int(ms * MS))
        return self.look()

    def claim(self, claims: dict[str, DesiredClaim], ms: float = 0) -> list[object]:
        self.machine.set_claims(claims, now_ns=int(ms * MS))
        return self.look()


def acquired() -> Play:
    play = Play(holder())
    play.claim(CLAIM)
    play.answer(0, 1)
    play.answer(1, 1)
    return play


def fences(outputs: list[object]) -> list[object]:
    return [output for output in outputs if isinstance(output, OpenFence | CloseFence)]


def test_a_majority_opens_the_fence_for_nine_tenths_from_the_sending() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    assert fences(play.answer(0, 5)) == []
    assert fences(play.answer(1, 9)) == [OpenFence(IP, T1, 270 * MS, first=True)]
    assert play.machine.held()[IP] == (T1, 270 * MS)


def test_the_deadline_is_that_of_the_majority_th_newest_answer_not_of_the_round() -> None:
    play = acquired()
    play.advance(60)
    assert fences(play.answer(0, 61)) == []
    play.advance(120)
    assert fences(play.answer(2, 121)) == [OpenFence(IP, T1, (60 + 270) * MS, first=False)]


def test_an_answer_counts_from_the_renewal_it_echoes_however_late_it_is_read() -> None:
    play = acquired()
    first = dict(play.renewals)
    play.advance(60)
    play.advance(250)
    play.answer(0, 251, renewal=first[0])
    play.answer(1, 251, renewal=first[1])
    assert play.machine.held()[IP].deadline_ns == 270 * MS


def test_past_its_deadline_it_closes_and_releases_and_renews_no_more() -> None:
    play = acquired()
    late = dict(play.renewals)
    outputs = play.advance(270)
    assert outputs[0] == CloseFence(IP, T1, "expired")
    assert all(renew.entries and renew.entries[0].role is ClaimRole.RELEASED for renew in play.renewals.values())
    assert fences(play.answer(0, 271, renewal=late[0])) == []
    assert play.machine.held() == {}


def test_what_is_read_after_the_deadline_comes_too_late_even_if_it_would_have_been_enough() -> None:
    play = acquired()
    play.advance(200)
    renewals = dict(play.renewals)
    outputs = play.answer(0, 280, renewal=renewals[0])
    assert fences(outputs) == [CloseFence(IP, T1, "expired")]
    assert fences(play.answer(1, 281, renewal=renewals[1])) == []


def test_a_key_no_longer_desired_is_closed_before_the_release_is_sent() -> None:
    play = acquired()
    outputs = play.claim({}, 10)
    assert outputs[0] == CloseFence(IP, T1, "released")
    assert [type(output) for output in outputs[1:]] == [Send] * 3
    assert play.machine.held() == {}


def test_it_has_let_go_when_every_elector_knows_or_no_promise_can_be_left() -> None:
    play = acquired()
    play.claim({}, 10)
    for elector in range(3):
        assert not play.machine.is_released
        play.answer(elector, 11)
    assert play.machine.is_released
    other = acquired()
    other.claim({}, 10)
    other.advance(10 + 600)
    assert other.machine.is_released


def test_acknowledgements_after_a_release_are_ignored() -> None:
    play = acquired()
    play.advance(60)
    renewals = dict(play.renewals)
    play.claim({}, 70)
    for elector in range(3):
        assert fences(play.answer(elector, 71, renewal=renewals[elector])) == []
    assert play.machine.held() == {}


def test_an_answer_meant_for_an_earlier_process_counts_for_nothing() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    for elector in range(3):
        assert fences(play.answer(elector, 1, start_id=START_ID + 1)) == []


def test_acknowledgements_of_another_epoch_are_not_counted() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    play.answer(0, 1)
    with pytest.raises(PeerError, match="epoch"):
        play.answer(1, 1, epoch=2)
    assert play.machine.held() == {}


def test_only_electors_grant() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    with pytest.raises(PeerError, match="no elector"):
        play.answer(0, 1, name="stranger")


def test_one_elector_counts_once_however_often_it_answers() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    for ms in range(1, 5):
        assert fences(play.answer(0, ms)) == []


def test_without_leave_to_claim_nothing_is_taken_and_what_is_held_is_kept() -> None:
    play = acquired()
    play.machine.set_claiming(False, now_ns=10 * MS)
    play.claim({**CLAIM, "192.0.2.101": DesiredClaim("holder", Stamp(1, 2))}, 10)
    play.advance(60)
    listed = [entry.key for renew in play.renewals.values() for entry in renew.entries or ()]
    assert "192.0.2.101" not in listed
    assert IP in play.machine.held()


def test_a_claim_that_may_no_longer_be_made_is_withdrawn_from_the_electors() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    play.answer(0, 1)
    play.machine.set_claiming(False, now_ns=2 * MS)
    play.look()
    assert all(renew.entries and renew.entries[0].role is ClaimRole.RELEASED for renew in play.renewals.values())


def test_a_refused_proposal_is_made_again_above_the_highest_token() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    play.answer(0, 1, granted=False, detail=Detail(Verdict.STALE, Token(1, 1, 7), Stamp(0, 0)))
    assert all(renew.entries and renew.entries[0].token == Token(1, 1, 8) for renew in play.renewals.values())


def test_a_claim_of_an_older_assignment_never_proposes_a_newer_stamp() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    play.answer(0, 1, granted=False, detail=Detail(Verdict.STALE, Token(2, 9, 7), Stamp(0, 0)))
    assert all(renew.entries and renew.entries[0].token.stamp == (1, 1) for renew in play.renewals.values())


def test_a_candidate_for_leadership_goes_above_every_term_it_has_seen() -> None:
    play = Play(holder())
    play.claim({LEADER_KEY: DesiredClaim("holder", Stamp(0, 0))})
    play.answer(0, 1, granted=False, detail=Detail(Verdict.STALE, Token(41, 0, 1), Stamp(0, 0)))
    assert all(renew.entries and renew.entries[0].token.term == 42 for renew in play.renewals.values())


def test_an_outranked_minority_is_given_up_at_once_and_claimed_again_after_a_pause() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    rival = Detail(Verdict.GRANTED | Verdict.CONTESTED | Verdict.OUTRANKED, T1, Stamp(1, 1))
    play.answer(0, 1, detail=rival)
    assert all(renew.entries and renew.entries[0].role is ClaimRole.RELEASED for renew in play.renewals.values())
    play.advance(60)
    assert all(renew.entries and renew.entries[0].role is ClaimRole.RELEASED for renew in play.renewals.values())
    play.advance(121)
    assert all(renew.entries and renew.entries[0].role is ClaimRole.HOLDER for renew in play.renewals.values())


def test_a_contested_minority_is_given_up_after_three_intervals() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    contested = Detail(Verdict.GRANTED | Verdict.CONTESTED, T1, Stamp(1, 1))
    play.answer(0, 1, detail=contested)
    play.advance(150)
    assert play.renewals[0].entries is None or play.renewals[0].entries[0].role is ClaimRole.HOLDER
    play.advance(182)
    assert play.renewals[0].entries is not None
    assert play.renewals[0].entries[0].role is ClaimRole.RELEASED


def test_an_uncontested_minority_is_kept() -> None:
    play = Play(holder())
    play.claim(CLAIM)
    for ms in range(1, 600, 30):
        play.advance(ms)
        play.answer(0, ms)
    assert not fences(play.outputs)
    assert all(
        renew.entries is None or renew.entries[0].role is not ClaimRole.RELEASED for renew in play.renewals.values()
    )


def test_a_holder_gives_way_to_a_newer_assignment_that_a_majority_knows() -> None:
    play = acquired()
    play.advance(60)
    newer = Detail(Verdict.GRANTED | Verdict.CONTESTED | Verdict.OUTRANKED | Verdict.RIVAL_IS_HOLDER, T1, Stamp(1, 2))
    assert CloseFence(IP, T1, "refused") not in play.answer(0, 61, detail=newer)
    assert CloseFence(IP, T1, "refused") in play.answer(1, 61, detail=newer)


def test_a_held_lease_moves_to_a_higher_token_without_a_gap() -> None:
    play = acquired()
    play.advance(60)
    play.answer(2, 61, granted=False, detail=Detail(Verdict.STALE, Token(1, 1, 4), Stamp(0, 0)))
    assert play.renewals[2].entries is not None
    assert play.renewals[2].entries[0].token == Token(1, 1, 5)
    assert play.machine.held()[IP].token == T1
    play.answer(2, 62)
    outputs = play.answer(0, 62)
    assert fences(outputs) == [OpenFence(IP, Token(1, 1, 5), (61 + 270) * MS, first=False)]


def test_an_adopted_lease_is_renewed_under_its_token_and_never_shortened() -> None:
    play = Play(holder())
    play.machine.adopt(IP, Token(3, 2, 1), 900 * MS, now_ns=0)
    play.look()
    assert play.renewals[0].entries is not None
    assert (play.renewals[0].entries[0].token, play.renewals[0].entries[0].held) == (Token(3, 2, 1), True)
    play.answer(0, 1)
    play.answer(1, 1)
    assert fences(play.outputs) == []
    assert play.machine.held()[IP].deadline_ns == 900 * MS


def test_what_has_expired_is_not_adopted() -> None:
    machine = holder()
    machine.adopt(IP, T1, 5, now_ns=5)
    assert machine.held() == {}


def test_a_change_of_assignment_that_still_names_us_changes_nothing_held() -> None:
    play = acquired()
    assert fences(play.claim({IP: DesiredClaim("successor", Stamp(1, 5))}, 10)) == []
    assert play.machine.held()[IP].token == T1


def test_time_never_goes_back() -> None:
    machine = holder()
    machine.advance(now_ns=10)
    with pytest.raises(InvariantError):
        machine.advance(now_ns=9)


def test_a_boot_id_is_a_uuid() -> None:
    assert boot_id_bytes("01234567-89ab-cdef-0123-456789abcdef\n").hex() == "0123456789abcdef0123456789abcdef"
    with pytest.raises(InvariantError):
        boot_id_bytes("no")


def test_a_key_that_the_driver_gives_up_is_closed_before_it_is_released_and_not_claimed_again_by_itself() -> None:
    play = acquired()
    play.machine.give_up(IP, now_ns=2 * MS)
    outputs = play.look()
    assert fences(outputs) == [CloseFence(IP, T1, "released")]
    assert isinstance(outputs[0], CloseFence)
    play.machine.give_up(IP, now_ns=3 * MS)
    assert fences(play.advance(700)) == []
    assert play.machine.is_released
    play.claim(CLAIM, 710)
    assert not play.machine.is_released


def test_more_addresses_come_and_go_in_the_life_of_a_holder_than_it_can_have_at_once() -> None:
    """The places in its session were taken for good: after 11,985 addresses, one after the other, it ended."""
    play = Play(holder())
    step_ms = 70_000
    for turn in range(4):
        keys = [f"10.{turn}.{index >> 8}.{index & 255}" for index in range(4000)]
        play.claim({key: DesiredClaim("holder", Stamp(1, turn)) for key in keys}, turn * step_ms)
        assert play.machine.crowded_out() == ()
        play.claim({}, turn * step_ms + 1)
        play.advance(turn * step_ms + 1000)
    play.advance(4 * step_ms)
    assert (len(play.machine._session._group_of), len(play.machine._highest._highest)) == (0, 0)


def test_what_there_is_no_place_for_is_not_claimed_and_named() -> None:
    play = Play(holder())
    claims = {f"10.0.{index >> 8}.{index & 255}": DesiredClaim("holder", Stamp(1, 1)) for index in range(11_985)}
    play.claim(claims | CLAIM)
    assert play.machine.crowded_out() == (IP,)
