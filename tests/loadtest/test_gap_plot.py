from pathlib import Path

import pytest

from loadtest.failover import FailoverOptions, FailoverResult, Kill
from loadtest.gap_plot import draw_gaps, series
from loadtest.outage import Outage
from service.model.errors import OperatorError

MS = 1_000_000


def result() -> FailoverResult:
    def outage(gap_ms: int) -> Outage:
        return Outage(0, 0, gap_ms * MS, 10, 1, {})

    kills = [Kill(1, "a", "b", "pod", outage(280), {}, 1.0), Kill(1, "b", "a", "pod", outage(6), {}, 1.0, case="move")]
    return FailoverResult(FailoverOptions(cases=("crash", "move")), kills, {0.1: [outage(330)]})


def test_every_move_is_a_point_of_what_was_done() -> None:
    assert series(result()) == {
        "the holder dies in silence": [280.0],
        "it is moved on purpose": [6.0],
        "keepalived, 0.1 s": [330.0],
    }


def test_the_picture_names_each_case_and_peer(tmp_path: Path) -> None:
    draw_gaps(result(), tmp_path / "gaps.svg")
    text = (tmp_path / "gaps.svg").read_text()
    assert text.startswith("<?xml")


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="--plot: "):
        draw_gaps(result(), tmp_path / "missing" / "gaps.svg")
