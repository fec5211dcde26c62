"""A value that is made anew only where what it follows from has changed: an agent asks for hundreds each second."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """One value, and what it was made of. Sources must be immutable, or replaced and never changed."""

    def __init__(self) -> None:
        self._sources: tuple[object, ...] | None = None
        self._value: list[T] = []
        """One at most: None may be a value."""

    def of(self, make: Callable[[], T], *sources: object) -> T:
        """What `make` says, asked only where a source differs from that of the last call.

        The same object as the last time where it says the same, so that what is made of it in turn is kept too.
        """
        if self._value and self._sources is not None and _is_same(sources, self._sources):
            return self._value[0]
        made = make()
        if not self._value or self._value[0] != made:
            self._value = [made]
        self._sources = sources
        return self._value[0]

    def forget(self) -> None:
        """Make it anew at the next call, whatever the sources are."""
        self._sources = None


def _is_same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    # Mostly it is the very object; only others are worth a comparison, which may be long.
    return all(a is b for a, b in zip(one, other, strict=True)) or one == other
