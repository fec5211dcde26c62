"""A controller's part in who the electors are: it knows the electorate, and with `electors: auto` makes and changes it.

Any controller may begin the object; only the leader changes it, since a majority that can elect a leader can also take
the step. An object that was deleted, set back or edited is written anew by what keepers have on disk (leases.md, M8).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.electorate.book import OBJECT, ElectorateBook
from service.electorate.refusal import Refusal
from service.electorate.store import OBJECT_NAME, ElectorateObject, ElectorateStore, open_electorate
from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.lease.electorate import Candidate
from service.lease.registrar import DOWN_NS, Registrar
from service.lease.succession import object_fault, rewritten
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.lease import Electorate
from service.model.object_event import ObjectEvent
from service.settings import Settings
from service.sources.kubernetes.api_server import ApiError
from service.wire.cluster_view import ClusterView
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_PERIOD_S = 0.5
_WRONG_NS = 3_000_000_000
"""For so long the object has to be gone, or wrong, before it is written anew."""
_UNCHANGED_NS = 10_000_000_000
"""The same agents for so long: then the first electorate is chosen among them (M5)."""


class WriteKind(StrEnum):
    """Why the object is written; the text is what the log says, before the electorate."""

    BEGIN = "electorate object made"
    REWRITE = "electorate object was gone, or said what cannot be; written anew"
    CHANGE = "electorate changed"
    CONFIRM = "electorate in force"


@dataclass(frozen=True, slots=True)
class ObjectWrite:
    """What the object is to say next; anything but BEGIN replaces the version that was read, and no other."""

    kind: WriteKind
    electorate: Electorate
    in_force: bool = False


def object_trouble(current: ElectorateObject | None, known: Electorate) -> str:
    """Why the object cannot be gone by, and must be written anew; empty where it can (leases.md, M8)."""
    if known.epoch == 0:
        return ""
    if current is None:
        return f"there is no ConfigMap {OBJECT_NAME} any more; it is written anew when a majority of electors answers"
    said = current.electorate
    if said.epoch > known.epoch:
        return object_fault(known, said, begun_anew=current.begun_anew)
    if said.epoch < known.epoch or said.members != known.members:
        return f"{OBJECT} names other electors than epoch {known.epoch}; it is written anew when a majority answers"
    return ""


def refused(current: ElectorateObject | None, known: Electorate) -> str:
    """What an object that is there says, and why that is refused; empty where it is not."""
    fault = object_trouble(current, known) if current is not None else ""
    if current is None or not fault:
        return ""
    names = ", ".join(member.name for member in current.electorate.members)
    return f"epoch {current.electorate.epoch} of {names} is refused: {fault}"


def next_write(
    current: ElectorateObject | None,
    known: Electorate,
    proposal: Electorate | None,
    *,
    is_in_force: bool,
    is_leading: bool,
    is_present: bool,
) -> ObjectWrite | None:
    """What this controller has to write now, if anything (leases.md, M2, M8).

    `known` is the newest electorate that was taken over, `proposal` the one that should follow it. `is_in_force`: a
    majority of the members of `known` was seen to have settled in it; `is_present`: it has said so again since the
    object was found to be gone or wrong.
    """
    if object_trouble(current, known):
        return ObjectWrite(WriteKind.REWRITE, rewritten(known)) if is_present else None
    if current is None:
        return ObjectWrite(WriteKind.BEGIN, proposal) if proposal is not None else None
    # Not the whole of it: what was heard from a keeper has the members before in another order.
    if not is_leading or current.electorate.epoch != known.epoch:
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
        wrong_ns: int = _WRONG_NS,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._adopted = adopted
        self._is_leading = is_leading
        self._clock = clock
        self._unchanged_ns = unchanged_ns
        self._wrong_ns = wrong_ns
        self._wrong_since_ns: int | None = None
        """Since when the object has been gone, or wrong."""
        self._refusal = Refusal(settings.namespace, OBJECT_NAME)
        self.book = ElectorateBook(settings.electorate, adopted=self._adopt)
        self.registrar = Registrar(lease_port=settings.ports.lease, now_ns=clock(), down_ns=down_ns)
        self.pump = MachinePump(self.registrar, clock=clock, send=socket.send, handle=self._handle)
        self._store: ElectorateStore | None = None
        self.registrar.set_electorate(self.book.known, now_ns=clock())

    @property
    def trouble(self) -> str:
        """Why what the object says is not in force here; empty where it is."""
        return self.book.trouble or (self._store.trouble if self._store is not None else "")

    def problems(self) -> tuple[ObjectEvent, ...]:
        """What the owner of the object should be told of it now."""
        event = self._refusal.event(now_ns=self._clock())
        return (event,) if event is not None else ()

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
        self.registrar.set_electorate(electorate, now_ns=self._clock())
        self.pump.wake()
        self._adopted(electorate)

    def _handle(self, output: object) -> None:
        if isinstance(output, Electorate):
            self.book.offer(output, origin="a keeper")

    def _take_object(self, found: ElectorateObject | None) -> None:
        if found is None:
            self.book.refuse(object_trouble(None, self.book.known))
            return
        # Who has just started knows nobody whom to ask; the object may be wrong, but keepers answer for themselves.
        self.registrar.set_hints(found.electorate.contacts)
        self.book.offer_written(
            found.electorate, begun_anew=found.begun_anew, may_follow=lambda _: self.registrar.is_in_force
        )

    def _is_present(self, current: ElectorateObject | None) -> bool:
        """The object has been wrong for long enough, and a majority of electors has said since that it knows no other.

        Whoever writes and whoever watches are not equally fast: what is wrong for a moment is on its way.
        """
        now_ns = self._clock()
        if not object_trouble(current, self.book.known):
            self._wrong_since_ns = None
            return False
        if self._wrong_since_ns is None:
            self._wrong_since_ns = now_ns
        is_lasting = now_ns - self._wrong_since_ns >= self._wrong_ns
        return is_lasting and self.registrar.is_present(since_ns=self._wrong_since_ns)

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
            self._refusal.see(store.trouble, uid=store.uid, is_final=True, now_ns=self._clock())
            return
        self._take_object(store.current)
        write = next_write(
            store.current,
            self.book.known,
            self.registrar.proposal(unchanged_ns=self._unchanged_ns),
            is_in_force=self.registrar.is_in_force,
            is_leading=self._is_leading(),
            is_present=self._is_present(store.current),
        )
        is_rewritten = write is not None and write.kind is WriteKind.REWRITE
        note = refused(store.current, self.book.known)
        self._refusal.see(note, uid=store.uid, is_final=is_rewritten, now_ns=self._clock())
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
        is_same = write.electorate == store.current.electorate
        begun_anew = is_same and store.current.begun_anew
        await store.swap(store.current, write.electorate, in_force=write.in_force, begun_anew=begun_anew)
    names = ", ".join(member.name for member in write.electorate.members)
    level = {WriteKind.REWRITE: logging.WARNING, WriteKind.CONFIRM: logging.DEBUG}.get(write.kind, logging.INFO)
    _log.log(level, "%s: epoch %d, %s", write.kind, write.electorate.epoch, names)
