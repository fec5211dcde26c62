"""Row `turn`: what a turn of an agent costs its event loop, by how many policies, pods and members there are.

By `loadtest.driving`: the product's own turn on maps of this process, from a change to the rows that it makes. Not in
it: what the kernel does with these rows, and reading objects from a source. The longest time that the loop stands still
is not more than all turns of one change together.
"""

from collections.abc import Mapping

from loadtest.driving import CASES, DrivingOptions, Size, measure_driving
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import Curve, curve_of
from loadtest.scale.loop_steps import STAND_STILL_MS
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.steps import frozen_heap
from loadtest.statistics import median
from service.agent.agent import REFRESH_S
from service.datapath.admission import POD_ROWS

_TITLES = dict(CASES)

Costs = dict[Size, dict[str, float]]
"""Of each size the medians, in ms, by case."""


def measure_turn(options: ScaleOptions, report: Report) -> Row:
    """Over pods with all policies, over policies with few pods, over members with few of both."""
    sizes = options.sizes
    *fewer_policies, _ = up_to(sizes.policies)
    over_pods = _costs(options, report, (sizes.policies,), up_to(sizes.pods, first=sizes.few_pods), sizes.members)
    over_policies = _costs(options, report, tuple(fewer_policies), (sizes.few_pods,), sizes.members)
    usual, most = Size(sizes.policies, sizes.few_pods), Size(sizes.policies, sizes.pods)
    few = Size(fewer_policies[0], sizes.few_pods)
    by_policies = over_policies | {usual: over_pods[usual]}
    curves = [
        *_curves("local pods", {size.pods: costs for size, costs in over_pods.items()}),
        *_curves("policies", {size.policies: costs for size, costs in by_policies.items()}),
        _curve("member", "members", _over_members(options, report, few) | {sizes.members: over_policies[few]}),
    ]
    medians = [
        {"policies": size.policies, "pods": size.pods, **costs} for size, costs in (over_policies | over_pods).items()
    ]
    detail = {"curves": [curve.document() for curve in curves], "ms": medians}
    return Row("turn", _figures(sizes, over_pods[usual], over_pods[most]), detail)


def up_to(largest: int, *, first: int = 0) -> tuple[int, ...]:
    """All of it, a fifth, and a twentieth or what is `first`, ascending. At least 2 are there for `largest` above 1."""
    return tuple(sorted({first or max(1, largest // 20), max(1, largest // 5), largest}))


def _over_members(options: ScaleOptions, report: Report, size: Size) -> dict[int, dict[str, float]]:
    """With fewer than all: each repeat needs one that says something, beside this node and one more."""
    *fewer, _ = up_to(options.sizes.members)
    counts = sorted({max(count, options.repeats + 2) for count in fewer})
    return {count: _costs(options, report, (size.policies,), (size.pods,), count)[size] for count in counts}


def _costs(
    options: ScaleOptions, report: Report, policies: tuple[int, ...], pods: tuple[int, ...], members: int
) -> Costs:
    with frozen_heap():
        driving = DrivingOptions(policies, pods, members, options.repeats)
        found = measure_driving(driving, lambda line: report(f"{line}, {members} members"))
    return {size: {case: median(values) for case, values in cases.items()} for size, cases in found.cases.items()}


def _curves(of: str, costs: Mapping[int, Mapping[str, float]]) -> list[Curve]:
    return [_curve(case, of, costs) for case in _TITLES]


def _curve(case: str, of: str, costs: Mapping[int, Mapping[str, float]]) -> Curve:
    return curve_of(_TITLES[case], of, {size: medians[case] for size, medians in sorted(costs.items())})


def _figures(sizes: ScaleSizes, usual: Mapping[str, float], most: Mapping[str, float]) -> list[Figure]:
    """Of the usual node, and of the one with most pods."""
    there = f"{sizes.policies:,} policies, {sizes.pods:,} local pods"
    slowest = max(most, key=most.__getitem__)
    return [
        Figure(f"idle turn, each second, {there}", most["idle"] / REFRESH_S, "ms", 2, at_most(2)),
        Figure(f"one more selected pod, {POD_ROWS * sizes.pods:,} rows of pods", most["pod"], "ms", 2, at_most(10)),
        Figure(f"one more selected pod, {sizes.few_pods:,} local pods", usual["pod"], "ms", 2, at_most(2)),
        Figure(f"a member says something, {sizes.members:,} members", most["member"], "ms", 2, at_most(5)),
        Figure(f"one policy edited, {there}", most["edit"], "ms", 2),
        Figure(f"one address moves, {there}", most["location"], "ms", 2),
        Figure(
            f"the loop stands still for one change, {there}",
            most[slowest],
            "ms",
            2,
            at_most(STAND_STILL_MS),
            note=f"at most so long: all turns of `{_TITLES[slowest]}` together",
        ),
    ]
