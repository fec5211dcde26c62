"""The electorate object, against a real API server."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from service.electorate.follower import ElectorateFollower
from service.electorate.office import ElectorateOffice
from service.electorate.reset import renew
from service.electorate.store import OBJECT_NAME, ElectorateObject, ElectorateStore, open_electorate
from service.host import clock, identity
from service.keeper.dispatch import Dispatch
from service.lease.message import MessageKind, kind_of
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.keeper_message import ElectorateRecord
from service.model.lease import Elector, Electorate, Token
from service.model.machine import Address, Source
from service.settings import Settings
from service.sources.kubernetes.api_server import ApiError, connect
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.sealed_socket import SealedSocket
from tests.keeper.node import Node, chosen, epoch, free_port, heartbeat, settings_of
from tests.kubernetes.control_plane import ControlPlane, Kubectl
from tests.sources.kubernetes.fake_api_server import until

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


async def test_m6_a_reset_says_what_must_be_true_and_begins_the_next_epoch_with_who_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with following() as (store, reader):
        await store.create(FIRST)
        await renew(store, ("a",), NAMESPACE, is_sure=True, wait_s=0.0)
        await until(lambda: reader.epoch() == 2)
        assert reader.last is not None
        assert reader.last.electorate == Electorate(2, (A,))
        assert reader.last.begun_anew
    assert "must be off, and stay off until they are installed anew: b, c" in capsys.readouterr().out


# -- an office, and real keepers --


class Agents:
    """What gossip would say: these agents are there."""

    def __init__(self, nodes: list[Node]) -> None:
        self.up = {node.settings.node: node.settings.bind_address for node in nodes}

    def members(self) -> dict[str, Any]:
        return {name: (SimpleNamespace(address=Address(host, 9640)), None) for name, host in self.up.items()}

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        return tuple(GatewayNode(name, NodeRole.WORKER, NodeState.UP, True, ()) for name in self.up)


@asynccontextmanager
async def office(settings: Settings, agents: Agents, *, down_ns: int) -> AsyncIterator[ElectorateOffice]:
    settings = msgspec.structs.replace(settings, node="controller-a", bind_address="127.0.0.99")
    envelope = Envelope(
        settings.keys(), cluster=settings.cluster, node=settings.node, start_id=identity.start_id(), purpose="lease"
    )

    def take(source: Source, payload: bytes) -> None:
        if kind_of(payload) is MessageKind.ELECTORATE:
            made.book.receive(source, payload, send=socket.send)
        else:
            made.pump.on_datagram(source, payload)

    socket = SealedSocket(Address(settings.bind_address, 0), envelope, bind_receiver=True, on_datagram=take)
    made = ElectorateOffice(
        settings,
        cast(ClusterView, agents),
        socket,
        adopted=lambda electorate: None,
        is_leading=lambda: True,
        clock=clock.boot_ns,
        unchanged_ns=1_000_000_000,
        down_ns=down_ns,
    )
    async with socket, asyncio.TaskGroup() as group:
        task = group.create_task(made.run())
        yield made
        task.cancel()


def names(found: ElectorateObject | None) -> list[str]:
    return [member.name for member in found.electorate.members] if found else []


async def test_an_electorate_is_chosen_survives_the_loss_of_its_object_and_replaces_an_elector_that_died(
    tmp_path: Path,
) -> None:
    port = free_port()
    nodes = [Node(chosen(settings_of(tmp_path, index, port))) for index in range(4)]
    agents = Agents(nodes)
    async with AsyncExitStack() as stack:
        for node in nodes[1:]:
            await stack.enter_async_context(node.running())
        async with nodes[0].running():
            settings = nodes[0].settings
            await stack.enter_async_context(office(settings, agents, down_ns=2_000_000_000))
            _, reader = await stack.enter_async_context(following())
            await until(lambda: names(reader.last) == ["node0", "node1", "node2"])
            await until(lambda: all(node.reports and epoch(node) == 1 for node in nodes))
            await until(lambda: [node.reports[-1].elector for node in nodes] == [True, True, True, False])
            nodes[3].heartbeat = heartbeat()
            await until(nodes[3].holds)
            await until(lambda: reader.last is not None and reader.last.in_force)
            await asyncio.to_thread(
                Kubectl(Path(os.environ["KUBECONFIG"])), "delete", "configmap", OBJECT_NAME, "-n", NAMESPACE
            )
            # Another may have written the next epoch before it was gone: it comes back above whatever that was.
            await until(lambda: None in reader.found and names(reader.last) == ["node0", "node1", "node2"])
            assert reader.epoch() == 1001
            await until(lambda: all(epoch(node) == 1001 for node in nodes))
        del agents.up["node0"]
        await until(lambda: names(reader.last) == ["node1", "node2", "node3"], timeout_s=30)
        assert reader.epoch() == 1003
        await until(nodes[3].holds)
        await until(lambda: nodes[3].reports[-1].elector and epoch(nodes[3]) == 1003)


async def test_m8_an_edit_that_swaps_all_members_is_refused_and_written_over(tmp_path: Path) -> None:
    port = free_port()
    nodes = [Node(chosen(settings_of(tmp_path, index, port))) for index in range(4)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        made = await stack.enter_async_context(office(nodes[0].settings, Agents(nodes), down_ns=60_000_000_000))
        store, reader = await stack.enter_async_context(following())
        await until(lambda: reader.last is not None and reader.last.in_force, timeout_s=20)
        nodes[3].heartbeat = heartbeat()
        await until(nodes[3].holds)
        assert store.current is not None
        members = store.current.electorate.members
        edit = Electorate(2, (Elector("node3", "127.0.0.4", 7),), members)
        await store.swap(store.current, edit, in_force=True)
        await until(lambda: "changes node0, node1, node2, node3 at once" in made.trouble)
        await until(lambda: reader.epoch() == 1001, timeout_s=20)
        assert store.current.electorate.members == members
        await until(lambda: made.trouble == "" and all(epoch(node) == 1001 for node in nodes))
        assert nodes[3].holds()


# -- two nodes --


class Pair:
    """Two keepers, each with the part of its agent that reads and changes the object, and what may be cut."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        port = free_port()
        self.nodes = [Node(chosen(settings_of(tmp_path, index, port))) for index in range(2)]
        self.is_cut = False
        for node in self.nodes:
            node.heartbeat = heartbeat(claims=False)
        monkeypatch.setattr(Dispatch, "send", self._send_unless_cut)
        for node, other in (self.nodes, self.nodes[::-1]):
            self._watch(node, other)

    @property
    def _send_unless_cut(self) -> Callable[[Dispatch, Address, bytes], None]:
        original = Dispatch.send

        def send(dispatch: Dispatch, to: Address, payload: bytes) -> None:
            hosts = {node.settings.bind_address for node in self.nodes}
            if not (self.is_cut and {dispatch._bind.host, to.host} == hosts):
                original(dispatch, to, payload)

        return send

    def _watch(self, node: Node, other: Node) -> None:
        write = node.fence.write

        def checked(address: IPv4Address, token: Token, deadline_ns: int) -> None:
            assert deadline_ns <= clock.boot_ns() or not other.holds(), "two fences are open"
            write(address, token, deadline_ns)

        node.fence.write = checked  # type: ignore[method-assign]

    @asynccontextmanager
    async def running(self, index: int) -> AsyncIterator[Node]:
        node = self.nodes[index]

        def say(record: ElectorateRecord | None) -> None:
            assert node.heartbeat is not None
            node.heartbeat = msgspec.structs.replace(node.heartbeat, electorate=record)

        follower = ElectorateFollower(node.settings, changed=say)

        async def hear() -> None:
            heard = 0
            while True:
                for report in node.reports[heard:]:
                    follower.hear(report)
                heard = len(node.reports)
                await asyncio.sleep(0.01)

        async with node.running(), asyncio.TaskGroup() as group:
            tasks = [group.create_task(hear()), group.create_task(follower.run())]
            yield node
            for task in tasks:
                task.cancel()

    def claim(self, holder: int) -> None:
        for index, node in enumerate(self.nodes):
            claims = heartbeat("holder" if index == holder else "successor").claims
            assert node.heartbeat is not None
            node.heartbeat = msgspec.structs.replace(node.heartbeat, claims=claims)


@asynccontextmanager
async def pair_in_force(pair: Pair, stack: AsyncExitStack) -> AsyncIterator[Reader]:
    """Both are electors, and the second node holds the address."""
    settings = pair.nodes[0].settings
    await stack.enter_async_context(office(settings, Agents(pair.nodes), down_ns=60_000_000_000))
    _, reader = await stack.enter_async_context(following())
    await until(lambda: names(reader.last) == ["node0", "node1"], timeout_s=20)
    pair.claim(1)
    await until(pair.nodes[1].holds)
    yield reader


async def test_of_two_nodes_that_lose_each_other_one_serves_and_both_are_electors_again_when_they_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, monkeypatch)
    async with AsyncExitStack() as stack:
        for index in range(2):
            await stack.enter_async_context(pair.running(index))
        reader = await stack.enter_async_context(pair_in_force(pair, stack))
        pair.is_cut = True
        await until(lambda: len(names(reader.last)) == 1)
        winner = next(node for node in pair.nodes if node.settings.node in names(reader.last))
        await until(winner.holds)
        await until(
            lambda: [node.reports[-1].elector for node in pair.nodes] == [node is winner for node in pair.nodes]
        )
        pair.is_cut = False
        # Whoever won is named first.
        await until(lambda: sorted(names(reader.last)) == ["node0", "node1"], timeout_s=20)
        await until(lambda: all(node.reports[-1].elector and node.reports[-1].settled for node in pair.nodes))
        await until(lambda: any(node.holds() for node in pair.nodes))


async def test_what_one_of_two_nodes_held_is_served_by_the_other_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, monkeypatch)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pair.running(0))
        async with pair.running(1):
            reader = await stack.enter_async_context(pair_in_force(pair, stack))
            await until(pair.nodes[1].holds)
        await until(pair.nodes[0].holds)
        assert names(reader.last) == ["node0"]
        async with pair.running(1):
            await until(lambda: names(reader.last) == ["node0", "node1"], timeout_s=20)
            await until(lambda: any(node.holds() for node in pair.nodes))


async def test_two_nodes_that_hear_each_other_do_without_the_api_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, monkeypatch)
    async with AsyncExitStack() as stack:
        for index in range(2):
            await stack.enter_async_context(pair.running(index))
        await stack.enter_async_context(pair_in_force(pair, stack))

        async def refuse(*_: object, **__: object) -> None:
            raise ApiError(0, "Unreachable", "the API server is away")

        monkeypatch.setattr(ElectorateStore, "swap", refuse)
        monkeypatch.setattr(ElectorateStore, "read", refuse)
        pair.is_cut = True
        await until(lambda: not any(node.holds() for node in pair.nodes))
        pair.is_cut = False
        await until(lambda: any(node.holds() for node in pair.nodes))
        assert [epoch(node) for node in pair.nodes] == [1, 1]
