"""One lab under traffic in which rounds are played: events happen, are undone, and what was seen is judged."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loadtest.chaos.calm import (
    FlowLogs,
    Footprint,
    ProgramLogs,
    answers,
    drop_totals,
    grown,
    still_grown,
    still_told,
    trouble_seen,
    wait_for_calm,
)
from loadtest.chaos.client import boot_ns
from loadtest.chaos.event import Cost, Event
from loadtest.chaos.events import ALL
from loadtest.chaos.judge import (
    Finding,
    Flow,
    Promise,
    judge_calls,
    judge_drops,
    judge_flows,
    judge_frames,
    judge_speakers,
    limited,
)
from loadtest.chaos.schedule import Act, Round
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.capture_site import capture_site
from service.lab.outside import read_calls
from service.lab.traffic.frame import read_frames
from service.lab.traffic.leak_check import CaptureSite
from service.model.errors import TransientError

FIRST_CALM_S = 60.0
RECOVERY_S = 60.0
"""A site that is not calm in time gets so long more before it is built anew: the finding stands in any case."""
TRUTH_S = 14.0
"""So long after calm status may still tell of it: what came lately is told of for ten seconds."""
GROWN_S = 10.0
"""So long after calm something that has gone may still be there: agents look at what nobody tells them each 5 s."""
COUNTING_S = 1.0
"""An event that lasts so long loses enough for its drops to be compared with what was lost."""
ROUNDS_KEPT = 6
"""As many as there can be in the time after which the last flow finds out."""
_POLL_S = 0.1


@dataclass(slots=True)
class RoundResult:
    """What one round came to."""

    round: Round
    calm_s: float
    findings: list[Finding]
    lab: int = 1
    """The how manieth lab of the run it was played in."""
    before: tuple[Round, ...] = ()
    """The last rounds of that lab before this one: what they have left behind may end in it."""

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those that a finding may be of, the newest last."""
        return (*self.before, self.round)


Played = Sequence[tuple[Act, Event]]


class Arena:
    """A site with traffic, in which rounds are played one after the other."""

    def __init__(self, site: ChaosSite) -> None:
        self._site = site
        self.is_whole = True
        """False: the last round has left it broken for good."""
        site.apply_gateway()
        site.apply_policy()
        site.wait_until_whole()
        site.start_traffic()
        site.beat()
        self._former_drops: dict[str, int] = {}
        self._flows = FlowLogs(site)
        _, wrong = wait_for_calm(site, self._flows, timeout_s=FIRST_CALM_S)
        if wrong:
            raise TransientError(f"the lab was not calm before the first event: {wrong}")
        self._leaked: set[Flow] = set()
        self._costs: list[tuple[int, Cost]] = []
        """When the last rounds began, and what they may cost."""
        self._before = Footprint(site)
        self._logs = ProgramLogs(site)
        self._logs.errors()

    def play(self, played: Round) -> RoundResult:
        """Let the round's events happen, wait for calm, and judge."""
        site = self._site
        capture = site.lab.folder / f"round-{played.number}.capture"
        push_start = site.push_log.stat().st_size if site.push_log.exists() else 0
        call_start = site.lab.outside_log.stat().st_size
        self._flows.begin()
        began_ns = boot_ns()
        drops = drop_totals(site)
        site.lab.start_capture(capture)
        events = [(act, ALL[act.event](site, random.Random(act.seed))) for act in played.acts]
        findings = self._happen(played.number, events)
        site.beat()
        calm_s, wrong = wait_for_calm(site, self._flows, timeout_s=site.calm_s)
        summary = site.lab.stop_capture(capture)
        if summary["lost"]:
            findings.append(Finding(played.number, Promise.HARNESS, f"the capture missed {summary['lost']} frames"))
        if wrong:
            findings += self._recover(played.number, wrong)
        calls = read_calls(site.lab.outside_log, call_start)
        calls += read_calls(site.push_log, push_start) if site.push_log.exists() else []
        may_be_bare = any(event.cost.bare for _, event in events)
        findings += self._judge_wire(played.number, capture, events)
        findings += limited(played.number, Promise.SOURCE, judge_calls(calls, site, may_be_bare=may_be_bare))
        findings += limited(played.number, Promise.ENDED, site.ended_by_themselves())
        findings += limited(played.number, Promise.ERROR, self._logs.errors())
        findings += self._judge_losses(played.number, events, drops, began_ns)
        if not wrong:
            findings += limited(played.number, Promise.STALE, still_told(site, timeout_s=TRUTH_S))
            findings += limited(played.number, Promise.GROWN, still_grown(site, self._before, timeout_s=GROWN_S))
        return RoundResult(played, calm_s, findings)

    def _judge_wire(self, number: int, capture: Path, events: Played) -> list[Finding]:
        site = self._site
        selected = frozenset(pod.ip for pod in site.selected)
        strangers = frozenset(one for _, event in events for one in event.strangers())
        frames = list(read_frames(capture))
        capture.unlink()
        plan = _capture_site(site, events)
        leaks = judge_frames(frames, plan, selected=selected, told=self._leaked)
        found = partial(limited, number)
        return [
            *found(Promise.SPEAKERS, judge_speakers(frames, plan, strangers)),
            *found(Promise.LEAK, _datagrams_first(leaks)),
        ]

    def _judge_losses(self, number: int, events: Played, before: dict[str, int], began_ns: int) -> list[Finding]:
        """What was lost against what may be, and against what was counted. Two at once may lose what neither does."""
        cost = events[0][1].cost if len(events) == 1 else Cost()
        self._costs = [*self._costs, (began_ns, cost)][-ROUNDS_KEPT:]
        selected = frozenset(self._site.word(pod) for pod in self._site.selected)
        told = list(judge_flows(self._flows.lines, self._costs, selected=selected))
        why = self._dropped_since(self._former_drops or before) if told else ""
        self._former_drops = before
        findings = [Finding(number, promise, detail + why * (promise is Promise.LOST)) for promise, detail in told]
        act, event = events[0]
        if self.is_whole and len(events) == 1 and act.hold_s >= COUNTING_S:
            uncounted = judge_drops(
                self._flows.lines, before, drop_totals(self._site), fitting=event.drops, selected=selected
            )
            findings += limited(number, Promise.UNCOUNTED, uncounted)
        return findings

    def _dropped_since(self, before: dict[str, int]) -> str:
        """What is given up now may have been dropped a second ago: `before` is of the round before."""
        try:
            return f"; dropped since the round before: {grown(before, drop_totals(self._site))}"
        except TransientError as error:
            return f"; what was dropped is not known: {error}"

    def _happen(self, number: int, events: Played) -> list[Finding]:
        """Apply and undo at their moments; while one lasts, look whether it is told."""
        events = _long_enough(events)
        started_s = time.monotonic()
        moments = [(act.delay_s, True, event) for act, event in events]
        moments += [(act.delay_s + act.hold_s, False, event) for act, event in events]
        watched = {event: event.trouble() for _, event in events if len(events) == 1}
        told: set[Event] = set()
        findings = []
        for moment_s, is_begin, event in sorted(moments, key=lambda moment: moment[0]):
            while (left_s := started_s + moment_s - time.monotonic()) > 0:
                time.sleep(min(left_s, _POLL_S))
                told |= {one for one, trouble in watched.items() if trouble and trouble_seen(self._site, *trouble)}
            try:
                event.apply() if is_begin else event.undo()
                if is_begin and watched.get(event):
                    # What is slow to do has lasted from when it was done.
                    started_s = max(started_s, time.monotonic() - moment_s)
            except Exception as error:
                findings.append(Finding(number, Promise.HARNESS, f"{event.name}: {type(error).__name__}: {error}"))
            # Beside another event its programs may just be starting.
            if is_begin and len(events) == 1 and event.answers() and not answers(self._site, event.answers()):
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
        return [Finding(number, Promise.CALM, f"after {self._site.calm_s:.0f} s: {wrong}; {later}")]


def _capture_site(site: ChaosSite, events: Played) -> CaptureSite:
    plan = capture_site(site.lab.plan, FLOATING_IPS)
    for node, mac in (item for _, event in events for item in event.macs().items()):
        plan.macs_of_node[node] += (mac,)
    return plan


def _datagrams_first(leaks: Iterable[str]) -> list[str]:
    """Only the first few are told, and what is left of a connection is the lesser evil."""
    return sorted(leaks, key=lambda detail: " proto 6 " in detail)


def _long_enough(events: Played) -> Played:
    """An event that must be told lasts, where it is alone, until it must have been."""
    if len(events) != 1 or events[0][1].trouble() is None:
        return events
    act, event = events[0]
    return [(Act(act.event, act.seed, act.delay_s, max(act.hold_s, event.telling_s)), event)]
