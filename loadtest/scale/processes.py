"""Row `processes`: what whole processes take while nothing happens, in a lab of three nodes and two controllers.

They are watched for `idle_s` each time: with three floating IPs, one policy and three pods a node, then with more
floating IPs, then with more policies and pods of one node, as `loadtest.rows.scale` fills it. Nobody asks them anything
meanwhile, and no pod sends. Processor time is that of the process and all that it starts, in percent of one core; of
each kind the highest counts. A lab has no 1,000 nodes: what members take of a process's memory is measured in this
process (`resident`) and added.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from loadtest import gateway
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.rows.options import Sizes
from loadtest.rows.scale import fill
from loadtest.scale.curve import Curve, Point
from loadtest.scale.floating_ips import apply_floating_ips, wait_until_held
from loadtest.scale.options import ScaleOptions
from loadtest.scale.program import (
    KINDS,
    TICK_S,
    Looks,
    Memory,
    datagrams_sent,
    fetch_looks,
    memory,
    processor_s,
    programs,
)
from loadtest.scale.resident import members_mb
from loadtest.scale.turn import up_to
from service.lab.lab import Lab
from service.lab.namespace import enter_command, nft, run
from service.lab.plan import LabOptions, PlannedController, PlannedNode
from service.settings import PortSettings

IDLE_GOALS = {"agent": 1.5, "keeper": 1.0, "controller": 1.0}
"""% of a core."""
MEMORY_GOALS = {"agent": 80, "keeper": 40, "controller": 70}
"""MB."""
QUIET_S = 5.0
"""After a change, before processes are watched: what follows it by seconds is part of the change."""
USUAL_IPS = len(gateway.FLOATING_IPS)
_TABLE, _COUNTER = "loadtest_datagrams", "lease"


@dataclass(frozen=True, slots=True)
class Program:
    """One process."""

    name: str
    kind: str
    percent: float
    """Of one core; never below what the kernel's clock can tell."""
    memory: Memory


@dataclass(frozen=True, slots=True)
class Traffic:
    """What members have said to each other so far."""

    datagrams: int
    """UDP of all of them, whatever for."""
    leases: int
    """Those of keepers, and of controllers with them."""
    looks: Looks
    """At the event loops of all of them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What was seen while there was so much."""

    floating_ips: int
    policies: int
    pods: int
    """Of one node, beside three of each."""
    programs: tuple[Program, ...]
    datagrams_per_s: float
    leases_per_s: float
    looks: Looks

    def busiest(self, kind: str) -> Program:
        """The one that takes most of a core."""
        return max((one for one in self.programs if one.kind == kind), key=lambda one: one.percent)

    def largest(self, kind: str) -> Program:
        """The one with most memory."""
        return max((one for one in self.programs if one.kind == kind), key=lambda one: one.memory.rss)


def measure_processes(options: ScaleOptions, report: Report) -> Row:
    """In one lab."""
    sizes = options.sizes
    with gateway.running_lab(LabOptions(name=f"{options.name}p"), report) as lab:
        _count_leases(lab)
        by_address = [_with_floating_ips(lab, count, options, report) for count in _counts(sizes.churn_floating_ips)]
        apply_floating_ips(lab, USUAL_IPS)
        wait_until_held(lab, USUAL_IPS)
        by_policy = [by_address[0]]
        for policies in up_to(sizes.policies)[1:]:
            pods = max(1, sizes.few_pods * policies // sizes.policies)
            report(f"{policies} policies, {pods} pods of a node")
            fill(lab, lab.plan.nodes[-1].name, Sizes(policies=policies, pods=pods))
            by_policy.append(_watch(lab, options, USUAL_IPS, policies, pods))
    report("what members take of the memory")
    members = {count: members_mb(count) for count in up_to(sizes.gateway_nodes)}
    curves = [*_address_curves(by_address), *_policy_curves(by_policy), _member_curve(members)]
    detail = {
        "curves": [curve.document() for curve in curves],
        "stages": [asdict(stage) for stage in (*by_address, *by_policy[1:])],
    }
    figures = [*_idle_figures(by_address[0]), *_idle_figures(by_policy[-1])]
    figures += _memory_figures(by_policy[-1], sizes.gateway_nodes, members[sizes.gateway_nodes])
    figures += _traffic_figures(by_address[0])
    return Row("processes", figures, detail)


def _counts(most: int) -> list[int]:
    return sorted({USUAL_IPS, max(USUAL_IPS, most // 3), max(USUAL_IPS, most)})


# -- what is watched --


def _with_floating_ips(lab: Lab, count: int, options: ScaleOptions, report: Report) -> Stage:
    report(f"{count} floating IPs")
    apply_floating_ips(lab, count)
    wait_until_held(lab, count)
    return _watch(lab, options, count, 1, 0)


def _watch(lab: Lab, options: ScaleOptions, floating_ips: int, policies: int, pods: int) -> Stage:
    """Ask nobody anything for a while, but before and after."""
    time.sleep(QUIET_S)
    known = programs(lab.state.processes)
    former = _traffic(lab)
    before, began_s = {name: processor_s(record.pid) for name, record in known.items()}, time.monotonic()
    time.sleep(options.sizes.idle_s)
    after, span_s = {name: processor_s(record.pid) for name, record in known.items()}, time.monotonic() - began_s
    now = _traffic(lab)
    return Stage(
        floating_ips,
        policies,
        pods,
        tuple(
            Program(name, record.kind, 100 * max(after[name] - before[name], TICK_S) / span_s, memory(record.pid))
            for name, record in known.items()
        ),
        datagrams_per_s=(now.datagrams - former.datagrams) / span_s,
        leases_per_s=(now.leases - former.leases) / span_s,
        looks=now.looks.since(former.looks),
    )


def _members(lab: Lab) -> list[PlannedNode | PlannedController]:
    return [*lab.plan.nodes, *lab.plan.controllers]


def _count_leases(lab: Lab) -> None:
    """By a table of our own in each member's network, beside the product's."""
    port = PortSettings().lease
    rules = f"udp dport {port} counter name {_COUNTER} return\nudp sport {port} counter name {_COUNTER}"
    counter = f"counter {_COUNTER} {{ packets 0 bytes 0 }}"
    chain = f"chain sent {{ type filter hook output priority 0;\n{rules}\n}}"
    for member in _members(lab):
        nft(member.netns, f"table ip {_TABLE} {{\n{counter}\n{chain}\n}}\n")


def _traffic(lab: Lab) -> Traffic:
    looks = [one for member in _members(lab) for one in fetch_looks(member.netns, str(member.ip)).values()]
    # One of each member: they count by network.
    counting = [record for record in programs(lab.state.processes).values() if record.kind != "keeper"]
    return Traffic(
        sum(datagrams_sent(record.pid) for record in counting),
        sum(_leases(member.netns) for member in _members(lab)),
        Looks(sum(one.late for one in looks), sum(one.all for one in looks)),
    )


def _leases(netns: str) -> int:
    told = run([*enter_command(netns), "nft", "-j", "list", "counters", "table", "ip", _TABLE])
    return sum(int(one["counter"]["packets"]) for one in json.loads(told)["nftables"] if "counter" in one)


# -- what is told --


def _address_curves(stages: Sequence[Stage]) -> list[Curve]:
    def points(values: Iterable[float]) -> tuple[Point, ...]:
        return tuple(Point(stage.floating_ips, value) for stage, value in zip(stages, values, strict=True))

    idle = [
        Curve(f"idle {kind}", "floating IPs", "% of a core", points(stage.busiest(kind).percent for stage in stages))
        for kind in KINDS
    ]
    leases = points(stage.leases_per_s for stage in stages)
    return [*idle, Curve("lease datagrams of the cluster", "floating IPs", "1/s", leases)]


def _policy_curves(stages: Sequence[Stage]) -> list[Curve]:
    of = "policies, and a quarter as many pods"
    found = []
    for kind in KINDS:
        busy = tuple(Point(stage.policies, stage.busiest(kind).percent) for stage in stages)
        large = tuple(Point(stage.policies, stage.largest(kind).memory.rss) for stage in stages)
        found += [Curve(f"idle {kind}", of, "% of a core", busy), Curve(f"memory of {kind}", of, "MB", large)]
    return found


def _member_curve(members: dict[int, float]) -> Curve:
    points = tuple(Point(count, megabytes) for count, megabytes in members.items())
    return Curve("memory of what is known of members", "members", "MB", points)


def _idle_figures(stage: Stage) -> list[Figure]:
    there = f"{stage.policies:,} policies, {stage.pods:,} pods" if stage.pods else "three pods a node"
    return [
        Figure(
            f"idle {kind}, {there}",
            (busiest := stage.busiest(kind)).percent,
            "% of a core",
            2,
            at_most(goal),
            note=busiest.name,
        )
        for kind, goal in IDLE_GOALS.items()
    ]


def _memory_figures(stage: Stage, nodes: int, members: float) -> list[Figure]:
    figures = []
    for kind, goal in MEMORY_GOALS.items():
        largest = stage.largest(kind)
        had = largest.memory
        note = f"{largest.name}; {had.shared:.1f} MB of it are shared, Pss is {had.pss:.1f} MB"
        title = f"memory of {kind}, {stage.policies:,} policies, {stage.pods:,} pods"
        figures.append(Figure(title, had.rss, "MB", 1, at_most(goal), note))
    known = stage.largest("controller").memory.rss + members
    note = f"{members:.1f} MB for its members, measured apart"
    title = f"memory of controller, {nodes:,} nodes"
    return [*figures, Figure(title, known, "MB", 1, at_most(MEMORY_GOALS["controller"]), note)]


def _traffic_figures(stage: Stage) -> list[Figure]:
    late = f"later than 20 ms at {stage.looks.late} of {stage.looks.all} looks; a busy machine makes them late, too"
    share = 100 * stage.looks.late / stage.looks.all if stage.looks.all else None
    return [
        Figure("lease datagrams of an idle cluster", stage.leases_per_s, "1/s", 0),
        Figure("all datagrams of an idle cluster", stage.datagrams_per_s, "1/s", 0),
        Figure("event loops of an idle cluster that come late", share, "%", 2, note=late),
    ]
