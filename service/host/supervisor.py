"""The long-lived tasks of a process: an unexpected error in one of them does not end the process.

A packet from a stranger, a device that vanished between two looks, a full disk: whatever nobody has thought of shows
itself as an exception in one task. To end the process for it takes away what all the other tasks do, at every start
again where the cause stays. So the task is told of once, counted, shown in status, and tried again with back-off.

What ends a process: OperatorError (it cannot be of use as it is configured), InvariantError (a machine that found
itself in a state it cannot be in must not go on deciding), and cancellation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from service.model.errors import InvariantError, OperatorError

_log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 5.0
STEADY_NS = 10_000_000_000
"""A task that has run so long since its last error is all right again, and begins anew with the shortest back-off."""

Run = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Failures:
    """Of one task."""

    errors: int = 0
    last_error: str = ""
    last_error_ns: int = 0
    logged: str = ""
    """The last error that was logged with its traceback: the same one again is only counted."""


class Supervisor:
    """Keeps the tasks of one process running. `clock`: any that does not go back, in ns."""

    def __init__(self, *, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._failures: dict[str, _Failures] = {}

    async def run(self, tasks: Mapping[str, Run]) -> None:
        """Run all in one TaskGroup until cancelled, or until an error that ends a process is raised by one.

        A task must be one that can be called again after it has raised: what it knows is in the object it belongs to.
        """
        async with asyncio.TaskGroup() as group:
            for name, task in tasks.items():
                group.create_task(self.keep(name, task), name=name)

    async def keep(self, name: str, task: Run) -> None:
        """Run one task; again after each unexpected error. Returns where it ends of its own accord."""
        failures = self._failures.setdefault(name, _Failures())
        retry_s = RETRY_FIRST_S
        while True:
            started_ns = self._clock()
            try:
                await task()
            except (OperatorError, InvariantError):
                raise
            except Exception as error:
                if self._clock() - started_ns >= STEADY_NS:
                    retry_s = RETRY_FIRST_S
                self._note(name, failures, error, retry_s)
            else:
                return
            await asyncio.sleep(retry_s)
            retry_s = min(RETRY_LAST_S, 2 * retry_s)

    def _note(self, name: str, failures: _Failures, error: Exception, retry_s: float) -> None:
        failures.errors += 1
        failures.last_error = f"{type(error).__name__}: {error}"
        failures.last_error_ns = self._clock()
        if failures.last_error == failures.logged:
            return
        failures.logged = failures.last_error
        _log.error("task %s: %s; trying again after %.1f s", name, failures.last_error, retry_s, exc_info=error)

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
