"""A folder is watched: told at once, once for a burst, and again when it was replaced."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from service.sources.manifests import folder_watch
from service.sources.manifests.folder_watch import watch_folder

Runner = Callable[[Coroutine[Any, Any, None]], None]
pytestmark = pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
TICK_S = 30.0
"""Nothing below is told by a tick."""


@asynccontextmanager
async def watching(folder: Path, tick_s: float = TICK_S) -> AsyncGenerator[AsyncGenerator[bool, None], None]:
    async with asyncio.timeout(10), aclosing(watch_folder(folder, tick_s)) as ticks:
        assert await anext(ticks) is True, "what came before it was watched"
        yield ticks


async def is_silent(ticks: AsyncGenerator[bool, None]) -> bool:
    """Nothing is told for a while. The generator is of no more use afterwards."""
    try:
        async with asyncio.timeout(0.3):
            await anext(ticks)
    except TimeoutError:
        return True
    return False


async def tell_each_change(folder: Path) -> None:
    path = folder / "a.yaml"
    async with watching(folder) as ticks:
        for change in (
            lambda: path.write_text("one"),
            lambda: path.write_text("another"),
            lambda: os.rename(path, folder / "b.yaml"),
            lambda: (folder / "b.yaml").chmod(0o600),
            lambda: (folder / "b.yaml").unlink(),
            lambda: (folder / "below").mkdir(),
        ):
            change()
            assert await anext(ticks) is True
        assert await is_silent(ticks)


def test_each_change_is_told_and_at_rest_nothing_is(runner: Runner, tmp_path: Path) -> None:
    runner(tell_each_change(tmp_path))


async def tell_a_burst(folder: Path) -> None:
    async with watching(folder) as ticks:
        for number in range(100):
            (folder / f"{number}.yaml").write_text("x")
        assert await anext(ticks) is True
        assert await is_silent(ticks)


def test_a_burst_is_one_change(runner: Runner, tmp_path: Path) -> None:
    runner(tell_a_burst(tmp_path))


async def tell_a_stream(folder: Path) -> None:
    async def write_for_ever() -> None:
        while True:
            (folder / "a.yaml").write_text("x")
            await asyncio.sleep(0.001)

    writer = asyncio.create_task(write_for_ever())
    try:
        async with watching(folder) as ticks:
            for _ in range(3):
                async with asyncio.timeout(2):
                    assert await anext(ticks) is True
    finally:
        writer.cancel()


def test_a_stream_without_end_is_told_all_the_same(runner: Runner, tmp_path: Path) -> None:
    runner(tell_a_stream(tmp_path))


async def follow_the_name(folder: Path, is_changed_first: bool) -> None:
    path = folder / "a.yaml"
    async with watching(folder, 0.05) as ticks:
        if is_changed_first:
            path.write_text("in the same moment")
        os.rename(folder, folder.with_name("former"))
        assert await anext(ticks) is False
        os.mkdir(folder)
        while not await anext(ticks):
            pass
        path.write_text("x")
        while not await anext(ticks):
            pass
        os.unlink(path)
        os.rmdir(folder)
        for _ in range(3):
            await anext(ticks)


@pytest.mark.parametrize("is_changed_first", [False, True])
def test_a_folder_that_was_replaced_is_watched_again(runner: Runner, tmp_path: Path, is_changed_first: bool) -> None:
    (tmp_path / "watched").mkdir()
    runner(follow_the_name(tmp_path / "watched", is_changed_first))


async def tick(folder: Path) -> None:
    async with asyncio.timeout(5), aclosing(watch_folder(folder, 0.01)) as ticks:
        assert [await anext(ticks) for _ in range(3)] == [False] * 3


def test_where_there_is_no_watch_to_be_had_it_ticks_and_says_so_once(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_watch, "Inotify", refuse)
    runner(tick(tmp_path))
    assert [record.message for record in caplog.records if "no watch" in record.message] == [
        f"{tmp_path}: no watch, so changes take up to two seconds: [Errno 28] No space left on device"
    ]
