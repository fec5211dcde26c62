"""An operator begins the electorate anew (M6)."""

import asyncio
import io

import click
import pytest

from service.electorate.reset import renew
from service.electorate.store import ElectorateStore
from service.model.errors import OperatorError
from service.model.lease import LONG_LEASE_NS, Elector, Electorate
from service.sources.kubernetes.api_server import ApiError
from tests.electorate.object_server import ObjectServer
from tests.electorate.test_store import A, B, C, following
from tests.sources.kubernetes.fake_api_server import until
from tests.virtual_time import in_virtual_time

FIRST = Electorate(1, (A, B, C))


def members(store: ElectorateStore) -> tuple[int, tuple[Elector, ...]]:
    assert store.current is not None
    return store.current.electorate.epoch, store.current.electorate.members


@in_virtual_time
async def test_m6_the_next_epoch_has_who_is_left_and_nobody_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    async with following(ObjectServer()) as (store, _):
        await store.create(FIRST)
        await renew(store, ("a",), "egressgw-system", is_sure=True)
        assert store.current is not None
        assert store.current.electorate == Electorate(2, (A,)), "no promise of the lost ones is asked for any more"
        assert store.current.begun_anew, "nobody would take it from the object otherwise (M8)"
    said = capsys.readouterr().out
    assert "must be off, and stay off until they are installed anew: b, c" in said
    assert "epoch 2: a" in said


@in_virtual_time
async def test_m6_who_is_not_sure_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    async with following(ObjectServer()) as (store, _):
        await store.create(FIRST)
        with pytest.raises(click.Abort):
            await renew(store, ("a",), "egressgw-system", is_sure=False)
        assert members(store) == (1, FIRST.members)


@in_virtual_time
async def test_m6_nothing_is_written_before_every_lease_of_the_lost_electors_is_over() -> None:
    async with following(ObjectServer()) as (store, _):
        await store.create(FIRST)
        await until(lambda: store.is_read)
        task = asyncio.create_task(renew(store, ("a",), "egressgw-system", is_sure=True))
        await asyncio.sleep(1.2 * LONG_LEASE_NS / 1e9 - 0.1)
        assert members(store) == (1, FIRST.members)
        await task
        assert members(store) == (2, (A,))


@in_virtual_time
async def test_m6_an_electorate_that_somebody_changed_meanwhile_is_not_begun_anew() -> None:
    async with following(ObjectServer()) as (store, _):
        await store.create(FIRST)
        await until(lambda: store.is_read)
        task = asyncio.create_task(renew(store, ("a",), "egressgw-system", is_sure=True))
        await asyncio.sleep(1)
        assert store.current is not None
        await store.swap(store.current, Electorate(2, (A, B), FIRST.members), in_force=False)
        with pytest.raises(ApiError, match="changed"):
            await task
        assert members(store) == (2, (A, B))


@in_virtual_time
async def test_where_there_is_no_electorate_nothing_is_begun() -> None:
    async with following(ObjectServer()) as (store, _):
        with pytest.raises(OperatorError, match="there is no electorate in egressgw-system: no such object"):
            await renew(store, ("a",), "egressgw-system", is_sure=True)
        assert store.current is None


@in_virtual_time
async def test_who_is_no_elector_cannot_go_on_as_one() -> None:
    async with following(ObjectServer()) as (store, _):
        await store.create(FIRST)
        with pytest.raises(OperatorError, match="d is no elector of epoch 1"):
            await renew(store, ("a", "d"), "egressgw-system", is_sure=True)
        assert members(store) == (1, FIRST.members)
