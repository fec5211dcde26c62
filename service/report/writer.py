"""The leader's reports: status beside the objects, and Events. A task of its own; nothing else waits for it."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any

from service.host import clock
from service.model.errors import TransientError
from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey
from service.report.events import EventRecorder
from service.report.moves import MoveLog
from service.report.objects import object_problems, object_status
from service.sources.source import Source

if TYPE_CHECKING:
    from service.controller.controller import Controller

_log = logging.getLogger(__name__)

_PERIOD_S = 0.2
_OBSERVE_S = 0.1
_RETRY_S = 0.5
_PARALLEL = 8
"""Requests under way at once."""
_NODE_GONE_NS = 5_000_000_000
"""How long a node must have been removed before its object goes: a Node object may be made anew at once."""


class StatusWriter:
    """Writes what differs from what it last wrote; coalesces what changes meanwhile."""

    def __init__(self, controller: "Controller") -> None:
        self._controller = controller
        self._recorder = EventRecorder()
        self._written: dict[ObjectKey, dict[str, Any]] = {}
        self._missing_ns: dict[ObjectKey, int] = {}
        self._moves = MoveLog(controller)
        self._trouble = ""
        self._attempt_failed = False

    async def run(self, source: Source) -> None:
        """Report for as long as this controller leads; watch in any case, so that a new leader knows the last moves."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._observe_for_ever(source), name="observe moves")
            group.create_task(self._report_for_ever(source), name="report")

    async def _observe_for_ever(self, source: Source) -> None:
        while True:
            await asyncio.sleep(_OBSERVE_S)
            self._moves.observe(clock.boot_ns(), is_source_heard=not source.state().trouble)

    async def _report_for_ever(self, source: Source) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            term = self._controller.term
            if term is None or not self._controller.is_settled():
                self._written.clear()
                self._missing_ns.clear()
                self._recorder.forget()
                self._moves.recall()
                continue
            self._collect(clock.boot_ns())
            if not await self._report(source, term):
                await asyncio.sleep(_RETRY_S)

    def _collect(self, now_ns: int) -> None:
        self._recorder.hold(object_problems(self._controller), now_ns=now_ns)
        for event in self._moves.take():
            self._recorder.occur(event)

    async def _report(self, source: Source, term: int) -> bool:
        """Do what is due now; say whether all of it was done."""
        self._attempt_failed = False
        await self._attempt(source.mirror_gateway())
        statuses = object_status(self._controller)
        for key in self._gone(statuses, source.recorded_nodes(), clock.boot_ns()):
            # A new policy of that name must not inherit the old one's age.
            if await self._attempt(source.delete_status(key)):
                self._written.pop(key, None)
        changed = [key for key, status in statuses.items() if self._written.get(key) != status]
        await self._each(self._write(source, key, statuses[key], term) for key in changed)
        await self._each(self._post(source, event) for event in self._recorder.due(now_ns=clock.boot_ns()))
        if not self._attempt_failed and self._trouble:
            _log.info("status is written again")
            self._trouble = ""
        return not self._attempt_failed

    def _gone(
        self, statuses: dict[ObjectKey, dict[str, Any]], recorded: Iterable[ObjectKey], now_ns: int
    ) -> list[ObjectKey]:
        """What is gone and still has a status; `recorded` are nodes that an earlier leader may have left behind."""
        removed = [key for key in recorded if self._controller.intake.inventory.is_removed(key.name)]
        known = dict.fromkeys((*self._written, *removed))
        self._missing_ns = {key: self._missing_ns.get(key, now_ns) for key in known if key not in statuses}
        return [
            key
            for key, since_ns in self._missing_ns.items()
            if key.kind is not Kind.NODE or now_ns - since_ns > _NODE_GONE_NS
        ]

    async def _write(self, source: Source, key: ObjectKey, status: dict[str, Any], term: int) -> None:
        created = self._controller.created(key)
        if await self._attempt(source.write_status(key, status, created=created, term=term)):
            self._written[key] = status

    async def _post(self, source: Source, event: ObjectEvent) -> None:
        if await self._attempt(source.post_event(event)):
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
