from service.lab.traffic.stream import Tally

MS = 1_000_000


def _tally(answers: dict[int, int], *, last_sent_ms: int) -> Tally:
    tally = Tally(sent=10, first_sent_ns=0, last_sent_ns=last_sent_ms * MS)
    for sequence, at_ms in answers.items():
        tally.take(b"192.0.2.1 1000 %d" % sequence, at_ms * MS)
    return tally


def test_the_gap_is_the_longest_time_between_answers() -> None:
    assert _tally({0: 1, 1: 11, 5: 91, 6: 101}, last_sent_ms=100).gap() == (11 * MS, 91 * MS)


def test_silence_at_the_start_and_at_the_end_counts() -> None:
    assert _tally({8: 80, 9: 91}, last_sent_ms=90).gap() == (0, 80 * MS)
    assert _tally({0: 1, 1: 11}, last_sent_ms=90).gap() == (11 * MS, 90 * MS)
    assert _tally({}, last_sent_ms=90).gap() == (0, 90 * MS)


def test_duplicates_and_strangers_are_not_counted() -> None:
    tally = _tally({0: 1}, last_sent_ms=1)
    tally.take(b"192.0.2.2 1000 0", 2 * MS)
    tally.take(b"garbage", 3 * MS)
    assert tally.report()["received"] == 1
    assert tally.report()["sources"] == {"192.0.2.1": 1}


def test_a_change_of_source_is_reported_with_its_time() -> None:
    tally = _tally({0: 1, 1: 2}, last_sent_ms=3)
    tally.take(b"192.0.2.9 1000 2", 3 * MS)
    assert tally.report()["changes"] == [
        {"time_ns": 1 * MS, "source": "192.0.2.1"},
        {"time_ns": 3 * MS, "source": "192.0.2.9"},
    ]
