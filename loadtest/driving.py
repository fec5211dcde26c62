"""What a turn of an agent costs its event loop, by how much there is: policies, pods of this node, members.

Measured is the work of deciding what to write and none of the kernel's: an idle turn, and how long all turns together
take until a change is in the maps, from its object on.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from loadtest.driven_agent import DrivenAgent
from loadtest.driven_objects import (
    LISTED_MAX,
    beginnings,
    group,
    location,
    namespace,
    networks,
    place_floating_ips,
    pod,
    policy,
)
from loadtest.statistics import median
from service.model.objects import Delete, EgressPolicy, Pod, Upsert

_IDLE_TURNS = 3
_UNSELECTED = 1 << 16
"""Above the numbers of all selected pods."""
CASES = (
    ("idle", "idle turn"),
    ("pod", "one more selected pod"),
    ("unselected", "one more pod"),
    ("edit", "one policy edited"),
    ("location", "one address moves"),
    ("member", "a member says something"),
)
"""What is measured, and in words."""


@dataclass(frozen=True, slots=True)
class DrivingOptions:
    """What is measured."""

    policies: tuple[int, ...] = (1, 1000, 10_000)
    pods: tuple[int, ...] = (100, 1000, 5000)
    members: int = 1000
    repeats: int = 5


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is."""

    policies: int
    pods: int


@dataclass(slots=True)
class DrivingResult:
    """In ms of the event loop: one value per repeat."""

    options: DrivingOptions
    cases: dict[Size, dict[str, list[float]]] = field(default_factory=dict)

    def summary(self) -> list[dict[str, Any]]:
        """Medians of each size."""
        return [
            {"policies": size.policies, "pods": size.pods, **{case: median(values) for case, values in cases.items()}}
            for size, cases in self.cases.items()
        ]


def sizes(options: DrivingOptions) -> list[Size]:
    """In the order in which they are measured."""
    return [Size(policies, pods) for policies in options.policies for pods in options.pods]


def measure_driving(
    options: DrivingOptions,
    report: Callable[[str], None] = lambda line: None,
    advance: Callable[[], None] = lambda: None,
) -> DrivingResult:
    """Measure each size. `advance` is called after each of them."""
    result = DrivingResult(options)
    for size in sizes(options):
        report(f"{size.policies} policies, {size.pods} pods")
        with tempfile.TemporaryDirectory(prefix="egressgw-driving-") as folder:
            result.cases[size] = asyncio.run(_measure(options, size, Path(folder)))
        advance()
    return result


async def _measure(options: DrivingOptions, size: Size, folder: Path) -> dict[str, list[float]]:
    agent = DrivenAgent(folder)
    fill(agent, size, options.members)
    cases: dict[str, list[float]] = {case: [] for case, _ in CASES}
    async with agent.running():
        await agent.settle()
        agent.learn_devices()
        await agent.settle()
        for repeat in range(options.repeats):
            cases["idle"].append(await _idle(agent))
            for case, change in _changes(agent, size, repeat).items():
                cases[case].append(await _until_done(agent, change))
            agent.take([Delete(_pod(size.pods + repeat, size, is_selected=one).key) for one in (True, False)])
            await agent.settle()
    return cases


def _changes(agent: DrivenAgent, size: Size, repeat: int) -> dict[str, Callable[[], object]]:
    one = repeat % size.policies
    return {
        "pod": lambda: _add_pod(agent, size, repeat, is_selected=True),
        "unselected": lambda: _add_pod(agent, size, repeat, is_selected=False),
        "edit": lambda: agent.take([Upsert(_policy(one, more=repeat + 1))]),
        "location": lambda: agent.hear_location(location(one, repeat + 2)),
        "member": lambda: agent.change_member(1 + repeat, 2 + repeat),
    }


async def _idle(agent: DrivenAgent) -> float:
    before = time.perf_counter_ns()
    for _ in range(_IDLE_TURNS):
        await agent.turn.take()
    return (time.perf_counter_ns() - before) / _IDLE_TURNS / 1e6


async def _until_done(agent: DrivenAgent, change: Callable[[], object]) -> float:
    before = time.perf_counter_ns()
    change()
    changed_ns = time.perf_counter_ns() - before
    spent_ns, _ = await agent.settle()
    return (changed_ns + spent_ns) / 1e6


def fill(agent: DrivenAgent, size: Size, members: int) -> None:
    """Tell it of so much."""
    agent.meet(members)
    changes = beginnings([_policy(number) for number in range(size.policies)])
    changes.append(Upsert(namespace()))
    changes += (Upsert(_pod(number, size, is_selected=True)) for number in range(size.pods))
    agent.take(changes)
    place_floating_ips(agent, min(size.policies, LISTED_MAX), members)


def _add_pod(agent: DrivenAgent, size: Size, repeat: int, *, is_selected: bool) -> None:
    agent.take([Upsert(_pod(size.pods + repeat, size, is_selected=is_selected))])
    agent.learn_devices()


def _pod(number: int, size: Size, *, is_selected: bool) -> Pod:
    return pod(number, group(number % size.policies)) if is_selected else pod(_UNSELECTED + number, "none")


def _policy(number: int, more: int = 0) -> EgressPolicy:
    further = (IPv4Network((int(IPv4Address("19.0.0.0")) + (more << 8), 24)),) if more else ()
    return policy(number, networks(number) + further)
