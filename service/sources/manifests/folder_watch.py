"""When a folder has changed, as inotify(7) tells it on the event loop: at rest nothing looks at it."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from asyncinotify import Event, Inotify, Mask

_log = logging.getLogger(__name__)

_SETTLED_S = 0.005
"""A change counts when this much time has brought no further one."""
_SETTLED_S_MAX = 0.2
"""Upper bound of that wait under a stream of changes."""
_OF_FILES = Mask.CREATE | Mask.MODIFY | Mask.ATTRIB | Mask.CLOSE_WRITE | Mask.MOVE | Mask.DELETE
_OF_THE_FOLDER = Mask.DELETE_SELF | Mask.MOVE_SELF


async def watch_folder(folder: Path, tick_s: float) -> AsyncGenerator[bool, None]:
    """Yield at least every `tick_s`; True where the folder has changed since.

    A folder that is replaced, or is gone for a while, is watched again. Where it cannot be watched, as there are no
    more watches to be had, only ticks come.
    """
    is_told = False
    while True:
        try:
            with Inotify() as inotify:
                inotify.add_watch(folder, _OF_FILES | _OF_THE_FOLDER)
                # What happened before it was watched.
                yield True
                while True:
                    event = await _next(inotify, tick_s)
                    if event is not None and (_is_end(event) or await _settles_at_an_end(inotify)):
                        break
                    yield event is not None
        except OSError as error:
            if not is_told:
                _log.warning("%s: no watch, so changes take up to two seconds: %s", folder, error)
            is_told = True
        else:
            is_told = False
        yield False
        await asyncio.sleep(tick_s)


async def _next(inotify: Inotify, seconds: float) -> Event | None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await inotify.get()
    return None


async def _settles_at_an_end(inotify: Inotify) -> bool:
    """Wait until there is no further change; whether the last one was the folder's own end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SETTLED_S_MAX
    while loop.time() < until:
        event = await _next(inotify, _SETTLED_S)
        if event is None or _is_end(event):
            return event is not None
    return False


def _is_end(event: Event) -> bool:
    """The folder that was watched is no more the one of that name."""
    return bool(event.mask & (Mask.IGNORED | _OF_THE_FOLDER))
