"""The measured part of docs/scaling.md, from what `python -m loadtest scale --json FILE` has written (`make scale`).

Usage: `python -m loadtest.scale.document FILE docs/scaling.md`. Plots are shown that lie in the folder of the page's
name beside it, where `--plots` has drawn them. What people wrote around it stays.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.compatibility import replaced
from loadtest.report_rows import short
from loadtest.scale.plot import groups

MARKS = "<!-- scale: begin -->", "<!-- scale: end -->"
_MORE = 1000
"""What so many more of a thing cost, in the table of slopes."""


def measured(document: Mapping[str, Any], plots: Path) -> str:
    """Markdown: where it was measured, goals, what failed, slopes, and links to the plots that are there."""
    parts = [_head(document), goals_table(document["rows"])]
    if failed := [f"- `{row['row']}` ended early: {row['error']}" for row in document["rows"] if row["error"]]:
        parts.append("\n".join(failed))
    parts.append(f"## Slopes\n\n{slopes_table(document['rows'])}")
    parts.append("\n\n".join(_pictures(document, plots)))
    return "\n" + "\n\n".join(filter(None, parts)) + "\n\n"


def goals_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Every figure of the run, beside its goal where it has one."""
    lines = [_line(["row", "what", "goal", "measured", ""]), _line(["---", "---", "---:", "---:", "---"])]
    for row in rows:
        for figure in row["figures"]:
            told = {"MISSED": "**missed**"}.get(figure["verdict"], figure["verdict"])
            remark = "; ".join(filter(None, (told, figure["note"])))
            lines.append(_line([f"`{row['row']}`", figure["title"], figure["goal"] or "", _number(figure), remark]))
    return "\n".join(lines)


def slopes_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Every curve: its ends, what a thousand more cost, and how fast it grows."""
    head = ["row", "what", "by", "at", "costs", f"{_MORE:,} more cost", "exponent"]
    lines = [_line(head), _line(["---", "---", "---", "---:", "---:", "---:", "---:"])]
    for row in rows:
        for curve in row["detail"].get("curves", ()):
            (least, first), (most, last) = curve["points"][0], curve["points"][-1]
            unit = curve["unit"]
            cells = [f"`{row['row']}`", curve["title"], curve["of"], f"{short(least)} to {short(most)}"]
            cells += [f"{short(first)} to {short(last)} {unit}", f"{short(_MORE * curve['each'])} {unit}"]
            lines.append(_line([*cells, f"{curve['exponent']:.2f}"]))
    return "\n".join(lines)


def _head(document: Mapping[str, Any]) -> str:
    machine, options = document["environment"], document["options"]
    minutes = options["sizes"]["churn_s"] / 60
    return (
        f"Version {machine['egressgw']}, Linux {machine['kernel'].partition('-')[0]}, {machine['cores']} cores "
        f"({machine['processor']}), load {machine['load_average'][0]:.1f} at the start, "
        f"Python {machine['python']}; medians of {options['repeats']} repeats, {minutes:g} min of churn.\n\n## Goals"
    )


def _pictures(document: Mapping[str, Any], plots: Path) -> list[str]:
    return [
        f"![{group.row}: {group.unit} by {group.of}]({plots.name}/{group.file_name})"
        for group in groups(document)
        if (plots / group.file_name).exists()
    ]


def _number(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:,.{figure['digits']}f} {figure['unit']}".rstrip()


def _line(cells: Iterable[str]) -> str:
    # In a cell a bar would end it.
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write it into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args(arguments)
    document = json.loads(options.results.read_text(encoding="utf-8"))
    page = options.page.read_text(encoding="utf-8")
    found = measured(document, options.page.with_suffix(""))
    options.page.write_text(replaced(page, found, MARKS), encoding="utf-8")


if __name__ == "__main__":
    main()
