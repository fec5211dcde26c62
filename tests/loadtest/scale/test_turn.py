import pytest

from loadtest.goal import Row
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.turn import measure_turn, up_to

SIZES = ScaleSizes(policies=20, pods=320, few_pods=20, members=100)


@pytest.fixture(scope="module")
def row() -> Row:
    return measure_turn(ScaleOptions(repeats=3, sizes=SIZES), lambda line: None)


def test_each_goal_is_of_the_size_that_it_names(row: Row) -> None:
    goals = {figure.title: str(figure.goal) for figure in row.figures if figure.goal is not None}
    assert goals == {
        "idle turn, each second, 20 policies, 320 local pods": "<= 2",
        "one more selected pod, 640 rows of pods": "<= 10",
        "one more selected pod, 20 local pods": "<= 2",
        "a member says something, 100 members": "<= 5",
        "the loop stands still for one change, 20 policies, 320 local pods": "<= 20",
    }
    assert all(figure.value for figure in row.figures)


def test_what_takes_longest_is_named_and_nothing_takes_longer(row: Row) -> None:
    still = row.figures[-1]
    most = next(one for one in row.detail["ms"] if (one["policies"], one["pods"]) == (20, 320))
    assert still.value == max(value for name, value in most.items() if name not in ("policies", "pods"))
    assert "all turns of `" in still.note


def test_costs_are_measured_over_pods_policies_and_members_and_none_turns_quadratic(row: Row) -> None:
    curves = row.detail["curves"]
    sizes = {curve["of"]: [size for size, _ in curve["points"]] for curve in curves}
    assert sizes == {"local pods": [20, 64, 320], "policies": [1, 4, 20], "members": [5, 20, 100]}
    assert [curve["title"] for curve in curves if curve["exponent"] > QUADRATIC] == []


def test_a_row_begins_small_or_where_it_is_told() -> None:
    assert up_to(1000) == (50, 200, 1000)
    assert up_to(5000, first=250) == (250, 1000, 5000)
    assert up_to(5) == (1, 5)
