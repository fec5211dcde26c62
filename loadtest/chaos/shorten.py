"""The shortest list of events that still fails: delta debugging over what has happened.

Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002): `ddmin`, with a bound, because each
question costs a lab. Most findings are those of the last round alone, so that is asked first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

T = TypeVar("T")
TRIES_MAX = 12


@dataclass(slots=True)
class Shortened(Generic[T]):
    """What is left, and how it was found."""

    items: tuple[T, ...]
    tries: int = 0
    failed_again: bool = False
    """Some list has failed when it was tried; else nothing shorter is known, and the whole one is given back."""
    asked: set[tuple[int, ...]] = field(default_factory=set)
    """Positions of the lists that were tried; none is twice."""


def shorten(
    items: Sequence[T],
    fails: Callable[[tuple[T, ...]], bool],
    *,
    first: Sequence[T] = (),
    tries: int = TRIES_MAX,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Shortened[T]:
    """A list of items, in their order, that fails and of which no part was seen to fail.

    `items` is taken to fail: it has. `first`: the part of it that is tried before all others. A fault that shows itself
    only now and then may be missed: the result fails, but need not be the shortest.
    """
    found = Shortened(tuple(items))
    positions = tuple(range(len(items)))

    def failing(chosen: tuple[int, ...]) -> bool:
        if not chosen or chosen in found.asked or found.tries >= tries or not may_go_on():
            return False
        found.asked.add(chosen)
        found.tries += 1
        return fails(tuple(items[position] for position in chosen))

    likely = tuple(position for position in positions if items[position] in first)
    if likely and len(likely) < len(positions) and failing(likely):
        positions, found.failed_again = likely, True
    positions = _minimise(positions, failing, found)
    if not found.failed_again:
        found.failed_again = failing(positions)
    found.items = tuple(items[position] for position in positions)
    return found


def _minimise(
    positions: tuple[int, ...], failing: Callable[[tuple[int, ...]], bool], found: Shortened[T]
) -> tuple[int, ...]:
    parts = 2
    while len(positions) >= 2:
        chunks = _split(positions, parts)
        complements = [tuple(one for one in positions if one not in chunk) for chunk in chunks]
        # The later half first: what fails has mostly happened just before.
        candidates = [*reversed(chunks), *(complements if parts > 2 else ())]
        smaller = next((chosen for chosen in candidates if failing(chosen)), None)
        if smaller is not None:
            found.failed_again = True
            parts = max(2, parts - 1) if smaller in complements and parts > 2 else 2
            positions = smaller
        elif parts < len(positions):
            parts = min(len(positions), 2 * parts)
        else:
            break
    return positions


def _split(positions: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    bounds = [round(len(positions) * part / parts) for part in range(parts + 1)]
    return [positions[begin:end] for begin, end in pairwise(bounds)]
