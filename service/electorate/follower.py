"""The agent's part in who the electors are: it reads the electorate object, tells its keeper, and asks for it.

The keeper has what it was told on disk and asks its like; so an API server that is away costs nothing here. Only where
one of two electors has lost the other does the keeper need it, to go on alone (leases.md, Two nodes).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.model.keeper_message import ElectorateRecord, LeaseReport
from service.settings import Settings

if TYPE_CHECKING:
    from service.electorate.store import ElectorateObject, ElectorateStore

_log = logging.getLogger(__name__)

_SWAP_S = 1.0
"""How long one attempt may take. The keeper's reports ask for the next."""


class ElectorateFollower:
    """`record` is what the object says; `changed` gets it when it changes."""

    def __init__(self, settings: Settings, *, changed: Callable[[ElectorateRecord | None], None]) -> None:
        self._settings = settings
        self._changed = changed
        self.record: ElectorateRecord | None = None
        self._report: LeaseReport | None = None
        self._asked = asyncio.Event()

    def hear(self, report: LeaseReport) -> None:
        """The newest report of the keeper, which may ask for a change; each that does is worth one attempt."""
        self._report = report
        if report.wanted is not None:
            self._asked.set()

    async def run(self) -> None:
        """Follow the object until cancelled; only with `electors: auto` is there one."""
        if self._settings.electors != "auto":
            return
        # Lazily: hosts without Kubernetes do without its client.
        from service.electorate.store import open_electorate

        async with open_electorate(self._settings.namespace, changed=self._take) as store:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self._swap(store)

    def _take(self, found: "ElectorateObject | None") -> None:
        self.record = ElectorateRecord.of(found.electorate, begun_anew=found.begun_anew) if found is not None else None
        self._changed(self.record)

    async def _swap(self, store: "ElectorateStore") -> None:
        """Try once. Whatever the outcome is, the keeper hears only what the object is then seen to say."""
        from service.sources.kubernetes.api_server import ApiError

        report = self._report
        if report is None or report.wanted is None or report.electorate is None:
            return
        before, following = report.electorate.electorate, report.wanted.electorate
        try:
            async with asyncio.timeout(_SWAP_S):
                read = store.current
                if read is not None and (read.electorate.epoch, read.electorate.members) == (
                    before.epoch,
                    before.members,
                ):
                    await store.swap(read, following, in_force=False)
                    _log.warning("this node is the only elector from epoch %d on", following.epoch)
                else:
                    await store.read()
                return
        except (ApiError, TimeoutError, ValueError) as error:
            # 409: the other was first, or a controller. Without an answer it may have been made, or may yet be.
            _log.warning("electorate object: %s", str(error) or "no answer in time")
        await self._read_again(store)

    async def _read_again(self, store: "ElectorateStore") -> None:
        from service.sources.kubernetes.api_server import ApiError

        try:
            async with asyncio.timeout(_SWAP_S):
                await store.read()
        except (ApiError, TimeoutError, ValueError) as error:
            _log.warning("electorate object: %s", str(error) or "no answer in time")
