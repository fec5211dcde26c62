"""The electorate object: what is read of it, and that of two who change it one does."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from service.electorate.store import ElectorateObject, ElectorateStore, decode, encode
from service.model.lease import Elector, Electorate
from service.sources.kubernetes.api_server import ApiError, ApiServer
from tests.electorate.object_server import ObjectServer
from tests.sources.kubernetes.fake_api_server import until
from tests.virtual_time import in_virtual_time

A, B, C = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("abc", start=1))
FIRST = Electorate(1, (A, B, C))
SECOND = Electorate(2, (A, B), FIRST.members)
OTHER = Electorate(2, (B, C), FIRST.members)


@asynccontextmanager
async def following(server: ObjectServer) -> AsyncIterator[tuple[ElectorateStore, list[ElectorateObject | None]]]:
    told: list[ElectorateObject | None] = []
    store = ElectorateStore(cast(ApiServer, server), "egressgw-system", changed=told.append)
    task = asyncio.create_task(store.run())
    yield store, told
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def document(**fields: object) -> bytes:
    members = [{"name": "a", "address": "10.0.0.1"}]
    said = {"epoch": 1, "members": members} | fields
    return json.dumps({"metadata": {"resourceVersion": "7"}, "data": {"electorate": json.dumps(said)}}).encode()


@pytest.mark.parametrize("in_force", [True, False])
@pytest.mark.parametrize("electorate", [FIRST, SECOND, Electorate(9, (Elector("a", "10.0.0.1"),))])
def test_what_is_written_is_what_is_read(electorate: Electorate, in_force: bool) -> None:
    body = {"metadata": {"resourceVersion": "7"}, "data": encode(electorate, in_force=in_force)}
    assert decode(json.dumps(body).encode()) == ElectorateObject(electorate, in_force, "7")


def test_an_operator_may_leave_out_what_is_not_known() -> None:
    assert decode(document()) == ElectorateObject(Electorate(1, (Elector("a", "10.0.0.1"),)), False, "7")


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b'{"metadata": {}, "data": {}}',
        b'{"metadata": {}, "data": {"electorate": "{"}}',
        document(epoch=0),
        document(epoch="one"),
        document(members=[]),
        document(members=[{"name": "a", "address": "10.0.0.256"}]),
        document(members=[{"name": "a", "address": "10.0.0.1", "memory": "disk"}]),
    ],
)
def test_what_does_not_say_who_decides_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        decode(raw)


@in_virtual_time
async def test_whether_there_is_an_object_is_known_once_the_server_has_said_so() -> None:
    server = ObjectServer()
    server.is_away = True
    async with following(server) as (store, told):
        await asyncio.sleep(0)
        assert not store.is_read
        server.is_away = False
        await until(lambda: store.is_read)
        assert store.current is None
        assert told == []


@in_virtual_time
async def test_what_one_writes_it_knows_at_once_and_the_others_by_the_watch() -> None:
    server = ObjectServer()
    async with following(server) as (writer, _), following(server) as (reader, told):
        await until(lambda: writer.is_read and reader.is_read)
        await writer.create(FIRST)
        assert writer.current is not None
        assert writer.current.electorate == FIRST
        await until(lambda: bool(told))
        assert told == [writer.current]


@in_virtual_time
async def test_of_two_who_change_the_same_version_one_does_and_the_other_changes_nothing() -> None:
    server = ObjectServer()
    async with following(server) as (one, _), following(server) as (other, _):
        await one.create(FIRST)
        await until(lambda: other.current is not None)
        read = other.current
        assert read is not None
        await one.swap(read, SECOND, in_force=False)
        with pytest.raises(ApiError) as caught:
            await other.swap(read, OTHER, in_force=False)
        assert caught.value.status == 409
        await until(lambda: other.current is not None and other.current.electorate == SECOND)


@in_virtual_time
async def test_of_two_who_make_it_one_does() -> None:
    server = ObjectServer()
    async with following(server) as (one, _), following(server) as (other, _):
        await one.create(FIRST)
        with pytest.raises(ApiError) as caught:
            await other.create(OTHER)
        assert caught.value.status == 409


@in_virtual_time
async def test_that_an_epoch_is_in_force_is_kept_in_the_object() -> None:
    server = ObjectServer()
    async with following(server) as (store, _):
        await store.create(FIRST)
        assert store.current is not None
        assert not store.current.in_force
        await store.swap(store.current, FIRST, in_force=True)
        assert store.current.in_force


@in_virtual_time
async def test_that_the_object_is_gone_is_told() -> None:
    server = ObjectServer()
    async with following(server) as (store, told):
        await store.create(FIRST)
        await until(lambda: store.is_read)
        await server.remove()
        await until(lambda: told[-1] is None)
        assert store.current is None


@in_virtual_time
async def test_an_object_that_says_nonsense_is_reported_and_changes_nothing_until_it_is_mended() -> None:
    server = ObjectServer()
    async with following(server) as (store, told):
        await store.create(FIRST)
        await until(lambda: store.is_read)
        await server.put({"electorate": '{"epoch": 2}'})
        await until(lambda: bool(store.trouble))
        assert store.trouble.startswith("ConfigMap egressgw-electorate: ")
        assert told[-1] == store.current
        assert store.current is not None
        assert store.current.electorate == FIRST
        await server.put(encode(SECOND, in_force=False))
        await until(lambda: store.current is not None and store.current.electorate == SECOND)
        assert store.trouble == ""


@in_virtual_time
async def test_who_does_not_know_what_became_of_its_change_can_read_it() -> None:
    server = ObjectServer()
    async with following(server) as (store, told):
        await store.create(FIRST)
        server.object = json.loads(document())
        await store.read()
        assert told[-1] == store.current
        assert store.current is not None
        assert store.current.version == "7"


@in_virtual_time
async def test_an_object_that_cannot_be_read_and_is_deleted_is_gone_and_no_longer_troubles() -> None:
    server = ObjectServer()
    async with following(server) as (store, told):
        await server.put({"electorate": '{"epoch": 8589934592, "members": [{"name": "a", "address": "192.0.2.1"}]}'})
        await until(lambda: "epoch 8589934592" in store.trouble)
        await server.remove()
        await until(lambda: bool(told) and told[-1] is None)
        assert (store.current, store.trouble) == (None, "")
