"""The elector of a keeper as its pump drives it: a machine on two clocks (T3), and the hand that writes its records."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from service.host import clock, identity
from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.keeper.promise_file import PromiseFile, TokenFile
from service.lease.elector import ElectorMachine
from service.lease.elector_output import ElectorOutput, Persist, Promised, Remember, SendPersisted, Settled
from service.lease.holder import boot_id_bytes
from service.lease.promise import Instant
from service.model.lease import Electorate
from service.model.machine import Address, Source
from service.settings import Settings

_log = logging.getLogger(__name__)

_DISK_RETRY_FIRST_S = 0.1
_DISK_RETRY_LAST_S = 5.0
_WAITING_MAX = 4096
"""Answers that wait for the disk; more are dropped, as claimants ask again."""


class ElectorVote:
    """The elector as the pump drives it: a machine on two clocks (T3), and the hand that writes its records."""

    def __init__(self, settings: Settings, promises: PromiseFile, stored: StoredElectorate | None = None) -> None:
        """`stored`: the electorate as found on disk; without, the configured one, which is not written."""
        self._promises = promises
        self._tokens = TokenFile(Path(settings.state_dir))
        self._file = ElectorateFile(Path(settings.state_dir))
        stored = stored or StoredElectorate(0, settings.electorate, True)
        self._memory = stored.memory
        self._elector = ElectorMachine(
            node=settings.node,
            boot_id=boot_id_bytes(identity.boot_id()),
            electorate=stored.electorate,
            memory=stored.memory,
            settled=stored.settled,
            lease_port=settings.ports.lease,
            lease_ns_max=settings.lease.max_lease_ms * 1_000_000,
            promises=promises.read(),
            tokens=self._tokens.read(),
            now=self._now(),
        )
        self._waiting: deque[Persist | SendPersisted | Settled | Electorate] = deque()
        self._remember: bytes | None = None
        self._due = asyncio.Event()
        self.send = _nowhere
        self.promised: Callable[[Promised], None] = _unrecorded
        self.stored: Callable[[], None] = _nothing
        """Called when a newer electorate is on disk; `enter_epoch` then goes over to it."""
        self._on_disk = stored.electorate

    @property
    def machine(self) -> ElectorMachine:
        return self._elector

    def store(self, electorate: Electorate) -> None:
        """Have a newer electorate written to disk (M1)."""
        self._waiting.append(electorate)
        self._due.set()

    def enter_epoch(self) -> None:
        """Go over to the newest electorate that is on disk."""
        self._elector.adopt(self._on_disk, now=self._now())

    def _now(self) -> Instant:
        return Instant(clock.boot_ns(), clock.raw_ns())

    @property
    def is_voting(self) -> bool:
        return self._elector.is_voting

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        self._elector.receive(source, payload, now=Instant(now_ns, clock.raw_ns()))

    def advance(self, *, now_ns: int) -> None:
        self._elector.advance(now=Instant(now_ns, clock.raw_ns()))

    def deadline_ns(self) -> int | None:
        return self._elector.deadline_ns()

    def drain(self) -> list[ElectorOutput]:
        return self._elector.drain()

    def execute(self, output: object) -> None:
        """Promises go to shared memory at once (P2). What waits for the disk does not keep the rest waiting."""
        if isinstance(output, Persist) and not output.durable:
            self._promises.write(output.data)
        elif isinstance(output, SendPersisted) and not self._waiting:
            self.send(output.to, output.payload)
        elif isinstance(output, Settled):
            self._waiting.append(output)
            self._due.set()
        elif isinstance(output, Persist | SendPersisted):
            if isinstance(output, Persist) or len(self._waiting) < _WAITING_MAX:
                self._waiting.append(output)
            if isinstance(output, Persist):
                # Records only grow, and each is whole: what was to be remembered before is in this one.
                self._remember = None
            self._due.set()
        elif isinstance(output, Remember):
            self._remember = output.data
            self._due.set()
        elif isinstance(output, Promised):
            self.promised(output)

    async def write_tokens(self) -> None:
        """Write what is due in a thread, answers behind what they wait for (K1), until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting or self._remember is not None:
                await self._write_next_in_the_end()

    async def _write_next_in_the_end(self) -> None:
        """A full or failing disk keeps this elector from acknowledging a new leader (K1), and from nothing else."""
        retry_s = _DISK_RETRY_FIRST_S
        while True:
            try:
                return await self._write_next()
            except OSError as error:
                _log.error(
                    "state_dir: the records of this elector cannot be written: %s; trying again in %.1f s",
                    error.strerror,
                    retry_s,
                )
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _DISK_RETRY_LAST_S)

    async def _write_next(self) -> None:
        """Raises OSError where the disk fails; what was to be written still is then."""
        if not self._waiting:
            data = self._remember
            if data is not None:
                await asyncio.to_thread(self._tokens.write, data)
                # A newer record may have come meanwhile.
                self._remember = None if self._remember is data else self._remember
            return
        output = self._waiting[0]
        if isinstance(output, Persist):
            await asyncio.to_thread(self._tokens.write, output.data)
        elif isinstance(output, Electorate):
            await self._store(output)
        elif isinstance(output, Settled):
            await self._store_settled(output)
        else:
            self.send(output.to, output.payload)
        self._waiting.popleft()

    async def _store(self, electorate: Electorate) -> None:
        if electorate.epoch > self._on_disk.epoch:
            stored = StoredElectorate(self._memory, electorate, not electorate.previous)
            await asyncio.to_thread(self._file.write, stored)
            self._on_disk = electorate
            self.stored()

    async def _store_settled(self, output: Settled) -> None:
        electorate = self._elector.electorate
        # Where the next epoch is on disk already, that of this one is of no use any more.
        if electorate.epoch == output.epoch == self._on_disk.epoch:
            await asyncio.to_thread(self._tokens.write, output.tokens)
            await asyncio.to_thread(self._file.write, StoredElectorate(self._memory, electorate, True))
            self._elector.confirm_settled(output.epoch)


def _unrecorded(promised: Promised) -> None:
    """Stands in until the keeper has an outbox."""


def _nowhere(to: Address, payload: bytes) -> None:
    """Stands in until the keeper has wired its socket."""


def _nothing() -> None:
    """Stands in until the keeper listens."""
