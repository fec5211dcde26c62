"""The pieces joined: as an agent finds them whose API server knows its pods and nothing else, and as a leader does."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.model.object_event import ObjectEvent
from service.model.objects import Change, Kind, ObjectKey, Synced, Upsert
from service.model.validity import Loss
from service.report.writer import StatusWriter
from service.sources.kubernetes.api_server import connect
from service.sources.kubernetes.object_cache import FILE_NAME, ObjectCache, encode
from service.sources.kubernetes.reflector import ReflectorTiming
from service.sources.kubernetes.source import KubernetesSource
from tests.policy.objects import gateway
from tests.policy.objects import pod as known_pod
from tests.report.facts import Site, node
from tests.sources.kubernetes.fake_api_server import FakeApiServer, pod, until
from tests.sources.kubernetes.scripted_api import ScriptedApi, refused
from tests.virtual_time import in_virtual_time, now_ns

TIMING = ReflectorTiming(watch_s=30, idle_s=5, backoff_min_s=0.01, backoff_max_s=0.05, watch_min_s=0.01, absent_s=0.05)


class Told:
    """Everything a source has told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    async def follow(self, source: KubernetesSource) -> None:
        async for batch in source.changes():
            self.changes += batch

    @property
    def names(self) -> list[str]:
        return [change.object.key.name for change in self.changes if isinstance(change, Upsert)]


@asynccontextmanager
async def following(
    api: FakeApiServer, folder: Path, monkeypatch: pytest.MonkeyPatch, cache: ObjectCache | None = None
) -> AsyncIterator[tuple[KubernetesSource, Told]]:
    monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(folder / "kubeconfig")))
    monkeypatch.setattr("service.sources.kubernetes.source.RESTORE_AFTER_S", 0.0)
    told = Told()
    async with connect() as client, asyncio.TaskGroup() as group:
        source = KubernetesSource(client, node="worker1", timing=TIMING, cache=cache)
        tasks = [group.create_task(source.run()), group.create_task(told.follow(source))]
        yield source, told
        for task in tasks:
            task.cancel()


async def test_a_kind_the_cluster_does_not_answer_for_is_named_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeApiServer() as api:
        await api.put(pod("a"))
        async with following(api, tmp_path, monkeypatch) as (source, told):
            await until(lambda: told.names == ["a"] and "EgressNATPolicy" in source.state().trouble)
            await api.put(pod("b"))
            await until(lambda: told.names == ["a", "b"])
            trouble = source.state().trouble
            assert Synced() not in told.changes
    # Of the service ranges it may know nothing; the pods are followed.
    assert f"{Kind.SERVICE_RANGE}:" not in trouble
    assert f"{Kind.POD}:" not in trouble


async def test_what_was_known_last_is_told_and_said_to_be_of_that_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = (gateway("192.168.1.100"), known_pod("gone", "10.0.0.9"))
    (tmp_path / FILE_NAME).write_bytes(encode(remembered, owner="c/worker1", written_ns=1_000_000_000))
    async with FakeApiServer() as api:
        cache = ObjectCache(tmp_path / FILE_NAME, owner="c/worker1")
        async with following(api, tmp_path, monkeypatch, cache) as (source, told):
            await until(lambda: Synced() in told.changes)
            assert source.state().restored_from == "1970-01-01T00:00:01.000000000Z"
            assert "default" in told.names
            # A status goes to no object that only the cache knows.
            await source.write_status(ObjectKey(Kind.GATEWAY, "kube-system", "default"), {"accepted": True})
    assert await source.recorded() == ()


async def test_without_a_cache_nothing_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeApiServer() as api, following(api, tmp_path, monkeypatch) as (source, told):
        await until(lambda: "EgressNATPolicy" in source.state().trouble)
        assert source.state().restored_from == ""
        assert told.names == []


NODE_OBJECTS = "/apis/networking.gke.io/v1alpha1/namespaces/kube-system/anthosnetworkgatewaynodes"


class ListingApi(ScriptedApi):
    """Has objects of some kinds, of which nothing ever changes; takes whatever is written."""

    def __init__(self, objects: Mapping[str, tuple[str, ...]]) -> None:
        """`objects`: names by the path of their list."""
        super().__init__()
        self._objects = objects

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        if "/leases/" in path:
            raise refused(404)
        namespace = "kube-system" if path == NODE_OBJECTS else ""
        items = [{"metadata": {"name": name, "namespace": namespace}} for name in self._objects.get(path, ())]
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()

    async def stream(self, path: str, query: Mapping[str, str], *, idle_s: float) -> AsyncGenerator[bytes, None]:
        yield b""
        await asyncio.Event().wait()

    @property
    def deleted(self) -> list[str]:
        return [request.path for request in self.requests if request.verb == "delete"]


def leading(source: KubernetesSource, site: Site) -> StatusWriter:
    return StatusWriter(
        source,
        name="controller1",
        facts=site.facts_of_a_leader,
        loss=lambda: Loss("MajorityLost", "no majority of electors answers"),
        sightings=site.sightings,
        clock=now_ns,
        wall_clock=now_ns,
    )


@in_virtual_time
async def test_v6_a_leader_deletes_the_object_of_a_node_that_was_removed_while_nobody_led() -> None:
    """Nothing but the list of objects tells it of one that it never wrote itself."""
    api = ListingApi({"/api/v1/nodes": ("worker1",), NODE_OBJECTS: ("worker1", "removed")})
    source = KubernetesSource(api, node=None, wall_clock=now_ns)
    site = Site((node("worker1", 1),), now_ns)
    works: tuple[Any, ...] = (source.run(), site.follow(source), leading(source, site).run())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await asyncio.sleep(10)
        for task in tasks:
            task.cancel()
    assert set(api.deleted) == {f"{NODE_OBJECTS}/removed"}


async def test_an_event_of_an_object_that_is_not_followed_is_on_that_very_one() -> None:
    """Without its uid `kubectl describe` does not show it."""
    api = ScriptedApi({})
    event = ObjectEvent(ObjectKey(Kind.CONFIG_MAP, "x", "y"), "ElectorateRefused", "epoch 9", "Judge", True, uid="u1")
    await KubernetesSource(api, node=None).post_event(event)
    assert api.requests[0].body["regarding"]["uid"] == "u1"
