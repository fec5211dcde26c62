"""A controller's part in who the electors are: it knows the electorate, and with `electors: auto` makes and changes it.

Any controller may begin the object; only the leader changes it, since a majority that can elect a leader can also take
the step. What keepers have on disk is newer than an object that was deleted or set back: it is written again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from service.electorate.book import ElectorateBook
from service.electorate.store import ElectorateObject, ElectorateStore, open_electorate
from service.host import clock
from service.lease.electorate import Candidate
from service.lease.registrar import DOWN_NS, Registrar
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.lease import Electorate
from service.settings import Settings
from service.sources.kubernetes.api_server import ApiError
from service.wire.cluster_view import ClusterView
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_PERIOD_S = 0.5
_SETTLE_NS = 10_000_000_000
"""The same agents for so long: then the first electorate is chosen among them (M5)."""


class ElectorateOffice:
    """Owns the registrar; `adopted` gets every newer electorate."""

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        socket: SealedSocket,
        *,
        adopted: Callable[[Electorate], None],
        is_leading: Callable[[], bool],
        settle_ns: int = _SETTLE_NS,
        down_ns: int = DOWN_NS,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._socket = socket
        self._adopted = adopted
        self._is_leading = is_leading
        self._settle_ns = settle_ns
        self.book = ElectorateBook(settings.electorate, adopted=self._adopt)
        self.registrar = Registrar(lease_port=settings.ports.lease, now_ns=clock.boot_ns(), down_ns=down_ns)
        self.pump = MachinePump(self.registrar, clock=clock.boot_ns, send=socket.send, handle=self._handle)
        self._store: ElectorateStore | None = None
        self.registrar.set_electorate(self.book.known, in_force=False, now_ns=clock.boot_ns())

    @property
    def trouble(self) -> str:
        """Why what the object says is not in force here; empty where it is."""
        return self.book.trouble or (self._store.trouble if self._store is not None else "")

    def standing(self) -> dict[str, Any]:
        """For status: whether the epoch is in force, and what keepers said of themselves lately."""
        keepers = {
            name: {"epoch": one.epoch, "elector": one.elector, "voting": one.voting, "settled": one.settled}
            for name, one in self.registrar.known().items()
        }
        return {"inForce": self.registrar.is_in_force, "keepers": keepers}

    async def run(self) -> None:
        """Ask keepers, follow the object and change it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pump.run(), name="registrar")
            if self._settings.electors == "auto":
                group.create_task(self._keep_object(), name="electorate")

    def _adopt(self, electorate: Electorate) -> None:
        self.registrar.set_electorate(electorate, in_force=False, now_ns=clock.boot_ns())
        self.pump.wake()
        self._adopted(electorate)

    def _handle(self, output: object) -> None:
        if isinstance(output, Electorate):
            self.book.offer(output, origin="a keeper")

    def _take_object(self, found: ElectorateObject | None) -> None:
        if found is not None and self.book.offer(found.electorate, origin="the electorate object"):
            self.registrar.set_electorate(found.electorate, in_force=found.in_force, now_ns=clock.boot_ns())

    async def _keep_object(self) -> None:
        async with open_electorate(self._settings.namespace, changed=self._take_object) as store:
            self._store = store
            while True:
                await asyncio.sleep(_PERIOD_S)
                self.registrar.set_candidates(self._candidates(), now_ns=clock.boot_ns())
                if store.is_read and not store.trouble:
                    await self._write(store)

    async def _write(self, store: ElectorateStore) -> None:
        try:
            await self._write_next(store)
        except ApiError as error:
            # 409: somebody else was first. Without an answer it may have been made: the watch tells.
            _log.warning("electorate object: %s", error)

    async def _write_next(self, store: ElectorateStore) -> None:
        current, known = store.current, self.book.known
        proposal = self.registrar.proposal(unchanged_ns=self._settle_ns)
        if current is None:
            first = known if known.epoch else proposal
            if first is not None:
                await store.create(first)
                _log.info("electorate object made: %s", _described(first))
        elif current.electorate.epoch < known.epoch:
            await store.swap(current, known, in_force=False)
            _log.warning("electorate object was behind what keepers know; now %s", _described(known))
        elif not self._is_leading() or current.electorate != known:
            return
        elif proposal is not None:
            await store.swap(current, proposal, in_force=False)
            _log.info("electorate changed: %s", _described(proposal))
        elif self.registrar.is_in_force and not current.in_force:
            await store.swap(current, known, in_force=True)

    def _candidates(self) -> dict[str, Candidate]:
        members = self._cluster.members()
        return {
            node.name: Candidate(node.name, members[node.name][0].address.host, node.role is NodeRole.CONTROL_PLANE)
            for node in self._cluster.gateway_nodes()
            if _is_there(node) and node.name in members
        }


def _is_there(node: GatewayNode) -> bool:
    return node.state is NodeState.UP


def _described(electorate: Electorate) -> str:
    return f"epoch {electorate.epoch}, {', '.join(member.name for member in electorate.members)}"
