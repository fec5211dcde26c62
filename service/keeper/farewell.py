"""A clean stop: hand over, or keep what is held for the next keeper of this node, as `lease.on_stop` says.

Both are over in half a second: a stop that waited longer would be killed, and what no elector has confirmed by then
ends by itself, at its deadline.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from service.keeper.claims import HolderClaims
from service.settings import LeaseSettings

_log = logging.getLogger(__name__)

_FAREWELL_S = 0.5
_RESEND_S = 0.005


class Farewell:
    """What a keeper does when it ends; `is_leaving` from then on."""

    def __init__(
        self, claims: HolderClaims, settings: LeaseSettings, *, report: Callable[[], None], clock: Callable[[], int]
    ) -> None:
        self._claims = claims
        self._settings = settings
        self._report = report
        self._clock = clock
        self.is_leaving = False
        """Nothing new is claimed: what is being handed over would be kept from its successor."""

    async def say(self) -> None:
        """To be called once, when the tasks of the keeper are over and its sockets still open."""
        self.is_leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                if self._settings.on_stop == "keep":
                    await self._keep()
                else:
                    await self._hand_over()

    async def _hand_over(self) -> None:
        """Fences first, then releases, so that successors need not wait for the leases to end."""
        self._claims.give_up_all()
        self._report()
        await self._resend_until(lambda: self._claims.is_released)

    async def _keep(self) -> None:
        """One lease long enough for a restart. What no majority confirms in time just ends, and moves."""
        self._claims.prolong(self._settings.max_lease_ms * 1_000_000)
        await self._resend_until(lambda: self._claims.is_prolonged)
        for key, lease in sorted(self._claims.held().items()):
            left_s = (lease.deadline_ns - self._clock()) / 1e9
            _log.info("leaving %s to the next keeper of this node for %.1f s", key, left_s)

    async def _resend_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            await asyncio.sleep(_RESEND_S)
            self._claims.resend()
