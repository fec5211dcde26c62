"""Which transport each {member, floating IP} uses, from what came back over the data path (rule X1)."""

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from service.gateway.transport import (
    ANSWER_NS,
    CALM_NS,
    CONFIRMATIONS,
    CONFIRMATIONS_MAX,
    DOUBT_GAP_NS,
    GAP_NS,
    LOSSES,
    WORD_NS,
    Proven,
    Question,
    Reply,
    Transports,
)

FLOATING_IP, OTHER_IP = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
PAIR, OTHER = ("worker2", FLOATING_IP), ("worker2", OTHER_IP)
NONCE = 77
MS = 1_000_000
SECOND = 1000 * MS


class Segment:
    """A node that asks worker2, and a wire whose answers the test decides."""

    def __init__(self, *, adopted: tuple[IPv4Address, ...] = ()) -> None:
        self.now_ns = SECOND
        self.machine = Transports(NONCE)
        self.machine.adopt(adopted)
        self.living = {"worker2", "worker3"}
        self.delay_ns: Callable[[Question], int | None] = lambda question: MS
        """None: swallowed."""
        self.under_way: list[tuple[int, Question]] = []
        self.asked: list[tuple[int, Question]] = []
        self.machine.update([PAIR], self.living, now_ns=self.now_ns)

    def run(self, for_ns: int) -> None:
        end_ns = self.now_ns + for_ns
        while True:
            due = self.machine.deadline_ns()
            self.now_ns = max(self.now_ns, min([end_ns, *(at for at, _ in self.under_way), *([due] if due else [])]))
            for at_ns, question in [one for one in self.under_way if one[0] <= self.now_ns]:
                self.under_way.remove((at_ns, question))
                self.reply(question)
            self.machine.advance(now_ns=self.now_ns)
            for output in self.machine.drain():
                assert isinstance(output, Question)
                self.asked.append((self.now_ns, output))
                delay_ns = self.delay_ns(output)
                if delay_ns is not None:
                    self.under_way.append((self.now_ns + delay_ns, output))
            if self.now_ns >= end_ns:
                return

    def reply(self, question: Question, *, sender: str = "worker2", nonce: int = NONCE) -> None:
        self.machine.hear_reply(
            sender, question.floating_ip, nonce=nonce, sequence=question.sequence, now_ns=self.now_ns
        )

    def swallow(self) -> None:
        self.delay_ns = lambda question: None

    def pass_on(self) -> None:
        self.delay_ns = lambda question: MS

    @property
    def is_proven(self) -> bool:
        return PAIR in self.machine.proven().out


@pytest.fixture
def segment() -> Segment:
    return Segment()


def until_proven(segment: Segment) -> int:
    begin_ns = segment.now_ns
    while not segment.is_proven:
        segment.run(DOUBT_GAP_NS)
        assert segment.now_ns - begin_ns < 600 * SECOND
    return segment.now_ns - begin_ns


def test_a_segment_is_used_only_after_some_answers_in_a_row(segment: Segment) -> None:
    segment.run((CONFIRMATIONS - 2) * DOUBT_GAP_NS + 100 * MS)
    assert len(segment.asked) == CONFIRMATIONS - 1
    assert not segment.is_proven
    segment.run(DOUBT_GAP_NS)
    assert segment.is_proven
    assert until_proven(segment) == 0


def test_the_first_answers_in_a_row_are_counted_anew_after_one_that_is_missing(segment: Segment) -> None:
    segment.delay_ns = lambda question: None if question.sequence % CONFIRMATIONS == 0 else MS
    segment.run(60 * SECOND)
    assert not segment.is_proven


def test_what_is_swallowed_one_way_proves_nothing(segment: Segment) -> None:
    """The member's question came here, so its own way here is good. Whether ours to it is, it says itself."""
    segment.swallow()
    segment.machine.hear_question(*PAIR, nonce=5, sequence=1, is_content=False, now_ns=segment.now_ns)
    assert segment.machine.drain() == [Reply(*PAIR, 5, 1)]
    segment.run(10 * SECOND)
    assert not segment.is_proven


def test_each_floating_ip_and_member_is_proven_for_itself(segment: Segment) -> None:
    segment.delay_ns = lambda question: MS if question.floating_ip == FLOATING_IP else None
    segment.machine.update([PAIR, OTHER, ("worker3", FLOATING_IP)], segment.living, now_ns=segment.now_ns)
    segment.run(10 * SECOND)
    assert segment.machine.proven().out == {PAIR}
    assert segment.machine.asked() == {PAIR: True, OTHER: False, ("worker3", FLOATING_IP): False}


def test_a_proven_segment_is_left_when_some_questions_in_a_row_are_not_answered(segment: Segment) -> None:
    until_proven(segment)
    segment.run(5 * SECOND)
    segment.swallow()
    segment.run(GAP_NS + LOSSES * (ANSWER_NS + DOUBT_GAP_NS))
    assert not segment.is_proven


def test_one_answer_that_is_missing_ends_nothing(segment: Segment) -> None:
    until_proven(segment)
    segment.delay_ns = lambda question: None if question.sequence % LOSSES else MS
    segment.run(60 * SECOND)
    assert segment.is_proven


def test_a_late_answer_proves_nothing(segment: Segment) -> None:
    segment.delay_ns = lambda question: ANSWER_NS + 50 * MS
    segment.run(60 * SECOND)
    assert not segment.is_proven


def test_late_answers_end_nothing_either_for_an_agent_may_be_slow(segment: Segment) -> None:
    until_proven(segment)
    segment.delay_ns = lambda question: ANSWER_NS + 50 * MS
    segment.run(60 * SECOND)
    assert segment.is_proven


def test_a_segment_that_comes_and_goes_is_believed_later_each_time(segment: Segment) -> None:
    waits = []
    for _ in range(4):
        segment.pass_on()
        waits.append(until_proven(segment))
        segment.swallow()
        segment.run(5 * SECOND)
        assert not segment.is_proven
    assert waits[0] <= waits[1] < waits[2] < waits[3]


def test_however_often_it_has_gone_it_is_believed_again_within_minutes(segment: Segment) -> None:
    for _ in range(12):
        segment.pass_on()
        until_proven(segment)
        segment.swallow()
        segment.run(5 * SECOND)
    segment.pass_on()
    assert until_proven(segment) <= (CONFIRMATIONS_MAX + 2) * DOUBT_GAP_NS


def test_after_a_long_calm_a_loss_is_forgiven(segment: Segment) -> None:
    for _ in range(4):
        segment.pass_on()
        until_proven(segment)
        segment.swallow()
        segment.run(5 * SECOND)
    segment.pass_on()
    until_proven(segment)
    segment.run(CALM_NS + 5 * SECOND)
    segment.swallow()
    segment.run(5 * SECOND)
    segment.pass_on()
    assert until_proven(segment) <= (CONFIRMATIONS + 2) * DOUBT_GAP_NS


@pytest.mark.parametrize("forgery", ["sender", "nonce", "sequence", "address"])
def test_an_answer_of_another_member_start_question_or_address_changes_nothing(segment: Segment, forgery: str) -> None:
    """All of them under the ring key, which every member has."""
    segment.swallow()
    for _ in range(40):
        segment.run(DOUBT_GAP_NS)
        question = segment.asked[-1][1]
        sender = "worker3" if forgery == "sender" else "worker2"
        nonce = NONCE + 1 if forgery == "nonce" else NONCE
        sequence = question.sequence + (1 if forgery == "sequence" else 0)
        address = OTHER_IP if forgery == "address" else FLOATING_IP
        segment.machine.hear_reply(sender, address, nonce=nonce, sequence=sequence, now_ns=segment.now_ns)
    assert segment.machine.proven() == Proven()


def test_one_answer_counts_once(segment: Segment) -> None:
    segment.swallow()
    segment.run(MS)
    for _ in range(3 * CONFIRMATIONS):
        segment.reply(segment.asked[0][1])
    assert not segment.is_proven


def test_while_the_members_agent_is_gone_its_silence_says_nothing(segment: Segment) -> None:
    until_proven(segment)
    segment.swallow()
    segment.machine.update([PAIR], {"worker3"}, now_ns=segment.now_ns)
    segment.run(60 * SECOND)
    assert segment.is_proven
    segment.machine.update([PAIR], segment.living, now_ns=segment.now_ns)
    segment.run(5 * SECOND)
    assert not segment.is_proven


def test_what_a_former_agent_used_is_used_until_an_answer_is_missing() -> None:
    segment = Segment(adopted=(FLOATING_IP,))
    assert segment.is_proven
    segment.swallow()
    segment.run(5 * SECOND)
    assert not segment.is_proven
    segment.machine.update([], (), now_ns=segment.now_ns)
    segment.machine.update([PAIR], segment.living, now_ns=segment.now_ns)
    assert not segment.is_proven, "adopted once"


def test_the_question_says_whether_who_asks_is_content(segment: Segment) -> None:
    until_proven(segment)
    segment.run(3 * SECOND)
    assert [question.is_content for _, question in segment.asked[: CONFIRMATIONS + 1]] == [False] * CONFIRMATIONS + [
        True
    ]


def test_a_members_word_that_it_is_content_holds_for_some_seconds(segment: Segment) -> None:
    """Its pods' answers then go by the segment. What it says next counts at once."""
    segment.swallow()
    machine = segment.machine
    machine.update([], segment.living, now_ns=segment.now_ns)
    machine.hear_question(*OTHER, nonce=5, sequence=1, is_content=True, now_ns=segment.now_ns)
    machine.drain()
    segment.run(WORD_NS - SECOND)
    assert machine.proven() == Proven(back=frozenset({OTHER}))
    segment.run(2 * SECOND)
    assert machine.proven() == Proven()
    machine.hear_question(*OTHER, nonce=5, sequence=2, is_content=True, now_ns=segment.now_ns)
    machine.hear_question(*OTHER, nonce=5, sequence=3, is_content=False, now_ns=segment.now_ns)
    assert machine.proven() == Proven()


def test_a_members_word_stays_while_its_agent_is_gone(segment: Segment) -> None:
    machine = segment.machine
    machine.hear_question(*OTHER, nonce=5, sequence=1, is_content=True, now_ns=segment.now_ns)
    machine.drain()
    machine.update([], {"worker3"}, now_ns=segment.now_ns)
    segment.run(60 * SECOND)
    assert machine.proven() == Proven(back=frozenset({OTHER}))


def test_what_is_asked_about_no_more_is_forgotten(segment: Segment) -> None:
    until_proven(segment)
    segment.machine.update([], segment.living, now_ns=segment.now_ns)
    assert (segment.machine.proven(), segment.machine.deadline_ns()) == (Proven(), None)


def test_a_settled_segment_is_asked_once_a_second(segment: Segment) -> None:
    until_proven(segment)
    segment.run(SECOND)
    before = len(segment.asked)
    segment.run(20 * SECOND)
    assert 19 <= len(segment.asked) - before <= 21


def test_r2_one_that_asks_on_demand_asks_whoever_announces_what_its_pods_use_and_nobody_else() -> None:
    machine = Transports(7, is_steady=False)
    machine.update([("worker2", FLOATING_IP)], ["worker2", "worker3"], now_ns=0)
    machine.advance(now_ns=10_000_000_000)
    assert (machine.drain(), machine.deadline_ns()) == ([], None)
    machine.ask_now(("worker3", FLOATING_IP), now_ns=10_000_000_000)
    machine.ask_now(("worker3", FLOATING_IP + 1), now_ns=10_000_000_000)
    machine.advance(now_ns=10_000_000_000)
    assert [(asked.to, asked.floating_ip) for asked in machine.drain()] == [("worker3", FLOATING_IP)]
    assert machine.hear_reply("worker3", FLOATING_IP, nonce=7, sequence=1, now_ns=10_001_000_000)
    assert machine.deadline_ns() is None
