"""What something costs at several sizes, and how fast that grows. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

QUADRATIC = 1.5
"""An exponent above this is no noise of a linear cost any more."""


class Point(NamedTuple):
    """One size and its cost, a median."""

    size: float
    cost: float


@dataclass(frozen=True, slots=True)
class Curve:
    """At least two points, sizes ascending, everything above zero."""

    title: str
    """What is done, as `one more pod`."""
    of: str
    """What there is more and more of, as `local pods`."""
    unit: str
    """Of the cost."""
    points: tuple[Point, ...]

    @property
    def exponent(self) -> float:
        """Of cost ~ size^exponent, by least squares of the logarithms: 0 is constant, 1 linear, 2 quadratic."""
        logs = [(math.log(point.size), math.log(point.cost)) for point in self.points]
        return _slope(logs)

    @property
    def each(self) -> float:
        """What one more of them costs, by least squares; may come out below zero where nothing grows."""
        return _slope(self.points)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "of": self.of,
            "unit": self.unit,
            "points": [list(point) for point in self.points],
            "exponent": self.exponent,
            "each": self.each,
        }


def curve_of(title: str, of: str, costs: Mapping[int, float]) -> Curve:
    """Of costs in ms by size, sizes ascending."""
    return Curve(title, of, "ms", tuple(Point(size, cost) for size, cost in costs.items()))


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """An eighth of it, a quarter, a half and all; each once, and none of them zero."""
    return tuple(sorted({max(1, largest // part) for part in (8, 4, 2, 1)}))


def _slope(points: Sequence[tuple[float, float]]) -> float:
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
