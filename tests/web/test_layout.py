"""Tables at any width."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from service.web.layout import print_row, print_table

COLUMNS = ("FLOATING IP", "HOLDER", "TOKEN", "REASON")
LONG = "worker-rack17-b.example-datacenter.internal"


def shown(width: int, *rows: tuple[object, ...], columns: tuple[str, ...] = COLUMNS) -> list[str]:
    stream = io.StringIO()
    print_table(columns, rows, Console(file=stream, width=width, highlight=False, markup=False))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_what_fits_is_a_table() -> None:
    assert shown(80, ("192.0.2.1", "n1", "1.1.1", None)) == [
        "FLOATING IP  HOLDER  TOKEN  REASON",
        "192.0.2.1    n1      1.1.1  -",
    ]


def test_a_last_column_that_is_too_long_is_folded_and_no_other() -> None:
    assert shown(56, ("192.168.100.100", "n1", "1.1.1", "none of the nodes can hold it")) == [
        "FLOATING IP      HOLDER  TOKEN  REASON",
        "192.168.100.100  n1      1.1.1  none of the nodes can",
        "                                hold it",
    ]


def test_columns_that_do_not_fit_stand_under_their_row_by_name() -> None:
    assert shown(60, ("192.0.2.1", LONG, "12345.67890.1", "given up"), ("192.0.2.2", "n1", None, None)) == [
        "FLOATING IP  HOLDER",
        f"192.0.2.1    {LONG}",
        "  TOKEN 12345.67890.1  REASON given up",
        "192.0.2.2    n1",
    ]


def test_what_does_not_fit_in_one_line_under_its_row_has_one_each() -> None:
    lines = shown(60, (LONG, LONG, LONG, "x"))
    assert lines == ["FLOATING IP", LONG, f"  HOLDER {LONG}", f"  TOKEN {LONG}", "  REASON x"]


@pytest.mark.parametrize("width", [60, 80, 240])
def test_rows_that_come_one_by_one_are_laid_out_alike(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, markup=False)
    for row in (COLUMNS, ("192.0.2.1", LONG, "1.1.1", "because")):
        print_row(COLUMNS, row, (15, 12, 12, 0), console)
    _, *rows = stream.getvalue().splitlines()
    assert " ".join(" ".join(rows).split()).replace("TOKEN ", "").replace("REASON ", "") == (
        f"192.0.2.1 {LONG} 1.1.1 because"
    )


WORDS = st.text(alphabet="abc.-", min_size=1, max_size=90)


@given(st.integers(20, 120), st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=3))
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut_off(
    width: int, rows: list[tuple[str, str, str, str]]
) -> None:
    lines = shown(width, *rows)
    assert max(map(len, lines)) <= width
    if all(len(cell) <= width - 2 and cell.strip("-") for row in rows for cell in row):
        kept = "".join("".join(lines).split())
        assert all(letter in kept for row in rows for cell in row for letter in cell)
        assert sum(map(len, lines)) >= sum(len(cell) for row in rows for cell in row)


def test_a_style_is_kept() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with console.capture() as capture:
        print_table(("A",), [(Text("x", "red"),)], console)
    assert "\x1b[31m" in capture.get()
