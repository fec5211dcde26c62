import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.goal import Figure, Row, at_most
from loadtest.report import environment
from loadtest.report_rows import scale_document
from loadtest.row_table import RowsMeasured
from loadtest.scale.curve import Curve, Point
from loadtest.scale.document import MARKS, goals_table, main, slopes_table
from loadtest.scale.options import ScaleOptions


@pytest.fixture
def document() -> dict[str, Any]:
    curve = Curve("one more pod", "local pods", "ms", (Point(250, 2.0), Point(1000, 8.0), Point(5000, 40.0)))
    figures = [
        Figure("one more pod", 40.0, "ms", goal=at_most(10), note="a | b"),
        Figure("idle turn", 1.234, "ms", 1, at_most(2)),
        Figure("one policy edited", 12345.6, "ms", 0),
        Figure("stand-still", None, "ms", note="no look was made"),
    ]
    rows = [Row("turn", figures, {"curves": [curve.document()]}), Row("churn", error="worker1 did not come back")]
    made: dict[str, Any] = json.loads(json.dumps(scale_document(RowsMeasured(ScaleOptions(), rows), environment())))
    return made


def test_every_number_is_beside_its_goal_and_what_misses_is_told_from_what_has_none(document: dict[str, Any]) -> None:
    assert goals_table(document["rows"]).splitlines()[2:] == [
        "| `turn` | one more pod | <= 10 | 40.00 ms | **missed**; a / b |",
        "| `turn` | idle turn | <= 2 | 1.2 ms | met |",
        "| `turn` | one policy edited |  | 12,346 ms |  |",
        "| `turn` | stand-still |  | - | not measured; no look was made |",
    ]


def test_a_slope_has_its_ends_and_what_a_thousand_more_cost(document: dict[str, Any]) -> None:
    assert slopes_table(document["rows"]).splitlines()[2:] == [
        "| `turn` | one more pod | local pods | 250 to 5,000 | 2 to 40 ms | 8 ms | 1.00 |"
    ]


def test_the_page_keeps_what_people_wrote_and_shows_the_plots_that_there_are(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    page, results = tmp_path / "scaling.md", tmp_path / "scale.json"
    page.write_text(f"before\n{MARKS[0]}\nformer\n{MARKS[1]}\nafter\n")
    results.write_text(json.dumps(document))
    main([str(results), str(page)])
    text = page.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n\nVersion ")
    assert text.endswith(f"{MARKS[1]}\nafter\n")
    assert "- `churn` ended early: worker1 did not come back" in text
    assert "former" not in text
    assert "![" not in text
    (tmp_path / "scaling").mkdir()
    (tmp_path / "scaling" / "turn-local-pods-ms.svg").write_text("<svg/>")
    main([str(results), str(page)])
    assert "![turn: ms by local pods](scaling/turn-local-pods-ms.svg)" in page.read_text()
