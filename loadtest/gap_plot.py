"""The gaps of a failover run as a picture: one point a move, each case and peer in a colour of its own."""

from pathlib import Path

from loadtest.failover import FailoverResult
from loadtest.failover_case import CASES
from loadtest.outage import Outage
from loadtest.scale.plot import require_matplotlib
from service.model.errors import OperatorError

_SIZE_INCHES = (9, 5)


def series(result: FailoverResult) -> dict[str, list[float]]:
    """Gaps in ms, in the order in which they were measured, by what was done."""
    found: dict[str, list[Outage]] = {CASES[case].told: result.outages(case) for case in result.options.cases}
    found |= {f"keepalived, {interval_s:g} s": outages for interval_s, outages in result.peers.items()}
    return {told: [outage.gap_ns / 1e6 for outage in outages] for told, outages in found.items()}


def draw_gaps(result: FailoverResult, path: Path) -> None:
    """Draw them into an SVG file. Raises OperatorError where matplotlib is missing or the file cannot be written."""
    require_matplotlib()
    from matplotlib.figure import Figure

    picture = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = picture.add_subplot()
    title = f"profile {result.options.profile}: time without an answer, per move"
    axes.set(yscale="log", xlabel="move", ylabel="ms", title=title)
    for told, gaps in series(result).items():
        axes.plot(range(1, len(gaps) + 1), gaps, marker="o", linestyle="none", label=told)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    try:
        picture.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise OperatorError(f"--plot: {path}: {error.strerror}") from error
