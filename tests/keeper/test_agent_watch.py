import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec

from service.keeper.agent_watch import AgentWatch
from service.keeper.majority import MajorityWatch
from service.keeper.written_electorate import WrittenElectorate
from service.model.keeper_message import ElectorateRecord
from service.model.machine import Address
from tests.keeper.node import IP, SECOND, heartbeat, named
from tests.keeper.site import GRACE_NS, Site, site
from tests.virtual_time import in_virtual_time, now_ns

NEWER = ElectorateRecord(2, (("node0", "127.0.0.1", 0), ("node1", "127.0.0.2", 0)), (("node0", "127.0.0.1", 0),))


class Watched:
    """A watch of this site, and when it called whom."""

    def __init__(self, here: Site) -> None:
        self.attended: list[int] = []
        self.reported: list[int] = []
        self.majority = SimpleNamespace(epoch_in_force=1)
        self.sent: list[tuple[Address, bytes]] = []
        written = WrittenElectorate(
            here.book,
            here.vote,
            cast(MajorityWatch, self.majority),
            lease_port=9644,
            send=lambda *what: self.sent.append(what),
        )
        self.watch = AgentWatch(
            written,
            here.claims,
            here.farewell,
            attend=lambda: self.attended.append(now_ns()),
            report=lambda: self.reported.append(now_ns()),
        )


@in_virtual_time
async def test_a_heartbeat_is_gone_by_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        watched = Watched(here)
        watched.watch.take(heartbeat())
        await asyncio.sleep(0.05)
        assert here.fence.is_open(IP)
        assert len(watched.attended) == 1


@in_virtual_time
async def test_the_electorate_that_the_agent_read_is_offered_to_the_book(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        Watched(here).watch.take(named(NEWER))
        assert here.book.known == NEWER.electorate


@in_virtual_time
async def test_m2_what_the_object_says_waits_until_the_electorate_before_it_was_in_force(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        watched = Watched(here)
        watched.majority.epoch_in_force = 0
        watched.watch.take(named(NEWER))
        assert (here.book.known.epoch, here.book.trouble) == (1, "")
        watched.majority.epoch_in_force = 1
        watched.watch.take(named(NEWER))
        assert here.book.known == NEWER.electorate


@in_virtual_time
async def test_m8_an_object_that_somebody_edited_is_not_gone_by_and_says_why(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        swapped = ElectorateRecord(2, (("node7", "127.0.0.8", 7), ("node8", "127.0.0.9", 8)), NEWER.previous)
        Watched(here).watch.take(named(swapped))
        assert here.book.known.epoch == 1
        assert "changes node0, node7, node8 at once; add or remove one member" in here.book.trouble


@in_virtual_time
async def test_what_the_book_refuses_keeps_no_address_from_being_claimed(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        older = msgspec.structs.replace(heartbeat(), electorate=ElectorateRecord(0, ()))
        Watched(here).watch.take(older)
        await asyncio.sleep(0.05)
        assert "epoch 0, older than 1" in here.book.trouble
        assert here.fence.is_open(IP)


@in_virtual_time
async def test_who_leaves_hears_nothing_any_more(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        watched = Watched(here)
        await here.farewell.say()
        watched.watch.take(msgspec.structs.replace(heartbeat(), electorate=NEWER))
        async with here.running():
            await asyncio.sleep(0.2)
        assert here.fence.writes == []
        assert (here.book.known.epoch, watched.attended) == (1, [])


@in_virtual_time
async def test_silence_counts_without_a_heartbeat(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        watched = Watched(here)
        watched.watch.take(heartbeat())
        watching = asyncio.create_task(watched.watch.run())
        await asyncio.sleep(GRACE_NS / SECOND - 0.1)
        assert here.fence.is_open(IP)
        await asyncio.sleep(0.2)
        assert here.fence.writes[-1] == (IP, 0)
        watching.cancel()


@in_virtual_time
async def test_each_fifth_of_a_second_a_report_says_how_things_are(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        watched = Watched(here)
        watching = asyncio.create_task(watched.watch.run())
        reporting = asyncio.create_task(watched.watch.report())
        await asyncio.sleep(1.05)
        assert watched.reported == [SECOND * fifth // 5 for fifth in range(1, 6)]
        assert len(watched.attended) == 11
        watching.cancel()
        reporting.cancel()
