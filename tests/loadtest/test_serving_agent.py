import os
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loadtest.driven_objects import beginnings, group, namespace, networks, pod, policy
from loadtest.scale.kernel import own_namespace, run_in_namespace
from loadtest.serving_agent import ServingAgent
from service.datapath.layout import MapName
from service.datapath.steering import Phase
from service.model.errors import TransientError
from service.model.objects import Delete, Synced, Upsert

pytestmark = pytest.mark.root


def run(main: partial[Coroutine[Any, Any, None]]) -> None:
    """Where connection tracking is nobody's."""
    with own_namespace(f"e{os.getpid() % 100000}-serving") as netns:
        run_in_namespace(netns, main)


async def serve(folder: Path) -> None:
    agent = ServingAgent(folder)
    async with agent.serving():
        await agent.tell([*beginnings([policy(0, networks(0))]), Upsert(namespace()), Synced()])
        await agent.until_calm()
        assert agent.reconciler.steering.phases() == {}
        for number in range(3):
            await agent.tell([Upsert(pod(number, group(0)))])
        await agent.until_calm()
        # Nobody has taken a turn for it, found a device, or cleared anything.
        assert list(agent.reconciler.steering.phases().values()) == [Phase.STEERING] * 3
        assert len(agent.datapath.pool.wanted(MapName.SELECTED)) == 6
        assert agent.are_maps_settled


async def break_off(folder: Path) -> None:
    agent = ServingAgent(folder)

    async def fail() -> None:
        raise ValueError("a task failed")

    agent.turn.run = fail  # type: ignore[method-assign]
    async with agent.serving():
        await agent.tell([Delete(pod(0, "").key)])
        await agent.until_calm(timeout_s=0.3)


async def wait_in_vain(folder: Path) -> None:
    agent = ServingAgent(folder)
    async with agent.serving():
        # Connection tracking is never asked, so these pods are never steered.
        agent.upkeep.clearing_wanted.set = lambda: None  # type: ignore[method-assign]
        changes = [*beginnings([policy(0, networks(0))]), Upsert(namespace()), Upsert(pod(0, group(0))), Synced()]
        await agent.tell(changes)
        await agent.until_calm(timeout_s=0.5)


def test_what_it_is_told_it_serves_by_itself(tmp_path: Path) -> None:
    run(partial(serve, tmp_path))


def test_a_task_that_fails_is_told_and_not_waited_for_in_vain(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a task failed"):
        run(partial(break_off, tmp_path))


def test_an_agent_that_is_never_done_is_no_calm_one(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="the agent was not done"):
        run(partial(wait_in_vain, tmp_path))
