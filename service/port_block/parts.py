"""A table that comes in several datagrams, collected until it is whole.

Parts of one edition may come from several answers: with much loss no single answer would ever come whole.
"""

from typing import Generic, TypeVar

R = TypeVar("R")


class Parts(Generic[R]):
    """Of one sender. Holds one edition at a time: the parts of the newest one heard."""

    def __init__(self) -> None:
        self._edition: tuple[int, ...] = ()
        self._parts: dict[int, tuple[R, ...]] = {}

    def add(self, edition: tuple[int, ...], part: int, parts: int, rows: tuple[R, ...]) -> list[R] | None:
        """Take a part. Returns the rows when the last one is there, and None before and after.

        `edition` grows with the sender's table; what is older than the newest heard is left out.
        """
        if edition < self._edition:
            return None
        if edition > self._edition:
            self._edition, self._parts = edition, {}
        if part in self._parts:
            return None
        self._parts[part] = rows
        if len(self._parts) < parts:
            return None
        return [row for _, rows in sorted(self._parts.items()) for row in rows]
