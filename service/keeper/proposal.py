"""The electorate that an operator has configured: it follows the present one once that is in force (M2)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from service.electorate.book import ElectorateBook
from service.lease.electorate import check_successor
from service.lease.registrar import Registrar
from service.model.errors import OperatorError
from service.model.lease import Electorate
from service.model.machine import Address
from service.wire.pump import MachinePump

_CHECK_PERIOD_S = 0.1


class ConfiguredElectorate:
    """Owns the registrar and its pump, which runs only while there is something to propose."""

    def __init__(
        self,
        configured: Electorate,
        book: ElectorateBook,
        *,
        lease_port: int,
        send: Callable[[Address, bytes], None],
        clock: Callable[[], int],
    ) -> None:
        self._configured = configured
        self._book = book
        self._clock = clock
        self._registrar = Registrar(lease_port=lease_port, now_ns=clock())
        self.pump = MachinePump(self._registrar, clock=clock, send=send, handle=self._take_newer)

    async def propose(self) -> None:
        """Offer the configured electorate to the book, or say there why not; returns when nothing is left to do."""
        configured, known = self._configured, self._book.known
        try:
            check_successor(known, configured)
        except OperatorError as error:
            self._book.refuse(str(error))
            return
        if configured.epoch == known.epoch:
            return
        self._registrar.set_electorate(known, now_ns=self._clock())
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self.pump.run(), name="registrar")
            while not self._registrar.is_in_force and self._book.known == known:  # noqa: ASYNC110 - a machine's state
                await asyncio.sleep(_CHECK_PERIOD_S)
            asking.cancel()
        if self._book.known == known:
            self._book.offer(replace(configured, previous=known.members), origin="the configuration")

    def _take_newer(self, output: object) -> None:
        if isinstance(output, Electorate):
            self._book.hear(output, origin="another keeper")
