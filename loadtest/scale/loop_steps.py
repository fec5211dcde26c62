"""How long the event loop stands still: each step of each task, from one await to the next, and whose the longest was.

By the loop's task factory, so on any loop; what the loop calls besides tasks (here: hardly more than wake-ups) is not
seen, nor is whoever measures, whose own task was there before. A step's time goes by the clock on the wall, with the
garbage collections in it, as for everybody who waits for the loop; how much of it the thread was computing tells it
from one that a busy machine has held up.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from loadtest.goal import Figure, at_most

STAND_STILL_MS = 20
"""What else a process has to do at the same time waits no longer than this."""
_NS_PER_MS = 1e6


class Step(NamedTuple):
    """Between two awaits of one task."""

    took_ns: int = 0
    computed_ns: int = 0
    """Of it, the thread was running."""
    of: str = ""
    """The coroutine that the task is of."""

    @property
    def took_ms(self) -> float:
        """On the wall."""
        return self.took_ns / _NS_PER_MS

    def __str__(self) -> str:
        return f"{self.of}, {self.computed_ns / _NS_PER_MS:.0f} ms of it computing"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"ms": self.took_ms, "computed_ms": self.computed_ns / _NS_PER_MS, "of": self.of}


def middle(steps: Sequence[Step]) -> Step:
    """Of the longest steps of several runs: half of them were no longer."""
    return sorted(steps)[(len(steps) - 1) // 2]


def stand_still(what: str, step: Step) -> Figure:
    """The line of a table for the longest step while that happened."""
    title = f"{what}: the loop stands still, at most"
    return Figure(title, step.took_ms, "ms", 1, at_most(STAND_STILL_MS), note=str(step))


class LoopSteps:
    """A context manager around the making of the tasks that are watched."""

    def __init__(self) -> None:
        self.longest = Step()
        """Since the last `begin`."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.set_task_factory(cast(Any, self._make_task))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.set_task_factory(None)

    def begin(self) -> None:
        """Forget what was longest until now."""
        self.longest = Step()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(_Watched(coroutine, self._note), loop=loop, **options)

    def _note(self, step: Step) -> None:
        if step.took_ns > self.longest.took_ns:
            self.longest = step


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are told of."""

    def __init__(self, inner: Coroutine[Any, Any, Any], note: Callable[[Step], None]) -> None:
        self._inner = inner
        self._note = note

    def send(self, value: Any) -> Any:
        return self._timed(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._timed(self._inner.throw, *error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def _timed(self, step: Callable[..., Any], *arguments: Any) -> Any:
        began_ns, computed_ns = time.perf_counter_ns(), time.thread_time_ns()
        try:
            return step(*arguments)
        finally:
            name = getattr(self._inner, "__qualname__", repr(self._inner))
            self._note(Step(time.perf_counter_ns() - began_ns, time.thread_time_ns() - computed_ns, name))
