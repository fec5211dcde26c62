"""The agent's part where one of two electors has lost the other: it asks for the object, and tells what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from service.electorate import store as electorate_object
from service.electorate.follower import ElectorateFollower
from service.electorate.store import ElectorateObject
from service.model.keeper_message import ElectorateRecord, LeaseReport
from service.model.lease import Elector, Electorate
from service.settings import Settings
from service.sources.kubernetes.api_server import ApiError
from tests.sources.kubernetes.fake_api_server import until
from tests.virtual_time import in_virtual_time

A, B = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("ab", start=1))
BOTH = Electorate(4, (A, B))
ALONE, OTHER = Electorate(5, (A,), (A, B)), Electorate(5, (B,), (A, B))
UNKNOWN = ApiError(0, "Unreachable", "no answer")


class Store:
    """The object, and what becomes of an attempt to change it."""

    def __init__(self, electorate: Electorate = BOTH) -> None:
        self.current: ElectorateObject | None = ElectorateObject(electorate, True, "1")
        self.truth = electorate
        self.attempts: list[Electorate] = []
        self.outcome: ApiError | None = None
        self.changed: Callable[[ElectorateObject | None], None] = lambda found: None

    async def swap(self, read: ElectorateObject, electorate: Electorate, *, in_force: bool) -> None:
        self.attempts.append(electorate)
        if self.outcome is not None:
            raise self.outcome
        self.truth = electorate
        await self.read()

    async def read(self) -> None:
        self.current = ElectorateObject(self.truth, False, "2")
        self.changed(self.current)


@asynccontextmanager
async def following(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[ElectorateFollower, list[Electorate]]]:
    @asynccontextmanager
    async def opened(namespace: str, *, changed: Callable[[ElectorateObject | None], None]) -> AsyncIterator[Store]:
        store.changed = changed
        yield store

    monkeypatch.setattr(electorate_object, "open_electorate", opened)
    told: list[Electorate] = []

    def tell(record: ElectorateRecord | None) -> None:
        if record is not None:
            told.append(record.electorate)

    settings = Settings(node="a", source="kubernetes", electors="auto")
    follower = ElectorateFollower(settings, changed=tell)
    task = asyncio.create_task(follower.run())
    yield follower, told
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def asking(before: Electorate = BOTH, following: Electorate | None = ALONE) -> LeaseReport:
    wanted = ElectorateRecord.of(following) if following is not None else None
    return LeaseReport(
        held=(), elector=True, voting=True, scheduling="normal", electorate=ElectorateRecord.of(before), wanted=wanted
    )


@in_virtual_time
async def test_a_keeper_that_asks_to_go_on_alone_hears_it_from_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with following(store, monkeypatch) as (follower, told):
        follower.hear(asking())
        await until(lambda: told == [ALONE])


@in_virtual_time
async def test_an_unknown_outcome_is_read_again_and_never_taken_for_success(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.outcome = UNKNOWN
    async with following(store, monkeypatch) as (follower, told):
        follower.hear(asking())
        await until(lambda: told == [BOTH])
        store.truth = OTHER
        follower.hear(asking())
        await until(lambda: told == [BOTH, OTHER])
        assert store.attempts == [ALONE, ALONE]


@in_virtual_time
async def test_a_change_whose_answer_was_lost_is_found_to_have_been_made(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.outcome, store.truth = UNKNOWN, ALONE
    async with following(store, monkeypatch) as (follower, told):
        follower.hear(asking())
        await until(lambda: told == [ALONE])


@in_virtual_time
async def test_an_object_that_is_not_what_the_keeper_goes_by_is_read_and_not_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(OTHER)
    async with following(store, monkeypatch) as (follower, told):
        follower.hear(asking())
        await until(lambda: told == [OTHER])
        assert store.attempts == []


@in_virtual_time
async def test_one_report_is_worth_one_attempt_and_the_next_may_take_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    async with following(store, monkeypatch) as (follower, _):
        follower.hear(asking())
        follower.hear(asking(following=None))
        await asyncio.sleep(10)
        assert store.attempts == []


@in_virtual_time
async def test_m6_the_keeper_hears_that_an_operator_began_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not go over to an electorate that follows nobody otherwise (M8)."""
    store = Store()
    async with following(store, monkeypatch) as (follower, _):
        await asyncio.sleep(0)
        for begun_anew in (False, True):
            store.changed(ElectorateObject(ALONE, False, "3", begun_anew))
            assert follower.record is not None
            assert follower.record.begun_anew == begun_anew
