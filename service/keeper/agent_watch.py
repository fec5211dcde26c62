"""The agent's words, and its silence: heartbeats as they come, and what follows when none comes (S3, S6)."""

import asyncio
from collections.abc import Callable

from service.keeper.claims import HolderClaims
from service.keeper.farewell import Farewell
from service.keeper.written_electorate import WrittenElectorate
from service.model.keeper_message import Heartbeat

_CHECK_PERIOD_S = 0.1
_REPORT_PERIOD_S = 0.2


class AgentWatch:
    """`attend` is called whenever claims were looked at anew; `report` each period.

    Two tasks, `run` and `report`: what goes wrong with the claims must not silence this keeper, too.
    """

    def __init__(
        self,
        written: WrittenElectorate,
        claims: HolderClaims,
        farewell: Farewell,
        *,
        attend: Callable[[], None],
        report: Callable[[], None],
    ) -> None:
        self._written = written
        self._claims = claims
        self._farewell = farewell
        self._attend = attend
        self._report = report

    def take(self, heartbeat: Heartbeat) -> None:
        """One heartbeat. While this keeper leaves nothing is heard: to claim anew would keep it from the successor."""
        if self._farewell.is_leaving:
            return
        if heartbeat.electorate is not None:
            self._written.take(heartbeat.electorate)
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
