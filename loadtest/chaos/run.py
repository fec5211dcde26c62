"""The rounds of a run, one after the other, and the shortest list of events for one that found something."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from loadtest.chaos.arena import Arena, RoundResult
from loadtest.chaos.cluster_site import raise_cluster
from loadtest.chaos.events import CATALOGUE, CLUSTER_CATALOGUE
from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.known import KNOWN, Known, known_fault
from loadtest.chaos.schedule import Choice, Round, make_round, only, parse_rounds, rounds_text
from loadtest.chaos.shorten import Shortened, shorten
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import running_lab
from service.lab.lab import lab_down
from service.lab.plan import LabOptions
from service.lab.state import locked

ROUNDS_BEFORE = 2
"""A connection that has stalled is given up after seconds, and what its pod still sends may be a later round's."""
STATE_KIB = 16_384
"""Each member's durable state is on a disk of its own, that may be full without hurting anybody else."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What a run may be told."""

    seed: int
    minutes: float = 0.0
    events: tuple[str, ...] = ()
    """Of the catalogue; none: all."""
    rounds: tuple[tuple[int, str], ...] = ()
    """These and no others; else as many as fit into the minutes."""
    kubernetes: bool = False
    """In a real cluster, with the events that make sense there."""
    name: str = "chaos"
    known: tuple[Known, ...] = KNOWN
    """Faults whose findings do not count."""


@dataclass(slots=True)
class ChaosResult:
    """All rounds of a run."""

    options: ChaosOptions
    rounds: list[RoundResult] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Of all rounds, in order, but for known faults."""
        return [finding for result in self.rounds for finding in self.news(result)]

    def news(self, result: RoundResult) -> list[Finding]:
        """What a round found that is no known fault."""
        known = self.options.known
        return [finding for finding in result.findings if known_fault(finding, result.rounds, known) is None]

    def faults_seen(self) -> set[Known]:
        """The known faults that have shown themselves."""
        found = {
            known_fault(finding, result.rounds, self.options.known)
            for result in self.rounds
            for finding in result.findings
        }
        return {fault for fault in found if fault is not None}


def run_chaos(options: ChaosOptions, report: Report, done: Callable[[RoundResult], None]) -> ChaosResult:
    """Run the rounds, each told to `done`. Raises OperatorError or TransientError where the lab does not come up."""
    result = ChaosResult(options)
    until_s = time.monotonic() + options.minutes * 60
    waiting = _rounds(options, until_s)
    current = next(waiting, None)
    number = 0
    while current is not None:
        number += 1
        with _running_site(options, report) as site:
            arena = Arena(site)
            while current is not None:
                report(str(current))
                played = arena.play(current)
                played.lab = number
                same_lab = [one.round for one in result.rounds if one.lab == number]
                played.before = tuple(same_lab[-ROUNDS_BEFORE:])
                result.rounds.append(played)
                done(played)
                current = next(waiting, None)
                if not arena.is_whole:
                    break
    return result


@contextlib.contextmanager
def _running_site(options: ChaosOptions, report: Report) -> Iterator[ChaosSite]:
    if not options.kubernetes:
        lab_options = LabOptions(
            name=options.name,
            nodes=4,
            far_nodes=1,
            transport="auto",
            pods_per_node=3,
            controllers=2,
            state_kib=STATE_KIB,
        )
        with running_lab(lab_options, report, processes=False) as lab:
            site = ChaosSite(lab)
            report("our programs, each with a /run of its own")
            site.start_programs()
            yield site
        return
    with locked(f"{options.name}-loadtest"):
        try:
            yield raise_cluster(LabOptions(name=options.name), report)
        finally:
            report(f"clearing the cluster {options.name}")
            lab_down(options.name)


def _rounds(options: ChaosOptions, until_s: float) -> Iterator[Round]:
    names = options.events or tuple(CLUSTER_CATALOGUE if options.kubernetes else CATALOGUE)
    if options.rounds:
        for number, event in options.rounds:
            yield only(make_round(names, options.seed, number), event)
        return
    number = 0
    while time.monotonic() < until_s:
        number += 1
        yield make_round(names, options.seed, number)


def shortest(
    result: ChaosResult, failed: RoundResult, report: Report, *, minutes: float
) -> tuple[str, Shortened[Choice]]:
    """What `--rounds` plays so that it fails again, from all that had happened to the lab of a round that failed.

    No further lab is built once the minutes are over.
    """
    before = [one.round for one in result.rounds if one.lab == failed.lab and one.round.number <= failed.round.number]
    choices = [(played.number, act.event) for played in before for act in played.acts]
    promises = {finding.promise for finding in result.news(failed)}
    until_s = time.monotonic() + minutes * 60

    def fails(chosen: tuple[Choice, ...]) -> bool:
        options = replace(result.options, rounds=parse_rounds(rounds_text(chosen, before)))
        return _fails(options, promises, report)

    found = shorten(
        choices,
        fails,
        first=[choice for choice in choices if choice[0] == failed.round.number],
        may_go_on=lambda: time.monotonic() < until_s,
    )
    return rounds_text(found.items, before), found


def _fails(options: ChaosOptions, promises: set[Promise], report: Report) -> bool:
    again = run_chaos(options, report, lambda played: None)
    return any(finding.promise in promises for finding in again.findings)
