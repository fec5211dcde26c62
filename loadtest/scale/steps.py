"""Steps of an event loop, each without an await in it: how long they take, and which of them was the longest."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loadtest.statistics import median
from service.host.memory import freeze_heap


class Step(NamedTuple):
    """One of them."""

    name: str
    ms: float


@dataclass(slots=True)
class Steps:
    """In ms of CPU time of the thread that takes them: what else runs on the machine does not count."""

    taken: dict[str, list[float]] = field(default_factory=dict)
    """By name, in order."""

    def take(self, name: str, step: Callable[[], object]) -> float:
        """Take one; returns how long it took."""
        before_ns = time.thread_time_ns()
        step()
        ms = (time.thread_time_ns() - before_ns) / 1e6
        self.taken.setdefault(name, []).append(ms)
        return ms

    @property
    def total_ms(self) -> float:
        """Of all."""
        return sum(map(sum, self.taken.values()))

    @property
    def longest(self) -> Step:
        """For so long the loop stood still. Raises ValueError where none was taken."""
        return max((Step(name, max(ms)) for name, ms in self.taken.items()), key=lambda step: step.ms)

    def document(self) -> dict[str, dict[str, Any]]:
        """For JSON."""
        return {
            name: {"count": len(ms), "total": sum(ms), "median": median(ms), "longest": max(ms)}
            for name, ms in self.taken.items()
        }


def longest_of(many: list[Steps]) -> Step:
    """The longest step of several loops, or of one at several times. Raises ValueError where none was taken."""
    return max((steps.longest for steps in many if steps.taken), key=lambda step: step.ms)


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Meanwhile garbage collections leave out what exists now, as in the product's processes once they have begun."""
    freeze_heap()
    try:
        yield
    finally:
        gc.unfreeze()
