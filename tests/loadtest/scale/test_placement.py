import json
from pathlib import Path

import pytest

from loadtest.scale.curve import QUADRATIC, Curve, Point
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.placement import (
    ASKED_NEW,
    ASKED_SAME,
    IDLE,
    Death,
    Measured,
    measure_placement,
    measure_size,
    node_counts,
)
from loadtest.statistics import median
from service.controller.controller import COALESCE_S

SIZES = ScaleSizes(gateway_nodes=30, floating_ips=12)


def test_sizes_are_a_tenth_three_tenths_and_all_and_never_fewer_nodes_than_can_lead() -> None:
    assert node_counts(ScaleSizes(gateway_nodes=1000)) == [100, 300, 1000]
    assert node_counts(ScaleSizes(gateway_nodes=10)) == [4, 10]


def test_of_a_death_the_slower_part_counts() -> None:
    assert Death(7.0, 9.0, 3).slower_ms == Death(9.0, 7.0, 3).slower_ms == 9.0


def test_the_row_measures_each_size_and_puts_goals_beside_the_largest() -> None:
    lines: list[str] = []
    row = measure_placement(ScaleOptions(repeats=1, sizes=SIZES), lines.append)
    assert lines[-1] == "30 gateway nodes, 12 floating IPs"
    assert [str(figure.goal) for figure in row.figures if figure.goal] == ["<= 5", "<= 50", "<= 5", "<= 20"]
    assert all(figure.value is not None and figure.value > 0 for figure in row.figures)
    document = json.loads(json.dumps(row.document()))
    assert [curve["points"][-1][0] for curve in document["detail"]["curves"]] == [30, 30, 30]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Measured]:
    """At two sizes far apart."""
    found = {}
    for nodes in (40, 320):
        options = ScaleOptions(repeats=2, sizes=ScaleSizes(gateway_nodes=nodes, floating_ips=20))
        found[nodes] = measure_size(tmp_path_factory.mktemp(f"nodes{nodes}"), nodes, options)
    return found


def test_every_death_brings_assignments_and_is_no_faster_than_the_wait_before_a_turn(
    measured: dict[int, Measured],
) -> None:
    for one in measured.values():
        assert len(one.deaths) >= 13
        assert all(death.rows > 0 for death in one.deaths)
        assert all(min(death.failover_ms, death.burial_ms) > COALESCE_S * 1e3 for death in one.deaths)


def test_an_idle_second_has_as_many_turns_as_the_controller_takes(measured: dict[int, Measured]) -> None:
    for one in measured.values():
        # Two refreshes, and at most one more for each round of answers.
        assert all(2 <= turns <= 12 for turns in one.turns)
        assert len(one.steps.taken[IDLE]) == sum(one.turns)


def exponent(title: str, costs: dict[int, float]) -> float:
    points = tuple(Point(nodes, cost) for nodes, cost in costs.items())
    return Curve(title, "gateway nodes", "ms", points).exponent


def test_a_turn_a_death_and_members_metadata_grow_no_faster_than_the_number_of_nodes(
    measured: dict[int, Measured],
) -> None:
    steps = {nodes: one.steps.taken for nodes, one in measured.items()}
    for name in (IDLE, ASKED_NEW, ASKED_SAME):
        assert exponent(name, {nodes: median(taken[name]) for nodes, taken in steps.items()}) < QUADRATIC, name
    waited_ms = COALESCE_S * 1e3
    deaths = {nodes: median(one.death_ms) - waited_ms for nodes, one in measured.items()}
    assert exponent("a death", deaths) < QUADRATIC


def test_what_members_said_is_kept_until_one_says_something_else(measured: dict[int, Measured]) -> None:
    taken = measured[320].steps.taken
    assert median(taken[ASKED_SAME]) < median(taken[ASKED_NEW])


def test_a_folder_of_its_own_is_left_behind_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    measure_placement(ScaleOptions(repeats=1, sizes=ScaleSizes(gateway_nodes=8, floating_ips=4)), lambda line: None)
    assert list(tmp_path.iterdir()) == []
