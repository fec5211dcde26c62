"""Two nodes (docs/leases.md): who misses the other asks, and only where there is another of two."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.keeper.duty import AgentDuty
from service.keeper.electorate_file import StoredElectorate
from service.keeper.other_elector import OtherElector
from service.keeper.promise_file import PromiseFile
from service.keeper.vote import ElectorVote
from service.lease.electorate_message import Standing, Survey, decode_electorate_message, encode_electorate_message
from service.lease.tiebreaker import GRACE_NS, UNFIT_PATIENCE, Swap, Tiebreaker
from service.model.lease import Elector, Electorate
from service.model.machine import Address, Source
from tests.keeper.node import SECOND, heartbeat, settings_of, with_memory
from tests.virtual_time import in_virtual_time, now_ns

MEMBERS = tuple(Elector(f"node{index}", f"127.0.0.{index + 1}") for index in range(3))
TWO, THREE = Electorate(4, MEMBERS[:2]), Electorate(4, MEMBERS)
ALONE = Electorate(5, MEMBERS[:1], TWO.members)
GRACE_S = GRACE_NS / SECOND
PATIENCE_S = 0.15
"""Half a lease of the default profile."""


class Pair:
    """This node, and the other of two if it is there."""

    def __init__(self, folder: Path, promises: PromiseFile, electorate: Electorate, *, settled: bool) -> None:
        settings = settings_of(folder, 0, 9644)
        self.known = electorate
        self.asked: list[int] = []
        self.surveys = 0
        self.is_there = True
        self.is_ready = True
        """This node's agent can serve."""
        self.duty = AgentDuty(grace_ns=15 * SECOND, now_ns=now_ns())
        self.vote = ElectorVote(
            settings,
            promises,
            StoredElectorate(0, electorate, settled),
            send=lambda to, payload: None,
            promised=lambda promised: None,
            boot_clock=now_ns,
            raw_clock=now_ns,
        )
        self.other = OtherElector(
            settings,
            self.vote,
            self.duty,
            known=lambda: self.known,
            ask=lambda: self.asked.append(now_ns()),
            send=self._answer,
            clock=now_ns,
        )

    def _answer(self, to: Address, payload: bytes) -> None:
        survey = decode_electorate_message(payload)
        assert isinstance(survey, Survey)
        self.surveys += 1
        if self.is_there:
            standing = Standing(survey.epoch, survey.sequence, 0, True, True, True)
            source = Source(to, "node1", 1)
            asyncio.get_running_loop().call_soon(
                self.other.pump.on_datagram, source, encode_electorate_message(standing)
            )

    async def attend_for(self, seconds: float) -> None:
        running = asyncio.create_task(self.other.pump.run())
        for _ in range(round(seconds * 20)):
            if self.is_ready:
                self.duty.hear(heartbeat(), now_ns=now_ns())
            self.other.attend()
            await asyncio.sleep(0.05)
        running.cancel()


@asynccontextmanager
async def pair(
    folder: Path, electorate: Electorate = TWO, *, settled: bool = True, has_memory: bool = True
) -> AsyncIterator[Pair]:
    settings = settings_of(folder, 0, 9644)
    if has_memory:
        with_memory(settings)
    with PromiseFile(Path(settings.run_dir)) as promises:
        yield Pair(folder, promises, electorate, settled=settled)


@in_virtual_time
async def test_while_the_other_is_heard_nothing_is_asked_for(tmp_path: Path) -> None:
    async with pair(tmp_path) as here:
        await here.attend_for(10)
        assert (here.asked, here.other.wanted, here.vote.machine.misses_other) == ([], None, False)


@in_virtual_time
async def test_who_loses_the_other_asks_within_half_a_lease_to_go_on_alone(tmp_path: Path) -> None:
    async with pair(tmp_path) as here:
        await here.attend_for(GRACE_S + 1)
        here.is_there, lost_ns = False, now_ns()
        await here.attend_for(1)
        assert (here.asked[0] - lost_ns) / SECOND < PATIENCE_S + 0.1
        assert here.other.wanted == Swap(TWO, ALONE)
        # Whoever surveys this node hears that it misses the other.
        assert here.vote.machine.misses_other
        assert len(here.asked) == 1


@in_virtual_time
async def test_nothing_is_asked_for_any_more_once_the_other_is_back(tmp_path: Path) -> None:
    async with pair(tmp_path) as here:
        here.is_there = False
        await here.attend_for(GRACE_S + 1)
        assert here.other.wanted is not None
        here.is_there = True
        await here.attend_for(1)
        assert (here.other.wanted, here.vote.machine.misses_other) == (None, False)


@in_virtual_time
async def test_a_node_that_could_not_serve_lets_the_other_go_first(tmp_path: Path) -> None:
    async with pair(tmp_path) as here:
        here.is_there = here.is_ready = False
        await here.attend_for(GRACE_S + PATIENCE_S * (UNFIT_PATIENCE - 1))
        assert here.asked == []
        await here.attend_for(PATIENCE_S * 2)
        assert len(here.asked) == 1


@in_virtual_time
async def test_a_newer_electorate_that_is_known_is_gone_over_to_first(tmp_path: Path) -> None:
    async with pair(tmp_path) as here:
        here.known = Electorate(5, MEMBERS, TWO.members)
        here.is_there = False
        await here.attend_for(GRACE_S + 5)
        assert (here.asked, here.other.wanted) == ([], None)


@pytest.mark.parametrize(("settled", "has_memory"), [(False, True), (True, False)], ids=["unsettled", "silent"])
@in_virtual_time
async def test_who_does_not_know_all_that_was_promised_asks_for_nothing(
    tmp_path: Path, settled: bool, has_memory: bool
) -> None:
    async with pair(tmp_path, settled=settled, has_memory=has_memory) as here:
        here.is_there = False
        await here.attend_for(GRACE_S + 5)
        assert here.asked == []


@pytest.mark.parametrize("electorate", [THREE, Electorate(1, MEMBERS[:1])], ids=["of three", "always alone"])
@in_virtual_time
async def test_where_the_electorate_is_not_of_two_nobody_is_asked_nor_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, electorate: Electorate
) -> None:
    told: list[int] = []
    set_standing = Tiebreaker.set_standing

    def note(self: Tiebreaker, electorate: Electorate, **rest: object) -> None:
        told.append(electorate.epoch)
        set_standing(self, electorate, **rest)

    monkeypatch.setattr(Tiebreaker, "set_standing", note)
    async with pair(tmp_path, electorate) as here:
        await here.attend_for(10)
        assert (here.surveys, here.asked, here.vote.machine.misses_other) == (0, [], False)
        # Once, when it entered the epoch.
        assert told == [electorate.epoch]


@in_virtual_time
async def test_an_electorate_that_comes_to_be_of_two_is_listened_to(tmp_path: Path) -> None:
    before = Electorate(3, MEMBERS, ())
    async with pair(tmp_path, before) as here:
        await here.attend_for(3)
        assert here.surveys == 0
        here.known = TWO
        here.vote.store(TWO)
        writing = asyncio.create_task(here.vote.write_records(stored=lambda: None))
        await asyncio.sleep(0.1)
        here.vote.enter_epoch(TWO, now_ns=now_ns())
        here.is_there = False
        await here.attend_for(GRACE_S + 1)
        writing.cancel()
        assert here.surveys > 0
        assert here.vote.machine.misses_other


@in_virtual_time
async def test_who_went_on_alone_says_that_it_misses_the_other_until_it_is_heard(tmp_path: Path) -> None:
    async with pair(tmp_path, ALONE) as here:
        here.is_there = False
        await here.attend_for(1)
        assert (here.vote.machine.misses_other, here.other.wanted) == (True, None)
        here.is_there = True
        await here.attend_for(1)
        assert not here.vote.machine.misses_other
