"""What a leader reports, to a source that takes or refuses it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest

from service.model.errors import ObjectError, TransientError
from service.model.gateway_node import NodeState
from service.model.objects import Kind, NetworkGateway, ObjectKey, Synced, Upsert
from service.object_status import GATEWAY, object_problems, object_status
from service.sources.event_recorder import ObjectEvent
from service.status_writer import StatusWriter
from tests.kubernetes.leader import Leader, node
from tests.policy.objects import policy
from tests.sources.fake_api_server import until

FIRST = "192.168.1.100"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PERIOD_S", "_OBSERVE_S", "_RETRY_S"):
        monkeypatch.setattr(f"service.status_writer.{name}", 0.001)


class Source:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.written: dict[ObjectKey, dict[str, Any]] = {}
        self.writes: list[tuple[ObjectKey, int]] = []
        self.deleted: list[ObjectKey] = []
        self.events: list[ObjectEvent] = []
        self.is_away = False
        self.refused = 0

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> None:
        self._check()
        self.written[key] = status
        self.writes.append((key, term))

    async def delete_status(self, key: ObjectKey) -> None:
        self._check()
        self.deleted.append(key)

    async def mirror_gateway(self) -> None:
        self._check()

    async def post_event(self, event: ObjectEvent) -> None:
        self._check()
        self.events.append(event)

    def _check(self) -> None:
        if self.is_away:
            self.refused += 1
            raise TransientError("away")


def leading() -> Leader:
    leader = Leader(node("worker1", 1), node("worker2", 2))
    leader.take((Upsert(NetworkGateway(GATEWAY, (IPv4Address(FIRST),), 1)), Synced()))
    leader.place(FIRST, "worker1")
    return leader


@asynccontextmanager
async def reporting(leader: Leader, source: Source) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(StatusWriter(leader).run(source))  # type: ignore[arg-type]
        yield
        task.cancel()


async def test_status_is_written_once_with_the_term_and_again_when_it_changes() -> None:
    leader, source = leading(), Source()
    async with reporting(leader, source):
        await until(lambda: GATEWAY in source.written)
        await asyncio.sleep(0.05)
        assert source.writes.count((GATEWAY, 7)) == 1
        leader.cluster.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
        await until(lambda: source.written[GATEWAY]["nodes"]["worker1"] == "Down")
    assert source.written[GATEWAY]["floatingIPs"] == {}
    assert source.writes.count((GATEWAY, 7)) == 2


async def test_what_could_not_be_written_is_written_when_the_source_returns() -> None:
    leader, source = leading(), Source()
    source.is_away = True
    leader.take((Upsert(policy("egress", ip="192.168.1.9")),))
    async with reporting(leader, source):
        await until(lambda: source.refused > 20)
        source.is_away = False
        await until(lambda: GATEWAY in source.written and len(source.events) == 1)
    assert source.events[0].reason == "UnknownEgressIP"


async def test_who_does_not_lead_writes_nothing() -> None:
    leader, source = leading(), Source()
    leader.term = None
    async with reporting(leader, source):
        await asyncio.sleep(0.05)
    assert source.writes == []


async def test_a_new_leader_writes_everything_and_tells_of_the_move_it_saw_before() -> None:
    leader, source = leading(), Source()
    leader.term = None
    async with reporting(leader, source):
        await asyncio.sleep(0.02)
        leader.cluster.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
        leader.held = {}
        await asyncio.sleep(0.02)
        leader.place(FIRST, "worker2")
        await asyncio.sleep(0.02)
        leader.term = 8
        await until(lambda: len(source.events) == 1)
    assert source.events[0].note == f"{FIRST} moved from worker1 to worker2: node worker1 is down"
    assert source.written[GATEWAY]["floatingIPs"] == {FIRST: "worker2"}
    assert {term for _, term in source.writes} == {8}


async def test_a_node_that_left_keeps_its_object_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, source = leading(), Source()
    gone = ObjectKey(Kind.NODE, "kube-system", "worker2")
    async with reporting(leader, source):
        await until(lambda: gone in source.written)
        leader.cluster.nodes = leader.cluster.nodes[:1]
        await asyncio.sleep(0.05)
        assert source.deleted == []
        monkeypatch.setattr("service.status_writer._NODE_GONE_NS", 0)
        await until(lambda: source.deleted == [gone])


async def test_many_statuses_are_all_written() -> None:
    leader, source = leading(), Source()
    leader.take(tuple(Upsert(policy(f"p{index}", ip=f"192.168.1.{index}")) for index in range(10, 99)))
    async with reporting(leader, source):
        await until(lambda: len(source.written) == 89 + 1 + 2)


def test_an_address_on_no_node_is_told_on_the_policy_and_on_the_gateway() -> None:
    leader = leading()
    leader.held.clear()
    leader.place(FIRST, None, "no node has an interface in its subnet")
    key = policy("egress", ip=FIRST).key
    leader.take((Upsert(policy("egress", ip=FIRST)),))
    found = {(event.regarding, event.reason) for event in object_problems(leader)}  # type: ignore[arg-type]
    assert found == {(key, "UnknownEgressIP"), (GATEWAY, "NoEligibleNode")}
    statuses = object_status(leader)  # type: ignore[arg-type]
    assert statuses[key]["conditions"][0]["reason"] == "UnknownEgressIP"
    assert statuses[key]["accepted"] is True
    assert "no node has an interface" in statuses[GATEWAY]["conditions"][0]["message"]


def test_addresses_with_the_same_fault_share_one_condition() -> None:
    leader = leading()
    others = [f"192.168.1.{index}" for index in range(110, 120)]
    gateway = NetworkGateway(GATEWAY, tuple(map(IPv4Address, (FIRST, *others))), 2)
    leader.take((Upsert(gateway),))
    for address in others:
        leader.place(address, None, "no node is ready")
    conditions = object_status(leader)[GATEWAY]["conditions"]  # type: ignore[arg-type]
    assert [condition["type"] for condition in conditions] == ["NoEligibleNode"]
    assert all(address in conditions[0]["message"] for address in others)


def test_an_object_of_the_api_server_that_cannot_be_used_is_told_with_its_field() -> None:
    leader = leading()
    error = ObjectError("kubernetes", "EgressNATPolicy", "bad", "spec.egress[0]", "is wrong")
    leader.intake.errors = (error, ObjectError("/etc/file.yaml", "EgressNATPolicy", "other", "spec", "is wrong"))
    key = ObjectKey(Kind.POLICY, "", "bad")
    statuses = object_status(leader)  # type: ignore[arg-type]
    assert statuses[key]["conditions"][0]["message"] == "spec.egress[0]: is wrong"
    assert statuses[key]["accepted"] is False
    assert [event.regarding for event in object_problems(leader)] == [key]  # type: ignore[arg-type]
    # Once a good version has been in force, it stays, and the status says so.
    leader.take((Upsert(policy("bad", ip=FIRST)),))
    conditions = object_status(leader)[key]["conditions"]  # type: ignore[arg-type]
    assert [condition["type"] for condition in conditions] == ["Accepted", "Outdated"]
