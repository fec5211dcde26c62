"""A table of numbers from one run, each beside its goal; its rows are measured one after the other.

A row that fails costs no other row anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from loadtest.gateway import Report
from loadtest.goal import Row
from service.model.errors import OperatorError, TransientError


class RowOptions(Protocol):
    """What every run of rows is asked for."""

    @property
    def only(self) -> tuple[str, ...]:
        """Names of rows; empty: all."""


Options = TypeVar("Options", bound=RowOptions)
MeasureRow = Callable[[Options, Report], Row]


@dataclass(slots=True)
class RowsMeasured(Generic[Options]):
    """The rows that were measured, in their order."""

    options: Options
    rows: list[Row] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Rows that ended early, with the reason."""
        return [f"{row.name}: {row.error}" for row in self.rows if row.error]


def chosen_rows(rows: Mapping[str, MeasureRow[Options]], options: Options) -> dict[str, MeasureRow[Options]]:
    """Those that were asked for, all where none was named. Raises OperatorError for a name that there is not."""
    if unknown := [name for name in options.only if name not in rows]:
        raise OperatorError(f"no row {', '.join(unknown)}; there are {', '.join(rows)}")
    return {name: measure for name, measure in rows.items() if name in options.only or not options.only}


def measure_rows(
    rows: Mapping[str, MeasureRow[Options]],
    options: Options,
    report: Report = lambda line: None,
    advance: Callable[[Row], None] = lambda row: None,
) -> RowsMeasured[Options]:
    """Measure each chosen row. `advance` is called with each one that is done; one that fails has its error."""
    result = RowsMeasured(options)
    for name, measure in chosen_rows(rows, options).items():
        try:
            row = measure(options, lambda line, name=name: report(f"{name}: {line}"))  # type: ignore[misc]
        except (OperatorError, TransientError) as error:
            row = Row(name, error=str(error))
        result.rows.append(row)
        advance(row)
    return result
