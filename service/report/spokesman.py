"""Answers for the statuses: a leader renews their validity, and any controller that lives ends it (rules V1 to V4)."""

import asyncio
import logging
from collections.abc import Callable

from service.model.validity import Loss, Validity, WrittenStatus
from service.report.unknown import is_unknown, unknown_status
from service.report.validity import ValidityView
from service.sources.source import StatusSink
from service.sources.timestamp import timestamp_from_ns

_log = logging.getLogger(__name__)


class Spokesman:
    """One controller's. `clock` is CLOCK_BOOTTIME, `wall_clock` Unix time, both in nanoseconds."""

    def __init__(
        self, name: str, source: StatusSink, *, clock: Callable[[], int], wall_clock: Callable[[], int]
    ) -> None:
        self._source = source
        self._clock = clock
        self._wall_clock = wall_clock
        self._view = ValidityView(name)
        self._renewing = asyncio.Lock()
        """Statuses are written several at once."""
        self._term: int | None = None
        """For which it was asked to answer last; None once it was asked to doubt since."""

    @property
    def loss(self) -> Loss | None:
        """Why the statuses are unknown, as they were seen last; None while a leader answers for them."""
        return self._view.seen.loss if self._view.seen is not None else None

    async def answer(self, term: int) -> bool:
        """Renew as leader of `term`, if it is time; before anything is written. Raises TransientError.

        It is time at once in a new term: a witness would go on to doubt what is written now, and who is seen to answer
        would not be who leads. Returns whether another one has answered since this leader did last: then every status
        is due anew (V4).
        """
        async with self._renewing:
            if term != self._term:
                self._term = term
                self._view.hurry()
            return self._view.is_due(now_ns=self._clock()) and await self._answer(term)

    async def _answer(self, term: int) -> bool:
        is_own = self._view.is_own(term)
        if not is_own:
            await self._look()
        wall = f"{timestamp_from_ns(self._wall_clock())[:19]}Z"
        claim = self._view.claim_as_leader(term, wall=wall, now_ns=self._clock())
        if claim is None:
            return False
        if not await self._renew(claim):
            # It is read anew in the next turn; whoever changed it is waited for no longer.
            await self._look()
            self._view.hurry()
            return False
        return not is_own

    async def doubt(self, loss: Loss) -> tuple[Validity | None, tuple[WrittenStatus, ...]]:
        """Look, if it is time, whether someone answers; if nobody does, answer with `loss`. Raises TransientError.

        Returns that answer and what is to be replaced under it, each only if it is still as it is returned here: it was
        read before the answer was given, so a leader that comes back in between has the last word (V3).
        """
        self._term = None
        if not self._view.is_due(now_ns=self._clock()):
            return None, ()
        await self._look()
        claim = self._view.claim_as_witness(loss, now_ns=self._clock())
        if claim is None:
            return None, ()
        statuses = await self._source.written_statuses()
        is_news = self.loss != claim.loss
        if not await self._renew(claim):
            return None, ()
        if is_news:
            _log.error("the status of every object is unknown: %s", loss.message)
        return claim, tuple(
            WrittenStatus(found.key, unknown_status(found.key.kind, found.status, claim), found.version)
            for found in statuses
            if not is_unknown(found.status, claim)
        )

    async def _look(self) -> None:
        self._view.note(await self._source.read_validity(), now_ns=self._clock())

    async def _renew(self, claim: Validity) -> bool:
        written = await self._source.renew_validity(claim, self._view.seen)
        if written is None:
            return False
        if self.loss is not None and claim.loss is None:
            _log.info("status is known again")
        self._view.note(written, now_ns=self._clock())
        return True
