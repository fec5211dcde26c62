import pytest

from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.table import SCALE_ROWS, measure_scale_rows
from service.model.errors import OperatorError

TINY = ScaleSizes(policies=4, pods=8, few_pods=2, members=8)


def test_all_that_is_promised_has_a_row() -> None:
    assert list(SCALE_ROWS) == [
        "turn",
        "placement",
        "port-blocks",
        "netfilter",
        "restart",
        "events",
        "label-flip",
        "flows",
        "processes",
        "churn",
    ]


def test_a_row_can_be_measured_alone_and_is_told_when_it_is_done() -> None:
    done: list[str] = []
    options = ScaleOptions(repeats=1, only=("turn",), sizes=TINY)
    result = measure_scale_rows(options, advance=lambda row: done.append(row.name))
    assert done == [row.name for row in result.rows] == ["turn"]
    assert result.failures == []
    assert result.rows[0].figures


def test_a_row_that_there_is_not_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(OperatorError, match="no row trun; there are turn,"):
        measure_scale_rows(ScaleOptions(only=("trun",)))
