"""Row `label-flip`: a label of a namespace that makes 10,000 pods of 40 nodes selected, and takes it back.

One agent with its share of them, which runs by itself (`serving_agent`), on real maps and with the real nft. The other
nodes' pods are known to it as far as objects go, as by a folder of manifests; so it looks at all of them, as no agent
does that asks an API server for the pods of its node. All nodes do the same at the same time, so what one of them takes
is what all take.

From the namespace's object until the kernel's map has the last row as it is to be: selected, until each pod's rows
steer it; taken back, until none does. In between connection tracking is searched (there is nothing in it). Programs on
devices are not part of it: the pods have been there before.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loadtest.driven_objects import NAMESPACE, beginnings, namespace, networks, place_floating_ips, pod, policy
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import Curve, curve_of, sizes_up_to
from loadtest.scale.kernel import Kernel, own_folder, own_kernel
from loadtest.scale.loop_steps import LoopSteps, Step, middle, stand_still
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.selected_rows import steered_pods
from loadtest.serving_agent import ServingAgent, keep_heap
from loadtest.statistics import median
from service.datapath.map_size import RowRoom
from service.model.errors import TransientError
from service.model.objects import Change, LabelSelector, Namespace, Synced, Upsert
from service.network.nftables import Nftables

_LABEL = "egress"
SELECTED, BARE = namespace(NAMESPACE, **{_LABEL: "on"}), namespace(NAMESPACE)
_FLIPPED = "pods that it flips"


@dataclass(slots=True)
class Flips:
    """One value for each flip of one kind, at one size."""

    took_ms: list[float] = field(default_factory=list)
    """Until the last row."""
    steps: list[Step] = field(default_factory=list)
    """The longest of each."""


Kinds = dict[str, Flips]
"""By what becomes of the pods."""


def measure_label_flip(options: ScaleOptions, report: Report) -> Row:
    """At an eighth of the pods and up to all of them, on as many nodes always."""
    sizes = options.sizes
    measured: dict[int, Kinds] = {}
    for count in sizes_up_to(sizes.flipped_pods):
        here = max(1, count // sizes.flipped_nodes)
        report(f"{count} pods, {here} of them here")
        with own_kernel(f"{options.name}-flip", RowRoom(pods=4 * here)) as kernel, own_folder() as folder:
            measured[count] = kernel.run(partial(_flip_often, kernel, folder, sizes, count, options.repeats))
    return _row(sizes, measured)


def _row(sizes: ScaleSizes, measured: dict[int, Kinds]) -> Row:
    pods = f"{sizes.flipped_pods:,} pods on {sizes.flipped_nodes} nodes"
    figures: list[Figure] = []
    curves: list[Curve] = []
    for kind, largest in measured[sizes.flipped_pods].items():
        what = f"{pods} are {kind}"
        figures.append(Figure(f"{what}: label to last row", median(largest.took_ms) / 1000, "s", 3, at_most(1)))
        figures.append(stand_still(what, middle(largest.steps)))
        took = {count: median(kinds[kind].took_ms) for count, kinds in measured.items()}
        stood = {count: middle(kinds[kind].steps).took_ms for count, kinds in measured.items()}
        curves.append(curve_of(f"{kind}: label to last row", _FLIPPED, took))
        curves.append(curve_of(f"{kind}: longest step", _FLIPPED, stood))
    detail = {
        "curves": [curve.document() for curve in curves],
        "sizes": {
            count: {kind: _document(flips) for kind, flips in kinds.items()} for count, kinds in measured.items()
        },
    }
    return Row("label-flip", figures, detail)


def _document(flips: Flips) -> dict[str, object]:
    return {"took_ms": flips.took_ms, "longest_steps": [step.document() for step in flips.steps]}


async def _flip_often(kernel: Kernel, folder: Path, sizes: ScaleSizes, count: int, repeats: int) -> Kinds:
    agent = ServingAgent(folder, maps=kernel.maps, nftables=Nftables())
    agent.meet(sizes.flipped_nodes)
    place_floating_ips(agent, sizes.policies, sizes.flipped_nodes)
    agent.take(_objects(sizes, count))
    keep_heap()
    here = len(agent.reconciler.local_pods())
    selected, taken_back = Flips(), Flips()
    with LoopSteps() as steps:
        async with agent.serving():
            await agent.until_calm()
            for _ in range(repeats):
                for flips, told, steered in ((selected, SELECTED, here), (taken_back, BARE, 0)):
                    steps.begin()
                    flips.took_ms.append(await _flip(agent, kernel, told))
                    flips.steps.append(steps.longest)
                    _expect(kernel, steered)
    return {"selected": selected, "taken back": taken_back}


async def _flip(agent: ServingAgent, kernel: Kernel, told: Namespace) -> float:
    """In ms."""
    began_ns = time.perf_counter_ns()
    await agent.tell([Upsert(told)])
    await agent.until_calm()
    return (kernel.selected.written[-1][0] - began_ns) / 1e6


def _expect(kernel: Kernel, steered: int) -> None:
    found = len(steered_pods(kernel.selected.items()))
    if found != steered:
        raise TransientError(f"{found} pods are steered in the kernel's map, and not {steered}")


def _objects(sizes: ScaleSizes, count: int) -> list[Change]:
    """A policy for the namespace's label, others for pods that are nowhere, and each node's share of the pods."""
    by_label = policy(0, networks(0), namespaces=LabelSelector(((_LABEL, "on"),)))
    others = [policy(number, networks(number)) for number in range(1, sizes.policies)]
    return [*beginnings([by_label, *others]), Upsert(BARE), *_pods(sizes, count), Synced()]


def _pods(sizes: ScaleSizes, count: int) -> Iterator[Change]:
    for number in range(count):
        yield Upsert(pod(number, "none", f"node-{number % sizes.flipped_nodes:04}"))
