"""The table of docs/compatibility.md, from what the tests of tests/cluster said of each combination (`make matrix`).

A row is a claim, which is a test's name; a column is a CNI with a mode of kube-proxy. Usage:
`python -m loadtest.compatibility RESULTS.xml docs/compatibility.md`, the first of pytest's --junitxml.
"""

import argparse
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
TWO_SEGMENTS = "flannel-vxlan, two subnets"
_COMBINATION = re.compile(r"(bridge|flannel-vxlan|flannel-host-gw|kube-router)-(iptables|nftables|none)")
_CAUSE_MAX = 160


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test said."""

    claim: str
    combination: str
    """As the table's head has it."""
    cause: str = ""
    """Why the claim does not hold; empty where it does."""
    was_run: bool = True
    """Not, where something that it needs is not on this machine; `cause` says what."""


def read_outcomes(results: str) -> list[Outcome]:
    """Of the text of a file of pytest's --junitxml."""
    return [outcome for case in ElementTree.fromstring(results).iter("testcase") if (outcome := _outcome(case))]


def _outcome(case: ElementTree.Element) -> Outcome | None:
    name, _, parameters = case.get("name", "").partition("[")
    claim = name.removeprefix("test_").replace("_", " ")
    found = _COMBINATION.search(parameters)
    if found is not None:
        combination = f"{found[1]}, {found[2]}"
    elif case.get("classname", "").endswith("test_segments"):
        combination = TWO_SEGMENTS
    else:
        return None
    for bad in ("failure", "error", "skipped"):
        element = case.find(bad)
        if element is not None:
            message = element.get("message") or element.text or bad
            return Outcome(claim, combination, _shortened(message), was_run=bad != "skipped")
    return Outcome(claim, combination)


def _shortened(message: str) -> str:
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    # In a cell of a table a bar would end it.
    return line[:_CAUSE_MAX].replace("|", "/")


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown: claims by combinations, and below it the cause of each cell that is not good."""
    known = list(outcomes)
    combinations = list(dict.fromkeys(outcome.combination for outcome in known))
    claims = list(dict.fromkeys(outcome.claim for outcome in known))
    causes: dict[str, int] = {}
    lines = [_row(["", *combinations]), _row(["---"] * (len(combinations) + 1))]
    for claim in claims:
        cells = [_cell([o for o in known if (o.claim, o.combination) == (claim, c)], causes) for c in combinations]
        lines.append(_row([claim, *cells]))
    notes = [f"{number}. {cause}" for cause, number in causes.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _cell(outcomes: Sequence[Outcome], causes: dict[str, int]) -> str:
    """Of several, such as a claim for each traffic policy, the worst."""
    if not outcomes:
        return "-"
    bad = [outcome for outcome in outcomes if outcome.cause]
    if not bad:
        return "holds"
    worst = next((outcome for outcome in bad if outcome.was_run), bad[0])
    number = causes.setdefault(worst.cause, len(causes) + 1)
    return f"**fails** ({number})" if worst.was_run else f"not run ({number})"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def replaced(document: str, found: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """The page with this between its two marks. Raises ValueError where it has none."""
    first, last = marks
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"there is no {first} with an {last} behind it")
    return f"{before}{first}\n{found}{last}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args(arguments)
    outcomes = read_outcomes(options.results.read_text(encoding="utf-8"))
    head = f"\nLinux {os.uname().release.partition('-')[0]}.\n\n"
    page = replaced(options.page.read_text(encoding="utf-8"), head + table(outcomes) + "\n")
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
