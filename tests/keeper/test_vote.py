"""The elector's hand: promises to shared memory before the answer, tokens and electorate to disk, and what waits."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.keeper.promise_file import LongestLease, PromiseFile, TokenFile
from service.keeper.vote import ElectorVote
from service.lease.elector_output import Persist, Promised, Remember, Settled
from service.lease.message import Ack, decode
from service.lease.promise import Identity, Instant, Promise, decode_promises
from service.model.keeper_message import Heartbeat
from service.model.lease import Elector, Electorate, Token
from service.model.machine import Address
from tests.disk import HangingDisk
from tests.keeper.node import (
    IP,
    OTHER,
    SECOND,
    Node,
    claims_of,
    free_port,
    heartbeat,
    settings_of,
    until,
    with_memory,
)
from tests.keeper.site import site
from tests.virtual_time import in_virtual_time, now_ns

TO = Address("127.0.0.1", 1)
MEMORY = 7
FIRST = Electorate(1, (Elector("node0", "127.0.0.1", MEMORY),))
# Both have a say until it has settled (M3); the other does not answer here.
FOLLOWING = Electorate(2, (*FIRST.members, Elector("node1", "127.0.0.2")), FIRST.members)


class Hand:
    """A vote with its files; what it sends is kept with what was on disk at that moment."""

    def __init__(self, folder: Path, promises: PromiseFile) -> None:
        settings = settings_of(folder, 0, 1)
        self.promises = promises
        self.state_dir = Path(settings.state_dir)
        self.tokens = TokenFile(Path(settings.state_dir))
        self.file = ElectorateFile(Path(settings.state_dir))
        self.sent: list[tuple[bytes, bytes | None]] = []
        self.promised: list[Promised] = []
        self.stored: list[Electorate] = []
        self.vote = ElectorVote(
            settings,
            promises,
            StoredElectorate(MEMORY, FIRST, True),
            send=lambda to, payload: self.sent.append((payload, self.tokens.read())),
            promised=self.promised.append,
            boot_clock=now_ns,
            raw_clock=now_ns,
        )

    def on_disk(self) -> StoredElectorate:
        return self.file.open(memory=99)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(
            self.vote.write_records(stored=lambda: self.stored.append(self.on_disk().electorate))
        )
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def hand(folder: Path) -> AsyncIterator[Hand]:
    with PromiseFile(Path(with_memory(settings_of(folder, 0, 1)).run_dir)) as promises:
        yield Hand(folder, promises)


class Disk:
    """Refuses so many writes; every attempt has its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
        self.refusals = 0
        self.attempts_ns: list[int] = []
        write = kind.write

        def write_or_refuse(file: object, data: object) -> None:
            self.attempts_ns.append(self.now_ns)
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(file, data)

        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(kind, "write", write_or_refuse)

    @property
    def now_ns(self) -> int:
        return round(self._loop.time() * SECOND)


@in_virtual_time
async def test_what_is_to_be_remembered_reaches_the_disk_and_the_elector_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand(tmp_path) as here:
        confirmed = confirmations(here, monkeypatch)
        here.vote.execute(Remember(b"older", 1))
        here.vote.execute(Remember(b"newer", 2))
        async with here.writing():
            await asyncio.sleep(0.01)
        assert (here.tokens.read(), confirmed) == (b"newer", [2])


def confirmations(here: Hand, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers that the elector is told, each only once its record is on disk."""
    confirmed: list[int] = []

    def confirm(number: int) -> None:
        assert here.tokens.read() is not None
        confirmed.append(number)

    monkeypatch.setattr(here.vote.machine, "confirm_durable", confirm)
    return confirmed


@in_virtual_time
async def test_a_record_that_came_while_another_was_written_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand(tmp_path) as here:
        confirmed = confirmations(here, monkeypatch)
        with slow_disk(monkeypatch, 0.5):
            async with here.writing():
                here.vote.execute(Remember(b"first", 1))
                await asyncio.sleep(0.1)
                here.vote.execute(Remember(b"second", 2))
                assert confirmed == []
                await asyncio.sleep(0.5)
                assert confirmed == [1]
                await asyncio.sleep(0.5)
                assert (confirmed, here.tokens.read()) == ([1, 2], b"second")


@contextmanager
def slow_disk(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    """Every write of the keeper takes so long, in virtual time."""

    async def write_slowly(write: Callable[[bytes], None], data: bytes) -> None:
        await asyncio.sleep(seconds)
        write(data)

    with monkeypatch.context() as slow:
        slow.setattr("service.keeper.vote.asyncio.to_thread", write_slowly)
        yield


@in_virtual_time
async def test_a_slow_disk_makes_no_held_address_dark_while_another_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen with a sole elector: 0.5 s of fsync for one new grant made every held address dark for 1.3 s."""
    async with site(tmp_path) as here, here.running():
        here.claims.hear(claims_of(IP))
        await asyncio.sleep(1)
        assert here.fence.is_open(IP)
        with slow_disk(monkeypatch, 0.5):
            here.claims.hear(claims_of(IP, OTHER))
            for _ in range(49):
                await asyncio.sleep(0.01)
                assert here.fence.is_open(IP)
                # K1: its token is not on disk, so its holder has not heard of it.
                assert not here.fence.is_open(OTHER)
            await asyncio.sleep(0.1)
            assert here.fence.is_open(OTHER)
        assert (IP, 0) not in here.fence.writes
        assert here.vote.machine.promises()[OTHER].token == Token(1, 1, 1)


async def test_a_disk_that_really_takes_half_a_second_costs_no_held_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thread that waits in fsync, a real socket and a real clock."""
    fsync = os.fsync

    def fsync_slowly(fd: int) -> None:
        time.sleep(0.5)
        fsync(fd)

    node = Node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = claims_of(IP)
    async with node.running():
        await until(node.holds)
        await asyncio.sleep(0.5)
        monkeypatch.setattr(os, "fsync", fsync_slowly)
        node.heartbeat = claims_of(IP, OTHER)
        started = time.monotonic()
        await until(lambda: node.fence.is_open(OTHER))
        assert time.monotonic() - started > 0.5
        assert (IP, 0) not in node.fence.writes


async def test_a_keeper_whose_disk_does_not_answer_hears_reports_and_says_so_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.heartbeat = claims_of(IP)
    async with node.running():
        await until(node.holds)
        disk = HangingDisk(monkeypatch)
        node.heartbeat = claims_of(IP, OTHER)
        # The tokens, and the record of what was promised.
        await until(lambda: disk.is_waited_for_by("leader-term"))
        heard = len(node.reports)
        await until(lambda: "has been being written" in str(node.reports[-1].troubles))
        assert len(node.reports) > heard + 3
        assert not node.fence.is_open(OTHER)
        disk.answer()
        await until(lambda: node.fence.is_open(OTHER))
        assert disk.is_waited_for_by("keeper-outbox")
    assert disk.held_up == []


@in_virtual_time
async def test_a_full_disk_delays_what_needs_it_is_told_while_it_lasts_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen end to end: a full state_dir ended the keeper at the next election, and with it every lease of the node."""
    disk = Disk(monkeypatch, TokenFile)
    async with hand(tmp_path) as here, here.writing():
        confirmed = confirmations(here, monkeypatch)
        disk.refusals = 3
        here.vote.execute(Remember(b"more", 1))
        await asyncio.sleep(0.2)
        assert here.vote.troubles() == [
            "state_dir: the records of this elector cannot be written: No space left on device"
        ]
        await asyncio.sleep(10)
        assert (confirmed, here.vote.troubles(), len(caplog.records)) == ([1], [], 1)
        first = [at_ns - disk.attempts_ns[0] for at_ns in disk.attempts_ns]
        assert [round(at_ns / SECOND, 2) for at_ns in first] == [0, 0.1, 0.3, 0.7]


@in_virtual_time
async def test_a_disk_that_stays_full_is_tried_every_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, TokenFile)
    async with hand(tmp_path) as here, here.writing():
        disk.refusals = 1000
        here.vote.execute(Remember(b"more", 1))
        await asyncio.sleep(60)
    last = [round((after - before) / SECOND, 2) for before, after in pairwise(disk.attempts_ns)][-5:]
    assert last == [5.0] * 5


@in_virtual_time
async def test_a_file_that_cannot_be_written_keeps_no_other_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, TokenFile).refusals = 1000
    async with hand(tmp_path) as here, here.writing():
        here.vote.execute(Remember(b"more", 1))
        here.vote.store(FOLLOWING)
        await asyncio.sleep(0.05)
        assert here.stored == [FOLLOWING]


@in_virtual_time
async def test_a_disk_that_hangs_is_a_trouble_while_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hand(tmp_path) as here:
        with slow_disk(monkeypatch, 3):
            async with here.writing():
                here.vote.execute(Remember(b"more", 1))
                await asyncio.sleep(0.9)
                assert here.vote.troubles() == []
                await asyncio.sleep(1.1)
                assert here.vote.troubles() == ["state_dir: a record of this elector has been being written for 2.0 s"]
                await asyncio.sleep(2)
                assert here.vote.troubles() == []


# -- promises --


@in_virtual_time
async def test_a_promise_is_in_shared_memory_before_it_is_said(tmp_path: Path) -> None:
    """P2: whoever hears of a promise may die of its being forgotten."""
    async with site(tmp_path) as here, here.running():
        remembered: list[bool] = []

        def look(payload: bytes) -> None:
            answer = decode(payload)
            assert isinstance(answer, Ack)
            if any(answer.granted):
                found = decode_promises((tmp_path / "node0" / "run" / "promises").read_bytes())
                remembered.append(found is not None and IP in found.promises)

        here.answered = look
        here.claims.hear(heartbeat())
        await asyncio.sleep(0.5)
        assert remembered
        assert all(remembered)
        assert [(one.key, one.node, one.token) for one in here.promised] == [(IP, "node0", Token(1, 1, 1))]


@in_virtual_time
async def test_p2_while_promises_cannot_be_written_the_elector_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch, PromiseFile)
    async with hand(tmp_path) as here:
        here.vote.execute(Persist(b"promises"))
        here.vote._say(TO, b"at once")
        disk.refusals = 4
        here.vote.execute(Persist(b"newer"))
        here.vote.execute(Promised(IP, "node0", Token(1, 1, 1)))
        for _ in range(3):
            here.vote._say(TO, b"lost")
        assert not here.vote.is_voting
        assert here.vote.troubles() == [
            "run_dir: promises cannot be written: No space left on device; this elector is silent"
        ]
        assert ([payload for payload, _ in here.sent], here.promised, len(caplog.records)) == ([b"at once"], [], 1)
        assert here.promises.read().startswith(b"promises")
        # There is room again; whoever asks next is answered, by what is written now.
        here.vote._say(TO, b"said")
        assert here.promises.read().startswith(b"newer")
        assert (here.sent[-1][0], here.vote.troubles(), here.vote.is_voting) == (b"said", [], True)


@in_virtual_time
async def test_p2_an_address_is_dark_rather_than_promised_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as here, here.running():
        beating = asyncio.create_task(beat(here.claims.hear))
        await asyncio.sleep(0.5)
        assert here.fence.is_open(IP)
        disk = Disk(monkeypatch, PromiseFile)
        disk.refusals = 1_000_000
        await asyncio.sleep(0.5)
        assert not here.fence.is_open(IP)
        disk.refusals = 0
        await asyncio.sleep(0.5)
        assert here.fence.is_open(IP)
        beating.cancel()


@in_virtual_time
async def test_who_finds_no_promises_is_silent_for_the_longest_lease_and_a_fifth(tmp_path: Path) -> None:
    """P2: what it promised and forgot is over then."""
    async with site(tmp_path, has_memory=False) as here, here.running():
        beating = asyncio.create_task(beat(here.claims.hear))
        await asyncio.sleep(17.9)
        assert not here.vote.is_voting
        assert not here.fence.is_open(IP)
        await asyncio.sleep(1)
        assert here.vote.is_voting
        assert here.fence.is_open(IP)
        beating.cancel()


async def beat(hear: Callable[[Heartbeat], None]) -> None:
    while True:
        hear(heartbeat())
        await asyncio.sleep(0.2)


@in_virtual_time
async def test_the_later_of_two_clocks_counts(tmp_path: Path) -> None:
    """T3: CLOCK_BOOTTIME may be slewed, so the silence is over when the raw clock says so, too."""
    raw_ns = 0
    settings = settings_of(tmp_path, 0, 1)
    with PromiseFile(Path(settings.run_dir)) as promises:
        vote = ElectorVote(
            settings,
            promises,
            send=lambda to, payload: None,
            promised=lambda promised: None,
            boot_clock=now_ns,
            raw_clock=lambda: raw_ns,
        )
        vote.advance(now_ns=20 * SECOND)
        assert not vote.is_voting
        raw_ns = 20 * SECOND
        vote.advance(now_ns=20 * SECOND)
        assert vote.is_voting


# -- the electorate --


@in_virtual_time
async def test_a_newer_electorate_is_on_disk_when_it_is_said_to_be_and_is_entered_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: an acknowledgement in an epoch must outlive the machine."""
    disk = Disk(monkeypatch, ElectorateFile)
    disk.refusals = 3
    async with hand(tmp_path) as here, here.writing():
        here.vote.store(FOLLOWING)
        await asyncio.sleep(0.5)
        here.vote.enter_epoch(FOLLOWING, now_ns=now_ns())
        assert (here.vote.machine.epoch, here.stored) == (1, [])
        await asyncio.sleep(1)
        assert here.stored == [FOLLOWING]
        # Said, and entered when the transition says so.
        assert here.vote.machine.epoch == 1
        here.vote.enter_epoch(FOLLOWING, now_ns=now_ns())
        assert here.vote.machine.epoch == 2
        assert here.on_disk() == StoredElectorate(MEMORY, FOLLOWING, False)


@in_virtual_time
async def test_an_older_electorate_is_never_written_over_a_newer_one(tmp_path: Path) -> None:
    async with hand(tmp_path) as here, here.writing():
        here.vote.store(FOLLOWING)
        here.vote.store(FIRST)
        await asyncio.sleep(0.1)
        assert here.on_disk().electorate == FOLLOWING
        assert here.stored == [FOLLOWING]


@in_virtual_time
async def test_a_disk_that_another_number_was_meant_of_does_not_vote(tmp_path: Path) -> None:
    """M7: a node that lost its disk is a newcomer, whatever its name."""
    async with hand(tmp_path) as here, here.writing():
        assert here.vote.machine.is_elector
        renamed = Electorate(2, (Elector("node0", "127.0.0.1", MEMORY + 1),), FIRST.members)
        here.vote.store(renamed)
        await asyncio.sleep(0.1)
        here.vote.enter_epoch(renamed, now_ns=now_ns())
        assert not here.vote.machine.is_elector


@in_virtual_time
async def test_that_it_settled_is_said_after_tokens_and_record_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand(tmp_path) as here, here.writing():
        here.vote.store(FOLLOWING)
        await asyncio.sleep(0.1)
        here.vote.enter_epoch(FOLLOWING, now_ns=now_ns())
        disk = Disk(monkeypatch, ElectorateFile)
        disk.refusals = 1
        here.vote.execute(Remember(b"tokens of all", 1))
        here.vote.execute(Settled(2))
        await asyncio.sleep(0.05)
        assert (here.tokens.read(), here.vote.machine.is_settled) == (b"tokens of all", False)
        await asyncio.sleep(0.5)
        assert here.vote.machine.is_settled
        assert here.on_disk() == StoredElectorate(MEMORY, FOLLOWING, True)


@in_virtual_time
async def test_p2_a_longer_lease_that_others_promised_is_counted_before_it_is_said_to_be_known(tmp_path: Path) -> None:
    """Of its kind and not seen: not every elector need allow as much, and what is taken over is forgotten, too."""
    async with hand(tmp_path) as here, here.writing():
        here.vote._longest_ns = here.vote._lease_ns_max = SECOND
        here.vote.store(FOLLOWING)
        await asyncio.sleep(0.1)
        here.vote.enter_epoch(FOLLOWING, now_ns=now_ns())
        taken_over = Promise(Token(1, 1, 1), Identity("node9", bytes(16)), Instant(now_ns() + 9 * SECOND, 0))
        here.vote.machine._promises[IP] = taken_over
        here.vote.execute(Settled(2))
        await asyncio.sleep(0.1)
        assert here.vote.machine.is_settled
        assert LongestLease(here.state_dir).open(SECOND, has_granted=True) >= 8 * SECOND
        forgetting = asyncio.create_task(here.vote.forget_longer_leases())
        await asyncio.sleep(20)
        assert LongestLease(here.state_dir).open(SECOND, has_granted=True) == SECOND
        await forgetting


@in_virtual_time
async def test_what_settled_in_an_epoch_that_was_left_meanwhile_is_not_written(tmp_path: Path) -> None:
    async with hand(tmp_path) as here, here.writing():
        here.vote.execute(Settled(1))
        here.vote.store(FOLLOWING)
        await asyncio.sleep(0.1)
        here.vote.execute(Settled(1))
        await asyncio.sleep(0.1)
        assert here.on_disk() == StoredElectorate(MEMORY, FOLLOWING, False)


@in_virtual_time
async def test_m3_that_it_settled_waits_for_tokens_that_are_still_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand(tmp_path) as here, here.writing():
        here.vote.store(FOLLOWING)
        await asyncio.sleep(0.1)
        here.vote.enter_epoch(FOLLOWING, now_ns=now_ns())
        with slow_disk(monkeypatch, 0.5):
            here.vote.execute(Remember(b"some", 1))
            await asyncio.sleep(0.1)
            here.vote.execute(Remember(b"tokens of all", 2))
            here.vote.execute(Settled(2))
            await asyncio.sleep(0.85)
            assert not here.vote.machine.is_settled
            await asyncio.sleep(0.6)
            assert (here.vote.machine.is_settled, here.tokens.read()) == (True, b"tokens of all")
