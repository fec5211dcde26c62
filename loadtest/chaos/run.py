"""The rounds: events happen, are undone, and are judged."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from loadtest.chaos.calm import FlowLogs, Footprint, trouble_seen, wait_for_calm
from loadtest.chaos.event import Cost, Event
from loadtest.chaos.events import CATALOGUE
from loadtest.chaos.judge import (
    Finding,
    Promise,
    judge_calls,
    judge_flows,
    judge_frames,
    judge_processes,
    judge_speakers,
    limited,
)
from loadtest.chaos.schedule import Act, Round, make_round, only
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS, running_lab, wait_until_whole
from service.lab.capture_site import capture_site
from service.lab.outside import read_calls
from service.lab.plan import LabOptions
from service.lab.traffic.frame import read_frames
from service.model.errors import OperatorError, TransientError

CALM_S = 10.0
FIRST_CALM_S = 60.0
RECOVERY_S = 60.0
"""A site that is not calm in time gets so long more before it is built anew: the finding stands in any case."""
TELLING_S = 3.0
"""A process must say what is wrong once it has been so for this long."""
_POLL_S = 0.1

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
    name: str = "chaos"


@dataclass(slots=True)
class RoundResult:
    """What one round came to."""

    round: Round
    calm_s: float
    findings: list[Finding]


@dataclass(slots=True)
class ChaosResult:
    """All rounds of a run."""

    options: ChaosOptions
    rounds: list[RoundResult] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Of all rounds, in order."""
        return [finding for result in self.rounds for finding in result.findings]


def run_chaos(options: ChaosOptions, report: Report, done: Callable[[RoundResult], None]) -> ChaosResult:
    """Run the rounds, each told to `done`. Raises OperatorError or TransientError where the lab does not come up."""
    result = ChaosResult(options)
    until_s = time.monotonic() + options.minutes * 60
    waiting = _rounds(options, until_s)
    current = next(waiting, None)
    while current is not None:
        with running_lab(LabOptions(name=options.name, nodes=3, pods_per_node=3, controllers=2), report) as lab:
            arena = Arena(ChaosSite(lab), report)
            while current is not None:
                report(str(current))
                played = arena.play(current)
                result.rounds.append(played)
                done(played)
                current = next(waiting, None)
                if not arena.is_whole:
                    break
    return result


def _rounds(options: ChaosOptions, until_s: float) -> Iterator[Round]:
    names = options.events or tuple(CATALOGUE)
    if options.rounds:
        for number, event in options.rounds:
            yield only(make_round(names, options.seed, number), event)
        return
    number = 0
    while time.monotonic() < until_s:
        number += 1
        yield make_round(names, options.seed, number)


class Arena:
    """A site with traffic, in which rounds are played one after the other."""

    def __init__(self, site: ChaosSite, report: Report) -> None:
        self._site = site
        self._report = report
        self.is_whole = True
        """False: the last round has left it broken for good."""
        site.apply_gateway()
        site.apply_policy()
        wait_until_whole(site.lab)
        site.start_traffic()
        self._flows = FlowLogs(site)
        _, wrong = wait_for_calm(site, self._flows, timeout_s=FIRST_CALM_S)
        if wrong:
            raise TransientError(f"the lab was not calm before the first event: {wrong}")
        self._before = Footprint(site)

    def play(self, played: Round) -> RoundResult:
        """Let the round's events happen, wait for calm, and judge."""
        site = self._site
        capture = site.lab.folder / f"round-{played.number}.capture"
        push_start = site.push_log.stat().st_size if site.push_log.exists() else 0
        call_start = site.lab.outside_log.stat().st_size
        self._flows.begin()
        site.lab.start_capture(capture)
        events = [(act, CATALOGUE[act.event](site, random.Random(act.seed))) for act in played.acts]
        findings = self._happen(played.number, events)
        calm_s, wrong = wait_for_calm(site, self._flows, timeout_s=CALM_S)
        summary = site.lab.stop_capture(capture)
        if summary["lost"]:
            findings.append(Finding(played.number, Promise.HARNESS, f"the capture missed {summary['lost']} frames"))
        if wrong:
            findings += self._recover(played.number, wrong)
        cost = _together([event.cost for _, event in events])
        calls = read_calls(site.lab.outside_log, call_start)
        calls += read_calls(site.push_log, push_start) if site.push_log.exists() else []
        selected = frozenset(pod.ip for pod in site.selected)
        frames = list(read_frames(capture))
        capture.unlink()
        plan = capture_site(site.lab.plan, FLOATING_IPS)
        found = partial(limited, played.number)
        findings += found(Promise.SPEAKERS, judge_speakers(frames, plan))
        findings += found(Promise.LEAK, judge_frames(frames, plan, selected=selected))
        findings += found(Promise.SOURCE, judge_calls(calls, site, may_be_bare=cost.bare))
        findings += found(Promise.ENDED, judge_processes(site))
        for promise, detail in judge_flows(self._flows.lines, cost):
            findings.append(Finding(played.number, promise, detail))
        if not wrong:
            findings += found(Promise.GROWN, self._before.grown(Footprint(site)))
        return RoundResult(played, calm_s, findings)

    def _happen(self, number: int, events: list[tuple[Act, Event]]) -> list[Finding]:
        """Apply and undo at their moments; while one lasts, look whether it is told."""
        started_s = time.monotonic()
        moments = [(act.delay_s, True, event) for act, event in events]
        moments += [(act.delay_s + act.hold_s, False, event) for act, event in events]
        watched = {event: event.trouble() for act, event in events if act.hold_s >= TELLING_S and len(events) == 1}
        told: set[Event] = set()
        findings = []
        for moment_s, is_begin, event in sorted(moments, key=lambda moment: moment[0]):
            while (left_s := started_s + moment_s - time.monotonic()) > 0:
                time.sleep(min(left_s, _POLL_S))
                told |= {one for one, trouble in watched.items() if trouble and trouble_seen(self._site, *trouble)}
            try:
                event.apply() if is_begin else event.undo()
            except (OperatorError, TransientError, OSError) as error:
                findings.append(Finding(number, Promise.HARNESS, f"{event.name}: {error}"))
            if is_begin and event.answers() and not trouble_seen(self._site, event.answers(), event.answers()):
                findings.append(Finding(number, Promise.SILENT, f"{event.answers()} does not answer ({event.name})"))
        for event, trouble in watched.items():
            if trouble and event not in told:
                detail = f"{trouble[0]} never said `{trouble[1]}` ({event.name})"
                findings.append(Finding(number, Promise.SILENT, detail))
        return findings

    def _recover(self, number: int, wrong: str) -> list[Finding]:
        taken_s, still = wait_for_calm(self._site, self._flows, timeout_s=RECOVERY_S)
        self.is_whole = not still
        later = f"never in {RECOVERY_S:.0f} s more: {still}" if still else f"after {taken_s:.0f} s more"
        return [Finding(number, Promise.CALM, f"after {CALM_S:.0f} s: {wrong}; {later}")]


def _together(costs: list[Cost]) -> Cost:
    """What several events may cost at once: two may lose what neither does alone, so only the promises are left."""
    if len(costs) == 1:
        return costs[0]
    return Cost(bare=any(cost.bare for cost in costs), moves=any(cost.moves for cost in costs))
