"""The leader's reports: status beside the objects, and Events. A task of its own; nothing else waits for it.

Each turn starts from new facts, so what changes several times while the API server is slow or away is written once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from service.model.errors import TransientError
from service.model.object_event import ObjectEvent
from service.model.objects import ObjectKey
from service.report.events import EventRecorder
from service.report.facts import Facts, Sightings
from service.report.ledger import Status, StatusLedger
from service.report.moves import MoveLog
from service.report.objects import object_problems, object_status
from service.sources.source import Source

_log = logging.getLogger(__name__)

_PERIOD_S = 0.2
_OBSERVE_S = 0.1
_RETRY_S = 0.5
_PARALLEL = 8
"""Requests under way at once."""


class StatusWriter:
    """Writes what differs from what it last wrote.

    `facts` is None while this process does not lead or knows too little; `sightings` may be asked always. Neither may
    block. `clock` is CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        source: Source,
        *,
        facts: Callable[[], Facts | None],
        sightings: Callable[[], Sightings],
        clock: Callable[[], int],
    ) -> None:
        self._source = source
        self._facts = facts
        self._sightings = sightings
        self._clock = clock
        self._recorder = EventRecorder()
        self._ledger = StatusLedger()
        self._moves = MoveLog()
        self._trouble = ""
        self._attempt_failed = False

    async def run(self) -> None:
        """Report for as long as this controller leads; watch in any case, so that a new leader knows the last moves."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._observe_for_ever(), name="observe moves")
            group.create_task(self._report_for_ever(), name="report")

    async def _observe_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_OBSERVE_S)
            self._observe()

    async def _report_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            if not await self._report():
                await asyncio.sleep(_RETRY_S)

    def _observe(self) -> None:
        """Look once for floating IPs that have moved."""
        is_heard = not self._source.state().trouble
        self._moves.observe(self._sightings(), now_ns=self._clock(), is_source_heard=is_heard)

    async def _report(self) -> bool:
        """Do what is due now; say whether all of it was done."""
        facts = self._facts()
        if facts is None:
            self._forget()
            return True
        self._collect(facts)
        self._attempt_failed = False
        await self._attempt(self._source.mirror_gateway())
        # Anew: the API server may have taken its time.
        if (facts := self._facts()) is not None:
            await self._write_all(facts)
            await self._each(self._post(event) for event in self._recorder.due(now_ns=self._clock()))
        if not self._attempt_failed and self._trouble:
            _log.info("status is written again")
            self._trouble = ""
        return not self._attempt_failed

    def _forget(self) -> None:
        self._ledger.forget()
        self._recorder.forget()
        self._moves.recall()

    def _collect(self, facts: Facts) -> None:
        self._recorder.hold(object_problems(facts), now_ns=self._clock())
        for event in self._moves.take():
            self._recorder.occur(event)

    async def _write_all(self, facts: Facts) -> None:
        statuses = object_status(facts)
        removed = [key for key in self._source.recorded_nodes() if facts.is_removed(key.name)]
        for key in self._ledger.gone(statuses, removed, now_ns=self._clock()):
            if await self._attempt(self._source.delete_status(key)):
                self._ledger.deleted(key)
        await self._each(self._write(key, statuses[key], facts) for key in self._ledger.changed(statuses))

    async def _write(self, key: ObjectKey, status: Status, facts: Facts) -> None:
        created = facts.created.get(key, "")
        if await self._attempt(self._source.write_status(key, status, created=created, term=facts.term)):
            self._ledger.wrote(key, status)

    async def _post(self, event: ObjectEvent) -> None:
        if await self._attempt(self._source.post_event(event)):
            self._moves.tell(event)
        else:
            self._recorder.put_back(event)

    async def _each(self, works: Iterable[Awaitable[None]]) -> None:
        waiting = asyncio.Semaphore(_PARALLEL)

        async def one(work: Awaitable[None]) -> None:
            async with waiting:
                await work

        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(one(work))

    async def _attempt(self, work: Awaitable[None]) -> bool:
        try:
            await work
        except TransientError as error:
            self._attempt_failed = True
            if str(error) != self._trouble:
                self._trouble = str(error)
                _log.warning("status: %s", error)
            return False
        return True
