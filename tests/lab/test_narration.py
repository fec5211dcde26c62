import io

from rich.console import Console

from service.lab.narration import Narrator
from service.lab.witness import same


def _narrator() -> tuple[Narrator, io.StringIO]:
    printed = io.StringIO()
    return Narrator(Console(file=printed, width=200)), printed


def test_the_summary_holds_only_if_every_check_does() -> None:
    narrator, printed = _narrator()
    narrator.step("first")
    assert narrator.check(same("a", "x", "x"))
    assert narrator.summary()
    narrator.step("second")
    assert not narrator.check(same("b [claim]", "x", "y"))
    assert not narrator.summary()
    assert "FAIL second: b [claim]: expected x, seen y" in printed.getvalue()


def test_a_demo_that_checked_nothing_proves_nothing() -> None:
    assert not _narrator()[0].summary()
