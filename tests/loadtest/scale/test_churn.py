import os

import pytest

from loadtest.goal import Row
from loadtest.scale import churn
from loadtest.scale.churn import measure_churn
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.footprint import ELEMENTS, PINS, RULES, WISHED
from loadtest.scale.options import ScaleOptions, ScaleSizes
from service.lab.namespace import namespaces_of

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(300)]
SIZES = ScaleSizes(churn_floating_ips=6, churn_policies=8, churn_pods=60, churn_s=12.0, failure_s=12.0)
NAME = f"s{os.getpid() % 100000}"
LASTING = {"agent of control1", "keeper of control1", "controller of controller1", "controller of controller2"}


@pytest.fixture(scope="module")
def row() -> Row:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(churn, "QUIET_S", 5.0)
        return measure_churn(ScaleOptions(name=NAME, sizes=SIZES), lambda line: None)


def test_pods_came_and_went_a_node_failed_and_was_mended_and_the_lab_is_gone(row: Row) -> None:
    seen, before, after = (row.detail[name] for name in ("seen", "before", "after"))
    assert (seen["changes"], seen["failures"]) == (240, 1)
    pids = {name: (taken["pid"], after["programs"][name]["pid"]) for name, taken in before["programs"].items()}
    assert len(pids) == 8
    # The warm-up was worker1's.
    assert {name for name, (former, now) in pids.items() if former != now} == {"agent of worker2", "keeper of worker2"}
    assert namespaces_of(f"{NAME}c") == []


def test_each_node_has_something_that_could_grow(row: Row) -> None:
    for node in ("control1", "worker1", "worker2"):
        counts = row.detail["before"]["nodes"][node]
        # Two rows of each of its 20 pods, among others.
        assert counts[WISHED] > 40
        assert min(counts[ELEMENTS], counts[RULES]) > 20
        assert counts[PINS] > 10


def test_what_says_what_is_wanted_is_as_much_as_before(row: Row) -> None:
    grown = {figure.title: figure.value for figure in row.figures if figure.title.startswith((WISHED, PINS, RULES))}
    assert len(grown) == 3
    assert set(grown.values()) == {0}


def test_memory_is_followed_of_those_that_never_fail_and_does_not_run_away(row: Row) -> None:
    curves = {curve["title"]: curve for curve in row.detail["curves"]}
    assert curves.keys() == {f"memory of {name}" for name in LASTING}
    assert row.detail["seen"]["processor_percent"].keys() == LASTING
    assert all(curve["exponent"] < QUADRATIC for curve in curves.values())
