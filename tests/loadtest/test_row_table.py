from collections.abc import Callable

import pytest

from loadtest.gateway import Report
from loadtest.goal import Figure, Row
from loadtest.row_table import chosen_rows, measure_rows
from loadtest.scale.options import ScaleOptions
from service.model.errors import OperatorError, TransientError


def measured(name: str) -> Callable[[ScaleOptions, Report], Row]:
    def measure(options: ScaleOptions, report: Report) -> Row:
        report("measuring")
        return Row(name, [Figure("what", 1.0)])

    return measure


ROWS = {name: measured(name) for name in ("first", "second", "third")}


def test_a_row_can_be_measured_alone_and_they_keep_their_order() -> None:
    assert list(chosen_rows(ROWS, ScaleOptions())) == list(ROWS)
    assert list(chosen_rows(ROWS, ScaleOptions(only=("third", "first")))) == ["first", "third"]
    with pytest.raises(OperatorError, match="no row frist; there are first,"):
        chosen_rows(ROWS, ScaleOptions(only=("frist",)))


@pytest.mark.parametrize("error", [TransientError, OperatorError])
def test_a_row_that_fails_costs_no_other_row_anything(error: type[Exception]) -> None:
    def fail(options: ScaleOptions, report: Report) -> Row:
        raise error("the server saw 192.168.1.22")

    told: list[str] = []
    done: list[str] = []
    rows = {**ROWS, "second": fail}
    result = measure_rows(rows, ScaleOptions(), told.append, lambda row: done.append(row.name))
    assert done == [row.name for row in result.rows] == ["first", "second", "third"]
    assert [len(row.figures) for row in result.rows] == [1, 0, 1]
    assert result.failures == ["second: the server saw 192.168.1.22"]
    assert told == ["first: measuring", "third: measuring"]
