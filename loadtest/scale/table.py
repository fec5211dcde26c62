"""The table of costs by size: what may cost how much, each line with its goal. Each row is a module of this folder."""

from collections.abc import Callable

from loadtest.gateway import Report
from loadtest.goal import Row
from loadtest.row_table import MeasureRow, RowsMeasured, measure_rows
from loadtest.scale.churn import measure_churn
from loadtest.scale.events import measure_events
from loadtest.scale.flows import measure_flows
from loadtest.scale.label_flip import measure_label_flip
from loadtest.scale.netfilter import measure_netfilter
from loadtest.scale.options import ScaleOptions
from loadtest.scale.placement import measure_placement
from loadtest.scale.port_blocks import measure_port_blocks
from loadtest.scale.processes import measure_processes
from loadtest.scale.restart import measure_restart
from loadtest.scale.turn import measure_turn

SCALE_ROWS: dict[str, MeasureRow[ScaleOptions]] = {
    "turn": measure_turn,
    "placement": measure_placement,
    "port-blocks": measure_port_blocks,
    "netfilter": measure_netfilter,
    "restart": measure_restart,
    "events": measure_events,
    "label-flip": measure_label_flip,
    "flows": measure_flows,
    "processes": measure_processes,
    "churn": measure_churn,
}
"""Those that need no lab come first."""


def measure_scale_rows(
    options: ScaleOptions,
    report: Report = lambda line: None,
    advance: Callable[[Row], None] = lambda row: None,
) -> RowsMeasured[ScaleOptions]:
    """Measure each chosen row, as `measure_rows` has it: one that needs root says so where this is not root."""
    return measure_rows(SCALE_ROWS, options, report, advance)
