from typing import Any

from service.sources.kubernetes.status_document import complete_status

NOW, LATER = "2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:09.000001Z"


def complete(before: dict[str, Any], status: str, now: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "Accepted", "status": status, "reason": "R", "message": message}
    return complete_status({"conditions": [condition]}, before, generation=3, term=9, now=now)


def test_term_and_generation_are_recorded() -> None:
    found = complete({}, "True", NOW)
    assert (found["leaderTerm"], found["observedGeneration"]) == (9, 3)
    assert found["conditions"][0]["observedGeneration"] == 3


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = complete({}, "True", NOW)
    assert first["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    second = complete(first, "True", LATER, "another message")
    assert second["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    third = complete(second, "False", LATER)
    assert third["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:09Z"


def test_a_status_that_makes_no_sense_is_no_hindrance() -> None:
    for before in ({"conditions": None}, {"conditions": [1, {"type": "Accepted"}]}, {}):
        assert complete(before, "True", NOW)["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
