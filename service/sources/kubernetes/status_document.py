"""A status as the API server wants it: with the leader's term, and conditions that know since when."""

from typing import Any


def complete_status(
    status: dict[str, Any], before: dict[str, Any], *, generation: int, term: int, now: str
) -> dict[str, Any]:
    """Add term, generation and transition times; a condition that has not changed keeps its time from `before`."""
    known = {condition.get("type"): condition for condition in _conditions(before)}
    conditions = []
    for condition in _conditions(status):
        last = known.get(condition["type"], {})
        since = last.get("lastTransitionTime") if last.get("status") == condition["status"] else None
        conditions.append(condition | {"lastTransitionTime": since or _seconds(now), "observedGeneration": generation})
    return status | {"leaderTerm": term, "observedGeneration": generation, "conditions": conditions}


def _conditions(status: dict[str, Any]) -> list[dict[str, Any]]:
    found = status.get("conditions")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _seconds(now: str) -> str:
    return f"{now[:19]}Z"
