"""The datapath's table: what is promised of it, each line with its goal. Each row has labs of its own (`rows`)."""

from collections.abc import Callable

from loadtest.gateway import Report
from loadtest.goal import Row
from loadtest.row_table import MeasureRow, RowsMeasured, measure_rows
from loadtest.rows.cost import measure_cost, measure_vxlan
from loadtest.rows.edit import measure_edit
from loadtest.rows.flood import measure_flood
from loadtest.rows.moves import measure_moves
from loadtest.rows.new_pod import measure_new_pod
from loadtest.rows.options import DatapathOptions
from loadtest.rows.ports import measure_ports
from loadtest.rows.scale import measure_scale
from service.lab.namespace import require_root

DATAPATH_ROWS: dict[str, MeasureRow[DatapathOptions]] = {
    "cost": measure_cost,
    "vxlan": measure_vxlan,
    "scale": measure_scale,
    "ports": measure_ports,
    "flood": measure_flood,
    "edit": measure_edit,
    "new-pod": measure_new_pod,
    "moves": measure_moves,
}


def measure_datapath(
    options: DatapathOptions,
    report: Report = lambda line: None,
    advance: Callable[[Row], None] = lambda row: None,
) -> RowsMeasured[DatapathOptions]:
    """Measure each chosen row, as `measure_rows` has it. Raises OperatorError where nothing can be measured here."""
    require_root()
    return measure_rows(DATAPATH_ROWS, options, report, advance)
