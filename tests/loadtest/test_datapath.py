import pytest

from loadtest import datapath
from loadtest.datapath import DATAPATH_ROWS, measure_datapath
from loadtest.goal import Figure, Row
from loadtest.rows.options import DatapathOptions


def test_every_row_of_the_datapath_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: lambda options, report, name=name: Row(name, [Figure("what", 1.0)]) for name in DATAPATH_ROWS}
    monkeypatch.setattr(datapath, "DATAPATH_ROWS", rows)
    monkeypatch.setattr(datapath, "require_root", lambda: None)
    assert [row.name for row in measure_datapath(DatapathOptions()).rows] == list(DATAPATH_ROWS)
