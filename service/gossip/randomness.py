"""The randomness a machine is given. `random.Random` fits; a seeded one makes a whole run repeatable."""

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Random(Protocol):
    def random(self) -> float:
        """A number in [0, 1)."""

    def shuffle(self, x: MutableSequence[Any], /) -> None:
        """Shuffle in place."""

    def sample(self, population: Sequence[T], /, k: int) -> list[T]:
        """`k` different elements."""
