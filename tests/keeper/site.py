"""A node that is its own only elector, in virtual time: real machines and records, a fence in memory, no socket."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from service.electorate.book import ElectorateBook
from service.keeper.claims import HolderClaims, new_holder
from service.keeper.dispatch import Dispatch, Lines
from service.keeper.duty import AgentDuty
from service.keeper.electorate_file import StoredElectorate
from service.keeper.farewell import Farewell
from service.keeper.fenced_leases import FencedLeases
from service.keeper.promise_file import PromiseFile
from service.keeper.vote import ElectorVote
from service.lease.elector_output import Promised
from service.lease.message import MessageKind
from service.model.lease import Elector, Electorate
from service.model.machine import Source
from service.settings import LeaseSettings, Settings
from tests.keeper.node import SECOND, FakeFence, settings_of, with_memory
from tests.virtual_time import now_ns

ALONE = Electorate(1, (Elector("node0", "127.0.0.1"),))
GRACE_NS = 15 * SECOND


class Site:
    """What a keeper has of holder and elector; `is_deaf` cuts the answers of the elector off."""

    def __init__(self, settings: Settings, promises: PromiseFile, lease: LeaseSettings) -> None:
        self.is_deaf = False
        self.answered: Callable[[bytes], None] = lambda payload: None
        self.promised: list[Promised] = []
        self.seen: list[str] = []
        """What the fence, and who reports, were told, in order."""
        self.fence = FakeFence(now_ns)
        self.dispatch = Dispatch(settings, start_id=1, known=lambda: ALONE)
        self.vote = ElectorVote(
            settings,
            promises,
            StoredElectorate(7, ALONE, True),
            send=self.dispatch.send,
            promised=self.promised.append,
            boot_clock=now_ns,
            raw_clock=now_ns,
        )
        self.book = ElectorateBook(ALONE, adopted=self.vote.store)
        self.duty = AgentDuty(grace_ns=GRACE_NS, now_ns=now_ns())
        fenced = FencedLeases(
            self.fence,
            opened=lambda address, token: None,
            changed=self.report,
            refused=lambda key, reason: self.claims.refuse(key, reason),
        )
        self.claims = HolderClaims(
            new_holder(settings, ALONE, start_id=1, now_ns=now_ns()),
            duty=self.duty,
            fence=self.fence,
            send=self.dispatch.send,
            handle=fenced.handle,
            clock=now_ns,
        )
        self.farewell = Farewell(self.claims, lease, report=self.report, clock=now_ns)
        self.dispatch.connect(
            Lines(
                transmit=lambda to, payload: None,
                hear_epoch=lambda epoch: None,
                routes={MessageKind.ACK: self._take_answer},
                questions=self.vote.pump.on_datagram,
            )
        )

    def report(self) -> None:
        self.seen.append(f"report after {len(self.fence.writes)} writes")

    def _take_answer(self, source: Source, payload: bytes) -> None:
        self.answered(payload)
        if not self.is_deaf:
            self.claims.pump.on_datagram(source, payload)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.running_vote(), _running(self.claims.pump.run()):
            yield

    @asynccontextmanager
    async def running_vote(self) -> AsyncIterator[None]:
        async with _running(self.vote.pump.run()), _running(self.vote.write_records(stored=lambda: None)):
            yield

    async def apply_for(self, seconds: float) -> None:
        """Let time pass as the watch of the agent does."""
        for _ in range(round(seconds * 10)):
            self.claims.apply()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def site(folder: Path, lease: LeaseSettings | None = None, *, has_memory: bool = True) -> AsyncIterator[Site]:
    """`has_memory`: the elector finds its promises, and votes at once."""
    settings = settings_of(folder, 0, 9644, electors=1)
    if has_memory:
        with_memory(settings)
    with PromiseFile(Path(settings.run_dir)) as promises:
        yield Site(settings, promises, lease or LeaseSettings())
