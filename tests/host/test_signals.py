"""One loop, one cancellation, one cleanup: seen from outside, by a child process that signals itself."""

import asyncio
import signal
import subprocess
import sys

import pytest

from service.host import signals

PREAMBLE = """
import asyncio, os, signal
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
