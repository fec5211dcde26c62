"""The frame of every demo: whatever becomes of it, the lab is cleared or kept on purpose, and the status is true."""

import io
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from service.lab.demonstration import demonstrate
from service.lab.narration import Narrator
from service.lab.witness import same
from service.model.errors import OperatorError, TransientError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Show:
    """A demo that notes what is asked of it, in order."""

    name = "mine"

    def __init__(self, act: Callable[[Narrator], object]) -> None:
        self.act = act
        self.asked: list[str] = []
        self.printed = io.StringIO()

    def show(self, narrator: Narrator) -> None:
        self.asked.append("show")
        narrator.step("1. The only step")
        self.act(narrator)

    def show_last_words(self, narrator: Narrator) -> None:
        self.asked.append("last words")

    def show_what_to_try(self, narrator: Narrator) -> None:
        self.asked.append("what to try")
        raise OperatorError("there is no such lab")

    def clear(self, name: str) -> None:
        self.asked.append(f"clear {name}")

    def run(self, *, keep: bool = False) -> int:
        return demonstrate(self, keep=keep, console=Console(file=self.printed, width=200), clear=self.clear)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever is done about signals is undone."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def proves(narrator: Narrator) -> None:
    narrator.check(same("a pod is seen as", "x", "x"))


def fails_to_prove(narrator: Narrator) -> None:
    narrator.check(same("a pod is seen as", "x", "y"))


def cannot_be_done(narrator: Narrator) -> None:
    raise TransientError("no controller answers")


def cannot_be_built(narrator: Narrator) -> None:
    raise OperatorError("nft is not installed")


def test_what_is_proven_is_status_0_and_cleared() -> None:
    demo = Show(proves)
    assert demo.run() == 0
    assert demo.asked == ["show", "clear mine"]


def test_a_proof_that_fails_is_status_1() -> None:
    demo = Show(fails_to_prove)
    assert demo.run() == 1
    assert "FAIL 1. The only step: a pod is seen as: expected x, seen y" in demo.printed.getvalue()


def test_a_demo_that_has_checked_nothing_is_status_1() -> None:
    assert Show(lambda narrator: None).run() == 1


@pytest.mark.parametrize(
    ("act", "told"), [(cannot_be_done, "no controller answers"), (cannot_be_built, "nft is not installed")]
)
def test_a_step_that_cannot_be_done_is_told_with_the_last_words_before_they_are_cleared(
    act: Callable[[Narrator], object], told: str
) -> None:
    demo = Show(act)
    assert demo.run() == 1
    assert demo.asked == ["show", "last words", "clear mine"]
    assert f"every step can be done: expected done, seen {told}" in demo.printed.getvalue()


@pytest.mark.parametrize(("act", "status"), [(proves, 0), (fails_to_prove, 1)])
def test_keep_leaves_the_lab_up_and_says_what_to_try(act: Callable[[Narrator], object], status: int) -> None:
    demo = Show(act)
    assert demo.run(keep=True) == status
    assert demo.asked == ["show", "what to try"]


def test_keep_leaves_a_lab_that_failed_for_a_look_and_that_it_is_not_there_is_no_traceback() -> None:
    demo = Show(cannot_be_built)
    assert demo.run(keep=True) == 1
    assert demo.asked == ["show", "last words", "what to try"]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_clears_the_lab_even_one_to_be_kept(number: int, keep: bool) -> None:
    demo = Show(lambda narrator: os.kill(os.getpid(), number))
    assert demo.run(keep=keep) == 130
    assert demo.asked == ["show", "clear mine"]
    assert "interrupted; clearing the lab" in demo.printed.getvalue()


def test_an_interrupt_counts_where_a_background_shell_had_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert Show(lambda narrator: os.kill(os.getpid(), signal.SIGINT)).run() == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_up_means_nothing_under_nohup() -> None:
    def is_hung_up_and_goes_on(narrator: Narrator) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        proves(narrator)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert Show(is_hung_up_and_goes_on).run() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_interrupt_does_not_end_the_clearing(number: int) -> None:
    class Impatient(Show):
        def clear(self, name: str) -> None:
            os.kill(os.getpid(), number)
            super().clear(name)

    demo = Impatient(proves)
    assert demo.run() == 0
    assert demo.asked == ["show", "clear mine"]


def test_a_lab_that_cannot_be_cleared_is_a_failed_check() -> None:
    class Stuck(Show):
        def clear(self, name: str) -> None:
            raise OperatorError("could not end agent 17")

    demo = Stuck(proves)
    assert demo.run() == 1
    assert "the lab can be cleared: expected cleared, seen could not end agent 17" in demo.printed.getvalue()
