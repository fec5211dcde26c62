"""What tests in virtual time may rely on."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from tests.virtual_time import in_virtual_time, now_ns

HOUR_NS = 3_600_000_000_000


@in_virtual_time
async def test_an_hour_passes_at_once_and_exactly() -> None:
    began_s = time.monotonic()
    await asyncio.sleep(3600)
    assert now_ns() == HOUR_NS
    assert time.monotonic() - began_s < 60


@in_virtual_time
async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    woken: list[tuple[int, float]] = []

    async def sleeper(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woken.append((now_ns(), delay_s))

    await asyncio.gather(*(sleeper(delay_s) for delay_s in (0.3, 0.1, 60, 0.2)))
    assert woken == [(100_000_000, 0.1), (200_000_000, 0.2), (300_000_000, 0.3), (60_000_000_000, 60)]


@in_virtual_time
async def test_a_timeout_ends_what_waits_for_ever() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Event().wait()
    assert now_ns() == 5_000_000_000


@in_virtual_time
async def test_what_a_socket_has_ready_comes_before_the_next_timer() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.send(b"word")
        async with asyncio.timeout(0.001):
            assert await asyncio.get_running_loop().sock_recv(here, 10) == b"word"
    assert now_ns() == 0


@in_virtual_time
async def test_the_clock_stands_while_a_thread_works() -> None:
    async with asyncio.timeout(0.001):
        await asyncio.to_thread(time.sleep, 0.02)
    assert now_ns() == 0
    await asyncio.sleep(1)
    assert now_ns() == 1_000_000_000, "and goes on afterwards"


async def test_the_virtual_clock_is_refused_in_real_time() -> None:
    with pytest.raises(AssertionError, match="not in virtual time"):
        now_ns()


@in_virtual_time
@pytest.mark.parametrize("word", ["passed on"])
async def test_fixtures_and_parameters_arrive(word: str, tmp_path: Path) -> None:
    assert word == "passed on"
    assert isinstance(tmp_path, Path)
