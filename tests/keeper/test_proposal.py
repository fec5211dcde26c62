import asyncio

import pytest

from service.electorate.book import ElectorateBook
from service.keeper.proposal import ConfiguredElectorate
from service.lease.electorate_message import Standing, Survey, decode_electorate_message, encode_electorate_message
from service.model.lease import Elector, Electorate
from service.model.machine import Address, Source
from tests.virtual_time import in_virtual_time, now_ns

PORT = 9644
MEMBERS = tuple(Elector(f"node{index}", f"127.0.0.{index + 1}") for index in range(3))
PRESENT = Electorate(1, MEMBERS[:2])
CONFIGURED = Electorate(2, MEMBERS)


class Desk:
    """A keeper that has this configured, and others that answer its surveys once they have settled."""

    def __init__(self, configured: Electorate) -> None:
        self.settled: set[str] = set()
        self.surveys = 0
        self.book = ElectorateBook(PRESENT, adopted=lambda _: None, is_configured=True)
        self.proposal = ConfiguredElectorate(configured, self.book, lease_port=PORT, send=self._answer, clock=now_ns)

    def _answer(self, to: Address, payload: bytes) -> None:
        survey = decode_electorate_message(payload)
        assert isinstance(survey, Survey)
        self.surveys += 1
        name = next(member.name for member in MEMBERS if member.host == to.host)
        standing = Standing(1, survey.sequence, 7, True, name in self.settled, True)
        asyncio.get_running_loop().call_soon(
            self.proposal.pump.on_datagram, Source(to, name, 1), encode_electorate_message(standing)
        )


@in_virtual_time
async def test_the_next_electorate_is_offered_once_the_present_one_is_in_force() -> None:
    """M2: and with the electors before it, so that those are asked what they promised (M3)."""
    desk = Desk(CONFIGURED)
    proposing = asyncio.create_task(desk.proposal.propose())
    desk.settled = {"node0"}
    await asyncio.sleep(10)
    assert desk.book.known == PRESENT
    desk.settled = {"node0", "node1"}
    async with asyncio.timeout(2):
        await proposing
    assert desk.book.known == Electorate(2, MEMBERS, PRESENT.members)


@in_virtual_time
async def test_nobody_is_asked_when_all_is_done() -> None:
    desk = Desk(CONFIGURED)
    desk.settled = {"node0", "node1"}
    async with asyncio.timeout(60):
        await desk.proposal.propose()
    asked = desk.surveys
    await asyncio.sleep(10)
    assert desk.surveys == asked > 0


@in_virtual_time
async def test_what_is_known_already_is_not_proposed() -> None:
    desk = Desk(PRESENT)
    async with asyncio.timeout(60):
        await desk.proposal.propose()
    assert (desk.book.known, desk.book.trouble, desk.surveys) == (PRESENT, "", 0)


@pytest.mark.parametrize(
    ("configured", "fix"),
    [
        (Electorate(3, MEMBERS), "write 2"),
        (Electorate(0, MEMBERS), "raise it to 2"),
        (Electorate(1, MEMBERS), "raise electors.epoch to 2"),
        (Electorate(2, (MEMBERS[2],)), "one member per epoch"),
    ],
    ids=["skips an epoch", "goes back", "same epoch", "changes too much"],
)
@in_virtual_time
async def test_what_is_no_single_step_is_refused_with_the_fix(configured: Electorate, fix: str) -> None:
    desk = Desk(configured)
    async with asyncio.timeout(60):
        await desk.proposal.propose()
    assert (desk.book.known, desk.surveys) == (PRESENT, 0)
    assert fix in desk.book.trouble


@in_virtual_time
async def test_a_newer_one_that_comes_from_elsewhere_ends_the_proposal() -> None:
    desk = Desk(CONFIGURED)
    proposing = asyncio.create_task(desk.proposal.propose())
    await asyncio.sleep(1)
    newer = Electorate(5, MEMBERS)
    desk.book.offer(newer, origin="a test")
    async with asyncio.timeout(2):
        await proposing
    assert (desk.book.known, desk.book.trouble) == (newer, "")


@in_virtual_time
async def test_m3_what_follows_none_is_not_taken_over_from_another_that_is_asked() -> None:
    desk = Desk(CONFIGURED)
    proposing = asyncio.create_task(desk.proposal.propose())
    await asyncio.sleep(1)
    for previous, known in (((), PRESENT), (PRESENT.members, Electorate(2, MEMBERS[:1], PRESENT.members))):
        said = encode_electorate_message(Electorate(2, MEMBERS[:1], previous))
        desk.proposal.pump.on_datagram(Source(Address("127.0.0.3", PORT), "node2", 1), said)
        assert desk.book.known == known
    proposing.cancel()


@in_virtual_time
async def test_a_cancelled_proposal_ends() -> None:
    proposing = asyncio.create_task(Desk(CONFIGURED).proposal.propose())
    await asyncio.sleep(1)
    proposing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await proposing
