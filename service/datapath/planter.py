"""Plants connections that connection tracking has forgotten though their flows live, as they are heard of (rule B3)."""

import asyncio
import logging

from service.model.errors import TransientError
from service.network.connection_life import FORGOTTEN_GROUP
from service.network.conntrack import Conntrack
from service.network.packet_log import PacketLog
from service.network.planting import REPLY_BYTES, Planted, parse_reply

_log = logging.getLogger(__name__)

_SETTLE_S = 0.005
"""After a packet has been logged, until netfilter has taken it or dropped it; those that come together go together."""
_WAITING_MAX = 1024
"""What is beyond is heard of again with the next packet of its flow."""


class Planter:
    """`run` is a task of the agent."""

    def __init__(self, conntrack: Conntrack) -> None:
        self._conntrack = conntrack
        self._waiting: dict[Planted, None] = {}
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises TransientError where netfilter's log cannot be read now."""
        with PacketLog(FORGOTTEN_GROUP, REPLY_BYTES, self._hear):
            while True:
                await self._heard.wait()
                await asyncio.sleep(_SETTLE_S)
                self._heard.clear()
                batch, self._waiting = list(self._waiting), {}
                try:
                    await self._conntrack.plant(batch)
                except TransientError as error:
                    _log.warning("connections that were forgotten: %s", error)

    def _hear(self, packet: bytes) -> None:
        planted = parse_reply(packet)
        if planted is not None and len(self._waiting) < _WAITING_MAX:
            self._waiting[planted] = None
            self._heard.set()
