import asyncio
from pathlib import Path

import pytest

from service.keeper.majority import MajorityWatch
from service.lease.message import Query, Report, decode, encode
from service.model.lease import Elector, Electorate
from service.model.machine import Address, Source
from tests.keeper.node import SECOND, until
from tests.keeper.virtual import three_nodes
from tests.virtual_time import in_virtual_time, now_ns

pytestmark = pytest.mark.usefixtures("parts_that_know_only_real_time")
PORT = 9644
MEMBERS = tuple(Elector(f"node{index}", f"127.0.0.{index + 1}") for index in range(4))
THREE = Electorate(1, MEMBERS[:3])
FOLLOWING = Electorate(2, (*MEMBERS[:2], MEMBERS[3]), THREE.members)


class Electors:
    """Answer whoever asks, if they are there."""

    def __init__(self) -> None:
        self.there: dict[str, bool] = {}
        """By name, with whether it votes."""
        self.epoch = 1
        self.asked: set[str] = set()
        self.watch = MajorityWatch(THREE, lease_port=PORT, send=self._answer, clock=now_ns)

    def _answer(self, to: Address, payload: bytes) -> None:
        query = decode(payload)
        assert isinstance(query, Query)
        name = next(member.name for member in MEMBERS if member.host == to.host)
        self.asked.add(name)
        if name in self.there:
            report = Report(self.epoch, query.sequence, 0, 1, self.there[name], ())
            asyncio.get_running_loop().call_soon(self.watch.pump.on_datagram, Source(to, name, 1), encode(report))

    async def is_seen_after(self, seconds: float) -> bool:
        running = asyncio.create_task(self.watch.pump.run())
        await asyncio.sleep(seconds)
        running.cancel()
        return self.watch.is_seen(now_ns=now_ns())


@in_virtual_time
async def test_two_of_three_are_a_majority_and_one_is_none() -> None:
    electors = Electors()
    electors.there = {"node0": True}
    assert not await electors.is_seen_after(5)
    electors.there = {"node0": True, "node2": True}
    assert await electors.is_seen_after(1)


@in_virtual_time
async def test_who_answers_but_does_not_vote_yet_is_not_counted() -> None:
    """P2: while a restarted elector is silent, no further node may be restarted."""
    electors = Electors()
    electors.there = {"node0": True, "node1": False, "node2": False}
    assert not await electors.is_seen_after(5)


@in_virtual_time
async def test_a_majority_is_out_of_sight_two_seconds_after_its_last_word() -> None:
    electors = Electors()
    electors.there = {"node0": True, "node1": True}
    assert await electors.is_seen_after(0.1)
    electors.there = {}
    assert await electors.is_seen_after(1.8)
    assert not await electors.is_seen_after(0.2)


@in_virtual_time
async def test_who_does_not_vote_is_named_with_its_last_vote_or_when_it_was_first_asked() -> None:
    electors = Electors()
    began_ns = now_ns()
    electors.there = {"node0": True, "node1": True, "node2": False}
    await electors.is_seen_after(5)
    assert electors.watch.silent(now_ns=now_ns()) == {"node2": began_ns}
    del electors.there["node1"]
    voted_ns = now_ns()
    await electors.is_seen_after(5)
    silent = electors.watch.silent(now_ns=now_ns())
    assert list(silent) == ["node1", "node2"]
    assert voted_ns - 600_000_000 < silent["node1"] <= voted_ns


@in_virtual_time
async def test_after_a_change_the_new_electors_are_asked() -> None:
    electors = Electors()
    electors.there = dict.fromkeys(("node0", "node1", "node3"), True)
    electors.watch.enter_epoch(FOLLOWING, now_ns=now_ns())
    electors.epoch = 2
    assert await electors.is_seen_after(1)
    assert "node3" in electors.asked


@in_virtual_time
async def test_a_keeper_names_the_electors_that_it_does_not_see_vote_and_since_when(tmp_path: Path) -> None:
    began_ns = now_ns()
    async with three_nodes(tmp_path) as (nodes, _):
        await until(lambda: bool(nodes[1].reports) and bool(nodes[1].reports[-1].silent))
        ((name, since_ns),) = nodes[1].reports[-1].silent
        assert (name, nodes[1].reports[-1].majority) == ("node0", True)
        assert began_ns <= since_ns <= now_ns() - 2 * SECOND
