"""The long-lived tasks of a process: an unexpected error in one of them does not end the process.

A packet from a stranger, a device that vanished between two looks, a full disk: whatever nobody has thought of shows
itself as an exception in one task. To end the process for it takes away what all the other tasks do, at every start
again where the cause stays. So the task is told of once, counted, shown in status, and tried again with back-off.
What the event loop calls by itself (a socket that became readable, a timer) has no task: its errors count under
`callbacks`, and it is called again when there is something to do again.

What ends a process: OperatorError (it cannot be of use as it is configured), InvariantError (a machine that found
itself in a state it cannot be in must not go on deciding), and cancellation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from service.model.errors import InvariantError, OperatorError

_log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 5.0
STEADY_NS = 10_000_000_000
"""A task that has run so long since its last error is all right again, and begins anew with the shortest back-off."""

LOGGED_MAX = 16
CALLBACKS = "callbacks"
"""What errors outside every task count under."""

Run = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Failures:
    """Of one task."""

    errors: int = 0
    last_error: str = ""
    last_error_ns: int = 0
    logged: set[str] = field(default_factory=set)
    """Errors that were logged, each with its traceback: the same one again is only counted, and so is, of a task that
    fails in ever new words, every one beyond `LOGGED_MAX`."""


class Supervisor:
    """Keeps the tasks of one process running."""

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        retry_first_s: float = RETRY_FIRST_S,
        retry_last_s: float = RETRY_LAST_S,
    ) -> None:
        """`clock`: any that does not go back, in ns. The back-off doubles from the first pause to the last."""
        self._clock = clock
        self._retry_first_s = retry_first_s
        self._retry_last_s = retry_last_s
        self._failures: dict[str, _Failures] = {}
        self._fatal: asyncio.Future[None] | None = None
        """Gets the error of a callback that ends the process; None while nothing runs."""

    async def run(self, tasks: Mapping[str, Run]) -> None:
        """Run all in one TaskGroup until cancelled, or until an error that ends a process is raised by one.

        A task must be one that can be called again after it has raised: what it knows is in the object it belongs to.
        Errors of the loop's callbacks are taken over meanwhile.
        """
        loop = asyncio.get_running_loop()
        self._fatal, former = loop.create_future(), loop.get_exception_handler()
        loop.set_exception_handler(self._take_callback)
        try:
            async with asyncio.TaskGroup() as group:
                ending = group.create_task(_result(self._fatal), name=CALLBACKS)
                await asyncio.wait([group.create_task(self.keep(name, run), name=name) for name, run in tasks.items()])
                ending.cancel()
        finally:
            loop.set_exception_handler(former)

    async def keep(self, name: str, task: Run) -> None:
        """Run one task; again after each unexpected error. Returns where it ends of its own accord."""
        failures = self._failures.setdefault(name, _Failures())
        retry_s = self._retry_first_s
        while True:
            started_ns = self._clock()
            try:
                await task()
            except Exception as error:
                if _ends_process(error):
                    raise
                if self._clock() - started_ns >= STEADY_NS:
                    retry_s = self._retry_first_s
                self._note(name, failures, error, f"trying again after {retry_s:.1f} s")
            else:
                return
            await asyncio.sleep(retry_s)
            retry_s = min(self._retry_last_s, 2 * retry_s)

    def attempt(self, name: str, call: Callable[[], None]) -> None:
        """Call once what must not keep its caller from what follows; an unexpected error counts under the name."""
        try:
            call()
        except Exception as error:
            if _ends_process(error):
                raise
            self._note(name, self._failures.setdefault(name, _Failures()), error, "it will be called again")

    def _take_callback(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if not isinstance(error, Exception):
            loop.default_exception_handler(context)
        elif not _ends_process(error):
            self._note(CALLBACKS, self._failures.setdefault(CALLBACKS, _Failures()), error, "it may be called again")
        elif self._fatal is not None and not self._fatal.done():
            self._fatal.set_exception(error)

    def _note(self, name: str, failures: _Failures, error: Exception, following: str) -> None:
        failures.errors += 1
        cause = _first(error)
        failures.last_error = f"{type(cause).__name__}: {cause}"
        failures.last_error_ns = self._clock()
        if failures.last_error in failures.logged or len(failures.logged) >= LOGGED_MAX:
            return
        failures.logged.add(failures.last_error)
        _log.error("task %s: %s; %s", name, failures.last_error, following, exc_info=error)

    def errors(self) -> dict[str, int]:
        """How often each task has failed since the start."""
        return {name: failures.errors for name, failures in self._failures.items()}

    def troubles(self) -> list[str]:
        """One line for each task that failed lately; for status."""
        now_ns = self._clock()
        return [
            f"task {name} failed {failures.errors} times, at last with {failures.last_error}"
            for name, failures in self._failures.items()
            if failures.errors and now_ns - failures.last_error_ns < STEADY_NS
        ]


def _ends_process(error: Exception) -> bool:
    # A task that has tasks of its own raises their errors as a group.
    if isinstance(error, ExceptionGroup):
        return error.subgroup((OperatorError, InvariantError)) is not None
    return isinstance(error, OperatorError | InvariantError)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _result(future: asyncio.Future[None]) -> None:
    await future
