"""Time that passes only while nobody has anything to do: a test of minutes takes milliseconds, and always the same way.

The loop's clock starts at zero and jumps to the next timer as soon as no callback and no socket is ready. Work in
threads takes no virtual time: while one is busy the clock stands. A child process is not waited for, nor a peer in
another process: what they say comes later than any timer, so tests that talk to them stay in real time.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The stock loop, for uvloop has no selector of ours; `time()` is virtual, and with it every timer."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.threads_busy = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now_ns / 1e9

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        future = super().run_in_executor(executor, func, *args)
        self.threads_busy += 1
        future.add_done_callback(self._leave_thread)
        return future

    def _leave_thread(self, _: object) -> None:
        self.threads_busy -= 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout:
            return super().select(timeout)
        if self._loop.threads_busy:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self._loop.now_ns += max(1, round(timeout * 1e9))
        return ready


def now_ns() -> int:
    """The clock to hand to what is tested. Only while the loop runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop), "the test is not in virtual time"
    return loop.now_ns


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorator: run this coroutine function on a VirtualTimeLoop of its own. Its fixtures must not be coroutines."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(test(*args, **kwargs))

    return run
