"""A driven agent that runs by itself, as a whole one does: in tasks, woken by what changes, with the pauses between.

Its tasks are the product's: turns, worker pool, clearing of connection tracking, the search for devices, and whoever
wakes a turn when rows are written. It needs what an agent needs for them: root, and a network namespace that may be its
own. Left out are its peers and its keeper, and all that links and devices take: each device is found as soon as it is
looked for, and nothing is attached to it.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from loadtest.driven_agent import DrivenAgent
from service.model.errors import TransientError
from service.model.objects import Change

_BATCH = 200
"""Changes that the source of a cluster tells at once (`service/sources/kubernetes/reflector.py`)."""
_QUEUE_MAX = 64
"""Batches between source and agent, as there."""
_REFRESH_S = 1.0
_LOOK_S = 0.01
_CALM_S = 0.2
"""For so long there must have been nothing to do: longer than nft takes for a few pods."""


def keep_heap() -> None:
    """What exists by now is for ever, and full garbage collections pass it over: so a source has it after its list."""
    gc.collect(1)
    gc.freeze()


class ServingAgent(DrivenAgent):
    """`tell` it of objects while it is `serving`."""

    _told: asyncio.Queue[tuple[Change, ...]]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run its tasks. Raises on the way out what one of them raised, which ended it."""
        self._told = asyncio.Queue(_QUEUE_MAX)
        runs: tuple[Callable[[], Awaitable[None]], ...] = (
            self.datapath.pool.run,
            self._read_objects,
            self.turn.run,
            self.upkeep.clear_connections,
            self.upkeep.follow_rows,
            self.upkeep.find_devices,
            self._refresh,
        )
        async with self.datapath.conntrack:
            tasks = [asyncio.ensure_future(run()) for run in runs]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                for end in ends:
                    # Whoever waited for this task has failed too, and less clearly.
                    if isinstance(end, Exception):
                        raise end

    async def tell(self, changes: Iterable[Change]) -> None:
        """One batch of a source's. Waits where the agent is behind with many."""
        await self._told.put(tuple(changes))

    async def tell_all(self, changes: Sequence[Change]) -> None:
        """Everything that there is, in batches, as the first list of an API server's."""
        for start in range(0, len(changes), _BATCH):
            await self.tell(changes[start : start + _BATCH])
            keep_heap()

    async def until_calm(self, *, timeout_s: float = 120.0) -> None:
        """Wait until nothing was left to do for a moment. Raises TransientError where there always is."""
        deadline_s = time.monotonic() + timeout_s
        calm_since_s: float | None = None
        while calm_since_s is None or time.monotonic() - calm_since_s < _CALM_S:
            if time.monotonic() > deadline_s:
                raise TransientError(f"the agent was not done in {timeout_s:g} s")
            await asyncio.sleep(_LOOK_S)
            if not self._is_calm():
                calm_since_s = None
            elif calm_since_s is None:
                calm_since_s = time.monotonic()

    def _is_calm(self) -> bool:
        """All that was told is taken, each pod is steered as it is selected, and the maps are as was wished for."""
        steering, selections = self.reconciler.steering, self.reconciler.local_selections()
        return (
            self._told.empty()
            and not self.dirty.is_set()
            and steering.is_settled
            and self.are_maps_settled
            and not self.reconciler.pods_without_device()
            # A selection is taken over as it is, so it is the same object. Last: it is a look at every pod.
            and all(steering.wanted(pod_ip) is selections.get(pod_ip) for pod_ip in self.reconciler.local_pods())
        )

    async def _read_objects(self) -> None:
        while True:
            self.take(await self._told.get())
            self.dirty.set()
            # As a source does between two batches.
            await asyncio.sleep(0)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            self.dirty.set()
