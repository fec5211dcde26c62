"""A controller's part in who the electors are: it knows the electorate, and with `electors: auto` makes and changes it.

Any controller may begin the object; only the leader changes it, since a majority that can elect a leader can also take
the step. What keepers have on disk is newer than an object that was deleted or set back: it is written again.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.electorate.book import ElectorateBook
from service.electorate.store import ElectorateObject, ElectorateStore, open_electorate
from service.gateway.row import MemberMetadata
from service.gossip.member import Member
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
_UNCHANGED_NS = 10_000_000_000
"""The same agents for so long: then the first electorate is chosen among them (M5)."""


class WriteKind(StrEnum):
    """Why the object is written; the text is what the log says, before the electorate."""

    BEGIN = "electorate object made"
    RESTORE = "electorate object was behind what keepers know; now"
    CHANGE = "electorate changed"
    CONFIRM = "electorate in force"


@dataclass(frozen=True, slots=True)
class ObjectWrite:
    """What the object is to say next; anything but BEGIN replaces the version that was read, and no other."""

    kind: WriteKind
    electorate: Electorate
    in_force: bool = False


def next_write(
    current: ElectorateObject | None,
    known: Electorate,
    proposal: Electorate | None,
    *,
    is_in_force: bool,
    is_leading: bool,
) -> ObjectWrite | None:
    """What this controller has to write now, if anything (leases.md, M2).

    `known` is the newest electorate that anybody told, `proposal` the one that should follow it. `is_in_force`: a
    majority of the members of `known` was seen to have settled in it.
    """
    if current is None:
        first = known if known.epoch else proposal
        return ObjectWrite(WriteKind.BEGIN, first) if first is not None else None
    if current.electorate.epoch < known.epoch:
        return ObjectWrite(WriteKind.RESTORE, known)
    if not is_leading or current.electorate != known:
        return None
    if proposal is not None:
        return ObjectWrite(WriteKind.CHANGE, proposal)
    if is_in_force and not current.in_force:
        return ObjectWrite(WriteKind.CONFIRM, known, in_force=True)
    return None


def candidates(
    members: Mapping[str, tuple[Member, MemberMetadata]], nodes: Iterable[GatewayNode]
) -> dict[str, Candidate]:
    """The agents that are there, as possible electors."""
    return {
        node.name: Candidate(node.name, members[node.name][0].address.host, node.role is NodeRole.CONTROL_PLANE)
        for node in nodes
        if node.state is NodeState.UP and node.name in members
    }


class ElectorateOffice:
    """Owns the registrar and the book; `adopted` gets every newer electorate, from whoever told it.

    The caller owns `socket`: it opens it, gives what comes to `pump`, but electorates to `book`. `clock` is
    CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        socket: SealedSocket,
        *,
        adopted: Callable[[Electorate], None],
        is_leading: Callable[[], bool],
        clock: Callable[[], int],
        unchanged_ns: int = _UNCHANGED_NS,
        down_ns: int = DOWN_NS,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._adopted = adopted
        self._is_leading = is_leading
        self._clock = clock
        self._unchanged_ns = unchanged_ns
        self.book = ElectorateBook(settings.electorate, adopted=self._adopt)
        self.registrar = Registrar(lease_port=settings.ports.lease, now_ns=clock(), down_ns=down_ns)
        self.pump = MachinePump(self.registrar, clock=clock, send=socket.send, handle=self._handle)
        self._store: ElectorateStore | None = None
        self.registrar.set_electorate(self.book.known, in_force=False, now_ns=clock())

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
        self.registrar.set_electorate(electorate, in_force=False, now_ns=self._clock())
        self.pump.wake()
        self._adopted(electorate)

    def _handle(self, output: object) -> None:
        if isinstance(output, Electorate):
            self.book.offer(output, origin="a keeper")

    def _take_object(self, found: ElectorateObject | None) -> None:
        if found is not None and self.book.offer(found.electorate, origin="the electorate object"):
            self.registrar.set_electorate(found.electorate, in_force=found.in_force, now_ns=self._clock())

    async def _keep_object(self) -> None:
        async with open_electorate(self._settings.namespace, changed=self._take_object) as store:
            self._store = store
            while True:
                await asyncio.sleep(_PERIOD_S)
                await self.keep(store)

    async def keep(self, store: ElectorateStore) -> None:
        """Bring the object one step further, where one is due. Does nothing until it was read and found sound."""
        found = candidates(self._cluster.members(), self._cluster.gateway_nodes())
        self.registrar.set_candidates(found, now_ns=self._clock())
        if not store.is_read or store.trouble:
            return
        write = next_write(
            store.current,
            self.book.known,
            self.registrar.proposal(unchanged_ns=self._unchanged_ns),
            is_in_force=self.registrar.is_in_force,
            is_leading=self._is_leading(),
        )
        if write is None:
            return
        try:
            await _perform(write, store)
        except ApiError as error:
            # 409: somebody else was first. Without an answer it may have been made: the watch tells.
            _log.warning("electorate object: %s", error)


async def _perform(write: ObjectWrite, store: ElectorateStore) -> None:
    if store.current is None:
        await store.create(write.electorate)
    else:
        await store.swap(store.current, write.electorate, in_force=write.in_force)
    names = ", ".join(member.name for member in write.electorate.members)
    level = {WriteKind.RESTORE: logging.WARNING, WriteKind.CONFIRM: logging.DEBUG}.get(write.kind, logging.INFO)
    _log.log(level, "%s: epoch %d, %s", write.kind, write.electorate.epoch, names)
