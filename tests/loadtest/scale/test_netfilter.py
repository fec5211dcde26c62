from dataclasses import replace

import pytest

from loadtest.goal import Row
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.netfilter import measure_netfilter
from loadtest.scale.options import ScaleOptions
from service.lab.namespace import namespaces_of

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def row(options: ScaleOptions) -> Row:
    return measure_netfilter(replace(options, repeats=3), lambda line: None)


def test_each_thing_that_is_done_to_the_table_costs_something(row: Row, options: ScaleOptions) -> None:
    """That the table was as it should be, the row itself has asked of nft."""
    assert [set(costs) for costs in row.detail["ms"].values()] == [{"start", "idle", "pod", "edit"}] * 4
    assert all(ms > 0 for costs in row.detail["ms"].values() for values in costs.values() for ms in values)
    assert len(row.detail["edits_ms"]) > 2
    assert namespaces_of(options.name) == []


def test_no_cost_of_netfilter_grows_with_the_square(row: Row) -> None:
    """At first all sets are written, each with two runs of nft; a change is a few runs, however much there is."""
    exponents = {(curve["title"], curve["of"]): curve["exponent"] for curve in row.detail["curves"]}
    assert len(exponents) == 5
    assert {what: exponent for what, exponent in exponents.items() if exponent > QUADRATIC} == {}
