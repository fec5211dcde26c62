import importlib.util
from pathlib import Path
from typing import Any

import pytest

from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import Curve, Point
from loadtest.scale.plot import draw_plots, groups, require_matplotlib
from service.model.errors import OperatorError


def curve(title: str, of: str, unit: str) -> Curve:
    return Curve(title, of, unit, (Point(250, 2.0), Point(1000, 8.0), Point(5000, 40.0)))


def document() -> dict[str, Any]:
    curves = [
        curve("one more pod", "local pods", "ms"),
        curve("idle turn", "local pods", "ms"),
        curve("memory", "local pods", "MB"),
        curve("idle turn", "policies", "ms"),
    ]
    figures = [
        Figure("one more pod, 5,000 local pods", 40.0, "ms", goal=at_most(10)),
        Figure("restart", 40.0, "ms", goal=at_most(1000)),
        Figure("memory of everything", 40.0, "MB", goal=at_most(80)),
    ]
    rows = [Row("turn", figures, {"curves": [one.document() for one in curves]}), Row("churn", error="ended")]
    return {"rows": [row.document() for row in rows]}


def test_curves_share_a_picture_where_they_share_row_size_and_unit() -> None:
    found = {group.file_name: [one["title"] for one in group.curves] for group in groups(document())}
    assert found == {
        "turn-local-pods-ms.svg": ["one more pod", "idle turn"],
        "turn-local-pods-mb.svg": ["memory"],
        "turn-policies-ms.svg": ["idle turn"],
    }


def test_a_goal_is_beside_the_curve_that_it_is_of_or_beside_all_of_its_unit() -> None:
    goals = {group.file_name: group.goals for group in groups(document())}
    assert goals == {
        "turn-local-pods-ms.svg": {"goal of one more pod: <= 10": 10.0},
        "turn-local-pods-mb.svg": {"goal of memory: <= 80": 80.0},
        "turn-policies-ms.svg": {
            "goal of one more pod, 5,000 local pods: <= 10": 10.0,
            "goal of restart: <= 1000": 1000.0,
        },
    }


def test_every_group_is_drawn_and_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    first, second = (draw_plots(document(), tmp_path / name) for name in ("first", "second"))
    assert [path.name for path in first] == [group.file_name for group in groups(document())]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    text = first[0].read_text()
    assert "one more pod (exponent 1.00)" in text
    assert "goal of one more pod: &lt;= 10" in text


def test_without_matplotlib_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for ask in (require_matplotlib, lambda: draw_plots(document(), tmp_path)):
        with pytest.raises(OperatorError, match=r"make setup-test.*egressgw\[plot\]"):
            ask()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="--plots"):
        draw_plots(document(), tmp_path / "file" / "folder")
