"""A disk that does not let a process begin: what passes is waited for, what cannot is the operator's."""

import asyncio
import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest

from service.host.disk import RETRY_LAST_S, disk_fault, until_usable
from service.model.errors import OperatorError, TransientError
from tests.virtual_time import in_virtual_time, now_ns

STATES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ESTALE)
NEVER = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
FULL = "state_dir: cannot write /x: No space left on device"


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", STATES, ids=errno.errorcode.get)
def test_full_read_only_not_permitted_failing_and_gone_are_states(number: int) -> None:
    fault = disk_fault("state_dir", "write", Path("/x"), error_of(number))
    assert (type(fault), str(fault)) == (TransientError, f"state_dir: cannot write /x: {os.strerror(number)}")


@pytest.mark.parametrize("number", NEVER, ids=errno.errorcode.get)
def test_a_path_that_can_never_be_right_is_the_operators_with_the_setting_and_the_fix(number: int) -> None:
    fault = disk_fault("state_dir", "write", Path("/x"), error_of(number))
    assert isinstance(fault, OperatorError)
    assert str(fault).startswith("state_dir: ")
    assert "name another folder" in str(fault)


@in_virtual_time
async def test_what_a_disk_does_not_let_is_done_once_it_does_told_each_time_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[str, float]] = []

    async def begin() -> str:
        if now_ns() < 60e9:
            raise TransientError(FULL)
        return "begun"

    async def tell(trouble: str) -> None:
        told.append((trouble, now_ns() / 1e9))

    assert await until_usable(begin, told=tell) == "begun"
    assert now_ns() / 1e9 < 60 + RETRY_LAST_S
    assert {trouble for trouble, _ in told} == {FULL}
    pauses = [round(later - earlier, 1) for (_, earlier), (_, later) in pairwise(told)]
    assert pauses[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert set(pauses[6:]) == {RETRY_LAST_S}
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


@in_virtual_time
async def test_a_disk_that_takes_long_is_told_while_it_does_and_asked_once() -> None:
    told: list[str] = []
    asked = []

    async def begin() -> str:
        asked.append(now_ns())
        await asyncio.sleep(2.5)
        return "begun"

    async def tell(trouble: str) -> None:
        told.append(trouble)

    assert await until_usable(begin, told=tell) == "begun"
    assert told == ["a disk has not answered for 1 s", "a disk has not answered for 2 s"]
    assert len(asked) == 1


async def test_what_the_operator_has_to_mend_is_not_waited_for() -> None:
    async def begin() -> None:
        raise OperatorError("state_dir: a file")

    async def tell(trouble: str) -> None:
        raise AssertionError

    async with asyncio.timeout(1):
        with pytest.raises(OperatorError):
            await until_usable(begin, told=tell)
