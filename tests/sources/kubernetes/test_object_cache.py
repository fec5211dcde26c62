"""What an agent knew last survives its restart, and nothing else is taken for it."""

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.model.gateway_node import NodeRole
from service.model.objects import (
    ApiServers,
    ClusterNode,
    Delete,
    EgressRule,
    Kind,
    Object,
    ObjectKey,
    ServiceRange,
    Synced,
    Upsert,
)
from service.sources.kubernetes import object_cache
from service.sources.kubernetes.object_cache import ObjectCache, decode, encode
from tests.disk import HangingDisk
from tests.policy.objects import gateway, namespace, pod, policy, requirement, selector
from tests.sources.kubernetes.fake_api_server import until

OBJECTS: tuple[Object, ...] = (
    gateway("192.168.1.100"),
    policy("egress", rules=[EgressRule(selector({"user": "alice"}), selector(None, requirement("role", "In", "a")))]),
    namespace("shop", user="alice"),
    pod("a", "10.0.0.1", role="frontend"),
    pod("host", None),
    ClusterNode(
        ObjectKey(Kind.CLUSTER_NODE, "", "w1"),
        NodeRole.CONTROL_PLANE,
        (IPv4Address("192.168.1.21"),),
        (IPv4Network("10.244.1.0/24"),),
        is_cordoned=True,
        is_ready=False,
    ),
    ServiceRange(ObjectKey(Kind.SERVICE_RANGE, "", "kubernetes"), (IPv4Network("10.96.0.0/16"),)),
    ApiServers(ObjectKey(Kind.API_SERVERS, "default", "kubernetes"), (IPv4Address("203.0.113.9"),)),
)
GOOD = encode(OBJECTS, owner="c/w1", written_ns=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_cache, "_COALESCE_S", 0.05)


def test_objects_of_every_kind_come_back_as_they_were() -> None:
    remembered = decode(GOOD, owner="c/w1")
    assert set(remembered.objects) == set(OBJECTS)
    assert remembered.written_ns == 5


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no such file"),
        (GOOD[:-1], "damaged"),
        (GOOD[:20] + b"\0" + GOOD[21:], "damaged"),
        (b"EGWO\x63\0" + GOOD[6:], "another version"),
        (b"none" + GOOD[4:], "another version"),
        (encode(OBJECTS, owner="c/w2", written_ns=5), "of c/w2, not of c/w1"),
    ],
)
def test_a_file_that_cannot_be_used_is_ignored_with_a_line_that_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, words: str
) -> None:
    path = tmp_path / "objects.cache"
    path.write_bytes(data)
    assert ObjectCache(path, owner="c/w1").load() is None
    assert words in caplog.text


def test_no_file_is_nothing_to_speak_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ObjectCache(tmp_path / "none", owner="c/w1").load() is None
    assert caplog.text == ""


async def test_changes_are_written_together_once_everything_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    monkeypatch.setattr(object_cache, "replace_durably", lambda path, data: writes.append(data))
    cache = ObjectCache(tmp_path / "objects.cache", owner="c/w1")
    task = asyncio.create_task(cache.run())
    cache.note([Upsert(item) for item in OBJECTS])
    await asyncio.sleep(0.1)
    assert writes == [], "half of what exists must not replace what was known"
    cache.note([Synced()])
    for index in range(100):
        cache.note([Upsert(pod(f"p{index}"))])
    cache.note([Delete(pod("a").key)])
    await until(lambda: len(writes) > 0)
    await asyncio.sleep(0.1)
    task.cancel()
    assert len(writes) == 1
    names = {item.key.name for item in decode(writes[0], owner="c/w1").objects}
    assert "p99" in names
    assert "a" not in names


async def test_what_was_restored_keeps_its_day(tmp_path: Path) -> None:
    path = tmp_path / "objects.cache"
    path.write_bytes(GOOD)
    cache = ObjectCache(path, owner="c/w1")
    task = asyncio.create_task(cache.run())
    cache.note([*(Upsert(item) for item in OBJECTS), Synced()], is_news=False)
    await asyncio.sleep(0.15)
    task.cancel()
    assert path.read_bytes() == GOOD


async def test_too_many_objects_leave_no_file_rather_than_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(object_cache, "_BYTES_MAX", 100)
    path = tmp_path / "objects.cache"
    path.write_bytes(GOOD)
    cache = ObjectCache(path, owner="c/w1")
    task = asyncio.create_task(cache.run())
    cache.note([*(Upsert(item) for item in OBJECTS), Synced()])
    await until(lambda: not path.exists())
    await until(lambda: "more than the 100" in caplog.text)
    task.cancel()


async def test_a_disk_that_does_not_answer_is_waited_for_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ObjectCache(tmp_path / "objects.cache", owner="c/w1")
    disk = HangingDisk(monkeypatch)
    task = asyncio.create_task(cache.run())
    cache.note([Synced()])
    await until(lambda: disk.is_waited_for_by(tmp_path.name))
    disk.answer()
    await until(lambda: cache.load() is not None)
    task.cancel()
    assert disk.held_up == []
