from collections.abc import Callable

import pytest

from loadtest import datapath
from loadtest.datapath import ROWS, chosen_rows, measure_datapath
from loadtest.gateway import Report
from loadtest.goal import Figure, Row
from loadtest.rows.options import DatapathOptions
from service.model.errors import OperatorError, TransientError


def test_a_row_can_be_measured_alone_and_they_keep_their_order() -> None:
    assert list(chosen_rows(DatapathOptions())) == list(ROWS)
    assert list(chosen_rows(DatapathOptions(only=("edit", "cost")))) == ["cost", "edit"]
    with pytest.raises(OperatorError, match="no row cots; there are cost,"):
        chosen_rows(DatapathOptions(only=("cots",)))


def measured(name: str) -> Callable[[DatapathOptions, Report], Row]:
    def measure(options: DatapathOptions, report: Report) -> Row:
        report("measuring")
        return Row(name, [Figure("what", 1.0)])

    return measure


@pytest.mark.parametrize("error", [TransientError, OperatorError])
def test_a_row_that_fails_costs_no_other_row_anything(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: DatapathOptions, report: Report) -> Row:
        raise error("the server saw 192.168.1.22")

    monkeypatch.setattr(datapath, "ROWS", {"first": measured("first"), "second": fail, "third": measured("third")})
    monkeypatch.setattr(datapath, "require_root", lambda: None)
    told: list[str] = []
    done: list[str] = []
    result = measure_datapath(DatapathOptions(), told.append, lambda row: done.append(row.name))
    assert done == [row.name for row in result.rows] == ["first", "second", "third"]
    assert [len(row.figures) for row in result.rows] == [1, 0, 1]
    assert result.failures == ["second: the server saw 192.168.1.22"]
    assert told == ["first: measuring", "third: measuring"]
