import asyncio
from ipaddress import IPv4Address
from pathlib import Path

from service.settings import LeaseSettings
from tests.keeper.node import IP, SECOND, heartbeat
from tests.keeper.site import Site, site
from tests.virtual_time import in_virtual_time, now_ns

KEEP = LeaseSettings(on_stop="keep")


async def hold(here: Site) -> None:
    """Hold one address, then stop the tasks, as a cancelled keeper does."""
    async with here.running():
        here.claims.hear(heartbeat())
        await asyncio.sleep(0.2)
    assert here.fence.is_open(IP)
    here.seen.clear()
    here.fence.writes.clear()


async def seconds_of(here: Site) -> float:
    before_ns = now_ns()
    await here.farewell.say()
    return (now_ns() - before_ns) / SECOND


@in_virtual_time
async def test_handing_over_closes_the_fence_and_ends_when_the_elector_knows(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await hold(here)
        assert await seconds_of(here) < 0.1
        assert here.fence.writes == [(IP, 0)]
        assert here.claims.is_released


@in_virtual_time
async def test_the_agent_hears_of_it_after_the_fence_is_closed(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await hold(here)
        await here.farewell.say()
        assert here.seen
        assert set(here.seen) == {"report after 1 writes"}


@in_virtual_time
async def test_handing_over_to_electors_that_do_not_answer_ends_all_the_same(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await hold(here)
        here.is_deaf = True
        assert 0.4 < await seconds_of(here) < 0.6
        assert here.fence.writes == [(IP, 0)]


@in_virtual_time
async def test_a_release_that_was_lost_is_sent_again(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await hold(here)
        here.is_deaf = True
        asyncio.get_running_loop().call_later(0.2, setattr, here, "is_deaf", False)
        assert 0.2 <= await seconds_of(here) < 0.4
        assert here.claims.is_released


@in_virtual_time
async def test_keeping_leaves_an_open_fence_for_the_whole_long_lease(tmp_path: Path) -> None:
    async with site(tmp_path, KEEP) as here:
        await hold(here)
        assert await seconds_of(here) < 0.2
        left_ns = here.fence.values[IPv4Address(IP)].deadline_ns - now_ns()
        assert left_ns > 0.8 * KEEP.max_lease_ms * 1_000_000
        assert (IP, 0) not in here.fence.writes


@in_virtual_time
async def test_keeping_without_an_answer_ends_in_time_and_the_lease_by_itself(tmp_path: Path) -> None:
    async with site(tmp_path, KEEP) as here:
        await hold(here)
        here.is_deaf = True
        assert 0.4 < await seconds_of(here) < 0.6
        await asyncio.sleep(0.5)
        assert not here.fence.is_open(IP)


@in_virtual_time
async def test_who_leaves_says_so_from_the_first_moment(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await hold(here)
        assert not here.farewell.is_leaving
        here.is_deaf = True
        saying = asyncio.create_task(here.farewell.say())
        await asyncio.sleep(0.01)
        assert here.farewell.is_leaving
        await saying
        assert here.farewell.is_leaving


@in_virtual_time
async def test_a_stop_with_nothing_held_is_over_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert await seconds_of(here) == 0
        assert here.fence.writes == []
