"""The randomness a machine is given. `random.Random` fits; a seeded one makes a whole run repeatable."""

from collections.abc import MutableSequence, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Random(Protocol):
    """Three of the methods of `random.Random`. Nothing here needs to be hard to guess: it spreads load and breaks step.

    Which methods are called, and in what order, is part of a simulated history: a call more shifts all that follow.
    """

    def random(self) -> float:
        """A number in [0, 1)."""

    def shuffle(self, x: MutableSequence[T], /) -> None:
        """Shuffle in place."""

    def sample(self, population: Sequence[T], /, k: int) -> list[T]:
        """`k` different elements."""
