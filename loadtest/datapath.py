"""The datapath's table: what is promised of it, each line with its goal, from one run.

Rows are measured one after the other, each in labs of its own (`rows`). One that fails costs no other row anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.gateway import Report
from loadtest.goal import Row
from loadtest.rows.cost import measure_cost, measure_vxlan
from loadtest.rows.edit import measure_edit
from loadtest.rows.flood import measure_flood
from loadtest.rows.moves import measure_moves
from loadtest.rows.new_pod import measure_new_pod
from loadtest.rows.options import DatapathOptions
from loadtest.rows.ports import measure_ports
from loadtest.rows.scale import measure_scale
from service.lab.namespace import require_root
from service.model.errors import OperatorError, TransientError

MeasureRow = Callable[[DatapathOptions, Report], Row]
ROWS: dict[str, MeasureRow] = {
    "cost": measure_cost,
    "vxlan": measure_vxlan,
    "scale": measure_scale,
    "ports": measure_ports,
    "flood": measure_flood,
    "edit": measure_edit,
    "new-pod": measure_new_pod,
    "moves": measure_moves,
}


@dataclass(slots=True)
class DatapathResult:
    """The rows that were measured, in their order."""

    options: DatapathOptions
    rows: list[Row] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Rows that ended early, with the reason."""
        return [f"{row.name}: {row.error}" for row in self.rows if row.error]


def chosen_rows(options: DatapathOptions) -> dict[str, MeasureRow]:
    """Those that were asked for, all where none was named. Raises OperatorError for a name that there is not."""
    if unknown := [name for name in options.only if name not in ROWS]:
        raise OperatorError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return {name: measure for name, measure in ROWS.items() if name in options.only or not options.only}


def measure_datapath(
    options: DatapathOptions,
    report: Report = lambda line: None,
    advance: Callable[[Row], None] = lambda row: None,
) -> DatapathResult:
    """Measure each chosen row in labs of its own. `advance` is called with each one that is done.

    A row that fails, or in which a server saw a source it must not see, is in the result with its error. Raises
    OperatorError where nothing can be measured here.
    """
    require_root()
    result = DatapathResult(options)
    for name, measure in chosen_rows(options).items():
        try:
            row = measure(options, lambda line, name=name: report(f"{name}: {line}"))  # type: ignore[misc]
        except (OperatorError, TransientError) as error:
            row = Row(name, error=str(error))
        result.rows.append(row)
        advance(row)
    return result
