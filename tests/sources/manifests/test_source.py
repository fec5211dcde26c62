"""The source as its users see it: real files, a real watch."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.model.errors import OperatorError, TransientError
from service.model.objects import Change, Delete, Errors, Kind, ObjectKey, Synced, Upsert
from service.model.validity import Validity
from service.sources.manifests import folder_watch
from service.sources.manifests.source import ManifestsSource, load_folder
from tests.sources.texts import GATEWAY, POLICY, documents, pod_text, policy_text

Stream = AsyncGenerator[tuple[Change, ...], None]
LIMIT_S = 30


async def batch(stream: Stream) -> tuple[Change, ...]:
    async with asyncio.timeout(LIMIT_S):
        return await anext(stream)


@asynccontextmanager
async def opened(source: ManifestsSource) -> AsyncIterator[Stream]:
    async with aclosing(source.changes()) as stream:
        yield stream


def key(name: str) -> ObjectKey:
    return ObjectKey(Kind.POLICY, "", name)


async def test_the_first_batch_is_complete_and_ends_in_synced(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(documents(pod_text("web"), POLICY, GATEWAY))
    (tmp_path / "b.yaml").write_text("[")
    async with opened(ManifestsSource(tmp_path)) as stream:
        first = await batch(stream)
    assert [change.object.key.kind for change in first[:-2]] == [Kind.GATEWAY, Kind.POLICY, Kind.POD]
    assert isinstance(first[-2], Errors)
    assert [error.origin for error in first[-2].errors] == [str(tmp_path / "b.yaml")]
    assert first[-1] == Synced()


async def test_an_empty_folder_is_synced(tmp_path: Path) -> None:
    async with opened(ManifestsSource(tmp_path)) as stream:
        assert await batch(stream) == (Errors(()), Synced())


async def test_each_change_of_the_folder_is_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(documents(policy_text("x"), policy_text("y")))
    source = ManifestsSource(tmp_path)
    async with opened(source) as stream:
        await batch(stream)
        path.write_text(documents(policy_text("x", ip="192.168.1.101"), policy_text("y")))
        (change,) = await batch(stream)
        assert isinstance(change, Upsert)
        assert change.object.egress_source_ip == IPv4Address("192.168.1.101")
        path.write_text("[")
        (change,) = await batch(stream)
        assert isinstance(change, Errors)
        assert len(change.errors) == 1
        path.write_text(policy_text("x", ip="192.168.1.101"))
        assert await batch(stream) == (Errors(()),)
        assert await batch(stream) == (Delete(key("y")),)
        path.unlink()
        assert await batch(stream) == (Delete(key("x")),)


async def test_an_agent_gets_the_pods_of_its_node_only(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(documents(pod_text("one"), pod_text("two", "10.0.0.2", node="worker2")))
    async with opened(ManifestsSource(tmp_path, node="worker1")) as stream:
        names = [change.object.key.name for change in await batch(stream) if isinstance(change, Upsert)]
        assert names == ["one"]
        path.write_text(documents(pod_text("one", node="worker2"), pod_text("two", "10.0.0.2")))
        added, removed = await batch(stream)
        assert isinstance(added, Upsert)
        assert added.object.key.name == "two"
        assert removed == Delete(ObjectKey(Kind.POD, "shop", "one"))


async def test_without_a_watch_the_rescan_finds_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(folder_watch, "Inotify", refuse)
    async with opened(ManifestsSource(tmp_path)) as stream:
        await batch(stream)
        (tmp_path / "a.yaml").write_text(POLICY)
        (change,) = await batch(stream)
    assert isinstance(change, Upsert)


async def test_writing_status_is_no_change_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POLICY)
    source = ManifestsSource(tmp_path)
    async with opened(source) as stream:
        await batch(stream)
        await source.write_status(key("egress"), {"matchedPods": 1}, created="2024-01-01T00:00:00.000000000Z")
        (tmp_path / "b.yaml").write_text(policy_text("next"))
        (change,) = await batch(stream)
        assert change.object.key == key("next")
        await source.delete_status(key("egress"))
        assert list((tmp_path / "status").iterdir()) == []


async def test_two_controllers_of_one_folder_see_what_the_other_one_said(tmp_path: Path) -> None:
    one, other = ManifestsSource(tmp_path), ManifestsSource(tmp_path)
    await one.write_status(key("egress"), {"matchedPods": 1}, created="2024-01-01T00:00:00.000000000Z")
    assert await other.recorded() == (key("egress"),)
    said = await one.renew_validity(Validity("controller1", 7, ""), None)
    assert said is not None
    assert await other.read_validity() == said
    assert await other.renew_validity(Validity("controller2", 7, ""), None) is None
    with pytest.raises(TransientError):
        await other.write_status(key("egress"), {"matchedPods": 2}, created="", term=6)
    await one.write_status(key("egress"), {"matchedPods": 3}, created="2024-01-01T00:00:00.000000000Z", term=7)
    (read,) = await other.written_statuses()
    assert (read.key, read.status) == (key("egress"), {"matchedPods": 3})
    await other.replace_status(replace(read, status={"conditions": []}))
    assert (await one.written_statuses())[0].status == {"conditions": []}


async def test_it_stops_at_once_when_cancelled(tmp_path: Path) -> None:
    stream = ManifestsSource(tmp_path).changes()
    async with aclosing(stream):
        await batch(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_missing_folder_is_the_operators_error(tmp_path: Path) -> None:
    async with opened(ManifestsSource(tmp_path / "none")) as stream:
        with pytest.raises(OperatorError, match="none"):
            await batch(stream)
    with pytest.raises(OperatorError, match="none"):
        load_folder(tmp_path / "none")


def test_validation_returns_good_objects_and_all_errors(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(documents(POLICY, GATEWAY))
    (tmp_path / "b.yaml").write_text(policy_text("bad", ip="x"))
    objects, errors = load_folder(tmp_path)
    assert [item.key.kind for item in objects] == [Kind.GATEWAY, Kind.POLICY]
    assert [(error.name, error.field) for error in errors] == [("bad", "spec.egressSourceIP")]
