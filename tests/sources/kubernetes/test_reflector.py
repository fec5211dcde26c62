"""The reflector against an API server that misbehaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from service.model.objects import Pod
from service.sources.kubernetes.api_object import decode_pod
from service.sources.kubernetes.api_server import connect
from service.sources.kubernetes.reflector import Reflector, ReflectorTiming
from service.sources.kubernetes.resource import Difference, Resource
from tests.sources.kubernetes.fake_api_server import FakeApiServer, pod, refusal, until

QUICK = ReflectorTiming(watch_s=30, idle_s=5, backoff_min_s=0.01, backoff_max_s=0.05, watch_min_s=0.01)


class Follower:
    """What a consumer of the reflector would know."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.told: list[Difference[Pod]] = []
        self.reflector: Reflector[Pod]
        self.ready = asyncio.Event()
        """While it is not set, whatever is delivered waits."""
        self.ready.set()
        self.waiting = 0

    async def deliver(self, difference: Difference[Pod]) -> None:
        self.waiting += 1
        await self.ready.wait()
        self.waiting -= 1
        self.told.append(difference)
        self.pods |= {item.key.name: item for item in difference.upserts}
        for identity in difference.deletes:
            del self.pods[identity.removeprefix("shop/")]

    @property
    def is_listed(self) -> bool:
        return any(difference.is_listed for difference in self.told)

    def knows(self, *names: str) -> bool:
        return sorted(self.pods) == sorted(names)


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        yield server


@asynccontextmanager
async def following(
    api: FakeApiServer, timing: ReflectorTiming = QUICK, *, is_optional: bool = False
) -> AsyncIterator[Follower]:
    follower = Follower()
    async with connect() as client, asyncio.TaskGroup() as group:
        resource = Resource("/api/v1/pods", decode_pod, is_optional=is_optional)
        follower.reflector = Reflector(client, resource, follower.deliver, timing=timing)
        task = group.create_task(follower.reflector.run())
        yield follower
        task.cancel()


@pytest.fixture(autouse=True)
def _kubeconfig(api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "kubeconfig")))


async def test_what_exists_is_told_and_then_what_changes(api: FakeApiServer) -> None:
    await api.put(pod("a"))
    async with following(api) as seen:
        await until(lambda: seen.is_listed and seen.knows("a"))
        await api.put(pod("b", role="web"))
        await api.delete("a")
        await until(lambda: seen.knows("b"))
    assert seen.pods["b"].labels == (("role", "web"),)
    assert len(api.lists) == 1


async def test_a_change_of_what_we_do_not_look_at_is_not_told(api: FakeApiServer) -> None:
    await api.put(pod("a"))
    async with following(api) as seen:
        await until(lambda: seen.is_listed)
        await api.put(pod("a") | {"spec": {"nodeName": "worker1", "priority": 5}})
        await api.put(pod("b"))
        await until(lambda: seen.knows("a", "b"))
    assert [[item.key.name for item in told.upserts] for told in seen.told] == [["a"], ["b"]]


async def test_a_long_list_comes_in_pages_and_in_batches(api: FakeApiServer) -> None:
    for index in range(1000):
        await api.put(pod(f"p{index}", note="x" * 2000))
    async with following(api) as seen:
        await until(lambda: seen.is_listed)
    assert len(seen.pods) == 1000
    assert len(api.lists) >= 5
    assert max(len(told.upserts) for told in seen.told) <= 200


async def test_an_expired_continue_token_ends_in_one_whole_list(api: FakeApiServer) -> None:
    for index in range(500):
        await api.put(pod(f"p{index}"))
    api.token_is_gone = True
    async with following(api) as seen:
        await until(lambda: seen.is_listed)
    assert len(seen.pods) == 500
    assert "limit" not in api.lists[-1]


async def test_a_cut_watch_goes_on_from_the_last_version(api: FakeApiServer) -> None:
    await api.put(pod("a"))
    async with following(api) as seen:
        await until(lambda: len(api.watches) == 1)
        for index in range(5):
            api.cut()
            await api.put(pod(f"b{index}"))
            await until(lambda: len(seen.pods) == index + 2)  # noqa: B023
    assert len(api.lists) == 1


async def test_a_restarted_server_is_found_again(api: FakeApiServer) -> None:
    await api.put(pod("a"))
    async with following(api) as seen:
        await until(lambda: len(api.watches) == 1)
        await api.stop()
        await until(lambda: seen.reflector.trouble != "")
        api.pods["b"] = pod("b")
        api.version += 1
        api.oldest = api.version
        await api.start()
        await until(lambda: seen.knows("a", "b"))
        assert seen.reflector.trouble == ""


async def test_a_silent_watch_is_begun_anew(api: FakeApiServer) -> None:
    timing = ReflectorTiming(watch_s=30, idle_s=0.05, backoff_min_s=0.01, backoff_max_s=0.05, watch_min_s=0.01)
    api.is_silent = True
    async with following(api, timing) as seen:
        await until(lambda: len(api.watches) >= 3)
        api.is_silent = False
        await api.put(pod("a"))
        await until(lambda: seen.knows("a"))
    assert len(api.lists) == 1


@pytest.mark.parametrize("is_in_stream", [False, True])
async def test_a_version_that_is_gone_leads_to_a_list_of_what_differs(api: FakeApiServer, is_in_stream: bool) -> None:
    await api.put(pod("kept"))
    await api.put(pod("lost"))
    async with following(api) as seen:
        await until(lambda: len(api.watches) == 1)
        # What happens meanwhile is never told by a watch.
        del api.pods["lost"]
        api.pods["new"] = pod("new")
        api.version += 10
        if is_in_stream:
            await api.tell_raw({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}})
        else:
            api.oldest = api.version
            api.cut()
        await until(lambda: seen.knows("kept", "new"))
    last = [told for told in seen.told if told.is_listed][-1]
    assert [item.key.name for item in last.upserts] == ["new"]
    assert last.deletes == ("shop/lost",)


async def test_bookmarks_move_the_version_on(api: FakeApiServer) -> None:
    async with following(api) as seen:
        await until(lambda: len(api.watches) == 1)
        api.version += 50
        await api.tell_raw({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(api.version)}}})
        await asyncio.sleep(0.05)
        api.oldest = api.version
        api.cut()
        await until(lambda: len(api.watches) == 2)
    assert api.watches[-1]["resourceVersion"] == str(api.version)
    assert seen.is_listed
    assert len(api.lists) == 1


async def test_a_server_that_ends_every_watch_is_not_called_without_pause(api: FakeApiServer) -> None:
    timing = ReflectorTiming(backoff_min_s=0.1, backoff_max_s=0.4, watch_min_s=1.0)
    api.watch_limit = 0.0
    async with following(api, timing):
        await asyncio.sleep(0.5)
    assert 1 <= len(api.watches) <= 8


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
async def test_a_refusal_is_waited_out(api: FakeApiServer, code: int) -> None:
    await api.put(pod("a"))
    api.refusals = [refusal(code, "Refused") for _ in range(3)] + [web.Response(status=502, text="<html>bad gateway")]
    async with following(api) as seen:
        await until(lambda: seen.knows("a"))
    assert len(api.lists) == 5


@pytest.mark.parametrize(("code", "trouble"), [(403, "Refused"), (404, "")])
async def test_what_one_can_do_without_holds_up_nobody_and_a_right_that_is_lacking_is_told(
    api: FakeApiServer, code: int, trouble: str
) -> None:
    """An update that brings the image before the rights must not stop an agent."""
    await api.put(pod("a"))
    api.refusals = [refusal(code, "Refused")]
    timing = ReflectorTiming(absent_s=0.4)
    async with following(api, timing, is_optional=True) as seen:
        await until(lambda: seen.is_listed)
        assert (seen.pods, seen.reflector.trouble) == ({}, trouble)
        await until(lambda: seen.knows("a"))
        assert seen.reflector.trouble == ""


async def test_a_list_that_is_no_list_is_waited_out(api: FakeApiServer) -> None:
    await api.put(pod("a"))
    api.refusals = [web.Response(text="hello"), web.json_response([]), web.json_response({"metadata": {}, "items": 3})]
    async with following(api) as seen:
        await until(lambda: seen.knows("a"))


@pytest.mark.parametrize(
    "event", [{"type": "ADDED"}, ["ADDED"], {"type": "MODIFIED", "object": {"metadata": []}}, {"object": {}}]
)
async def test_nonsense_in_a_watch_leads_to_a_new_list(api: FakeApiServer, event: object) -> None:
    async with following(api) as seen:
        await until(lambda: len(api.watches) == 1)
        await api.tell_raw(event)  # type: ignore[arg-type]
        await until(lambda: len(api.lists) >= 2)
        await api.put(pod("a"))
        await until(lambda: seen.knows("a"))


async def test_one_unreadable_object_does_not_hold_up_the_others(api: FakeApiServer) -> None:
    await api.put({"metadata": {"name": "odd", "labels": [1, 2]}})
    await api.put(pod("a"))
    async with following(api) as seen:
        await until(lambda: seen.is_listed)
        assert seen.knows("a")


async def test_a_pod_deleted_and_made_again_at_once_is_the_new_one(api: FakeApiServer) -> None:
    await api.put(pod("a"))
    async with following(api) as seen:
        await until(lambda: len(api.watches) == 1)
        await api.delete("a")
        again = pod("a", "10.0.0.9")
        again["metadata"]["uid"] = "another"
        again["spec"]["nodeName"] = "worker2"
        await api.put(again)
        await until(lambda: "a" in seen.pods and seen.pods["a"].uid == "another")
    assert seen.pods["a"].node == "worker2"


async def test_a_slow_consumer_holds_the_watch_up_and_loses_nothing(api: FakeApiServer) -> None:
    await api.put(pod("gone"))
    async with following(api) as seen:
        await until(lambda: seen.is_listed and len(api.watches) == 1)
        seen.ready.clear()
        for index in range(150):
            await api.put(pod(f"p{index}"))
        await until(lambda: seen.waiting == 1)
        await api.delete("gone")
        for index in range(150, 300):
            await api.put(pod(f"p{index}"))
        # One at a time: what comes meanwhile is not handed over beside it, nor in front of it.
        await asyncio.sleep(0.05)
        assert (seen.waiting, seen.knows("gone")) == (1, True)
        seen.ready.set()
        await until(lambda: seen.knows(*(f"p{index}" for index in range(300))))
    assert (len(api.lists), len(api.watches)) == (1, 1)


@pytest.mark.parametrize(
    ("change", "address"),
    [
        ({}, "10.0.0.1"),
        ({"spec": {"hostNetwork": True}}, None),
        ({"status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}, None),
        ({"status": {"phase": "Failed", "podIP": "10.0.0.1"}}, None),
        ({"status": {}}, None),
        ({"status": {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.7"}]}}, "10.0.0.7"),
        ({"status": {"podIP": "nonsense"}}, None),
    ],
)
def test_a_pod_has_an_address_only_where_it_is_its_own(change: dict[str, object], address: str | None) -> None:
    found = decode_pod(json.dumps(pod("a") | change).encode()).value.ip  # type: ignore[arg-type]
    assert (str(found) if found else None) == address
