"""The electorate object, against a real API server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from service.model.lease import Elector, Electorate
from service.sources.api_server import ApiError, connect
from service.sources.electorate_object import OBJECT_NAME, ElectorateObject, ElectorateStore, open_electorate
from tests.kubernetes.control_plane import ControlPlane, Kubectl
from tests.sources.fake_api_server import until

pytestmark = pytest.mark.kubernetes

NAMESPACE = "egressgw-system"
A, B, C = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("abc", start=1))
FIRST = Electorate(1, (A, B, C))
SECOND = Electorate(2, (A, B), FIRST.members)


@pytest.fixture(autouse=True)
def _namespace(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    plane.kubectl.run("create", "namespace", NAMESPACE, check=False)
    yield
    plane.kubectl("delete", "configmap", OBJECT_NAME, "-n", NAMESPACE, "--ignore-not-found")


class Reader:
    def __init__(self) -> None:
        self.found: list[ElectorateObject | None] = []

    @property
    def last(self) -> ElectorateObject | None:
        return self.found[-1] if self.found else None

    def epoch(self) -> int:
        return self.last.electorate.epoch if self.last else 0


@asynccontextmanager
async def following() -> AsyncIterator[tuple[ElectorateStore, Reader]]:
    reader = Reader()
    async with open_electorate(NAMESPACE, changed=reader.found.append) as store:
        await until(lambda: store.is_read)
        yield store, reader


async def test_what_one_writes_the_others_read() -> None:
    async with following() as (writer, _), following() as (_, reader):
        await writer.create(FIRST)
        await until(lambda: reader.epoch() == 1)
        assert reader.last is not None
        assert (reader.last.electorate, reader.last.in_force) == (FIRST, False)


async def test_of_two_who_make_it_one_does() -> None:
    async with following() as (one, _), following() as (other, _):
        results = await asyncio.gather(one.create(FIRST), other.create(SECOND), return_exceptions=True)
        failed = [result for result in results if isinstance(result, ApiError)]
        assert [error.status for error in failed] == [409]


async def test_of_two_who_change_the_same_version_one_does() -> None:
    async with following() as (one, _), following() as (other, reader):
        await one.create(FIRST)
        await until(lambda: reader.epoch() == 1)
        assert other.current is not None
        read = other.current
        await one.swap(read, SECOND, in_force=False)
        with pytest.raises(ApiError) as caught:
            await other.swap(read, Electorate(2, (B, C), FIRST.members), in_force=False)
        assert caught.value.status == 409
        await until(lambda: reader.epoch() == 2)
        assert reader.last is not None
        assert reader.last.electorate == SECOND


async def test_an_object_that_says_nonsense_is_reported_and_changes_nothing(kubectl: Kubectl) -> None:
    async with following() as (store, reader):
        await store.create(FIRST)
        kubectl(
            "patch", "configmap", OBJECT_NAME, "-n", NAMESPACE, "-p", '{"data": {"electorate": "{\\"epoch\\": 2}"}}'
        )
        await until(lambda: bool(store.trouble))
        assert OBJECT_NAME in store.trouble
        assert reader.epoch() == 1


async def test_that_the_object_is_gone_is_told(kubectl: Kubectl) -> None:
    async with following() as (store, reader):
        await store.create(FIRST)
        kubectl("delete", "configmap", OBJECT_NAME, "-n", NAMESPACE)
        await until(lambda: store.current is None)
        assert reader.last is None


async def test_the_right_to_the_one_object_is_enough_to_follow_and_to_change_it(
    plane: ControlPlane, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [OBJECT_NAME],
        "verbs": ["get", "list", "watch", "patch"],
    }
    metadata = {"name": "electorate-test", "namespace": NAMESPACE}
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    subject = {"kind": "ServiceAccount", "name": "electorate-test", "namespace": NAMESPACE}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "electorate-test"}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {**kind, "kind": "Role", "metadata": metadata, "rules": [rule]},
        {**kind, "kind": "RoleBinding", "metadata": metadata, "subjects": [subject], "roleRef": reference},
    )
    async with following() as (store, _):
        await store.create(FIRST)
    token = kubectl("create", "token", "electorate-test", "-n", NAMESPACE).strip()
    kubeconfig = plane.kubeconfig.with_name("electorate-test")
    plane.write_kubeconfig(kubeconfig, token)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    async with connect() as api, asyncio.TaskGroup() as group:
        reader = Reader()
        store = ElectorateStore(api, NAMESPACE, changed=reader.found.append)
        task = group.create_task(store.run())
        await until(lambda: reader.epoch() == 1)
        assert store.current is not None
        await store.swap(store.current, SECOND, in_force=False)
        await until(lambda: reader.epoch() == 2)
        task.cancel()
