"""The elector of a keeper as its pump drives it: a machine on two clocks (T3), and the hand that writes its records."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from service.host import clock, identity
from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.keeper.promise_file import LongestLease, PromiseFile, TokenFile
from service.lease.elector import ElectorMachine
from service.lease.elector_output import ElectorOutput, Persist, Promised, Remember, Settled
from service.lease.holder import boot_id_bytes
from service.lease.promise import Instant
from service.model.lease import Electorate
from service.model.machine import Address, Source
from service.settings import Settings
from service.wire.pump import MachinePump

_log = logging.getLogger(__name__)

_DISK_RETRY_FIRST_S = 0.1
_DISK_RETRY_LAST_S = 5.0
_SLOW_NS = 1_000_000_000
"""A write that takes so long is a trouble while it lasts."""


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

        `promised` gets every promise of a floating IP, for the record. Raises TransientError where records cannot be
        read, or begun, now: without them it must not vote.
        """
        self._settings = settings
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
        self._elector = self._continue(stored, promises.read(), tokens)
        # Of each kind the newest alone is worth writing.
        self._remember: Remember | None = None
        self._newer: Electorate | None = None
        self._settled: Settled | None = None
        self._due = asyncio.Event()
        self._unwritten: bytes | None = None
        """Promises that shared memory does not take. Until it does, nothing is said (P2)."""
        self._run_trouble = self._state_trouble = ""
        self._writing_since_ns: int | None = None
        self.pump = MachinePump(self, clock=boot_clock, send=self._say, handle=self.execute)

    def _continue(self, stored: StoredElectorate, promises: bytes | None, tokens: bytes | None) -> ElectorMachine:
        return ElectorMachine(
            node=self._settings.node,
            boot_id=boot_id_bytes(identity.boot_id()),
            electorate=stored.electorate,
            memory=stored.memory,
            settled=stored.settled,
            lease_port=self._settings.ports.lease,
            lease_ns_max=self._lease_ns_max,
            longest_ns=self._longest_ns,
            promises=promises,
            tokens=tokens,
            now=self._now(),
        )

    @property
    def machine(self) -> ElectorMachine:
        """For what it knows of itself. Who changes it wakes the pump."""
        return self._elector

    def store(self, electorate: Electorate) -> None:
        """Have a newer electorate written to disk (M1)."""
        if self._newer is None or electorate.epoch > self._newer.epoch:
            self._newer = electorate
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
        """False in the silence of rule P2, and while promises cannot be written."""
        return self._elector.is_voting and self._unwritten is None

    def troubles(self) -> list[str]:
        """What its records suffer from, in a line each."""
        since_ns = self._writing_since_ns
        slow = []
        if since_ns is not None and (span_ns := self._boot_clock() - since_ns) >= _SLOW_NS:
            slow.append(f"state_dir: a record of this elector has been being written for {span_ns / 1e9:.1f} s")
        return [*(trouble for trouble in (self._run_trouble, self._state_trouble) if trouble), *slow]

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
        """Promises go to shared memory at once (P2). Nothing here waits for the disk: the elector keeps back itself
        what must be on it first (K1).
        """
        if isinstance(output, Persist):
            self._write_promises(output.data)
        elif isinstance(output, Remember):
            self._remember = output
            self._due.set()
        elif isinstance(output, Settled):
            self._settled = output
            self._due.set()
        elif isinstance(output, Promised) and self._unwritten is None:
            self._promised(output)

    def _write_promises(self, data: bytes) -> None:
        try:
            self._promises.write(data)
        except OSError as error:
            self._unwritten = data
            self._run_trouble = _told(
                self._run_trouble, f"run_dir: promises cannot be written: {error.strerror}; this elector is silent"
            )
        else:
            self._unwritten, self._run_trouble = None, ""

    def _say(self, to: Address, payload: bytes) -> None:
        if self._unwritten is not None:
            # There may be room again, and perhaps nobody renews: then no newer record comes by itself.
            self._write_promises(self._unwritten)
        if self._unwritten is None:
            self._send(to, payload)

    async def write_records(self, *, stored: Callable[[], None]) -> None:
        """Write what is due in a thread, until cancelled.

        `stored` is called when a newer electorate is on disk; `enter_epoch` then goes over to it.
        """
        # Begun again after an error: something may be due of which nobody tells anew.
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            await self._write_in_the_end(stored)

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

    async def _write_in_the_end(self, stored: Callable[[], None]) -> None:
        """A full or failing disk keeps this elector from acknowledging a new leader (K1), and from nothing else."""
        retry_s = _DISK_RETRY_FIRST_S
        while (trouble := await self._write_due(stored)) is not None:
            self._state_trouble = _told(
                self._state_trouble, f"state_dir: the records of this elector cannot be written: {trouble}"
            )
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _DISK_RETRY_LAST_S)
        self._state_trouble = ""

    async def _write_due(self, stored: Callable[[], None]) -> str | None:
        """Write each kind once; what could not be written is still due then. Why not, or None."""
        trouble = None
        for write in (self._write_tokens, partial(self._write_newer, stored), self._write_settled):
            self._writing_since_ns = self._boot_clock()
            try:
                await write()
            except OSError as error:
                # Each has a file of its own: the others need not wait.
                trouble = error.strerror or str(error)
            finally:
                self._writing_since_ns = None
        return trouble

    async def _write_tokens(self) -> None:
        remember = self._remember
        if remember is None:
            return
        await asyncio.to_thread(self._tokens.write, remember.data)
        if self._remember is remember:
            # A newer record may have come meanwhile; then it is due already.
            self._remember = None
        self._elector.confirm_durable(remember.number)
        self.pump.wake()

    async def _write_newer(self, stored: Callable[[], None]) -> None:
        newer = self._newer
        if newer is None:
            return
        if newer.epoch > self._on_disk.epoch:
            record = StoredElectorate(self._memory, newer, not newer.previous)
            await asyncio.to_thread(self._file.write, record)
            self._on_disk = newer
            stored()
        if self._newer is newer:
            self._newer = None

    async def _write_settled(self) -> None:
        settled, electorate = self._settled, self._elector.electorate
        # M3: the tokens first, and a record of them that is not older than what was heard when it settled.
        if settled is None or self._remember is not None:
            return
        # Where the next epoch is on disk already, that of this one is of no use any more.
        if electorate.epoch == settled.epoch == self._on_disk.epoch:
            await self._note_inherited()
            await asyncio.to_thread(self._file.write, StoredElectorate(self._memory, electorate, True))
            self._elector.confirm_settled(settled.epoch)
        if self._settled is settled:
            self._settled = None

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


def _told(before: str, trouble: str) -> str:
    if trouble != before:
        _log.error("%s", trouble)
    return trouble
