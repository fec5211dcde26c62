"""The agent's words, and its silence: heartbeats as they come, and what follows when none comes (S3, S6)."""

import asyncio
from collections.abc import Callable

from service.electorate.book import ElectorateBook
from service.keeper.claims import HolderClaims
from service.keeper.farewell import Farewell
from service.model.keeper_message import Heartbeat
from service.model.lease import Electorate

_CHECK_PERIOD_S = 0.1
_REPORT_PERIOD_S = 0.2


class AgentWatch:
    """`attend` is called whenever claims were looked at anew; `report` each period.

    Two tasks, `run` and `report`: what goes wrong with the claims must not silence this keeper, too.
    `may_follow`: whether the electorate that is known was in force, so that this one may follow it (M2).
    """

    def __init__(
        self,
        book: ElectorateBook,
        claims: HolderClaims,
        farewell: Farewell,
        *,
        may_follow: Callable[[Electorate], bool],
        attend: Callable[[], None],
        report: Callable[[], None],
    ) -> None:
        self._book = book
        self._claims = claims
        self._farewell = farewell
        self._may_follow = may_follow
        self._attend = attend
        self._report = report

    def take(self, heartbeat: Heartbeat) -> None:
        """One heartbeat. While this keeper leaves nothing is heard: to claim anew would keep it from the successor."""
        if self._farewell.is_leaving:
            return
        if (record := heartbeat.electorate) is not None:
            self._book.offer_written(record.electorate, begun_anew=record.begun_anew, may_follow=self._may_follow)
        self._claims.hear(heartbeat)
        self._attend()

    async def run(self) -> None:
        """Let silence count, until cancelled."""
        while True:
            self._claims.apply()
            self._attend()
            await asyncio.sleep(_CHECK_PERIOD_S)

    async def report(self) -> None:
        """Report each period, until cancelled."""
        while True:
            await asyncio.sleep(_REPORT_PERIOD_S)
            self._report()
