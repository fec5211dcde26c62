"""A keeper's first steps: the lock, its records, then its address. While one of them is not to be had, it does nothing.

Nothing is heard, promised, counted or sent before all of it is there: an elector without records has forgotten what it
promised and which tokens it gave (P2, K1), a disk's number that is on no disk is no member's (M7), and a holder goes by
the electorate that it has on disk (M1). So the node holds and grants nothing, its agent says why, and others serve.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from service.host.disk import until_usable
from service.wire.agent_link import say_waiting

T = TypeVar("T")


async def begin(step: Callable[[], T], *, run_dir: Path) -> T:
    """Take one step in a thread, again with back-off while it raises TransientError; the agent is told, if it is there.

    Else a disk that takes seconds would keep the process from hearing that it is to stop.
    """

    async def attempt() -> T:
        return await asyncio.to_thread(step)

    return await until_begun(attempt, run_dir=run_dir)


async def until_begun(step: Callable[[], Coroutine[Any, Any, T]], *, run_dir: Path) -> T:
    """The same for a step that waits for nothing but the event loop, such as a socket's."""

    async def told(trouble: str) -> None:
        say_waiting(run_dir, trouble)

    return await until_usable(step, told=told)
