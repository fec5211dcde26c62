import asyncio
import time

import pytest

from loadtest.goal import Verdict
from loadtest.scale.loop_steps import LoopSteps, Step, middle, stand_still


async def stand(seconds: float) -> str:
    await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251 - that is what is to be seen
    await asyncio.sleep(0)
    return "stood"


async def fail() -> None:
    raise ValueError("as it should")


async def test_the_longest_step_is_told_with_whose_it_was() -> None:
    with LoopSteps() as steps:
        async with asyncio.TaskGroup() as group:
            group.create_task(stand(0.001))
            long = group.create_task(stand(0.05))
    assert long.result() == "stood"
    assert steps.longest.of == "stand"
    assert steps.longest.took_ms >= 50
    # It slept.
    assert steps.longest.computed_ns < steps.longest.took_ns / 2


async def test_a_new_beginning_forgets_what_was_before() -> None:
    with LoopSteps() as steps:
        await asyncio.create_task(stand(0.05))
        steps.begin()
        await asyncio.create_task(asyncio.sleep(0))
    assert steps.longest.of == "sleep"


async def test_watched_tasks_fail_and_are_cancelled_as_others() -> None:
    with LoopSteps():
        with pytest.raises(ValueError, match="as it should"):
            await asyncio.create_task(fail())
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_afterwards_tasks_are_made_as_before() -> None:
    with LoopSteps() as steps:
        pass
    await asyncio.create_task(stand(0.01))
    assert steps.longest == Step()


def test_of_several_runs_the_middle_one_is_told_and_judged() -> None:
    one, other, third = (Step(ms * 1_000_000, 1_000_000, "Turn.run") for ms in (30, 10, 90))
    assert middle([one, other, third]) == one
    figure = stand_still("a flip", one)
    assert (figure.value, figure.verdict, figure.note) == (30, Verdict.MISSED, "Turn.run, 1 ms of it computing")
    assert stand_still("a flip", other).verdict is Verdict.MET
