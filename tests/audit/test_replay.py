"""A publisher that starts again repeats a run without a skip; anything else was doubled by somebody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit.replay import Replay


def judged(sequences: list[int]) -> list[str]:
    """Places of copies that are of no replay, in a log that has the sequences in this order."""
    replay, seen, doubled = Replay(), set[int](), []
    for place, sequence in enumerate(sequences):
        if sequence in seen:
            doubled += replay.copy(sequence, f"@{place}")
        else:
            seen.add(sequence)
            replay.first(sequence)
    return doubled + replay.unfinished()


@pytest.mark.parametrize(
    "sequences",
    [
        [1, 2, 3],
        [1, 2, 3, 3, 4],
        [1, 2, 3, 2, 3, 4],
        [1, 2, 3, 1, 2, 3, 4],
        [1, 2, 3, 2, 3, 2, 3, 4],
        # It was interrupted by another restart, which goes back as far or further.
        [1, 2, 3, 2, 2, 3, 4],
        [1, 2, 3, 2, 1, 2, 3, 4],
        # One that was under way before the restart lands in the middle of the replay.
        [1, 2, 3, 2, 4, 3, 4],
        # Sequences of other partitions are not here.
        [3, 7, 9, 7, 9, 12],
    ],
)
def test_a_restart_is_no_doubling(sequences: list[int]) -> None:
    assert judged(sequences) == []


@pytest.mark.parametrize(
    ("sequences", "doubled"),
    [
        ([1, 2, 3, 1], ["@3"]),
        ([1, 2, 3, 1, 4], ["@3"]),
        ([1, 2, 3, 1, 3, 4], ["@3"]),
        ([1, 2, 3, 4, 2, 3], ["@4", "@5"]),
    ],
)
def test_a_copy_of_no_replay_is_doubled(sequences: list[int], doubled: list[str]) -> None:
    assert judged(sequences) == doubled


def test_the_newest_repeated_cannot_be_told_from_a_restart() -> None:
    assert judged([1, 2, 3, 3]) == []


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 8)), max_size=6))
def test_whatever_the_restarts_no_replay_is_taken_for_a_doubling(rounds: list[tuple[int, int]]) -> None:
    """Each round publishes some more, then the publisher starts again some records back."""
    log: list[int] = []
    newest = cursor = 0
    for more, back in rounds:
        # What was sent before is sent again up to the newest, before anything new.
        log += range(cursor + 1, newest + more + 1)
        newest += more
        cursor = max(0, newest - back)
    log += range(cursor + 1, newest + 1)
    assert judged(log) == []
