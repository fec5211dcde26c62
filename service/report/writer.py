"""The leader's reports: status beside the objects, and Events. A task of its own; nothing else waits for it.

Each turn starts from new facts, so what changes several times while the API server is slow or away is written once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields
from typing import Any

from service.model.errors import TransientError
from service.model.kept import Kept
from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey
from service.model.validity import Loss, WrittenStatus
from service.report.events import EventRecorder
from service.report.facts import Facts, Sightings
from service.report.ledger import Status, StatusLedger
from service.report.moves import MoveLog
from service.report.notices import MoveNotices
from service.report.objects import GATEWAY, object_problems, object_status
from service.report.spokesman import Spokesman
from service.sources.source import Source
from service.sources.timestamp import timestamp_from_ns

_log = logging.getLogger(__name__)

_PERIOD_S = 0.2
_OBSERVE_S = 0.1
_RETRY_S = 0.5
_PARALLEL = 8
"""Requests under way at once."""
_PROMISE_NS = 60_000_000_000
"""How long a gateway's status says that it is true. Far longer than a validity lives (rule V1), and renewed at half of
it: every agent follows that object."""


class StatusWriter:
    """Writes what differs from what it last wrote.

    `name` is the controller's. `facts` is None while this process does not lead or knows too little; `loss` says then
    why nobody may know; `sightings` may be asked always. None of them may block. `clock` is CLOCK_BOOTTIME and
    `wall_clock` Unix time, both in nanoseconds.
    """

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        facts: Callable[[], Facts | None],
        loss: Callable[[], Loss],
        sightings: Callable[[], Sightings],
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
    ) -> None:
        self._source = source
        self._facts = facts
        self._loss = loss
        self._sightings = sightings
        self._clock = clock
        self._wall_clock = wall_clock
        self._spokesman = Spokesman(name, source, clock=clock, wall_clock=wall_clock)
        self._valid_until_ns = 0
        """Unix time that the gateway's status names."""
        self._recorder = EventRecorder()
        self._ledger = StatusLedger()
        self._problems = Kept[list[ObjectEvent]]()
        self._statuses = Kept[dict[ObjectKey, Status]]()
        self._moves = MoveLog()
        self._notices = MoveNotices()
        self._trouble = ""
        self._attempt_failed = False

    @property
    def events_lost(self) -> int:
        """Events given up because too many waited."""
        return self._recorder.lost

    @property
    def loss(self) -> Loss | None:
        """Why the objects say Unknown, as far as this process has seen; None while a leader answers for them."""
        return self._spokesman.loss

    def troubles(self) -> list[str]:
        """What users are not told, or are told to be unknown; empty where all is as it should be."""
        troubles = [f"status of the objects: {self._trouble}"] if self._trouble else []
        if self.loss is not None:
            troubles.append(f"the status of every object is Unknown: {self.loss.message}")
        return troubles

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
        self._attempt_failed = False
        facts = self._facts()
        if facts is None:
            self._forget()
            await self._attempt(self._doubt())
        else:
            await self._lead(facts)
        if not self._attempt_failed and self._trouble:
            _log.info("status is written again")
            self._trouble = ""
        return not self._attempt_failed

    async def _lead(self, facts: Facts) -> None:
        self._collect(facts)
        await self._attempt(self._answer(facts.term))
        await self._attempt(self._source.mirror_gateway())
        # Anew: the API server may have taken its time.
        if (current := self._facts()) is not None:
            await self._write_all(current)
            await self._each(self._post(event) for event in self._recorder.due(now_ns=self._clock()))

    async def _answer(self, term: int) -> None:
        if await self._spokesman.answer(term):
            self._ledger.rewrite()

    async def _doubt(self) -> None:
        """Say that nothing is known, where it is long since anybody knew; `loss` of now says why."""
        answer, due = await self._spokesman.doubt(self._loss())
        if answer is None or answer.loss is None:
            return
        await self._each(self._replace(status) for status in due)
        if due:
            note = f"the status of the objects is unknown: {answer.loss.message}"
            await self._source.post_event(ObjectEvent(GATEWAY, "StatusUnknown", note, "Report", True))

    async def _replace(self, status: WrittenStatus) -> None:
        await self._attempt(self._source.replace_status(status))

    def _forget(self) -> None:
        self._ledger.forget()
        self._recorder.forget()
        self._moves.recall()
        self._notices.forget()

    def _collect(self, facts: Facts) -> None:
        problems = self._problems.of(lambda: object_problems(facts), *_sources(facts))
        self._recorder.hold(problems, now_ns=self._clock())
        for event in (*self._moves.take(), *self._notices.due(facts)):
            self._recorder.occur(event)

    async def _write_all(self, facts: Facts) -> None:
        statuses = dict(self._statuses.of(lambda: object_status(facts), *_sources(facts)))
        if GATEWAY in statuses:
            statuses[GATEWAY] = statuses[GATEWAY] | {"validUntil": self._valid_until()}
        recorded = await self._source.recorded()
        if facts.refused:
            # What cannot be used is there all the same, and its status has its age.
            recorded = tuple(key for key in recorded if key.kind is Kind.NODE)
        now_ns = self._clock()
        for key in self._ledger.gone(statuses, recorded, lambda key: facts.is_removed(key.name), now_ns=now_ns):
            if await self._attempt(self._source.delete_status(key)):
                self._ledger.deleted(key)
        await self._each(self._write(key, statuses[key], facts) for key in self._ledger.changed(statuses))

    def _valid_until(self) -> str:
        left_ns = self._valid_until_ns - self._wall_clock()
        # Also where the clock has been set back: nobody must be promised a year.
        if not _PROMISE_NS // 2 < left_ns <= _PROMISE_NS:
            self._valid_until_ns = self._wall_clock() + _PROMISE_NS
        return f"{timestamp_from_ns(self._valid_until_ns)[:19]}Z"

    async def _write(self, key: ObjectKey, status: Status, facts: Facts) -> None:
        # Before each: a thousand of them may take longer than the validity lasts.
        if not self._attempt_failed:
            await self._attempt(self._answer(facts.term))
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


def _sources(facts: Facts) -> tuple[Any, ...]:
    """What statuses and problems are made of. Each renewal of a lease is news, and none to them."""
    return tuple(getattr(facts, field.name) for field in fields(facts) if field.name != "renewed_ns")
