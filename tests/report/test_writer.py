"""What a leader reports, to a source that takes or refuses it."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Self

import pytest

from service.model.assignment import PlannedMove
from service.model.errors import ObjectError, TransientError
from service.model.gateway_node import NodeRole, NodeState
from service.model.object_event import ObjectEvent
from service.model.objects import ClusterNode, Delete, Errors, Kind, ObjectKey, Upsert
from service.model.validity import Loss, Validity, WrittenStatus
from service.report.facts import Facts, Sightings
from service.report.objects import GATEWAY, object_status
from service.report.writer import StatusWriter
from service.sources.source_state import SourceState
from tests.policy.objects import policy, policy_key
from tests.report.facts import FIRST, SECOND, node, two_held
from tests.virtual_time import in_virtual_time, now_ns

LOST = Loss("MajorityLost", "no majority of electors answers")
WALL_NS = 1_700_000_000_000_000_000


class Source:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.written: dict[ObjectKey, dict[str, Any]] = {}
        self.created: dict[ObjectKey, str] = {}
        self.writes: list[tuple[ObjectKey, int]] = []
        self.left_behind: tuple[ObjectKey, ...] = ()
        self.deleted: list[ObjectKey] = []
        self.events: list[ObjectEvent] = []
        self.validity: Validity | None = None
        self.renewals: list[Validity] = []
        self.versions: dict[ObjectKey, int] = {}
        self.is_away = False
        self.refused = 0
        self.under_way = self.under_way_max = 0
        self.mirrored = 0

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> None:
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self._check()
        self._write(key, status)
        self.created[key] = created
        self.writes.append((key, term))

    def _write(self, key: ObjectKey, status: dict[str, Any]) -> None:
        self.written[key] = status
        self.versions[key] = self.versions.get(key, 0) + 1

    async def read_validity(self) -> Validity | None:
        self._check()
        return self.validity

    async def renew_validity(self, claim: Validity, seen: Validity | None) -> Validity | None:
        self._check()
        if seen != self.validity:
            return None
        self.validity = replace(claim, version=str(len(self.renewals)))
        self.renewals.append(self.validity)
        return self.validity

    async def written_statuses(self) -> tuple[WrittenStatus, ...]:
        return tuple(WrittenStatus(key, said, str(self.versions[key])) for key, said in self.written.items())

    async def replace_status(self, written: WrittenStatus) -> None:
        self._check()
        if str(self.versions[written.key]) == written.version:
            self._write(written.key, written.status)

    def state(self) -> SourceState:
        return SourceState("away" if self.is_away else "")

    async def recorded(self) -> tuple[ObjectKey, ...]:
        return self.left_behind

    async def delete_status(self, key: ObjectKey) -> None:
        self._check()
        self.deleted.append(key)

    async def mirror_gateway(self) -> None:
        self._check()
        self.mirrored += 1

    async def post_event(self, event: ObjectEvent) -> None:
        self._check()
        self.events.append(event)

    def changes(self) -> Any:
        raise NotImplementedError

    def _check(self) -> None:
        if self.is_away:
            self.refused += 1
            raise TransientError("away")


class Reporting:
    """A controller's writer, the site that it sees, and the source that it reports to."""

    def __init__(self, name: str = "controller1", source: Source | None = None) -> None:
        self.name = name
        self.site = two_held(now_ns)
        self.source = source or Source()
        self.loss = LOST
        self.observed_ns: list[int] = []

    def _sightings(self) -> Sightings:
        self.observed_ns.append(now_ns())
        return self.site.sightings()

    async def __aenter__(self) -> Self:
        facts = self.site.facts_of_a_leader
        self.writer = StatusWriter(
            self.source,
            name=self.name,
            facts=facts,
            loss=lambda: self.loss,
            sightings=self._sightings,
            clock=now_ns,
            wall_clock=lambda: WALL_NS + now_ns(),
        )
        self._task = asyncio.create_task(self.writer.run())
        # Between the turns of the writer, so that none coincides with what a test does.
        await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@in_virtual_time
async def test_status_is_written_once_with_the_term_and_again_when_it_changes() -> None:
    async with Reporting() as reporting:
        site, source = reporting.site, reporting.source
        await asyncio.sleep(2)
        assert source.writes.count((GATEWAY, 7)) == 1
        site.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
        await asyncio.sleep(0.2)
        assert source.written[GATEWAY]["nodes"]["worker1"] == "Down"
        # A node whose agent is being replaced forwards on while its lease lives, whatever gossip thinks of it.
        assert source.written[GATEWAY]["floatingIPs"] == {FIRST: "worker1", SECOND: "worker2"}
        del site.held[FIRST]
        await asyncio.sleep(0.2)
        assert source.written[GATEWAY]["floatingIPs"] == {SECOND: "worker2"}
        assert source.writes.count((GATEWAY, 7)) == 3


@in_virtual_time
async def test_what_could_not_be_written_is_written_when_the_source_returns() -> None:
    async with Reporting() as reporting:
        source = reporting.source
        source.is_away = True
        reporting.site.take(Upsert(policy("egress", ip="192.168.1.9")))
        await asyncio.sleep(4)
        assert source.refused > 20
        source.is_away = False
        await asyncio.sleep(0.7)
        assert GATEWAY in source.written
        assert {event.reason for event in source.events} == {"UnknownEgressIP", "FloatingIPInUse"}


@in_virtual_time
async def test_who_does_not_lead_writes_nothing() -> None:
    async with Reporting() as reporting:
        reporting.site.term = None
        await asyncio.sleep(2)
        assert reporting.source.writes == []
        assert reporting.source.mirrored == 0


REFUSED = ObjectEvent(
    ObjectKey(Kind.CONFIG_MAP, "egressgw-system", "egressgw-electorate"),
    "ElectorateRefused",
    "",
    "Judge",
    True,
    uid="u",
)


@in_virtual_time
async def test_m8_a_refused_electorate_is_told_once_for_what_it_said_and_by_the_leader_alone() -> None:
    async with Reporting() as leader, Reporting("controller2", leader.source) as other:
        other.site.term = None
        for note in ("epoch 9 is refused", "epoch 2 is refused"):
            refused = replace(REFUSED, note=note)
            leader.site.problems = other.site.problems = (refused,)
            await asyncio.sleep(60)
            assert [event for event in leader.source.events if event.note == note] == [refused]


@in_virtual_time
async def test_who_stops_leading_while_the_source_is_slow_writes_nothing_more() -> None:
    async with Reporting() as reporting:

        async def lose() -> None:
            reporting.site.term = None

        reporting.source.mirror_gateway = lose  # type: ignore[method-assign]
        await asyncio.sleep(0.4)
        assert reporting.source.writes == []


@in_virtual_time
async def test_a_new_leader_writes_everything_and_tells_of_the_move_it_saw_before() -> None:
    async with Reporting() as reporting:
        site, source = reporting.site, reporting.source
        site.term = None
        await asyncio.sleep(1)
        site.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
        site.held = {}
        await asyncio.sleep(0.3)
        site.place(FIRST, "worker2")
        await asyncio.sleep(1)
        site.term = 8
        await asyncio.sleep(0.2)
        said = f"{FIRST} moved from worker1 to worker2: node worker1 is down; gap at most 0.4"
        assert [event.note.startswith(said) for event in source.events] == [True]
        assert source.written[GATEWAY]["floatingIPs"] == {FIRST: "worker2"}
        assert {term for _, term in source.writes} == {8}


@in_virtual_time
async def test_who_leads_again_writes_everything_again() -> None:
    async with Reporting() as reporting:
        await asyncio.sleep(0.2)
        reporting.site.term = None
        await asyncio.sleep(0.2)
        reporting.site.term = 9
        await asyncio.sleep(0.2)
        assert reporting.source.writes.count((GATEWAY, 7)) == 1
        assert reporting.source.writes.count((GATEWAY, 9)) == 1


@in_virtual_time
async def test_a_node_that_left_keeps_its_object_for_a_while() -> None:
    async with Reporting() as reporting:
        gone = ObjectKey(Kind.NODE, "kube-system", "worker2")
        await asyncio.sleep(0.2)
        reporting.site.nodes = reporting.site.nodes[:1]
        await asyncio.sleep(5)
        assert reporting.source.deleted == []
        await asyncio.sleep(0.4)
        assert reporting.source.deleted == [gone]


@in_virtual_time
async def test_the_status_of_a_deleted_policy_is_deleted_once_the_source_can() -> None:
    async with Reporting() as reporting:
        site, source = reporting.site, reporting.source
        site.take(Upsert(policy("egress", ip=FIRST)))
        await asyncio.sleep(0.2)
        site.take(Delete(policy("egress").key))
        source.is_away = True
        await asyncio.sleep(1)
        source.is_away = False
        await asyncio.sleep(1)
        assert source.deleted == [policy("egress").key]


@in_virtual_time
async def test_the_age_of_a_policy_goes_with_its_status() -> None:
    async with Reporting() as reporting:
        reporting.site.take(Upsert(policy("egress", created="2024-05-05T00:00:00.000000000Z")))
        await asyncio.sleep(0.2)
        assert reporting.source.created[policy("egress").key] == "2024-05-05T00:00:00.000000000Z"
        assert reporting.source.created[GATEWAY] == ""


@in_virtual_time
async def test_many_statuses_are_all_written_and_only_some_at_once() -> None:
    async with Reporting() as reporting:
        reporting.site.take(*(Upsert(policy(f"p{index}", ip=f"192.168.1.{index}")) for index in range(10, 99)))
        await asyncio.sleep(0.2)
        assert len(reporting.source.written) == 89 + 1 + 2
        assert reporting.source.under_way_max == 8


@in_virtual_time
async def test_a_node_object_that_an_earlier_leader_left_behind_goes_when_its_node_is_removed() -> None:
    async with Reporting() as reporting:
        for name in ("other", "worker1"):
            reporting.site.take(Upsert(ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", name), NodeRole.WORKER)))
        kept, left = (ObjectKey(Kind.NODE, "kube-system", name) for name in ("other", "former"))
        reporting.source.left_behind = (kept, left)
        await asyncio.sleep(6)
        assert set(reporting.source.deleted) == {left}


@in_virtual_time
async def test_a_successor_that_takes_over_before_the_death_is_known_is_told_as_such() -> None:
    async with Reporting() as reporting:
        reporting.site.place(FIRST, "worker1", successor="worker2")
        reporting.site.age_ns = 400_000_000
        await asyncio.sleep(1)
        reporting.site.held[FIRST] = "worker2"
        await asyncio.sleep(0.2)
        (event,) = reporting.source.events
        assert "the lease of worker1 ended, and its successor took over" in event.note
        assert "gap at most 0.5" in event.note


@in_virtual_time
async def test_an_address_that_goes_to_and_fro_makes_no_flood_of_events() -> None:
    async with Reporting() as reporting:
        for turn in range(200):
            reporting.site.held[FIRST] = f"worker{turn % 2 + 1}"
            await asyncio.sleep(0.1)
        assert 5 < len(reporting.source.events) <= 12


@in_virtual_time
async def test_a_move_during_an_outage_is_told_by_whoever_leads_at_its_end() -> None:
    """Leadership may change meanwhile, or the leader may lose sight of the electors for a moment."""
    async with Reporting() as one, Reporting() as other:
        other.site.term = None
        await asyncio.sleep(1)
        for reporting in (one, other):
            reporting.source.is_away = True
            reporting.site.held[FIRST] = "worker2"
        await asyncio.sleep(60)
        one.site.term, other.site.term = None, 8
        await asyncio.sleep(60)
        for reporting in (one, other):
            reporting.source.is_away = False
        await asyncio.sleep(10)
        (event,) = other.source.events
        assert event.note.startswith(f"{FIRST} moved from worker1 to worker2")
        one.site.term, other.site.term = 9, None
        await asyncio.sleep(10)
        assert one.source.events == [], "and by nobody else, later"


@in_virtual_time
async def test_a_leader_that_loses_sight_of_the_electors_still_tells_what_it_saw_and_once() -> None:
    async with Reporting() as reporting:
        site, source = reporting.site, reporting.source
        await asyncio.sleep(1)
        source.is_away = True
        site.held[FIRST] = "worker2"
        await asyncio.sleep(1)
        site.term = None
        await asyncio.sleep(1)
        site.term, source.is_away = 7, False
        await asyncio.sleep(2)
        assert len(source.events) == 1
        site.term = None
        await asyncio.sleep(1)
        site.term = 7
        await asyncio.sleep(1)
        assert len(source.events) == 1


@in_virtual_time
async def test_moves_are_watched_for_ten_times_a_second_whoever_leads() -> None:
    async with Reporting() as reporting:
        reporting.site.term = None
        await asyncio.sleep(1)
        assert len(reporting.observed_ns) == 10


@in_virtual_time
async def test_after_a_failure_the_source_is_left_alone_for_longer() -> None:
    async with Reporting() as reporting:
        source = reporting.source
        source.is_away = True
        await asyncio.sleep(2.1)
        assert source.refused == 3 * 5, "the validity, the mirror and three statuses, at 0.2 s, 0.9 s and 1.6 s"
        source.is_away = False
        await asyncio.sleep(0.2)
        assert len(source.writes) == 3


@in_virtual_time
async def test_v6_what_an_earlier_leader_said_of_what_is_gone_ends_unless_something_cannot_be_read() -> None:
    async with Reporting() as reporting:
        site, source = reporting.site, reporting.source
        left = policy("deleted-while-nobody-led").key
        agent = ObjectKey(Kind.NODE, "kube-system", "uninstalled")
        site.take(Upsert(ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", "uninstalled"), NodeRole.WORKER)))
        source.left_behind = (left, agent)
        site.take(Errors((ObjectError("/etc/p.yaml", "EgressNATPolicy", "x", "spec", "is wrong"),)))
        await asyncio.sleep(70)
        assert set(source.deleted) == {agent}, "the policy may be the one that is wrong"
        site.take(Errors(()))
        await asyncio.sleep(70)
        assert set(source.deleted) == {agent, left}


@in_virtual_time
async def test_o5_a_planned_move_is_an_event_on_its_policies_before_and_after() -> None:
    async with Reporting() as reporting:
        reporting.site.take(Upsert(policy("one", ip=FIRST)))
        reporting.site.moves = (PlannedMove(IPv4Address(FIRST), "worker1", "worker2", "node worker1 is drained"),)
        await asyncio.sleep(0.5)
        reporting.site.moves = ()
        reporting.site.held[FIRST] = "worker2"
        await asyncio.sleep(0.5)
    told = [event.reason for event in reporting.source.events if event.regarding == policy_key("one")]
    assert told == ["FloatingIPMoving", "FloatingIPMoved"]


@in_virtual_time
async def test_where_nothing_is_new_nothing_is_worked_out_anew_though_leases_are_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Facts] = []

    def counted(facts: Facts) -> dict[ObjectKey, dict[str, Any]]:
        made.append(facts)
        return object_status(facts)

    monkeypatch.setattr("service.report.writer.object_status", counted)
    async with Reporting() as reporting:
        await asyncio.sleep(2)
        first = len(made)
        before = reporting.site.sightings().renewed_ns
        await asyncio.sleep(2)
        assert reporting.site.sightings().renewed_ns != before
        assert len(made) == first
        reporting.site.held.clear()
        await asyncio.sleep(0.5)
        assert len(made) == first + 1
