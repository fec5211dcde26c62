"""A disk that does not let a process begin: gone, full, read-only, not permitted, failing. These are states: they pass.

To end a process for one takes away all that it does beside it, at every start again. So it says what is wrong, and
tries again. A path that can never be right, such as a file where a folder should be, is the operator's to mend.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from service.model.errors import OperatorError, TransientError

_log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 5.0
SLOW_S = 1.0
"""A disk that takes longer for one attempt is told of, again and again."""
_NEVER_RIGHT = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)

T = TypeVar("T")


def disk_fault(setting: str, action: str, path: Path, error: OSError) -> OperatorError | TransientError:
    """Say what a refused `action` on a file is, to be raised; `setting` is the one that names where it is.

    OperatorError: the path can never be right. TransientError: the disk may let it be done in a moment.
    """
    what = f"{setting}: cannot {action} {path}: {error.strerror or error}"
    # Python's own refusals, such as of a name that is too long for a socket, have no number.
    if error.errno is None or error.errno in _NEVER_RIGHT:
        return OperatorError(f"{what}; name another folder, or move away what is in its place")
    return TransientError(what)


async def until_usable(begin: Callable[[], Coroutine[Any, Any, T]], *, told: Callable[[str], Awaitable[None]]) -> T:
    """Call `begin` until it raises no TransientError, with back-off, and return what it returns.

    `told` gets why it failed each time, and that it takes long, for whoever asks meanwhile; the log has each failure
    once. Other errors are raised. What waits for the disk in it should do so in a thread. Not for disks alone: an
    address of the node that is gone is such a state.
    """
    trouble, retry_s = "", RETRY_FIRST_S
    while True:
        try:
            begun = await _told_if_slow(begin(), told)
        except TransientError as error:
            if str(error) != trouble:
                trouble = str(error)
                _log.error("%s; it is tried again until that is over", trouble)
            await told(trouble)
        else:
            if trouble:
                _log.warning("going on, after: %s", trouble)
            return begun
        await asyncio.sleep(retry_s)
        retry_s = min(2 * retry_s, RETRY_LAST_S)


async def _told_if_slow(attempt: Coroutine[Any, Any, T], told: Callable[[str], Awaitable[None]]) -> T:
    task, waited_s = asyncio.create_task(attempt), 0.0
    try:
        while not (await asyncio.wait([task], timeout=SLOW_S))[0]:
            if not waited_s:
                _log.warning("a disk does not answer; waiting for it")
            waited_s += SLOW_S
            await told(f"a disk has not answered for {waited_s:.0f} s")
        return task.result()
    finally:
        task.cancel()
