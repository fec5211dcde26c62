"""How a long-running process starts and ends: one event loop, one cancellation, one cleanup."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from service.host.memory import freeze_heap

log = logging.getLogger(__name__)


def run_until_signalled(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` on uvloop until it returns, or SIGTERM or SIGINT cancels it and its cleanup is done.

    The first signal cancels once and returns normally however long the cleanup takes; a second one ends the process at
    once with status 128 + signal (the kernel's deadlines keep that safe). What `main` raises is raised.
    """
    # Lazily, so that short commands and pure tests do not pay for it; run(), never install(): pyroute2 breaks on it.
    import uvloop

    freeze_heap()
    uvloop.run(_supervise(main))


async def _supervise(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            log.info("%s: stopping", number.name)
            task.cancel()
            return
        log.warning("%s again: ending at once", number.name)
        logging.shutdown()
        os._exit(128 + number)

    stopping = (signal.SIGTERM, signal.SIGINT)
    for number in stopping:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await main()
    except asyncio.CancelledError:
        if not received:
            raise
        task.uncancel()  # we asked for it, and the cleanup of `main` has run
    finally:
        for number in stopping:
            loop.remove_signal_handler(number)
