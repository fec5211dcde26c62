"""Row `restart`: a node full of selected pods whose agent begins with nothing, until every pod is steered.

From the first object that the agent is told of until both rows of the last pod steer it, in the kernel's own map, by
what was written there and when. In it: objects into selections, netfilter's table by the real nft, rows, the search of
connection tracking for what the pods had begun before, and the rows again. The agent runs by itself (`serving_agent`).

Not in it: what the API server takes to answer and its answer to be decoded (batches come as fast as they are taken, as
large as a source makes them); the loading of programs; what it takes to find 10,000 devices and to attach programs to
each; entries of connection tracking, of which the namespace has none.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loadtest.driven_objects import beginnings, group, namespace, networks, place_floating_ips, pod, policy
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import Curve, curve_of, sizes_up_to
from loadtest.scale.kernel import Kernel, own_folder, own_kernel
from loadtest.scale.loop_steps import LoopSteps, Step, middle, stand_still
from loadtest.scale.options import ScaleOptions
from loadtest.scale.selected_rows import histories, steered_pods
from loadtest.serving_agent import ServingAgent
from loadtest.statistics import median
from service.datapath.map_size import RowRoom
from service.model.errors import TransientError
from service.model.objects import Change, Synced, Upsert
from service.network.nftables import Nftables

POLICIES = 10
"""Beside which the number of pods is changed."""
MANY_POLICIES = 100
_MEMBERS = 40


@dataclass(slots=True)
class Restarts:
    """Of one size, one value for each repeat; in ms since the first object."""

    written: list[float] = field(default_factory=list)
    """Until each pod had a row."""
    steered: list[float] = field(default_factory=list)
    """Until each was steered."""
    computed: list[float] = field(default_factory=list)
    """Processor time of this process meanwhile, of all threads."""
    steps: list[Step] = field(default_factory=list)
    """The longest of each."""


def measure_restart(options: ScaleOptions, report: Report) -> Row:
    """With ten policies at an eighth of the pods and up to all of them; then a quarter of them with other numbers."""
    pods = options.sizes.restart_pods
    by_pods = {count: _restart(options, count, POLICIES, report) for count in sizes_up_to(pods)}
    fewer = sizes_up_to(pods)[-3]
    others = {policies: _restart(options, fewer, policies, report) for policies in (1, MANY_POLICIES)}
    by_policies = {1: others[1], POLICIES: by_pods[fewer], MANY_POLICIES: others[MANY_POLICIES]}
    curves = [
        *_curves(by_pods),
        curve_of(f"steered from nothing, {fewer:,} pods", "policies", _medians(by_policies, "steered")),
    ]
    largest = by_pods[pods]
    what = f"{pods:,} selected pods, {POLICIES} policies"
    figures = [
        Figure(f"{what}: until all are steered", median(largest.steered) / 1000, "s", 2, at_most(1)),
        Figure(f"{what}: until all have rows", median(largest.written) / 1000, "s", 2),
        stand_still(what, middle(largest.steps)),
    ]
    detail = {
        "curves": [curve.document() for curve in curves],
        "pods": {count: _document(one) for count, one in by_pods.items()},
        "policies": {count: _document(one) for count, one in by_policies.items()},
    }
    return Row("restart", figures, detail)


def _curves(by_pods: dict[int, Restarts]) -> Iterator[Curve]:
    for name, title in (("steered", "steered"), ("written", "in rows"), ("computed", "computing until all is done")):
        yield curve_of(f"{title}, from nothing", "pods", _medians(by_pods, name))
    yield curve_of("longest step, from nothing", "pods", {n: middle(one.steps).took_ms for n, one in by_pods.items()})


def _medians(measured: dict[int, Restarts], name: str) -> dict[int, float]:
    return {size: median(getattr(one, name)) for size, one in measured.items()}


def _document(restarts: Restarts) -> dict[str, object]:
    return {
        "written_ms": restarts.written,
        "steered_ms": restarts.steered,
        "computed_ms": restarts.computed,
        "longest_steps": [step.document() for step in restarts.steps],
    }


def _restart(options: ScaleOptions, pods: int, policies: int, report: Report) -> Restarts:
    report(f"{pods} pods, {policies} policies")
    restarts = Restarts()
    # Two rows each, and as many again: a map that is nearly full is not what is measured.
    rows = RowRoom(pods=2 * pods)
    for _ in range(options.repeats):
        with own_kernel(f"{options.name}-restart", rows) as kernel, own_folder() as folder:
            objects = _objects(pods, policies)
            kernel.run(partial(_serve_anew, kernel, folder, objects, policies, restarts))
            present = kernel.selected.items()
        if len(found := steered_pods(present)) != pods:
            raise TransientError(f"{len(found)} of {pods} pods are steered in the kernel's map")
    return restarts


def _objects(pods: int, policies: int) -> list[Change]:
    """In the order in which a source has them."""
    changes = [
        *beginnings([policy(number, networks(number)) for number in range(policies)]),
        Upsert(namespace()),
        *(Upsert(pod(number, group(number % policies))) for number in range(pods)),
    ]
    return [*changes, Synced()]


async def _serve_anew(
    kernel: Kernel, folder: Path, objects: Sequence[Change], policies: int, restarts: Restarts
) -> None:
    agent = ServingAgent(folder, maps=kernel.maps, nftables=Nftables())
    agent.meet(_MEMBERS)
    place_floating_ips(agent, policies, _MEMBERS)
    with LoopSteps() as steps:
        async with agent.serving():
            # What a start does before any object has come.
            await asyncio.sleep(0.05)
            steps.begin()
            began_ns, computed_ns = time.perf_counter_ns(), time.process_time_ns()
            await agent.tell_all(objects)
            await agent.until_calm()
            restarts.computed.append((time.process_time_ns() - computed_ns) / 1e6)
            restarts.steps.append(steps.longest)
    _note(kernel, began_ns, restarts)


def _note(kernel: Kernel, began_ns: int, restarts: Restarts) -> None:
    found = histories(kernel.selected.written).values()
    restarts.written.append((max(rows[0].since_ns for rows in found) - began_ns) / 1e6)
    restarts.steered.append((max(rows[-1].since_ns for rows in found) - began_ns) / 1e6)
