"""Runs a demo to its end, whatever becomes of it: interrupts, last words, clearing, the summary, the exit status."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

from rich.console import Console

from service.lab.lab import lab_down
from service.lab.narration import Narrator
from service.lab.witness import same
from service.model.errors import OperatorError, TransientError

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Demo(Protocol):
    """What is shown, of a lab that it raises itself. Clearing is not its business."""

    name: str
    """Of its lab."""

    def show(self, narrator: Narrator) -> None:
        """Raise the lab and make every check. OperatorError and TransientError mean a step that cannot be done."""

    def show_last_words(self, narrator: Narrator) -> None:
        """A step could not be done: say what the programs said last. Raises neither of the two, whatever is left."""

    def show_what_to_try(self, narrator: Narrator) -> None:
        """The lab stays up. Raises OperatorError where it does not, since building it failed."""


def demonstrate(demo: Demo, *, keep: bool, console: Console, clear: Callable[[str], object] = lab_down) -> int:
    """Run it all; 0 where every proof holds, 1 where one fails, 130 after Ctrl-C. Clears the lab unless `keep`.

    An interrupted demo is cleared all the same. Main thread only, for the signals.
    """
    narrator = Narrator(console)
    stays = False
    try:
        with _signals_as_interrupts():
            demo.show(narrator)
            stays = keep
    except KeyboardInterrupt:
        narrator.say("interrupted; clearing the lab")
        return 130
    except (OperatorError, TransientError) as error:
        narrator.check(same("every step can be done", "done", str(error)))
        demo.show_last_words(narrator)
        stays = keep
    finally:
        if not stays:
            _clear(demo.name, narrator, clear)
    proven = narrator.summary()
    if stays:
        with contextlib.suppress(OperatorError):
            demo.show_what_to_try(narrator)
    return 0 if proven else 1


def _clear(name: str, narrator: Narrator, clear: Callable[[str], object]) -> None:
    """Clear the lab, whatever is left of it; a failure is a failed check."""
    # A second Ctrl-C must not leave half a lab behind.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDING_SIGNALS)}
    try:
        with narrator.progress("clearing the lab"):
            clear(name)
    except OperatorError as error:
        narrator.check(same("the lab can be cleared", "cleared", str(error)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is done within as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone, and printing to it would fail before anything is cleared.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        raise KeyboardInterrupt

    # Under nohup a hang-up means nothing. An interrupt always does, also where a shell that started this in the
    # background had it ignored: whoever sends it wants the lab cleared.
    numbers = [number for number in _ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    numbers = list(dict.fromkeys((signal.SIGINT, signal.SIGTERM, *numbers)))
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
