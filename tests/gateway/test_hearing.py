"""Who is deaf on a segment, and who is only alone there (rule S5)."""

from ipaddress import IPv4Address

import pytest

from service.gateway.hearing import CONFIRM_NS, FEW_TARGETS, TARGETS_MAX, SegmentHearing, Target
from service.model.gateway_node import Hearing

SECOND = 1_000_000_000
GAP_NS, DEAF_AFTER_NS = SECOND // 2, 2 * SECOND
TARGETS = tuple(Target(IPv4Address(0xC0A80110 + number), bytes((2, 0, 0, 0, 0, number))) for number in range(20))


class Uplink:
    """Steps in tenths of a second; answers come while `answered` is set."""

    def __init__(self, targets: tuple[Target, ...] = TARGETS, *, others: bool = False) -> None:
        self.hearing = SegmentHearing(GAP_NS, DEAF_AFTER_NS)
        self.now_ns = 50 * SECOND
        self.targets, self.others = targets, others
        self.asked: list[list[Target]] = []

    def go(self, seconds: float, *, answered: bool) -> Hearing:
        for _ in range(round(seconds * 10)):
            self.now_ns += SECOND // 10
            self.hearing.update(self.targets, do_others_hear=self.others, now_ns=self.now_ns)
            self.hearing.advance(now_ns=self.now_ns)
            if asked := self.hearing.drain():
                self.asked.append(asked)
                if answered:
                    self.hearing.answer(now_ns=self.now_ns)
        return self.hearing.state


@pytest.fixture
def heard() -> Uplink:
    uplink = Uplink(others=True)
    assert uplink.go(1, answered=True) is Hearing.HEARS
    return uplink


def test_who_is_answered_hears_and_asks_a_few_at_each_gap(heard: Uplink) -> None:
    assert heard.go(10, answered=True) is Hearing.HEARS
    assert {len(asked) for asked in heard.asked} == {FEW_TARGETS}
    assert len(heard.asked) == pytest.approx(11 * SECOND / GAP_NS, abs=1)


def test_who_is_not_answered_asks_many_in_turn_and_is_silent_first(heard: Uplink) -> None:
    heard.asked.clear()
    assert heard.go(1.4, answered=False) is Hearing.HEARS
    assert heard.go(0.7, answered=False) is Hearing.SILENT
    heard.go(1.5, answered=False)
    assert {len(asked) for asked in heard.asked} == {FEW_TARGETS}
    assert {target for asked in heard.asked for target in asked} == set(TARGETS[:TARGETS_MAX])


def test_who_is_silent_while_others_hear_is_deaf_a_second_later(heard: Uplink) -> None:
    assert heard.go(2.1, answered=False) is Hearing.SILENT
    assert heard.go(0.4, answered=False) is Hearing.SILENT
    assert heard.go(0.7, answered=False) is Hearing.DEAF
    assert CONFIRM_NS == SECOND


def test_where_nobody_hears_anybody_all_are_silent_and_none_is_deaf(heard: Uplink) -> None:
    heard.others = False
    assert heard.go(60, answered=False) is Hearing.SILENT
    assert heard.go(0.6, answered=True) is Hearing.HEARS


def test_others_that_fall_silent_in_time_show_that_it_is_the_segments_fault(heard: Uplink) -> None:
    heard.go(2.5, answered=False)
    heard.others = False
    assert heard.go(20, answered=False) is Hearing.SILENT


def test_who_was_cut_off_altogether_has_time_to_be_answered_when_it_hears_of_the_others_again(heard: Uplink) -> None:
    heard.others = False
    assert heard.go(30, answered=False) is Hearing.SILENT
    heard.others = True
    assert heard.go(0.4, answered=False) is Hearing.SILENT
    assert heard.go(1, answered=True) is Hearing.HEARS


def test_a_deaf_node_is_no_longer_deaf_when_nobody_is_left_who_hears(heard: Uplink) -> None:
    heard.go(5, answered=False)
    heard.others = False
    assert heard.go(0.2, answered=False) is Hearing.SILENT


def test_a_deaf_node_hears_again_after_answers_for_as_long_as_it_took(heard: Uplink) -> None:
    assert heard.go(5, answered=False) is Hearing.DEAF
    assert heard.go(1.5, answered=True) is Hearing.DEAF
    heard.go(1.5, answered=False)
    assert heard.go(1.8, answered=True) is Hearing.DEAF, "an answer now and then is not enough"
    assert heard.go(1, answered=True) is Hearing.HEARS


def test_with_nobody_to_ask_nothing_is_known() -> None:
    uplink = Uplink(())
    assert uplink.go(10, answered=False) is Hearing.UNKNOWN
    assert (uplink.asked, uplink.hearing.deadline_ns()) == ([], None)


def test_peers_that_are_new_have_as_long_to_answer(heard: Uplink) -> None:
    heard.targets = ()
    assert heard.go(10, answered=False) is Hearing.UNKNOWN
    heard.targets = TARGETS
    assert heard.go(1.9, answered=False) is Hearing.UNKNOWN
    assert heard.go(0.5, answered=False) is Hearing.SILENT


def test_a_process_that_stood_still_concludes_nothing_from_it(heard: Uplink) -> None:
    heard.now_ns += 30 * SECOND
    assert heard.go(0.1, answered=False) is Hearing.HEARS
    assert heard.go(1, answered=True) is Hearing.HEARS
    assert heard.go(2.2, answered=False) is Hearing.SILENT
    heard.now_ns += 30 * SECOND
    assert heard.go(0.1, answered=True) is Hearing.HEARS, "it was not deaf when it woke"


def test_set_to_0_nobody_is_asked() -> None:
    uplink = Uplink()
    uplink.hearing.deaf_after_ns = 0
    assert uplink.go(10, answered=False) is Hearing.UNKNOWN
    assert uplink.asked == []


def test_a_deadline_comes_before_each_conclusion(heard: Uplink) -> None:
    """So that whoever sleeps until it concludes in time."""
    deadline_ns = heard.hearing.deadline_ns()
    assert deadline_ns is not None
    assert heard.now_ns < deadline_ns <= heard.now_ns + GAP_NS
