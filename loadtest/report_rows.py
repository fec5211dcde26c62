"""Tables of rows for a terminal and for JSON: those of the datapath, and those of costs by size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.goal import Figure, Row, Verdict
from loadtest.report import SHARED_MACHINE, describe_machine
from loadtest.row_table import RowsMeasured
from loadtest.rows.options import DatapathOptions
from loadtest.scale.options import ScaleOptions


def row_line(row: Row) -> str:
    """One row in one line, while the run goes on."""
    if row.error:
        return f"{row.name}: FAILED: {row.error}"
    counts = Counter(figure.verdict for figure in row.figures if figure.verdict)
    return f"{row.name}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items()) or 'no goals'}"


# -- datapath --


def datapath_document(result: RowsMeasured[DatapathOptions], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, the single rounds too, so that ratios can be taken again."""
    return _document("datapath", result, machine)


def print_datapath(result: RowsMeasured[DatapathOptions], machine: dict[str, Any], console: Console) -> None:
    """Every figure beside its goal; then the medians of the variants, with what is needed to read them."""
    _print_figures(f"the datapath; ratios of {result.options.rounds} interleaved rounds", result.rows, console)
    for row in result.rows:
        for title, groups in _groups(row):
            for name, summary in groups.items():
                _print_medians(f"{title}, {name}", summary, console)
    console.print("↑ more is better, ↓ less is better. Ratios are medians of the ratios within each round.")
    console.print(f"{SHARED_MACHINE} CPU times suffer least from others.")
    console.print(describe_machine(machine))
    for failure in result.failures:
        console.print(f"FAILED: {failure}", style="bold red")


def _groups(row: Row) -> list[tuple[str, dict[str, Any]]]:
    """(title, group -> summary): of a row, or of each of its paths."""
    nested = [(f"{row.name}, {name} path", part) for name, part in row.detail.items() if isinstance(part, dict)]
    parts = [(row.name, row.detail), *nested]
    return [(title, part["groups"]) for title, part in parts if "groups" in part]


def _print_medians(title: str, summary: list[dict[str, Any]], console: Console) -> None:
    if not summary:
        return
    variants = list(summary[0]["median"])
    table = Table("", "unit", title=f"{title}: medians", title_justify="left")
    for variant in variants:
        table.add_column(variant, justify="right", no_wrap=True)
    for row in summary:
        medians = [f"{row['median'][name]:.{row['digits']}f}" if name in row["median"] else "-" for name in variants]
        table.add_row(f"{row['title']} {'↑' if row['higher_is_better'] else '↓'}", row["unit"], *medians)
    console.print(table)


# -- costs by size --


def scale_document(result: RowsMeasured[ScaleOptions], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything: what `plot` draws and `document` writes down."""
    return _document("scale", result, machine)


def print_scale(result: RowsMeasured[ScaleOptions], machine: dict[str, Any], console: Console) -> None:
    """Every figure beside its goal; then each curve, with what one more costs."""
    _print_figures(f"costs by size; medians of {result.options.repeats} repeats", result.rows, console)
    table = Table(title="slopes")
    for name in ("row", "what", "by", "sizes", "costs"):
        table.add_column(name)
    for name in ("each", "exponent"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rows:
        for curve in row.detail.get("curves", ()):
            sizes, costs = (map(short, values) for values in zip(*curve["points"], strict=True))
            each = f"{short(curve['each'])} {curve['unit']}"
            exponent = f"{curve['exponent']:.2f}"
            table.add_row(row.name, curve["title"], curve["of"], " ".join(sizes), " ".join(costs), each, exponent)
    console.print(table)
    console.print("A cost grows with size^exponent: 0 is constant, 1 linear, 2 quadratic.")
    console.print(SHARED_MACHINE)
    console.print(describe_machine(machine))
    for failure in result.failures:
        console.print(f"FAILED: {failure}", style="bold red")


# -- both --


def _document(test: str, result: RowsMeasured[Any], machine: dict[str, Any]) -> dict[str, Any]:
    return {
        "test": test,
        "environment": machine,
        "options": asdict(result.options),
        "rows": [row.document() for row in result.rows],
    }


def _print_figures(title: str, rows: Sequence[Row], console: Console) -> None:
    table = Table(title=title)
    for name in ("row", "what"):
        table.add_column(name)
    for name in ("goal", "number"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        for figure in row.figures:
            style = "bold red" if figure.verdict is Verdict.MISSED else None
            verdict = " ".join(filter(None, (str(figure.verdict), figure.note)))
            table.add_row(row.name, figure.title, str(figure.goal or "-"), _number(figure), verdict, style=style)
    console.print(table)


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _number(figure: Figure) -> str:
    return "-" if figure.value is None else f"{figure.value:.{figure.digits}f} {figure.unit}".rstrip()
