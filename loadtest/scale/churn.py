"""Row `churn`: what is left behind after pods came and went and nodes failed, for a minute or for hours.

In a lab of three nodes and two controllers a crowd of pods (`crowd`: objects without a namespace of their own, since
1,000 real ones are too much for this machine) changes `pace_s` times a second, and each `failure_s` a node fails: its
links go silent and its processes are killed; a quarter of that time later it is mended. The first node and the
controllers never fail, so their processes live from beginning to end. After a warm-up of the same kind, and at the end,
it is quiet until everything is served again, and then what each process and each node takes is compared.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial

from loadtest import gateway
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.crowd import CHANGES, Crowd
from loadtest.scale.curve import Curve, Point
from loadtest.scale.floating_ips import wait_until_held
from loadtest.scale.footprint import (
    ELEMENTS,
    LEARNED,
    PINS,
    ROUTING,
    RULES,
    WISHED,
    Footprint,
    most_grown,
    take_footprint,
)
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.program import KINDS, memory, processor_s, programs
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.process import ProcessRecord
from service.lab.status import wait_for

FEW_PERCENT = 5
"""Of growth that is none."""
SERVED_S = 300.0
"""A node that gets so much at once serves no pod for a minute where the machine is busy."""
QUIET_S = 10.0
"""Once all is served: what agents look at each five seconds they have looked at by then."""
_FAILS_AFTER, _MENDED_AFTER = 1 / 6, 5 / 12
"""Of the time from one failure to the next."""
_SAMPLES = 12
"""Of memory, in the whole time."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is due so many seconds after the beginning."""

    due_s: float
    act: Callable[[], None]


@dataclass(slots=True)
class Seen:
    """While pods came and went."""

    changes: int = 0
    failures: int = 0
    span_s: float = 0.0
    behind_s: float = 0.0
    """How late something was begun, at the most: much of it means that this machine is too slow for the pace."""
    processor_percent: dict[str, float] = field(default_factory=dict)
    """Of one core, of programs that never fail."""
    samples: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Changes so far, and the resident MB of these programs."""


def measure_churn(options: ScaleOptions, report: Report) -> Row:
    """In one lab."""
    sizes = options.sizes
    with gateway.running_lab(LabOptions(name=f"{options.name}c"), report) as lab:
        report(f"{sizes.churn_pods} pods, {sizes.churn_policies} policies, {sizes.churn_floating_ips} floating IPs")
        churn = Churn(lab, sizes)
        report("warming up")
        churn.run(min(sizes.churn_s, sizes.failure_s))
        before = churn.settle()
        report(f"{sizes.churn_s:.0f} s of churn")
        seen = churn.run(sizes.churn_s)
        report("quiet again")
        after = churn.settle()
    curves = [curve.document() for curve in _curves(seen)]
    detail = {"curves": curves, "seen": asdict(seen), "before": asdict(before), "after": asdict(after)}
    return Row("churn", [*_figures(before, after, seen), *_effort(seen)], detail)


class Churn:
    """A crowd and failures in one lab."""

    def __init__(self, lab: Lab, sizes: ScaleSizes) -> None:
        """Begins with the crowd, and returns once it is served."""
        self._lab = lab
        self._sizes = sizes
        self._crowd = Crowd(lab, sizes)
        self._victims = [node.name for node in lab.plan.nodes[1:]]
        self._failures = 0
        self._crowd.begin()
        self._wait()

    def run(self, span_s: float) -> Seen:
        """Let pods come and go for so long, and nodes fail; every one is mended in the end."""
        seen = Seen()
        lasting = self._lasting()
        before = {name: processor_s(record.pid) for name, record in lasting.items()}
        began_s = time.monotonic()
        for moment in sorted(self._moments(span_s, seen), key=lambda moment: moment.due_s):
            left_s = began_s + moment.due_s - time.monotonic()
            time.sleep(max(0.0, left_s))
            seen.behind_s = max(seen.behind_s, -left_s)
            moment.act()
        seen.span_s = time.monotonic() - began_s
        for name, record in lasting.items():
            seen.processor_percent[name] = 100 * (processor_s(record.pid) - before[name]) / seen.span_s
        return seen

    def settle(self) -> Footprint:
        """What is taken once everything is served, and a while has passed."""
        self._wait()
        time.sleep(QUIET_S)
        self._wait()
        return take_footprint(self._lab, floating_ips=self._sizes.churn_floating_ips)

    def _wait(self) -> None:
        wait_until_held(self._lab, self._sizes.churn_floating_ips)
        wait_for("the crowd to be served", self._crowd.is_served, timeout_s=SERVED_S)

    def _lasting(self) -> dict[str, ProcessRecord]:
        known = programs(self._lab.state.processes)
        return {name: record for name, record in known.items() if record.member not in self._victims}

    def _moments(self, span_s: float, seen: Seen) -> Iterator[Moment]:
        pause_s = CHANGES / self._sizes.pace_s
        for number in range(int(span_s / pause_s)):
            yield Moment(number * pause_s, lambda: self._change(seen))
        for number in range(1, _SAMPLES + 1):
            yield Moment(number * span_s / _SAMPLES, lambda: self._sample(seen))
        period_s = self._sizes.failure_s
        while (start_s := period_s * seen.failures) + _MENDED_AFTER * period_s <= span_s:
            victim = self._victims[self._failures % len(self._victims)]
            yield Moment(start_s + _FAILS_AFTER * period_s, partial(self._fail, victim))
            yield Moment(start_s + _MENDED_AFTER * period_s, partial(self._mend, victim))
            seen.failures += 1
            self._failures += 1

    def _change(self, seen: Seen) -> None:
        seen.changes += self._crowd.change()

    def _sample(self, seen: Seen) -> None:
        found = {name: memory(record.pid).rss for name, record in self._lasting().items()}
        seen.samples.append((seen.changes, found))

    def _fail(self, victim: str) -> None:
        apply_fault(self._lab, victim, Fault.CUT)
        apply_fault(self._lab, victim, Fault.KILL)

    def _mend(self, victim: str) -> None:
        apply_fault(self._lab, victim, Fault.HEAL)
        apply_fault(self._lab, victim, Fault.RESTART)


def _curves(seen: Seen) -> list[Curve]:
    samples = [(changes, found) for changes, found in seen.samples if changes]
    names = samples[0][1] if samples else {}
    return [
        Curve(f"memory of {name}", "pod changes", "MB", tuple(Point(count, found[name]) for count, found in samples))
        for name in names
    ]


def _figures(before: Footprint, after: Footprint, seen: Seen) -> list[Figure]:
    told = f"after {seen.changes:,} changes and {seen.failures} failures"
    # A program that was started anew shortly before has not yet taken what it will.
    lasting = list(seen.processor_percent)
    figures = []
    for kind in KINDS:
        names = [name for name in lasting if name.startswith(kind)]
        grown = most_grown(*({name: one.programs[name].memory.rss for name in names} for one in (before, after)))
        figures.append(_figure(f"memory of {kind}, {told}", grown.percent, "% more", FEW_PERCENT, f"{grown} MB"))
    files = most_grown(*({name: one.programs[name].files for name in lasting} for one in (before, after)))
    figures.append(_figure(f"open files, {told}", files.more, "more", 0, str(files)))
    for what in (WISHED, ELEMENTS, RULES, ROUTING, PINS):
        grown = most_grown(*({node: counts[what] for node, counts in one.nodes.items()} for one in (before, after)))
        figures.append(_figure(f"{what}, {told}", grown.more, "more", 0, str(grown)))
    learned = most_grown(*({"all nodes": sum(n[LEARNED] for n in one.nodes.values())} for one in (before, after)))
    return [*figures, _figure(f"{LEARNED}, {told}", learned.percent, "% more", FEW_PERCENT, str(learned))]


def _figure(title: str, value: float, unit: str, most: float, note: str) -> Figure:
    return Figure(title, value, unit, 1 if unit.startswith("%") else 0, at_most(most), note)


def _effort(seen: Seen) -> list[Figure]:
    """What it takes to keep up; promised by nobody."""
    pace = f"{seen.changes / seen.span_s:.0f} changes a second"
    figures = []
    for kind in KINDS:
        name = max(
            (one for one in seen.processor_percent if one.startswith(kind)), key=seen.processor_percent.__getitem__
        )
        figures.append(Figure(f"{kind} at {pace}", seen.processor_percent[name], "% of a core", 1, note=name))
    return [*figures, Figure("latest beginning of a change", seen.behind_s, "s", 1)]
