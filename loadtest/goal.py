"""What the datapath is asked to reach, and whether a number reaches it. Pure."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_RELATIONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one number, such as `<= 0.93`; equal is met, except with `<`."""

    relation: str
    limit: float

    def __post_init__(self) -> None:
        """Raises ValueError for a relation that there is not."""
        if self.relation not in _RELATIONS:
            raise ValueError(f"no relation {self.relation!r}")

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:g}"

    def is_met_by(self, value: float) -> bool:
        """Of the number as it was measured, not as it is printed."""
        return _RELATIONS[self.relation](value, self.limit)


def at_most(limit: float) -> Goal:
    """A ratio or count that must not be higher."""
    return Goal("<=", limit)


def at_least(limit: float) -> Goal:
    """One that must not be lower."""
    return Goal(">=", limit)


def below(limit: float) -> Goal:
    """One that must be lower."""
    return Goal("<", limit)


class Verdict(StrEnum):
    """What a figure says of its goal."""

    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"
    NO_GOAL = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    title: str
    value: float | None
    """None where it could not be measured; `note` says why."""
    unit: str = ""
    digits: int = 2
    goal: Goal | None = None
    """None: shown beside the others, and promised by nobody."""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """A number that is not there meets nothing."""
        if self.value is None:
            return Verdict.NOT_MEASURED
        if self.goal is None:
            return Verdict.NO_GOAL
        return Verdict.MET if self.goal.is_met_by(self.value) else Verdict.MISSED

    def document(self) -> dict[str, Any]:
        """For JSON: everything that is printed, and the number whole."""
        return {
            "title": self.title,
            "value": self.value,
            "unit": self.unit,
            "digits": self.digits,
            "goal": str(self.goal) if self.goal else None,
            "verdict": str(self.verdict),
            "note": self.note,
        }


@dataclass(slots=True)
class Row:
    """What one part of the load test has found: its lines of the table, and what they were computed from."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """Why it ended early; what was found until then stays."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "row": self.name,
            "figures": [figure.document() for figure in self.figures],
            "error": self.error,
            "detail": self.detail,
        }
