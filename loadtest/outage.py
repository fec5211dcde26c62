"""What a client felt of one kill, from the times of its requests and answers. No I/O, no clock."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.statistics import median, percentile

FURTHER_GAP_NS = 20_000_000
"""Shorter ones are the scheduler's."""

Answered = Sequence[Any]
"""(sequence, time ns, source) of one answer, as `traffic.stream` gives it."""


@dataclass(frozen=True, slots=True)
class Outage:
    """All times CLOCK_BOOTTIME ns."""

    kill_ns: int
    last_before_ns: int
    """The last answer before the gap."""
    first_after_ns: int
    """The first answer after it."""
    requests: int
    lost: int
    sources: dict[str, int]
    """Sources that answers named."""
    further_gaps_ns: tuple[int, ...] = ()
    """Other times without an answer of FURTHER_GAP_NS or more, before the kill (nothing was broken then) or after."""

    @property
    def gap_ns(self) -> int:
        """The time without an answer, as the client felt it."""
        return self.first_after_ns - self.last_before_ns

    @property
    def kill_to_first_ns(self) -> int:
        """Longer than the gap where answers still came during the kill."""
        return self.first_after_ns - self.kill_ns


def find_outage(kill_ns: int, sent_ns: Sequence[int], answers: Iterable[Answered]) -> Outage:
    """The longest time without an answer that ends after the kill.

    Answers may still come for a moment after the kill: it takes the tools a few milliseconds to cut the links. Raises
    ValueError where no answer came before the kill or none after it.
    """
    known = list(answers)
    times = sorted(when for _, when, _ in known)
    if not times or times[0] > kill_ns or times[-1] <= kill_ns:
        raise ValueError("no answer before the kill or none after it")
    gaps_ns = {index: times[index] - times[index - 1] for index in range(1, len(times))}
    longest = max((index for index in gaps_ns if times[index] > kill_ns), key=gaps_ns.__getitem__)
    return Outage(
        kill_ns=kill_ns,
        last_before_ns=times[longest - 1],
        first_after_ns=times[longest],
        requests=len(sent_ns),
        lost=len(sent_ns) - len(known),
        sources=dict(Counter(source for _, _, source in known)),
        further_gaps_ns=tuple(gap for index, gap in gaps_ns.items() if index != longest and gap >= FURTHER_GAP_NS),
    )


def summarize(values_ns: Sequence[int]) -> dict[str, float]:
    """Median, p99 and maximum in ms; empty for no values."""
    if not values_ns:
        return {}
    in_ms = [value / 1e6 for value in values_ns]
    return {"median": median(in_ms), "p99": percentile(in_ms, 0.99), "max": max(in_ms)}
