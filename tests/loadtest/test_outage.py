import pytest

from loadtest.outage import find_outage, summarize

MS = 1_000_000


def _answers(*moments_ms: float, source: str = "192.168.1.100") -> list[tuple[int, int, str]]:
    return [(sequence, int(moment * MS), source) for sequence, moment in enumerate(moments_ms)]


def test_the_gap_runs_from_the_last_answer_before_to_the_first_after() -> None:
    outage = find_outage(7 * MS, list(range(20)), _answers(0, 2, 4, 6, 310, 312))
    assert (outage.gap_ns, outage.kill_to_first_ns) == (304 * MS, 303 * MS)
    assert (outage.requests, outage.lost) == (20, 14)
    assert outage.sources == {"192.168.1.100": 6}


def test_answers_that_came_while_the_links_were_being_cut_do_not_end_the_gap() -> None:
    outage = find_outage(3 * MS, [], _answers(0, 2, 4, 6, 8, 300, 302))
    assert outage.gap_ns == 292 * MS


def test_a_stall_before_the_kill_is_not_the_gap() -> None:
    outage = find_outage(1001 * MS, [], _answers(0, 900, 1000, 1050, 1052))
    assert outage.gap_ns == 50 * MS


def test_other_gaps_before_and_after_are_told_beside_the_gap() -> None:
    outage = find_outage(33 * MS, [], _answers(0, 30, 32, 90, 92, 130, 132, 140))
    assert outage.gap_ns == 58 * MS
    assert outage.further_gaps_ns == (30 * MS, 38 * MS)


def test_answers_out_of_order_are_put_in_order() -> None:
    outage = find_outage(3 * MS, [], [(1, 2 * MS, "a"), (0, 1 * MS, "a"), (3, 60 * MS, "b"), (2, 50 * MS, "a")])
    assert outage.gap_ns == 48 * MS
    assert outage.sources == {"a": 3, "b": 1}


def test_traffic_that_never_comes_back_has_no_outage() -> None:
    with pytest.raises(ValueError, match="none after"):
        find_outage(7 * MS, [], _answers(0, 2, 4))
    with pytest.raises(ValueError, match="no answer before"):
        find_outage(7 * MS, [], _answers(100, 102))


def test_a_summary_is_in_milliseconds() -> None:
    assert summarize([300 * MS, 100 * MS, 200 * MS]) == {"median": 200, "p99": 300, "max": 300}
    assert summarize([]) == {}
