"""What may be known, and when it explains a finding."""

import re
from dataclasses import replace

import pytest

from loadtest.chaos.events import CATALOGUE
from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.known import KNOWN, NEVER, Known, known_fault
from loadtest.chaos.schedule import make_round, parse_rounds
from service.datapath.layout import MAP_SHAPES

BARE = Known("a flow leaves bare", Promise.LEAK, frozenset({"mtu"}), r"no node")


@pytest.mark.parametrize("promise", NEVER)
def test_a_second_speaker_an_ended_process_and_a_lie_are_never_known(promise: Promise) -> None:
    with pytest.raises(ValueError, match="never known"):
        Known("", promise, frozenset({"mtu"}), "")


def test_only_the_same_promise_after_the_same_event_in_the_same_words_is_the_same_fault() -> None:
    played = make_round(("mtu",), 1, 1)
    finding = Finding(1, Promise.LEAK, "to a host that is no node: 10.244.0.10")
    assert known_fault(finding, [played], [BARE]) is BARE
    for other, where in (
        (Finding(1, Promise.SOURCE, finding.detail), played),
        (Finding(1, Promise.LEAK, "on the second uplink"), played),
        (finding, make_round(("scan",), 1, 1)),
    ):
        assert known_fault(other, [where], [BARE]) is None


@pytest.mark.parametrize(
    ("promise", "later"), [(Promise.LEAK, 2), (Promise.BROKEN, 2), (Promise.LOST, 1), (Promise.SOURCE, 0)]
)
def test_what_is_left_of_a_connection_may_come_in_a_later_round_and_nothing_else_may(
    promise: Promise, later: int
) -> None:
    event, others = make_round(("mtu",), 1, 1), [make_round(("scan",), 1, number) for number in (1, 2, 3)]
    finding, fault = Finding(1, promise, "no node"), replace(BARE, promise=promise)
    for count in range(4):
        expected = fault if count <= later else None
        assert known_fault(finding, [event, *others[:count]], [fault]) is expected


def test_no_datagram_that_leaves_bare_is_known() -> None:
    frame = "to a host that is no node: worker1-0 02:00 > 02:01 proto 17 10.244.1.10:1 > 8.8.8.8:8081"
    leak = Finding(1, Promise.LEAK, frame)
    for name in CATALOGUE:
        assert known_fault(leak, [make_round((name,), 1, 1)], KNOWN) is None


def test_each_says_how_it_is_shown() -> None:
    for fault in KNOWN:
        names = tuple(fault.events)
        assert fault.events <= set(CATALOGUE)
        for number, event in parse_rounds(fault.rounds) if fault.rounds else ():
            assert event in ("", *names)
            assert make_round(names, fault.seed, number)


def test_no_map_that_is_gone_explains_a_finding() -> None:
    named = {name for fault in KNOWN for name in re.findall(r"entries of (\w+)", fault.detail)}
    assert named <= MAP_SHAPES.keys()
