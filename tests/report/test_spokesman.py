"""What a leader wrote ends, whoever dies: two controllers over one source, in virtual time (rules V1 to V4)."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

import pytest

from service.model.errors import TransientError
from service.model.objects import Delete, ObjectKey, Upsert
from service.model.validity import Loss, Validity, WrittenStatus
from service.report.objects import GATEWAY
from service.report.spokesman import Spokesman
from service.report.validity import RENEW_NS, VALID_NS
from tests.policy.objects import policy
from tests.report.facts import FIRST, SECOND
from tests.report.test_writer import WALL_NS, Reporting, Source
from tests.virtual_time import in_virtual_time, now_ns

ENDED_S = (VALID_NS + 2 * RENEW_NS) / 1e9
"""So long after the last word of a leader, at the latest, everything says Unknown."""
HELD = {FIRST: "worker1", SECOND: "worker2"}


class Door:
    """A controller's own way to the source, which may be cut."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.is_cut = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.source, name)

        async def refuse(*_: Any, **__: Any) -> None:
            raise TransientError("away")

        is_request = inspect.iscoroutinefunction(found) and name != "recorded"
        return refuse if self.is_cut and is_request else found


@asynccontextmanager
async def two_controllers() -> AsyncIterator[tuple[Reporting, Reporting]]:
    """The first leads, in term 7."""
    async with Reporting() as leader, Reporting("controller2", leader.source) as other:
        other.site.term = None
        other.loss = Loss("LeaderSilent", "controller controller1 leads, and has not reported")
        await asyncio.sleep(2)
        yield leader, other


def said(source: Source) -> set[tuple[str, str]]:
    """Status and reason of every condition of every object."""
    statuses = source.written.values()
    return {(item["status"], item["reason"]) for status in statuses for item in status["conditions"]}


@in_virtual_time
async def test_v1_with_the_majority_lost_every_object_says_unknown_and_true_again_when_it_is_back() -> None:
    async with two_controllers() as (leader, other):
        for one in (leader, other):
            one.site.term, one.loss = None, Loss("MajorityLost", "no majority of electors answers")
        await asyncio.sleep(ENDED_S)
        assert said(leader.source) == {("Unknown", "MajorityLost")}
        assert "validUntil" not in leader.source.written[GATEWAY]
        assert leader.source.validity is not None
        assert any("Unknown: no majority" in trouble for trouble in (*leader.writer.troubles(),))
        assert [event.reason for event in leader.source.events] == ["StatusUnknown"]
        other.site.term = 8
        await asyncio.sleep(1)
        assert leader.source.written[GATEWAY]["floatingIPs"] == HELD
        assert all(status == "True" for status, _ in said(leader.source))
        # A witness looked a moment ago, and who leads since has not waited for its next look.
        assert (leader.source.validity.speaker, leader.source.validity.term) == ("controller2", 8)
        await asyncio.sleep(ENDED_S)
        assert (leader.writer.troubles(), other.writer.troubles()) == ([], [])


@in_virtual_time
async def test_v1_a_leader_that_cannot_reach_the_source_is_ended_by_one_that_can() -> None:
    """Nobody lost a lease: only what the leader says goes nowhere."""
    door = Door(source := Source())
    async with Reporting("controller1", cast(Source, door)) as leader, Reporting("controller2", source) as other:
        other.site.term = None
        other.loss = Loss("LeaderSilent", "controller controller1 leads, and has not reported")
        await asyncio.sleep(2)
        door.is_cut = True
        await asyncio.sleep(ENDED_S)
        assert said(source) == {("Unknown", "LeaderSilent")}
        assert "status of the objects: away" in leader.writer.troubles()
        # V4: it leads in the same term still, and believes that it has written everything.
        door.is_cut = False
        await asyncio.sleep(RENEW_NS / 1e9 + 1)
        assert source.written[GATEWAY]["floatingIPs"] == HELD
        assert all(status == "True" for status, _ in said(source))
        assert source.validity is not None
        assert source.validity.speaker == "controller1"


@in_virtual_time
async def test_v1_a_steady_leader_is_doubted_by_nobody_and_writes_little() -> None:
    async with two_controllers() as (leader, other):
        source = leader.source
        before, renewed = len(source.writes), len(source.renewals)
        await asyncio.sleep(600)
        assert {validity.speaker for validity in source.renewals} == {"controller1"}
        assert len(source.renewals) - renewed <= 600 / (RENEW_NS / 1e9) + 1
        # Of all objects only the gateway's is written again, twice a minute, with the time until which it is true.
        assert {key for key, _ in source.writes[before:]} == {GATEWAY}
        assert len(source.writes) - before <= 21
        assert other.writer.troubles() == []


@in_virtual_time
async def test_the_gateway_names_a_time_that_is_always_ahead_and_never_far() -> None:
    async with two_controllers() as (leader, _):
        for _ in range(50):
            await asyncio.sleep(3)
            text = leader.source.written[GATEWAY]["validUntil"]
            left_s = datetime.fromisoformat(text).timestamp() - (WALL_NS + now_ns()) / 1e9
            assert 25 < left_s <= 60


@in_virtual_time
async def test_v1_the_controller_that_said_unknown_dies_and_the_other_goes_on() -> None:
    async with Reporting("controller2", source := Source()) as other:
        async with Reporting("controller1", source) as leader:
            other.site.term = None
            await asyncio.sleep(2)
            leader.site.term = None
            await asyncio.sleep(ENDED_S)
        speaker = source.validity.speaker if source.validity else ""
        source.written[policy("late").key] = {"conditions": []}
        source.versions[policy("late").key] = 1
        if speaker == "controller2":
            await asyncio.sleep(RENEW_NS / 1e9 + 1)
        else:
            await asyncio.sleep(ENDED_S)
        assert said(source) == {("Unknown", "MajorityLost")}
        assert source.written[policy("late").key]["conditions"] != []


@in_virtual_time
async def test_v1_an_object_that_appears_while_nobody_knows_says_unknown_soon() -> None:
    async with two_controllers() as (leader, _):
        leader.site.term = None
        await asyncio.sleep(ENDED_S)
        source, key = leader.source, policy("new").key
        source.written[key], source.versions[key] = {}, 1
        await asyncio.sleep(RENEW_NS / 1e9 + 1)
        assert source.written[key]["conditions"][0]["status"] == "Unknown"


@in_virtual_time
async def test_v3_a_leader_that_comes_back_in_the_middle_has_the_last_word() -> None:
    """The one that writes Unknown has read everything and stands still; meanwhile the leader writes what is true."""
    async with two_controllers() as (leader, other):
        source, gate = leader.source, asyncio.Event()
        replace_status = source.replace_status

        async def stand_still(written: WrittenStatus) -> None:
            await gate.wait()
            await replace_status(written)

        source.replace_status = stand_still  # type: ignore[method-assign]
        leader.site.term = None
        await asyncio.sleep(ENDED_S)
        assert source.validity is not None
        assert source.validity.loss is not None
        back = leader if source.validity.speaker == "controller2" else other
        back.site.term = 8
        await asyncio.sleep(RENEW_NS / 1e9 + 1)
        gate.set()
        await asyncio.sleep(30)
        assert source.written[GATEWAY]["floatingIPs"] == HELD
        assert all(status == "True" for status, _ in said(source))


@in_virtual_time
async def test_v2_of_two_that_see_the_end_one_says_so() -> None:
    async with two_controllers() as (leader, other):
        leader.site.term = None
        await asyncio.sleep(ENDED_S + 60)
        speakers = {one.speaker for one in leader.source.renewals if one.loss is not None}
        assert len(speakers) == 1
        assert leader.writer.loss == other.writer.loss
        # Written once: renewals say it of all of them.
        gateway = leader.source.versions[GATEWAY]
        await asyncio.sleep(60)
        assert leader.source.versions[GATEWAY] == gateway


@in_virtual_time
async def test_after_an_outage_of_the_source_for_everybody_a_living_leader_is_not_doubted() -> None:
    async with two_controllers() as (leader, _):
        leader.source.is_away = True
        await asyncio.sleep(300)
        leader.source.is_away = False
        await asyncio.sleep(60)
        assert all(validity.loss is None for validity in leader.source.renewals)


@in_virtual_time
async def test_a_policy_deleted_while_another_one_spoke_is_still_the_leaders_to_delete() -> None:
    async with two_controllers() as (leader, _):
        source = leader.source
        leader.site.take(Upsert(policy("egress", ip=FIRST)))
        await asyncio.sleep(1)
        source.validity = Validity("controller2", 7, "", Loss("LeaderSilent", "x"), "999")
        deleted: dict[str, Any] = {}

        async def delete(key: ObjectKey) -> None:
            deleted[str(key)] = None

        source.delete_status = delete  # type: ignore[method-assign]
        source.is_away = True
        leader.site.take(Delete(policy("egress").key))
        await asyncio.sleep(1)
        source.is_away = False
        await asyncio.sleep(RENEW_NS / 1e9 + 2)
        assert deleted == {"egress": None}


@in_virtual_time
async def test_v3_who_comes_second_with_the_validity_replaces_nothing() -> None:
    class Outrun(Source):
        async def renew_validity(self, claim: Validity, seen: Validity | None) -> Validity | None:
            return None

    source = Outrun()
    source.written[GATEWAY], source.versions[GATEWAY] = {"floatingIPs": HELD}, 1
    spokesman = Spokesman("controller2", source, clock=now_ns, wall_clock=now_ns)
    for _ in range(10):
        assert await spokesman.doubt(Loss("MajorityLost", "x")) == (None, ())
        await asyncio.sleep(RENEW_NS / 1e9)


@in_virtual_time
async def test_v1_a_leader_that_has_more_to_write_than_it_can_in_time_is_not_doubted_meanwhile() -> None:
    class Slow(Source):
        async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> None:
            await asyncio.sleep(1)
            await super().write_status(key, status, created=created, term=term)

    source = Slow()
    async with Reporting("controller1", source) as leader, Reporting("controller2", source) as other:
        other.site.term = None
        leader.site.take(*(Upsert(policy(f"p{index}", ip=f"10.1.{index}.1")) for index in range(250)))
        began = len(source.renewals)
        await asyncio.sleep(60)
        assert len(source.written) == 250 + 3
        assert {one.speaker for one in source.renewals} == {"controller1"}
        assert len(source.renewals) - began <= 60 / (RENEW_NS / 1e9) + 1


class Lossy(Source):
    """Takes a renewal, and its answer is lost."""

    lose = False

    async def renew_validity(self, claim: Validity, seen: Validity | None) -> Validity | None:
        written = await super().renew_validity(claim, seen)
        if self.lose:
            raise TransientError("no answer")
        return written


@in_virtual_time
async def test_v4_a_renewal_whose_answer_was_lost_is_ones_own_and_one_of_another_is_not() -> None:
    source = Lossy()
    spokesman = Spokesman("controller1", source, clock=now_ns, wall_clock=now_ns)
    assert await spokesman.answer(7), "nobody knows what is there"
    await asyncio.sleep(RENEW_NS / 1e9)
    source.lose = True
    with pytest.raises(TransientError):
        await spokesman.answer(7)
    source.lose = False
    assert not await spokesman.answer(7)
    assert not await spokesman.answer(7)
    source.validity = Validity("controller2", 7, "", Loss("LeaderSilent", "x"), "999")
    await asyncio.sleep(RENEW_NS / 1e9)
    assert not await spokesman.answer(7), "it learns it"
    assert await spokesman.answer(7)
    assert spokesman.loss is None
