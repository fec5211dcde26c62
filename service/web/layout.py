"""Tables for a terminal of any width: nothing is cut off, and what belongs together is not torn apart.

A table that fits is a table. One that would fit without its last column folds that. Any other has the columns that fit
in line, and the rest of each row under it, by name.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 2
_FOLDED_MIN = 24
"""Letters that a folded last column needs, or it is not readable."""


def plain(value: Any) -> str:
    """Text of a value from elsewhere, with nothing in it that a terminal would obey; `-` for none."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else " " for char in text)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], console: Console) -> None:
    """Print rows of values; a Text keeps its style, anything else is shown plainly."""
    names = tuple(columns)
    cells = [[value if isinstance(value, Text) else Text(plain(value)) for value in row] for row in rows]
    widths = [max([len(name), *(row[place].cell_len for row in cells)]) for place, name in enumerate(names)]
    in_line = _count_in_line(widths, console.width)
    if in_line == len(names):
        console.print(_table(names, cells, last_width=None))
    elif in_line == len(names) - 1 and console.width - _taken(widths[:-1]) - _GAP >= _FOLDED_MIN:
        console.print(_table(names, cells, last_width=console.width - _taken(widths[:-1]) - _GAP))
    else:
        _print_blocks(names, cells, widths, max(1, in_line), console)


def _taken(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _count_in_line(widths: Sequence[int], width: int) -> int:
    return sum(_taken(widths[: count + 1]) <= width for count in range(len(widths)))


def _table(names: Sequence[str], cells: Iterable[Sequence[Text]], *, last_width: int | None) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in names[:-1]:
        table.add_column(name, overflow="fold")
    table.add_column(names[-1], overflow="fold", width=last_width)
    for row in cells:
        table.add_row(*row)
    return table


def _print_blocks(
    names: Sequence[str], cells: Iterable[Sequence[Text]], widths: Sequence[int], in_line: int, console: Console
) -> None:
    header = [Text(name, "bold") for name in names]
    console.print(_line(header[:in_line], widths), overflow="fold")
    for row in cells:
        _print_block(names, row, widths, in_line, console)


def print_row(names: Sequence[str], row: Iterable[Any], widths: Sequence[int], console: Console) -> None:
    """Print one row of a table that never ends, whose columns are as wide as this as a rule."""
    cells = [Text(plain(value)) for value in row]
    own = [max(width, cell.cell_len) for width, cell in zip(widths, cells, strict=True)]
    _print_block(names, cells, own, max(1, _count_in_line(own, console.width)), console)


def _print_block(
    names: Sequence[str], row: Sequence[Text], widths: Sequence[int], in_line: int, console: Console
) -> None:
    """The columns that fit in line, and under it the rest that is not empty, by name."""
    console.print(_line(row[:in_line], widths), overflow="fold")
    rest = [(name, cell) for name, cell in zip(names[in_line:], row[in_line:], strict=True) if cell.plain != "-"]
    pairs = [Text.assemble((f"{name} ", "dim"), cell) for name, cell in rest]
    one_line = Text("  ").join(pairs)
    lines = [one_line] if one_line.cell_len + _GAP <= console.width else pairs
    for line in lines if pairs else ():
        console.print(Padding(line, (0, 0, 0, _GAP), expand=False), overflow="fold")


def _line(cells: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for cell, width in zip(cells, widths, strict=False):
        line.append_text(cell).append(" " * (width - cell.cell_len + _GAP))
    line.rstrip()
    return line
