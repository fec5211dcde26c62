"""Order statistics of small samples: no interpolation, so every number printed was really measured."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], fraction: float) -> float:
    """Nearest-rank percentile: the smallest value that at least `fraction` (0..1] of the sample does not exceed.

    Of fewer than 100 values the p99 is therefore their maximum. Raises ValueError for an empty sample.
    """
    if not values:
        raise ValueError("no values")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} is not within (0, 1]")
    return sorted(values)[math.ceil(fraction * len(values)) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number the mean of the two in the middle. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def ratio_median(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """Median of the ratios of each round: what disturbs a whole round hits both. None where no round has both."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True) if below]
    return median(ratios) if ratios else None
