"""Row `events`: from an event of a pod to its rows in the kernel's map, at a steady pace, in a large cluster.

The agent runs by itself (`serving_agent`), on real maps and with the real nft; the clock on the wall counts. It knows
the pods of the whole cluster, as by a folder of manifests: of an API server it would ask for those of its node alone,
so that is the harder case. All events are of its own pods, which come, go, and pass from policy to policy in turn:

- one that comes waits until both of its rows steer it, for which connection tracking has to be searched in between,
- one that passes to another policy, until both rows are of its new rules,
- one that goes, until it has no row any more.

Not in it: the way of an event through the API server; the search for a new pod's device, which is found as soon as it
is looked for; programs on devices (`python -m loadtest datapath --only new-pod` has all of that). Policies of pods here
have other pods here: none of these events brings rules to the node that are new there.
"""

import asyncio
import os
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from loadtest.driven_agent import NODE
from loadtest.driven_objects import beginnings, group, namespace, networks, place_floating_ips, pod, policy
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most
from loadtest.scale.curve import curve_of
from loadtest.scale.kernel import Kernel, own_folder, own_kernel
from loadtest.scale.loop_steps import LoopSteps, Step, stand_still
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.selected_rows import Moment, histories, keys_of
from loadtest.serving_agent import ServingAgent, keep_heap
from loadtest.statistics import median, percentile
from service.datapath.map_size import RowRoom
from service.model.errors import TransientError
from service.model.objects import Change, Delete, Pod, Synced, Upsert
from service.network.nftables import Nftables

_MEMBERS = 40
_POLICIES_HERE = 50
"""Of all policies, as many have pods on this node."""
_FEWER = (100, 10)
"""A hundredth and a tenth of the cluster's pods are measured too, each for a third of the time."""


class What(StrEnum):
    """Happens to a pod."""

    COMES = "comes"
    PASSES = "passes to another policy"
    GOES = "goes"


class Event(NamedTuple):
    """One of them."""

    what: What
    pod_ip: IPv4Address
    at_ns: int


@dataclass(slots=True)
class Pace:
    """Of one size."""

    waits_ms: dict[What, list[float]] = field(default_factory=lambda: {what: [] for what in What})
    step: Step = field(default_factory=Step)
    """The longest."""
    resident_mib: tuple[float, float] = (0.0, 0.0)
    """Of this whole process, before and after; before is with all pods known."""
    computed: float = 0.0
    """Of one core, by all threads of this process."""

    @property
    def all_ms(self) -> list[float]:
        """Of whatever happened."""
        return [wait for waits in self.waits_ms.values() for wait in waits]


def measure_events(options: ScaleOptions, report: Report) -> Row:
    """In a cluster of a hundredth and of a tenth of the pods, and in the whole one."""
    sizes = options.sizes
    measured: dict[int, Pace] = {}
    for count in (*(max(sizes.few_pods, sizes.cluster_pods // part) for part in _FEWER), sizes.cluster_pods):
        span_s = sizes.pace_span_s / (1 if count == sizes.cluster_pods else 3)
        report(f"{count} pods in the cluster, {sizes.pace_s:g} changes a second for {span_s:.0f} s")
        with own_kernel(f"{options.name}-events", RowRoom(pods=8 * sizes.few_pods)) as kernel, own_folder() as folder:
            measured[count] = kernel.run(partial(_keep_pace, kernel, folder, sizes, count, span_s))
    return _row(sizes, measured)


def _row(sizes: ScaleSizes, measured: dict[int, Pace]) -> Row:
    title = f"{sizes.cluster_pods:,} pods, {sizes.few_pods:,} here, {sizes.pace_s:g} changes/s: event to row"
    largest = measured[sizes.cluster_pods]
    figures = [
        Figure(f"{title}, p50", percentile(largest.all_ms, 0.5), "ms", 1, at_most(20)),
        Figure(f"{title}, p99", percentile(largest.all_ms, 0.99), "ms", 1, at_most(100)),
        *(Figure(f"a pod {what}: p50", percentile(largest.waits_ms[what], 0.5), "ms", 1) for what in What),
        stand_still(f"{sizes.pace_s:g} changes/s", largest.step),
    ]
    curves = [
        curve_of(f"event to row, {name}", "pods in the cluster", _percentiles(measured, fraction))
        for name, fraction in (("p50", 0.5), ("p99", 0.99))
    ]
    detail = {
        "curves": [curve.document() for curve in curves],
        "sizes": {count: _document(pace) for count, pace in measured.items()},
    }
    return Row("events", figures, detail)


def _percentiles(measured: dict[int, Pace], fraction: float) -> dict[int, float]:
    return {count: percentile(pace.all_ms, fraction) for count, pace in measured.items()}


def _document(pace: Pace) -> dict[str, object]:
    return {
        "waits_ms": pace.waits_ms,
        "median_ms": {what: median(waits) for what, waits in pace.waits_ms.items()},
        "longest_step": pace.step.document(),
        "resident_mib": pace.resident_mib,
        "core_used": pace.computed,
    }


async def _keep_pace(kernel: Kernel, folder: Path, sizes: ScaleSizes, count: int, span_s: float) -> Pace:
    agent = ServingAgent(folder, maps=kernel.maps, nftables=Nftables())
    agent.meet(_MEMBERS)
    place_floating_ips(agent, sizes.policies, _MEMBERS)
    agent.take(_objects(sizes, count))
    keep_heap()
    pace = Pace()
    with LoopSteps() as steps:
        async with agent.serving():
            agent.dirty.set()
            await agent.until_calm()
            steps.begin()
            before_mib, began_s, computed_s = _resident_mib(), time.monotonic(), time.process_time()
            events = await _let_happen(agent, sizes, count, span_s)
            pace.computed = (time.process_time() - computed_s) / (time.monotonic() - began_s)
            await agent.until_calm()
            pace.step, pace.resident_mib = steps.longest, (before_mib, _resident_mib())
    rows = histories(kernel.selected.written)
    for event in events:
        pace.waits_ms[event.what].append(wait_ms(event, rows))
    return pace


def _objects(sizes: ScaleSizes, count: int) -> list[Change]:
    """Pods of this node first."""
    here = sizes.few_pods
    nodes = max(1, -(-count // here) - 1)
    changes = beginnings([policy(number, networks(number)) for number in range(sizes.policies)])
    changes.append(Upsert(namespace()))
    changes += (Upsert(_pod_here(sizes, number)) for number in range(here))
    changes += (
        Upsert(pod(number, group(number % sizes.policies), f"elsewhere-{number % nodes}"))
        for number in range(here, count)
    )
    return [*changes, Synced()]


def _pod_here(sizes: ScaleSizes, number: int, policies_on: int = 0) -> Pod:
    return pod(number, group((number + policies_on) % min(_POLICIES_HERE, sizes.policies)), NODE)


async def _let_happen(agent: ServingAgent, sizes: ScaleSizes, count: int, span_s: float) -> list[Event]:
    """At moments that nothing puts off."""
    loop = asyncio.get_running_loop()
    here, events, began_s = deque(range(sizes.few_pods)), list[Event](), loop.time()
    for number in range(round(sizes.pace_s * span_s)):
        await asyncio.sleep(began_s + number / sizes.pace_s - loop.time())
        what = tuple(What)[number % len(What)]
        change, changed = next_event(what, here, sizes, count + number)
        assert changed.ip is not None
        events.append(Event(what, changed.ip, time.perf_counter_ns()))
        await agent.tell([change])
    return events


def next_event(what: What, here: deque[int], sizes: ScaleSizes, fresh: int) -> tuple[Change, Pod]:
    """The oldest goes, and one in the middle passes on: of each pod there is one event at a time."""
    if what is What.COMES:
        here.append(fresh)
        come = _pod_here(sizes, fresh)
        return Upsert(come), come
    if what is What.GOES:
        gone = _pod_here(sizes, here.popleft())
        return Delete(gone.key), gone
    passed = _pod_here(sizes, here[len(here) // 2], policies_on=1)
    return Upsert(passed), passed


def wait_ms(event: Event, rows: dict[bytes, list[Moment]]) -> float:
    """Until the last of its rows was as it should be. Raises TransientError where one never was."""
    return (max(_done_ns(event, rows.get(key, [])) for key in keys_of(event.pod_ip)) - event.at_ns) / 1e6


def _done_ns(event: Event, history: list[Moment]) -> int:
    """When that row first was what it should be after the event."""
    former = next((row.steered_by for row in reversed(history) if row.since_ns < event.at_ns), None)
    for row in history:
        is_done = not row.is_there if event.what is What.GOES else row.steered_by not in (None, former)
        if row.since_ns >= event.at_ns and is_done:
            return row.since_ns
    raise TransientError(f"of {event.pod_ip}, which {event.what}, the map was never told")


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
