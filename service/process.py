"""What the three long-running processes share: signals, identity, clocks, logging."""

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot; equal in all processes and containers of the machine."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def start_id() -> int:
    """Draw the 64-bit number that tells this process from every other start of it. Never zero."""
    return secrets.randbits(64) or 1


def boot_ns() -> int:
    """CLOCK_BOOTTIME: the clock of leases and of the datapath (`bpf_ktime_get_boot_ns`); counts suspend, no steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def raw_ns() -> int:
    """CLOCK_MONOTONIC_RAW: no clock daemon slews it (rule T3)."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def wall_ns() -> int:
    """Unix time; for records and people only, since it steps."""
    return time.time_ns()


def run_until_signalled(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` on uvloop until it returns, or SIGTERM or SIGINT cancels it and its cleanup is done.

    The first signal cancels once and returns normally however long the cleanup takes; a second one ends the process at
    once with status 128 + signal (the kernel's deadlines keep that safe). What `main` raises is raised.
    """
    # Lazily, so that short commands and pure tests do not pay for it; run(), never install(): pyroute2 breaks on it.
    import uvloop

    settle_heap()
    uvloop.run(_supervise(main))


def settle_heap() -> None:
    """Take what exists now for long-lived: full garbage collections leave it out from now on.

    Else each one walks the whole heap, 70 ms with everything imported, and the event loop stands still meanwhile.
    """
    gc.collect()
    gc.freeze()


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


_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line; what a caller passes as `extra` becomes fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS and key not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(*, log_format: str = "text", level: str = "info") -> None:
    """Send all logging to standard error, as `text` or `json` lines, from `level` up. Replaces what was configured."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        text = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        text.converter = time.gmtime
        handler.setFormatter(text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
