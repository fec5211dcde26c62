"""A task's unexpected error is told, counted and outlived."""

import asyncio
import logging
from functools import partial

import pytest

from service.host.supervisor import LOGGED_MAX, RETRY_LAST_S, STEADY_NS, Supervisor
from service.model.errors import InvariantError, OperatorError
from tests.virtual_time import in_virtual_time, now_ns

SECOND = 1_000_000_000


class Failing:
    """A task that raises at its first calls, and then runs on."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.started_ns: list[int] = []

    async def run(self) -> None:
        self.started_ns.append(now_ns())
        if self.errors:
            raise self.errors.pop(0)
        await asyncio.sleep(1e9)


@in_virtual_time
async def test_a_task_that_fails_goes_on_and_the_others_notice_nothing() -> None:
    supervisor = Supervisor(clock=now_ns)
    failing, steady = Failing(KeyError(7), ValueError("max() arg is an empty sequence")), Failing()
    running = asyncio.create_task(supervisor.run({"failing": failing.run, "steady": steady.run}))
    await asyncio.sleep(1)
    assert (len(failing.started_ns), len(steady.started_ns)) == (3, 1)
    assert supervisor.errors() == {"failing": 2, "steady": 0}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@in_virtual_time
async def test_an_error_is_shown_until_the_task_has_been_steady_for_a_while() -> None:
    supervisor = Supervisor(clock=now_ns)
    running = asyncio.create_task(supervisor.keep("find devices", Failing(KeyError(7)).run))
    await asyncio.sleep(0.01)
    assert supervisor.troubles() == ["task find devices failed 1 times, at last with KeyError: 7"]
    await asyncio.sleep(STEADY_NS / 1e9)
    assert supervisor.troubles() == []
    running.cancel()


@in_virtual_time
async def test_a_task_that_fails_for_ever_is_tried_ever_more_seldom_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing(*(KeyError(7) for _ in range(100)))
    running = asyncio.create_task(Supervisor(clock=now_ns).keep("find devices", failing.run))
    with caplog.at_level(logging.ERROR):
        await asyncio.sleep(60)
    pauses = [later - sooner for sooner, later in zip(failing.started_ns, failing.started_ns[1:], strict=False)]
    assert pauses[0] == SECOND // 10
    assert pauses[-1] == RETRY_LAST_S * SECOND
    assert 12 < len(failing.started_ns) < 25
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
    running.cancel()


@in_virtual_time
async def test_another_error_of_the_same_task_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    running = asyncio.create_task(Supervisor(clock=now_ns).keep("x", Failing(KeyError(7), OSError("full")).run))
    with caplog.at_level(logging.ERROR):
        await asyncio.sleep(1)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "task x: KeyError: 7",
        "task x: OSError: full",
    ]
    running.cancel()


@in_virtual_time
async def test_what_makes_the_process_useless_ends_it() -> None:
    supervisor = Supervisor(clock=now_ns)
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run({"a": Failing(OperatorError("state_dir: not writable")).run, "b": Failing().run})
    assert caught.group_contains(OperatorError, match="state_dir")


@in_virtual_time
async def test_a_task_that_ends_of_its_own_accord_is_not_started_again() -> None:
    calls = []

    async def once() -> None:
        calls.append(now_ns())

    await Supervisor(clock=now_ns).run({"once": once})
    assert calls == [0]


@in_virtual_time
async def test_errors_that_differ_each_time_are_logged_so_often_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(clock=now_ns)
    with caplog.at_level(logging.ERROR):
        for number in range(100):
            supervisor.attempt("announce", partial(fail, KeyError(number)))
            supervisor.attempt("announce", partial(fail, KeyError("again")))
    assert supervisor.errors() == {"announce": 200}
    assert supervisor.troubles() == ["task announce failed 200 times, at last with KeyError: 'again'"]
    assert len(caplog.records) == LOGGED_MAX


@in_virtual_time
async def test_an_error_of_a_callback_is_counted_told_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(clock=now_ns)
    steady = Failing()
    running = asyncio.create_task(supervisor.run({"steady": steady.run}))
    await asyncio.sleep(0.1)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            asyncio.get_running_loop().call_soon(fail, KeyError(7))
        await asyncio.sleep(0.1)
    assert not running.done()
    assert supervisor.errors() == {"steady": 0, "callbacks": 3}
    assert supervisor.troubles() == ["task callbacks failed 3 times, at last with KeyError: 7"]
    assert len(caplog.records) == 1
    running.cancel()


@in_virtual_time
async def test_a_machine_that_found_itself_impossible_ends_the_process_also_from_a_callback() -> None:
    running = asyncio.create_task(Supervisor(clock=now_ns).run({"steady": Failing().run}))
    await asyncio.sleep(0.1)
    asyncio.get_running_loop().call_soon(fail, InvariantError("time went backwards"))
    with pytest.raises(ExceptionGroup) as raised:
        await running
    assert [str(error) for error in raised.value.exceptions] == ["time went backwards"]


@in_virtual_time
async def test_tasks_that_are_over_end_the_run_and_callbacks_are_the_loops_again() -> None:
    await asyncio.wait_for(Supervisor(clock=now_ns).run({"short": over}), 1)
    assert asyncio.get_running_loop().get_exception_handler() is None


async def over() -> None:
    """A task that has nothing to do."""


def fail(error: Exception) -> None:
    raise error
