"""How the demo talks: steps, remarks, checks as they are made, slow things with a clock, and the summary."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table

from service.lab.witness import Check


class Narrator:
    """Prints as it goes and keeps the checks, for `summary`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.checks: list[tuple[str, Check]] = []
        """(step, check) in the order made."""
        self._step = ""

    def step(self, title: str) -> None:
        """Begin a step: the checks that follow count for it."""
        self._step = title
        self.console.print()
        self.console.print(Rule(f"[bold]{escape(title)}", align="left"))

    def say(self, text: str) -> None:
        """Print as it is: brackets are no markup."""
        self.console.print(escape(text))

    def show_yaml(self, title: str, text: str) -> None:
        """What a user would have in a file, under its name."""
        self.console.print(f"[dim]{escape(title)}")
        self.console.print(Syntax(text, "yaml", background_color="default"))

    def check(self, check: Check) -> bool:
        """Print the check and keep it; returns whether it holds."""
        self.checks.append((self._step, check))
        mark = "[green]ok  [/]" if check.holds else "[red]FAIL[/]"
        wrong = "" if check.holds else f"  [red](expected {escape(check.expected)})[/]"
        self.console.print(f"  {mark} {escape(check.claim)}: [bold]{escape(check.seen)}[/]{wrong}")
        return check.holds

    @contextmanager
    def progress(self, what: str) -> Iterator[Any]:
        """Show that something slow is going on, and for how long; yields a function that says what exactly."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what)
            yield lambda detail: progress.update(task, description=f"{what}: {escape(detail)}")

    def table(self, title: str, columns: tuple[str, ...], rows: Iterable[Iterable[str]]) -> None:
        """Cells are printed as they are."""
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(table)

    def summary(self) -> bool:
        """Print one line per step and every failed check; True where all hold."""
        table = Table("step", "checks", "result", title="Summary", title_justify="left")
        for step in dict.fromkeys(step for step, _ in self.checks):
            verdicts = [check.holds for name, check in self.checks if name == step]
            result = "[green]proven" if all(verdicts) else f"[red]{verdicts.count(False)} failed"
            table.add_row(escape(step), str(len(verdicts)), result)
        self.console.print()
        self.console.print(table)
        failed = [(step, check) for step, check in self.checks if not check.holds]
        for step, check in failed:
            self.console.print(
                f"[red]FAIL[/] {escape(step)}: {escape(check.claim)}: "
                f"expected {escape(check.expected)}, seen {escape(check.seen)}"
            )
        return not failed and bool(self.checks)
