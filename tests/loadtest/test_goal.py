import pytest

from loadtest.goal import Figure, Goal, Row, Verdict, at_least, at_most, below


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (at_most(0.93), 0.93, Verdict.MET),
        (at_most(0.93), 0.9301, Verdict.MISSED),
        (at_least(1.0), 1.0, Verdict.MET),
        (at_least(1.0), 0.999, Verdict.MISSED),
        (below(0.1), 0.1, Verdict.MISSED),
        (below(0.1), 0.0999, Verdict.MET),
        (at_most(0), 1, Verdict.MISSED),
    ],
)
def test_a_number_is_judged_as_it_was_measured_and_not_as_it_is_printed(
    goal: Goal, value: float, verdict: Verdict
) -> None:
    assert Figure("what", value, goal=goal).verdict is verdict


def test_what_was_not_measured_meets_nothing() -> None:
    assert Figure("what", None, goal=at_least(0)).verdict is Verdict.NOT_MEASURED
    assert Figure("what", None).verdict is Verdict.NOT_MEASURED


def test_a_number_without_a_goal_is_not_judged() -> None:
    assert not Figure("what", 1.0).verdict


def test_a_relation_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="="):
        Goal("=", 1)


def test_json_has_the_whole_number_and_the_goal_in_words() -> None:
    row = Row("cost", [Figure("CPU", 0.9304, goal=at_most(0.93)), Figure("other", None, note="not built")], {"n": 1})
    document = row.document()
    assert document["figures"][0] == {
        "title": "CPU",
        "value": 0.9304,
        "unit": "",
        "digits": 2,
        "goal": "<= 0.93",
        "verdict": "MISSED",
        "note": "",
    }
    assert document["figures"][1]["verdict"] == "not measured"
    assert (document["row"], document["error"], document["detail"]) == ("cost", "", {"n": 1})
