"""The elector of a keeper as its pump drives it: a machine on two clocks (T3), and the hand that writes its records."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from service.host import clock, identity
from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.keeper.promise_file import LongestLease, PromiseFile, TokenFile
from service.lease.elector import ElectorMachine
from service.lease.elector_output import ElectorOutput, Persist, Promised, Remember, SendPersisted, Settled
from service.lease.holder import boot_id_bytes
from service.lease.promise import Instant
from service.model.lease import Electorate
from service.model.machine import Address, Source
from service.settings import Settings
from service.wire.pump import MachinePump

_log = logging.getLogger(__name__)

_DISK_RETRY_FIRST_S = 0.1
_DISK_RETRY_LAST_S = 5.0
_WAITING_MAX = 4096
"""Answers that wait for the disk; more are dropped, as claimants ask again."""


class ElectorVote:
    """Owns the elector and its pump; a machine itself, towards that pump, which hands in one clock of two.

    `run` the pump and keep `write_records` in a task beside it: what waits for the disk waits there.
    """

    def __init__(
        self,
        settings: Settings,
        promises: PromiseFile,
        stored: StoredElectorate | None = None,
        *,
        send: Callable[[Address, bytes], None],
        promised: Callable[[Promised], None],
        boot_clock: Callable[[], int] = clock.boot_ns,
        raw_clock: Callable[[], int] = clock.raw_ns,
    ) -> None:
        """`stored`: the electorate as found on disk; without, the configured one, which is not written.

        `promised` gets every promise of a floating IP, for the record. Raises OperatorError where the tokens on disk
        cannot be read.
        """
        self._promises = promises
        self._tokens = TokenFile(Path(settings.state_dir))
        self._file = ElectorateFile(Path(settings.state_dir))
        self._send = send
        self._promised = promised
        self._boot_clock = boot_clock
        self._raw_clock = raw_clock
        stored = stored or StoredElectorate(0, settings.electorate, True)
        self._memory = stored.memory
        self._on_disk = stored.electorate
        tokens = self._tokens.read()
        self._lease_ns_max = settings.lease.max_lease_ms * 1_000_000
        self._longest = LongestLease(Path(settings.state_dir))
        self._longest_ns = self._longest.open(self._lease_ns_max, has_granted=tokens is not None)
        self._elector = ElectorMachine(
            node=settings.node,
            boot_id=boot_id_bytes(identity.boot_id()),
            electorate=stored.electorate,
            memory=stored.memory,
            settled=stored.settled,
            lease_port=settings.ports.lease,
            lease_ns_max=self._lease_ns_max,
            longest_ns=self._longest_ns,
            promises=promises.read(),
            tokens=tokens,
            now=self._now(),
        )
        self._waiting: deque[Persist | SendPersisted | Settled | Electorate] = deque()
        self._remember: bytes | None = None
        self._due = asyncio.Event()
        self.pump = MachinePump(self, clock=boot_clock, send=send, handle=self.execute)

    @property
    def machine(self) -> ElectorMachine:
        """For what it knows of itself. Who changes it wakes the pump."""
        return self._elector

    def store(self, electorate: Electorate) -> None:
        """Have a newer electorate written to disk (M1)."""
        self._waiting.append(electorate)
        self._due.set()

    def enter_epoch(self, electorate: Electorate, *, now_ns: int) -> None:
        """Go over to the newest electorate that is on disk, which may be older than the one that is known (M1)."""
        self._elector.adopt(self._on_disk, now=self._at(now_ns))

    def _now(self) -> Instant:
        return self._at(self._boot_clock())

    def _at(self, now_ns: int) -> Instant:
        return Instant(now_ns, self._raw_clock())

    @property
    def is_voting(self) -> bool:
        """False in the silence of rule P2."""
        return self._elector.is_voting

    # -- the machine contract, on one clock of two (T3) --

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take a question. Raises PeerError, with nothing changed, where it is none."""
        self._elector.receive(source, payload, now=self._at(now_ns))

    def advance(self, *, now_ns: int) -> None:
        """Let time pass on both clocks."""
        self._elector.advance(now=self._at(now_ns))

    def deadline_ns(self) -> int | None:
        """CLOCK_BOOTTIME; where the other clock is later, it is asked for again."""
        return self._elector.deadline_ns()

    def drain(self) -> list[ElectorOutput]:
        """The outputs since the last call, in the order in which `execute` must get them."""
        return self._elector.drain()

    # -- records --

    def execute(self, output: object) -> None:
        """Promises go to shared memory at once (P2). What waits for the disk does not keep the rest waiting."""
        if isinstance(output, Persist) and not output.durable:
            self._promises.write(output.data)
        elif isinstance(output, SendPersisted) and not self._waiting:
            self._send(output.to, output.payload)
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
            self._promised(output)

    async def write_records(self, *, stored: Callable[[], None]) -> None:
        """Write what is due in a thread, answers behind what they wait for (K1), until cancelled.

        `stored` is called when a newer electorate is on disk; `enter_epoch` then goes over to it.
        """
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting or self._remember is not None:
                await self._write_next_in_the_end(stored)

    async def forget_longer_leases(self) -> None:
        """Once every lease is over that is longer than is allowed now, the next silence need not be as long (P2)."""
        while self._longest_ns > self._lease_ns_max:
            await asyncio.sleep(self._longest_ns * 12 // 10 / 1e9)
            if self._left_ns() > self._lease_ns_max:
                # Taken over from others meanwhile, who allow more.
                continue
            try:
                await asyncio.to_thread(self._longest.write, self._lease_ns_max)
                self._longest_ns = self._lease_ns_max
            except OSError as error:
                # A longer silence than is needed is all that it costs.
                _log.warning("state_dir: the longest lease cannot be written: %s", error.strerror)

    async def _write_next_in_the_end(self, stored: Callable[[], None]) -> None:
        """A full or failing disk keeps this elector from acknowledging a new leader (K1), and from nothing else."""
        retry_s = _DISK_RETRY_FIRST_S
        while True:
            try:
                return await self._write_next(stored)
            except OSError as error:
                _log.error(
                    "state_dir: the records of this elector cannot be written: %s; trying again in %.1f s",
                    error.strerror,
                    retry_s,
                )
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _DISK_RETRY_LAST_S)

    async def _write_next(self, stored: Callable[[], None]) -> None:
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
            if await self._store(output):
                stored()
        elif isinstance(output, Settled):
            await self._store_settled(output)
        else:
            self._send(output.to, output.payload)
        self._waiting.popleft()

    async def _store(self, electorate: Electorate) -> bool:
        if electorate.epoch <= self._on_disk.epoch:
            return False
        record = StoredElectorate(self._memory, electorate, not electorate.previous)
        await asyncio.to_thread(self._file.write, record)
        self._on_disk = electorate
        return True

    async def _store_settled(self, output: Settled) -> None:
        electorate = self._elector.electorate
        # Where the next epoch is on disk already, that of this one is of no use any more.
        if electorate.epoch == output.epoch == self._on_disk.epoch:
            await asyncio.to_thread(self._tokens.write, output.tokens)
            await self._note_inherited()
            await asyncio.to_thread(self._file.write, StoredElectorate(self._memory, electorate, True))
            self._elector.confirm_settled(output.epoch)

    async def _note_inherited(self) -> None:
        """What others promised before this epoch may last longer than is allowed here, and is forgotten here, too."""
        left_ns = self._left_ns()
        if left_ns > self._longest_ns:
            await asyncio.to_thread(self._longest.write, left_ns)
            self._longest_ns = left_ns

    def _left_ns(self) -> int:
        """How long the longest promise lasts on."""
        now = self._now()
        promises = self._elector.promises().values()
        return max((one.until.left_ns(now) for one in promises if not one.is_over(now)), default=0)
