import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from service.host import clock, identity, log, signals

PREAMBLE = """
import asyncio, os, signal
from service.host.log import configure_logging
from service.host.signals import run_until_signalled

def signal_self(number):
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_cancels_once_and_the_cleanup_runs(name: str) -> None:
    done = run(f"""
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        try:
            signal_self(signal.{name})
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            print("cleaned up")

run_until_signalled(main)
print("returned")
""")
    assert (done.returncode, done.stdout) == (0, "cleaned up\nreturned\n"), done.stderr


def test_a_second_signal_forces_the_end() -> None:
    done = run("""
async def main():
    try:
        signal_self(signal.SIGTERM)
        await asyncio.sleep(60)
    finally:
        signal_self(signal.SIGINT)
        await asyncio.sleep(60)

run_until_signalled(main)
""")
    assert done.returncode == 128 + signal.SIGINT


def test_what_main_raises_is_raised_even_when_stopping() -> None:
    done = run("""
async def main():
    try:
        signal_self(signal.SIGTERM)
        await asyncio.sleep(60)
    finally:
        raise RuntimeError("cleanup failed")

try:
    run_until_signalled(main)
except RuntimeError as error:
    print(error)
""")
    assert done.stdout == "cleanup failed\n"


def test_main_may_simply_return() -> None:
    assert run("run_until_signalled(lambda: asyncio.sleep(0)); print('returned')").stdout == "returned\n"


def test_a_cancellation_that_is_no_signal_is_not_swallowed() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        signals.run_until_signalled(main)


def test_clocks_are_the_ones_of_leases_and_datapath() -> None:
    assert abs(clock.boot_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 10**9
    assert abs(clock.raw_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)) < 10**9
    assert abs(clock.wall_ns() - time.time_ns()) < 10**9


def test_the_boot_has_one_id_and_every_start_another() -> None:
    assert identity.boot_id() == identity.boot_id()
    assert len(identity.boot_id()) == 36
    drawn = {identity.start_id() for _ in range(100)}
    assert len(drawn) == 100
    assert all(0 < number < 2**64 for number in drawn)


def test_json_log_lines_carry_extra_fields_and_the_traceback() -> None:
    done = run("""
import logging
configure_logging(log_format="json", level="info")
logging.getLogger("a").debug("hidden")
logging.getLogger("a").info("moved %s", "192.0.2.1", extra={"floating_ip": "192.0.2.1"})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("b").exception("two\\nlines")
""")
    first, second = map(json.loads, done.stderr.splitlines())
    assert first["time"].endswith("Z")
    assert {key: first[key] for key in ("level", "logger", "message", "floating_ip")} == {
        "level": "info",
        "logger": "a",
        "message": "moved 192.0.2.1",
        "floating_ip": "192.0.2.1",
    }
    assert second["message"] == "two\nlines"
    assert "ZeroDivisionError" in second["exception"]


def test_text_log_lines_are_in_utc() -> None:
    script = """
import logging
configure_logging(level="warning")
logging.getLogger("a").info("hidden")
logging.getLogger("a").warning("seen")
"""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"TZ": "Asia/Tokyo"},
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith("Z WARNING a: seen")
    assert line[:13] in {time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() - late)) for late in (0, 60)}


def test_the_formatter_keeps_its_own_fields() -> None:
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "m", "level": "no", "time": 1})
    assert json.loads(log.JsonFormatter().format(record))["level"] == "info"
