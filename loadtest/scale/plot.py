"""Curves as pictures: one for all curves of a row over the same thing and in the same unit, with their goals as lines.

Drawn from what `python -m loadtest scale --json` writes. matplotlib is needed for nothing else.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.model.errors import OperatorError

_SIZE_INCHES = (8, 5)
_TICKS_MAX = 6
"""With more sizes than that their numbers would run into each other."""
_TITLE_MAX = 60


@dataclass(frozen=True, slots=True)
class Group:
    """One picture."""

    row: str
    of: str
    unit: str
    curves: list[dict[str, Any]]
    """As `Curve.document` makes them."""
    goals: dict[str, float]
    """By a label."""

    @property
    def file_name(self) -> str:
        """Unlike that of any other group of a run."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.row} {self.of} {self.unit}".lower()).strip("-") + ".svg"


def require_matplotlib() -> None:
    """Raise OperatorError, with what to do, where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OperatorError("plots need matplotlib: `make setup-test` installs it, or `pip install 'egressgw[plot]'`")


def groups(document: Mapping[str, Any]) -> list[Group]:
    """Of everything that a run has measured at several sizes, in its order."""
    found: list[Group] = []
    for row in document["rows"]:
        by_axes: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for curve in row["detail"].get("curves", ()):
            by_axes.setdefault((curve["of"], curve["unit"]), []).append(curve)
        found += (
            Group(row["row"], of, unit, curves, _goals(row["figures"], curves, unit))
            for (of, unit), curves in by_axes.items()
        )
    return found


def draw_plots(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every group into the folder, which is made where it is not there; the same numbers give the same files.

    Raises OperatorError where matplotlib is not installed or the folder cannot be written.
    """
    require_matplotlib()
    drawn = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for group in groups(document):
            _draw(group, path := folder / group.file_name)
            drawn.append(path)
    except OSError as error:
        raise OperatorError(f"--plots: {folder}: {error.strerror}") from error
    return drawn


def _goals(figures: list[dict[str, Any]], curves: list[dict[str, Any]], unit: str) -> dict[str, float]:
    """Of figures that are the end of one of the curves; where none is, of all that are in the curves' unit."""
    able = [figure for figure in figures if figure["goal"] and figure["unit"] == unit]
    ends = {
        f"goal of {curve['title']}: {figure['goal']}": figure["goal"]
        for curve in curves
        for figure in able
        if figure["title"].startswith(curve["title"])
    }
    others = {f"goal of {figure['title'][:_TITLE_MAX]}: {figure['goal']}": figure["goal"] for figure in able}
    return {label: float(goal.split()[1]) for label, goal in (ends or others).items()}


def _draw(group: Group, path: Path) -> None:
    # Not at the top: this module is read by whoever draws nothing, too.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    sizes = sorted({size for curve in group.curves for size, _ in curve["points"]})
    # The salt and the date would make another file of each run.
    with rc_context({"svg.hashsalt": "egressgw", "svg.fonttype": "none"}):
        picture = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = picture.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel=group.of, ylabel=group.unit, title=group.row)
        for curve in group.curves:
            label = f"{curve['title']} (exponent {curve['exponent']:.2f})"
            axes.plot(*zip(*curve["points"], strict=True), marker="o", label=label)
        for number, (label, limit) in enumerate(group.goals.items()):
            axes.axhline(limit, linestyle="--", linewidth=1, color=f"C{number + len(group.curves)}", label=label)
        if len(sizes) <= _TICKS_MAX:
            axes.set_xticks(sizes, labels=[f"{size:,.0f}" for size in sizes])
            axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes.grid(visible=True, alpha=0.3)
        picture.legend(loc="outside lower center", ncols=2, fontsize="small")
        picture.savefig(path, format="svg", metadata={"Date": None})
