"""Row `netfilter`: what it costs to keep our netfilter table as it should be, by how many pods and rule sets are here.

The product's own difference, with the real nft, in a network namespace of its own. Counted is the processor time of
this process and of every nft that it has waited for; what the loop waits for an nft is a little more. The rest of a
turn is not part of it (`python -m loadtest driving` has that), nor are packets.

Idle is what an agent does in two seconds in which nothing happens: two turns that find nothing to write, and one look
whether somebody has flushed the table or one of its chains.
"""

import resource
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from loadtest.driven_agent import DrivenAgent
from loadtest.driven_objects import beginnings, group, namespace, networks, pod, policy
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import curve_of, sizes_up_to
from loadtest.scale.kernel import own_folder, own_namespace, run_in_namespace
from loadtest.scale.options import ScaleOptions
from loadtest.statistics import median
from service.model.errors import TransientError
from service.model.objects import Change, Delete, EgressPolicy, Synced, Upsert
from service.network.nftables import Nftables

_TURNS = 2
"""Of an idle agent in the time between two looks."""
_NETWORKS = 8
"""Of a policy. Not neighbours, which would be one network in the kernel."""
_LENGTH = 25
CASES = (
    ("idle", "idle for 2 s"),
    ("pod", "one more selected pod"),
    ("edit", "one rule set changed"),
)
"""What is measured at every size, and in words."""
_CONSTANT = 0.5
"""An exponent above this is no noise of a cost that does not grow any more."""
_LINEAR = 1.1

Costs = dict[str, list[float]]


def measure_netfilter(options: ScaleOptions, report: Report) -> Row:
    """At an eighth of the pods and rule sets and up to all of them; then edits of more and more networks of one set."""
    sizes = options.sizes
    measured: dict[int, Costs] = {}
    edits: dict[int, list[float]] = {}
    for rule_sets in sizes_up_to(sizes.rule_sets):
        pods = rule_sets * sizes.pods // sizes.rule_sets
        report(f"{pods} pods, {rule_sets} rule sets")
        counts = _edit_counts(sizes.rule_sets) if rule_sets == sizes.rule_sets else ()
        with own_namespace(f"{options.name}-netfilter") as netns, own_folder() as folder:
            main = partial(_measure, folder, rule_sets, pods, options.repeats, counts)
            measured[rule_sets], edits = run_in_namespace(netns, main)
    return _row(options, measured, edits)


def _edit_counts(rule_sets: int) -> tuple[int, ...]:
    """Networks of the set that is edited, each count eight times the one before: up to four for each rule set."""
    return tuple(sorted({max(1, 4 * rule_sets >> bits) for bits in (9, 6, 3, 0)}))


async def _measure(
    folder: Path, rule_sets: int, pods: int, repeats: int, counts: tuple[int, ...]
) -> tuple[Costs, dict[int, list[float]]]:
    agent = DrivenAgent(folder, nftables=Nftables())
    _fill(agent, rule_sets, pods)
    costs: Costs = {"start": [await _cost(partial(_write, agent))]} | {case: [] for case, _ in CASES}
    for repeat in range(repeats):
        costs["idle"].append(await _cost(partial(_idle, agent)))
        added, edited = pod(pods + repeat, group(repeat % rule_sets)), repeat % rule_sets
        changes: dict[str, Change] = {"pod": Upsert(added), "edit": Upsert(_policy(edited, _NETWORKS + 1 + repeat))}
        for case, change in changes.items():
            costs[case].append(await _change(agent, change))
        await _change(agent, Delete(added.key))
    edits: dict[int, list[float]] = {}
    for count in counts:
        # Where no other policy has any.
        policies = [policy(0, networks(rule_sets, count + repeat, _LENGTH)) for repeat in range(repeats)]
        edits[count] = [await _change(agent, Upsert(one)) for one in policies]
    if len(agent.reconciler.destinations().pods) != pods:
        raise TransientError("not every pod was selected")
    return costs, edits


def _fill(agent: DrivenAgent, rule_sets: int, pods: int) -> None:
    policies = [_policy(number, _NETWORKS) for number in range(rule_sets)]
    changes = [*beginnings(policies), Upsert(namespace())]
    changes += (Upsert(pod(number, group(number % rule_sets))) for number in range(pods))
    agent.take([*changes, Synced()])


def _policy(number: int, count: int) -> EgressPolicy:
    return policy(number, networks(number, count, _LENGTH))


async def _change(agent: DrivenAgent, change: Change) -> float:
    agent.take([change])
    return await _cost(partial(_write, agent))


async def _write(agent: DrivenAgent) -> None:
    """The part of a turn."""
    await agent.netfilter.write()
    await agent.netfilter.guard(is_ready=True)


async def _idle(agent: DrivenAgent) -> None:
    for _ in range(_TURNS):
        await _write(agent)
    if not await agent.datapath.nftables.is_intact():
        raise TransientError("the table is not as it was written")


async def _cost(work: Callable[[], Awaitable[None]]) -> float:
    """In ms."""
    before_s = _processor_s()
    await work()
    return 1000 * (_processor_s() - before_s)


def _processor_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _row(options: ScaleOptions, measured: dict[int, Costs], edits: dict[int, list[float]]) -> Row:
    medians = {size: {case: median(values) for case, values in costs.items()} for size, costs in measured.items()}
    curves = [
        curve_of(title, "rule sets, with as many pods each", {size: one[case] for size, one in medians.items()})
        for case, title in (*CASES, ("start", "the table is written at first"))
    ]
    by_count = {count: median(values) for count, values in edits.items()}
    curves.append(curve_of("one rule set changed", "networks of it", by_count))
    _, pod_curve, edit_curve, _, count_curve = curves
    largest, sizes = medians[max(medians)], options.sizes
    where = f"{sizes.pods:,} pods, {sizes.rule_sets:,} rule sets"
    grows = "grows by that power of how much there is"
    figures = [
        Figure(f"{where}: idle, each 2 s", largest["idle"], "ms", 1, at_most(10), note="processor time"),
        Figure(f"{where}: one more selected pod", largest["pod"], "ms", 1),
        Figure(f"{where}: one rule set changed", largest["edit"], "ms", 1),
        Figure(f"one more selected pod: {grows}", pod_curve.exponent, "", 2, at_most(_CONSTANT)),
        Figure(f"one rule set changed: {grows}", edit_curve.exponent, "", 2, at_most(_CONSTANT)),
        Figure("one rule set changed: grows by that power of it", count_curve.exponent, "", 2, at_most(_LINEAR)),
        Figure(f"{where}: the table is written at first", largest["start"], "ms", 0),
    ]
    detail = {"curves": [curve.document() for curve in curves], "ms": measured, "edits_ms": edits}
    return Row("netfilter", figures, detail)
