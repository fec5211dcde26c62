"""Goes through all that differences have made, and finds what they have missed (rule I2). Pure.

Two tables that describe one thing come to disagree in the end: a difference is lost with an error in the middle of a
turn, or somebody writes a path that forgets to tell one. So everything is worked out anew now and then, compared with
what is wished for, put right and counted. A piece at a time, each a thirtieth of all, so that no turn is a long one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.datapath.worker_pool import Wishes

PIECES = 30
PAUSE_NS = 1_000_000_000
"""Between two pieces: once through everything in half a minute."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table that is gone through."""

    map: str
    """Whose rows `compare` puts right; empty where what it finds is put right by the next turn."""
    items: Callable[[], Sequence[Any]]
    """What is to be gone through, as of now; what goes meanwhile does no harm."""
    compare: Callable[[Sequence[Any]], tuple[int, Wishes]]
    """How many of these items were otherwise than they should be, and what is to be wished for."""
    cost: int = 1
    """Of one item, beside one of the others; one fits into each piece, whatever it costs."""


@dataclass(frozen=True, slots=True)
class Found:
    """By one piece."""

    map: str
    count: int
    wishes: Wishes


class Review:
    """`take_piece` in each turn, after everything was wished for that the turn has worked out."""

    def __init__(self, parts: Callable[[], Sequence[Part]]) -> None:
        """`parts` is asked at the beginning of each round."""
        self._parts = parts
        self._piece = 0
        """How many items one piece has in this round."""
        self._left: list[tuple[Part, Sequence[Any]]] = []
        self._due_ns: int | None = None
        """None: at once, and all of it."""

    def begin_again(self) -> None:
        """Go through everything at the next call: an error may have lost what was worked out."""
        self._due_ns = None

    def take_piece(self, *, now_ns: int) -> list[Found]:
        """What is found wrong by the next piece, where one is due."""
        if self._due_ns is None:
            self._begin(pieces=1)
        elif now_ns < self._due_ns:
            return []
        elif not self._left:
            self._begin(pieces=PIECES)
        self._due_ns = now_ns + PAUSE_NS
        return [found for found in self._look() if found.count]

    def _begin(self, *, pieces: int) -> None:
        self._left = [(part, items) for part in self._parts() if (items := part.items())]
        self._piece = -(-sum(part.cost * len(items) for part, items in self._left) // pieces)

    def _look(self) -> Iterator[Found]:
        room = self._piece
        while self._left and room > 0:
            part, items = self._left.pop(0)
            count = max(1, room // part.cost)
            room -= part.cost * min(count, len(items))
            if items[count:]:
                self._left.insert(0, (part, items[count:]))
            yield Found(part.map, *part.compare(items[:count]))
