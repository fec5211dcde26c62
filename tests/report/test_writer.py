"""What a leader reports, to a source that takes or refuses it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from service.model.assignment import Assignment
from service.model.errors import ObjectError, TransientError
from service.model.gateway_node import NodeRole, NodeState
from service.model.lease import Stamp
from service.model.object_event import ObjectEvent
from service.model.objects import ClusterNode, Delete, Kind, NetworkGateway, ObjectKey, Synced, Upsert
from service.report.objects import GATEWAY, object_problems, object_status
from service.report.writer import StatusWriter
from service.sources.source_state import SourceState
from tests.kubernetes.leader import Leader, node
from tests.policy.objects import pod, policy
from tests.sources.kubernetes.fake_api_server import until

FIRST, SECOND = "192.168.1.100", "192.168.1.101"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PERIOD_S", "_OBSERVE_S", "_RETRY_S"):
        monkeypatch.setattr(f"service.report.writer.{name}", 0.001)


class Source:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.written: dict[ObjectKey, dict[str, Any]] = {}
        self.writes: list[tuple[ObjectKey, int]] = []
        self.recorded: tuple[ObjectKey, ...] = ()
        self.deleted: list[ObjectKey] = []
        self.events: list[ObjectEvent] = []
        self.is_away = False
        self.refused = 0

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> None:
        self._check()
        self.written[key] = status
        self.writes.append((key, term))

    def state(self) -> SourceState:
        return SourceState("away" if self.is_away else "")

    def recorded_nodes(self) -> tuple[ObjectKey, ...]:
        return self.recorded

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
    leader.take((Upsert(NetworkGateway(GATEWAY, (IPv4Address(FIRST), IPv4Address(SECOND)), 1)), Synced()))
    leader.place(FIRST, "worker1")
    leader.place(SECOND, "worker2")
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
        # A node whose agent is being replaced forwards on while its lease lives, whatever gossip thinks of it.
        assert source.written[GATEWAY]["floatingIPs"] == {FIRST: "worker1", SECOND: "worker2"}
        del leader.held[FIRST]
        await until(lambda: source.written[GATEWAY]["floatingIPs"] == {SECOND: "worker2"})
    assert source.writes.count((GATEWAY, 7)) == 3


async def test_what_could_not_be_written_is_written_when_the_source_returns() -> None:
    leader, source = leading(), Source()
    source.is_away = True
    leader.take((Upsert(policy("egress", ip="192.168.1.9")),))
    async with reporting(leader, source):
        await until(lambda: source.refused > 20)
        source.is_away = False
        await until(lambda: GATEWAY in source.written and len(source.events) == 2)
    assert {event.reason for event in source.events} == {"UnknownEgressIP", "FloatingIPInUse"}


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
    said = f"{FIRST} moved from worker1 to worker2: node worker1 is down; gap at most 0."
    assert source.events[0].note.startswith(said)
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
        monkeypatch.setattr("service.report.writer._NODE_GONE_NS", 0)
        await until(lambda: source.deleted == [gone])


async def test_many_statuses_are_all_written() -> None:
    leader, source = leading(), Source()
    leader.take(tuple(Upsert(policy(f"p{index}", ip=f"192.168.1.{index}")) for index in range(10, 99)))
    async with reporting(leader, source):
        await until(lambda: len(source.written) == 89 + 1 + 2)


def test_an_address_on_no_node_is_told_on_the_policy_and_on_the_gateway() -> None:
    leader = leading()
    leader.held.pop(FIRST)
    leader.place(FIRST, None, "no node has an interface in its subnet")
    key = policy("egress", ip=FIRST).key
    leader.take((Upsert(policy("egress", ip=FIRST)),))
    found = {(event.regarding, event.reason) for event in object_problems(leader)}  # type: ignore[arg-type]
    assert found == {(key, "UnknownEgressIP"), (GATEWAY, "NoEligibleNode")}
    statuses = object_status(leader)  # type: ignore[arg-type]
    assert statuses[key]["conditions"][0]["reason"] == "UnknownEgressIP"
    assert statuses[key]["accepted"] is True
    conditions = {item["type"]: item for item in statuses[GATEWAY]["conditions"]}
    assert "no node has an interface" in conditions["NoEligibleNode"]["message"]
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", "NoEligibleNode")


def test_addresses_with_the_same_fault_share_one_condition() -> None:
    leader = leading()
    others = [f"192.168.1.{index}" for index in range(110, 120)]
    gateway = NetworkGateway(GATEWAY, tuple(map(IPv4Address, (FIRST, SECOND, *others))), 2)
    leader.take((Upsert(gateway),))
    for address in others:
        leader.place(address, None, "no node is ready")
    conditions = object_status(leader)[GATEWAY]["conditions"]  # type: ignore[arg-type]
    assert [condition["type"] for condition in conditions] == ["Ready", "NoEligibleNode"]
    assert all(address in conditions[1]["message"] for address in others)


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


def problems(leader: Leader) -> dict[str, ObjectEvent]:
    return {event.reason: event for event in object_problems(leader)}  # type: ignore[arg-type]


def list_only(leader: Leader, *floating_ips: str) -> None:
    leader.take((Upsert(NetworkGateway(GATEWAY, tuple(map(IPv4Address, floating_ips)), 2)),))


def test_removing_a_floating_ip_that_a_policy_uses_is_told_on_both() -> None:
    leader = leading()
    leader.take((Upsert(policy("egress", ip=FIRST)),))
    assert not problems(leader)
    list_only(leader, SECOND, "192.168.1.102")
    found = problems(leader)
    assert found["FloatingIPInUse"].regarding == GATEWAY
    assert f"{FIRST} is in use by EgressNATPolicy egress" in found["FloatingIPInUse"].note
    assert found["UnknownEgressIP"].regarding == policy("egress").key
    conditions = {item["type"]: item for item in object_status(leader)[GATEWAY]["conditions"]}  # type: ignore[arg-type]
    assert "list the address, or change the policy" in conditions["FloatingIPInUse"]["message"]
    list_only(leader, FIRST, SECOND)
    assert not problems(leader)


def test_fewer_than_two_floating_ips_in_a_subnet_are_told() -> None:
    leader = leading()
    list_only(leader, FIRST)
    assert f"only one floating IP, {FIRST}, is in 192.168.1.0/24" in problems(leader)["FewFloatingIPs"].note
    list_only(leader)
    assert not problems(leader), "none at all is a choice"


def test_a_pod_outside_the_known_ranges_is_told_with_what_to_set() -> None:
    leader = leading()
    stray = pod("a", "10.9.0.1")
    leader.take((Upsert(pod("b", "10.244.1.5")), Upsert(stray)))
    note = problems(leader)["PodOutsideRanges"].note
    assert "pod shop/a has 10.9.0.1" in note
    assert "set datapath.pod_cidrs" in note
    leader.take((Delete(stray.key),))
    assert not problems(leader)


def test_a_gateway_whose_addresses_are_all_held_is_ready() -> None:
    (ready,) = object_status(leading())[GATEWAY]["conditions"]  # type: ignore[arg-type]
    assert (ready["type"], ready["status"]) == ("Ready", "True")


NODE = ObjectKey(Kind.NODE, "kube-system", "worker1")


def say(leader: Leader, **fields: Any) -> None:
    """What the cluster's Node objects say; there is another one besides, so that one may be missing."""
    other = ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", "other"), NodeRole.WORKER)
    said = ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", "worker1"), NodeRole.WORKER, **fields)
    leader.take((Upsert(other), Upsert(said)))


def node_conditions(leader: Leader) -> dict[str, tuple[str, str]]:
    status = object_status(leader)[NODE]  # type: ignore[arg-type]
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


def test_without_node_objects_nothing_is_said_of_kubernetes() -> None:
    assert node_conditions(leading()) == {"Ready": ("True", "Ready"), "Schedulable": ("True", "Schedulable")}


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({"is_cordoned": True}, "Schedulable", ("False", "Cordoned")),
        ({"is_cordoned": True, "is_shutting_down": True}, "Schedulable", ("False", "ShuttingDown")),
        ({"is_ready": True}, "KubernetesReady", ("True", "KubeletReady")),
        ({"is_ready": False, "not_ready_reason": "down"}, "KubernetesReady", ("False", "KubeletNotReady")),
        ({}, "KubernetesReady", ("Unknown", "KubeletUnknown")),
    ],
)
def test_what_the_cluster_says_of_a_node_is_shown(fields: Any, kind: str, expected: tuple[str, str]) -> None:
    leader = leading()
    say(leader, **fields)
    assert node_conditions(leader)[kind] == expected


def test_a_node_status_names_interfaces_terms_and_tokens() -> None:
    leader = leading()
    (segment,) = leader.cluster.nodes[0].segments
    leader.cluster.nodes = (replace(leader.cluster.nodes[0], segments=(replace(segment, interface="eth0"),)),)
    status = object_status(leader)[NODE]  # type: ignore[arg-type]
    assert status["segments"][0]["interface"] == "eth0"
    assert status["floatingIPs"] == [{"address": FIRST, "term": 7, "token": "7.1.1"}]


async def test_a_node_object_that_an_earlier_leader_left_behind_goes_when_its_node_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.report.writer._NODE_GONE_NS", 0)
    leader, source = leading(), Source()
    say(leader)
    kept, left = (ObjectKey(Kind.NODE, "kube-system", name) for name in ("other", "former"))
    source.recorded = (kept, left)
    async with reporting(leader, source):
        await until(lambda: source.deleted != [])
    assert set(source.deleted) == {left}


async def test_a_successor_that_takes_over_before_the_death_is_known_is_told_as_such() -> None:
    leader, source = leading(), Source()
    leader.cluster.table[IPv4Address(FIRST)] = Assignment(IPv4Address(FIRST), "worker1", "worker2", Stamp(7, 1))
    leader.age_ns = 400_000_000
    async with reporting(leader, source):
        await asyncio.sleep(0.05)
        leader.held[FIRST] = "worker2"
        await until(lambda: len(source.events) == 1)
    note = source.events[0].note
    assert "the lease of worker1 ended, and its successor took over" in note
    assert "gap at most 0.4" in note


async def test_an_address_that_goes_to_and_fro_makes_no_flood_of_events() -> None:
    leader, source = leading(), Source()
    async with reporting(leader, source):
        for turn in range(200):
            leader.held[FIRST] = f"worker{turn % 2 + 1}"
            await asyncio.sleep(0.004)
    assert 5 < len(source.events) <= 12


async def test_a_move_during_an_outage_is_told_by_whoever_leads_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leadership may change meanwhile, or the leader may lose sight of the electors for a moment."""
    monkeypatch.setattr("service.report.moves.RECENT_NS", 50_000_000)
    leaders, sources = [leading(), leading()], [Source(), Source()]
    leaders[1].term = None
    async with reporting(leaders[0], sources[0]), reporting(leaders[1], sources[1]):
        await asyncio.sleep(0.05)
        for leader, source in zip(leaders, sources, strict=True):
            source.is_away = True
            leader.held[FIRST] = "worker2"
        await asyncio.sleep(0.1)
        leaders[0].term, leaders[1].term = None, 8
        await asyncio.sleep(0.1)
        for source in sources:
            source.is_away = False
        await until(lambda: len(sources[1].events) == 1)
        await asyncio.sleep(0.1)
        leaders[0].term, leaders[1].term = 9, None
        await asyncio.sleep(0.05)
    assert sources[1].events[0].note.startswith(f"{FIRST} moved from worker1 to worker2")
    assert sources[0].events == [], "and by nobody else, later"


async def test_a_leader_that_loses_sight_of_the_electors_still_tells_what_it_saw() -> None:
    leader, source = leading(), Source()
    async with reporting(leader, source):
        await asyncio.sleep(0.05)
        source.is_away = True
        leader.held[FIRST] = "worker2"
        await asyncio.sleep(0.05)
        leader.intake.is_synced = False
        await asyncio.sleep(0.05)
        leader.intake.is_synced, source.is_away = True, False
        await until(lambda: len(source.events) == 1)
        await asyncio.sleep(0.05)
    assert len(source.events) == 1
