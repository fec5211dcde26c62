"""What agents and leaders put on record, and that each says only what it can know."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Unpack

import pytest

from service.audit.chain import Facts
from service.audit.outbox import Origin, Outbox
from service.audit.port_run import PortRun, parse_runs
from service.audit.recorder import AgentRecorder, LeaderRecorder, Part
from service.lease.observer import Observation
from service.model.assignment import Assignment, Location
from service.model.audit_record import AuditRecord, RecordKind
from service.model.gateway_node import NodeState
from service.model.keeper_message import HeldLease, LeaseReport
from service.model.lease import LEADER_KEY, Stamp, Token
from service.model.objects import (
    GATEWAY_NAME,
    GATEWAY_NAMESPACE,
    Delete,
    EgressPolicy,
    Kind,
    NetworkGateway,
    ObjectKey,
    Upsert,
)
from service.policy.acceptance import PolicyState

IP = IPv4Address("192.0.2.100")
MS = 1_000_000
LEASE_NS = 300 * MS


class Recorded(Outbox):
    """Keeps what is appended."""

    def __init__(self, folder: Path) -> None:
        origin = Origin("n1", "b1", component="agent")
        super().__init__(folder, origin, clock=lambda: (0, 0), context=lambda: (7, 3))
        self.records: list[AuditRecord] = []

    def append(self, kind: RecordKind, **facts: Unpack[Facts]) -> AuditRecord:
        record = super().append(kind, **facts)
        self.records.append(record)
        return record


@pytest.fixture
def outbox(tmp_path: Path) -> Recorded:
    async def make() -> Recorded:
        return Recorded(tmp_path)

    return asyncio.run(make())


# --- agents

LEASE = HeldLease(str(IP), 3, 2, 1, 1_000 * MS)


def report(at_ms: int, *held: HeldLease) -> LeaseReport:
    return LeaseReport(held=held, elector=True, voting=True, scheduling="fifo", at_ns=at_ms * MS)


def acquired(outbox: Recorded, part: Part, *, first: bool = False) -> AuditRecord:
    AgentRecorder(outbox, node="n1").acquired(LEASE, part, report(800, LEASE), is_first_report=first)
    return outbox.records[-1]


OTHER = Location(IP, "n2", Token(3, 1, 9))


@pytest.mark.parametrize(
    ("part", "first", "reason"),
    [
        (Part("holder", None, False), False, "assigned"),
        (Part("successor", OTHER, True), False, "failover: previous holder's lease ended"),
        (Part("holder", OTHER, False), False, "failover: previous holder's lease ended"),
        (Part("holder", OTHER, True), False, "move"),
        (Part("holder", replace(OTHER, node="n1"), False), False, "acquired again"),
        (Part("holder", replace(OTHER, node="n1"), False), True, "adopted after restart"),
    ],
)
def test_an_acquisition_says_why(outbox: Recorded, part: Part, first: bool, reason: str) -> None:
    record = acquired(outbox, part, first=first)
    assert (record.kind, record.subject, record.token, record.holder) == (RecordKind.ACQUIRED, str(IP), (3, 2, 1), "n1")
    assert record.reason == reason
    assert record.previous == (part.previous.node if part.previous else "")


def test_every_record_says_who_wrote_it_and_by_which_term_and_epoch(outbox: Recorded) -> None:
    record = acquired(outbox, Part("holder", OTHER, True))
    assert (record.actor, record.term, record.lease_epoch) == ("agent/n1", 7, 3)
    assert record.detail == {"heldAtBootTimeNs": str(800 * MS), "previousToken": "3.1.9"}


def test_an_instant_is_no_evidence_where_the_lease_was_over_by_then(outbox: Recorded) -> None:
    AgentRecorder(outbox, node="n1").acquired(LEASE, Part("", None, False), report(1000, LEASE), is_first_report=False)
    assert "heldAtBootTimeNs" not in outbox.records[-1].detail


@pytest.mark.parametrize(
    ("now_ms", "holder", "kind", "reason"),
    [
        (1500, "n1", RecordKind.EXPIRED, "not renewed by a majority of electors before its deadline"),
        (1500, "n2", RecordKind.EXPIRED, "not renewed by a majority of electors before its deadline"),
        (900, "n1", RecordKind.RELEASED, "given up by the lease keeper"),
        (900, "n2", RecordKind.RELEASED, "assigned to n2"),
        (900, "", RecordKind.RELEASED, "no longer a floating IP"),
    ],
)
def test_an_end_says_why_and_until_when(
    outbox: Recorded, now_ms: int, holder: str, kind: RecordKind, reason: str
) -> None:
    row = Assignment(IP, holder, None, Stamp(3, 2)) if holder else None
    AgentRecorder(outbox, node="n1").ended(LEASE, report(800, LEASE), row, now_ms * MS)
    record = outbox.records[-1]
    assert (record.kind, record.reason) == (kind, reason)
    assert record.detail["heldUntilBootTimeNs"] == str(800 * MS)
    assert ("deadlineBootTimeNs" in record.detail) == (kind is RecordKind.EXPIRED)


def test_a_name_conflict_is_told_once_for_each_rival(outbox: Recorded) -> None:
    recorder = AgentRecorder(outbox, node="n1")
    for address in ("192.0.2.7:9640", "192.0.2.7:9640", "192.0.2.8:9640"):
        recorder.name_conflict("n1", address)
    recorder.address_conflict(IP, bytes(6))
    assert [record.kind for record in outbox.records] == [RecordKind.CONFLICT] * 3
    assert outbox.records[-1].detail == {"other": "00:00:00:00:00:00"}


# --- leaders


class Leader:
    def __init__(self, outbox: Recorded, *, leads: bool = True) -> None:
        self.outbox = outbox
        self.now_ns = 100_000 * MS
        self.recorder = LeaderRecorder(outbox, node="n1", lease_ns=LEASE_NS, clock=lambda: self.now_ns)
        if leads:
            self.recorder.elected(Token(7, 0, 1))
            outbox.records.clear()

    def kinds(self) -> list[str]:
        kinds = [str(record.kind) for record in self.outbox.records]
        self.outbox.records.clear()
        return kinds

    def observe(self, node: str | None, counter: int, *, row: str, remaining_ms: int = 240, age_ms: int = 2) -> None:
        token = Token(3, 2, counter)
        # A minority that has promised it to another already does not make it the other's.
        seen = Observation(node, Token(3, 9, 9), age_ms * MS, remaining_ms * MS, token)
        rows = {IP: Assignment(IP, row, None, Stamp(3, 2))}
        self.recorder.observed({str(IP): seen, LEADER_KEY: seen}, rows)


@pytest.fixture
def leader(outbox: Recorded) -> Leader:
    return Leader(outbox)


def test_a_failover_says_from_to_when_and_how_long_at_most(leader: Leader) -> None:
    leader.observe("n1", 1, row="n1")
    leader.recorder.member("n1", NodeState.UP)
    leader.now_ns += 400 * MS
    leader.recorder.member("n1", NodeState.DOWN)
    leader.now_ns += 50 * MS
    leader.outbox.records.clear()
    leader.observe("n2", 2, row="n1")
    granted, failover = leader.outbox.records
    assert (granted.kind, granted.holder, granted.previous) == (RecordKind.GRANTED, "n2", "n1")
    assert (failover.kind, failover.previous, failover.holder, failover.token) == (
        RecordKind.FAILOVER,
        "n1",
        "n2",
        (3, 2, 2),
    )
    assert failover.reason == "n1 is down"
    # Last named 450 ms ago plus the age of that answer; it had renewed at most 60 ms (300 - 240) before.
    assert failover.detail == {
        "previousToken": "3.2.1",
        "lastSeenBootTimeNs": str(99_998 * MS),
        "takenOverBootTimeNs": str(100_450 * MS),
        "detectedBootTimeNs": str(100_400 * MS),
        "gapMsMax": "512.0",
    }


def test_a_failover_before_anybody_noticed_a_death_says_so(leader: Leader) -> None:
    leader.observe("n1", 1, row="n1")
    leader.outbox.records.clear()
    leader.observe("n2", 2, row="n1")
    failover = leader.outbox.records[-1]
    assert failover.reason == "the lease of n1 ended"
    assert "detectedBootTimeNs" not in failover.detail


def test_a_move_that_the_leader_asked_for_is_no_failover(leader: Leader) -> None:
    leader.observe("n1", 1, row="n1")
    leader.observe("n2", 2, row="n2")
    assert leader.kinds() == ["granted", "granted"]


def test_a_longer_lease_hides_when_it_was_renewed(leader: Leader) -> None:
    leader.observe("n1", 1, row="n1", remaining_ms=14_000)
    leader.observe("n2", 2, row="n1")
    assert "gapMsMax" not in leader.outbox.records[-1].detail


def test_a_late_elector_does_not_bring_an_old_holder_back(leader: Leader) -> None:
    leader.observe("n1", 1, row="n1")
    leader.observe("n2", 2, row="n1")
    leader.outbox.records.clear()
    leader.observe("n1", 1, row="n1")
    leader.observe("n2", 2, row="n1")
    leader.observe(None, 2, row="n1")
    assert leader.kinds() == []


def test_a_new_leader_records_the_grants_that_stand(outbox: Recorded) -> None:
    leader = Leader(outbox, leads=False)
    leader.observe("n1", 1, row="n1")
    assert leader.kinds() == []
    leader.recorder.elected(Token(8, 0, 1))
    leader.observe("n1", 1, row="n1")
    leader.observe("n1", 1, row="n1")
    assert leader.kinds() == ["leader-elected", "granted"]
    leader.recorder.deposed(Token(8, 0, 1), "expired")
    leader.observe("n2", 2, row="n1")
    assert leader.kinds() == ["leader-lost"]


def test_nodes_come_and_go(leader: Leader) -> None:
    for state in (NodeState.UP, NodeState.UP, NodeState.DOWN, NodeState.UP):
        leader.recorder.member("n2", state)
    assert [record.reason for record in leader.outbox.records] == ["first seen", "", ""]
    assert leader.kinds() == ["node-up", "node-down", "node-up"]


def policy(destination: str = "8.8.8.0/24", generation: int = 1) -> EgressPolicy:
    key = ObjectKey(Kind.POLICY, "", "egress")
    return EgressPolicy(key, (), (IPv4Network(destination),), IP, generation=generation)


def state(*, accepted: bool = True, pods: int = 0) -> PolicyState:
    return PolicyState(accepted, "Accepted" if accepted else "EgressIPConflict", "why", pods, IP)


def test_policies_are_accepted_changed_refused_and_deleted(leader: Leader) -> None:
    recorder, key = leader.recorder, policy().key

    def batch(*changes: Upsert | Delete) -> Callable[[PolicyState | None], None]:
        recorder.changes(changes)
        return lambda now: recorder.policy_states({key: now})

    batch(Upsert(policy()))(state())
    batch()(state(pods=5))  # how many pods match is no event
    assert leader.kinds() == ["policy-accepted"]
    batch(Upsert(policy(generation=2)))(state())  # a new generation of the same content
    assert leader.kinds() == []
    batch(Upsert(policy("9.9.9.0/24", generation=3)))(state())
    assert leader.outbox.records[-1].generation == 3
    assert leader.kinds() == ["policy-changed"]
    excluding = replace(policy("9.9.9.0/24", generation=4), excluded=(IPv4Network("9.9.9.9/32"),))
    batch(Upsert(excluding))(state())
    assert leader.kinds() == ["policy-changed"]
    batch()(state(accepted=False))
    assert leader.outbox.records[-1].detail == {"egressSourceIP": str(IP), "reason": "EgressIPConflict"}
    assert leader.kinds() == ["policy-refused"]
    batch(Delete(key))(None)
    batch(Delete(key))(None)
    assert leader.kinds() == ["policy-deleted"]


def test_what_happened_while_perhaps_nobody_led_is_recorded_by_the_next_leader(outbox: Recorded) -> None:
    leader = Leader(outbox, leads=False)
    leader.recorder.member("long-known", NodeState.UP)
    leader.now_ns += 60_000 * MS
    leader.recorder.changes([Upsert(policy())])
    leader.recorder.policy_states({policy().key: state()})
    assert leader.kinds() == []
    leader.recorder.elected(Token(8, 0, 1))
    assert leader.outbox.records[-1].detail["happenedBootTimeNs"] == str(leader.now_ns)
    assert leader.kinds() == ["leader-elected", "policy-accepted"]


def test_a_changed_gateway_says_what_was_before(leader: Leader) -> None:
    key = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)
    leader.recorder.changes([Upsert(NetworkGateway(key, (IP,), generation=4))])
    leader.recorder.gateway(GATEWAY_NAME, (IP,))
    leader.recorder.gateway(GATEWAY_NAME, (IP,))
    leader.recorder.gateway(GATEWAY_NAME, ())
    first, second = leader.outbox.records
    assert (first.kind, first.reason, first.generation, first.detail) == (
        RecordKind.GATEWAY_CHANGED,
        "192.0.2.100",
        4,
        {},
    )
    assert second.detail == {"before": "192.0.2.100"}


def test_ports_that_move_say_whose_they_were_and_by_which_word(leader: Leader) -> None:
    runs = [PortRun(1024, 5119, Stamp(7, 12), "n1"), PortRun(6000, 6063, Stamp(7, 13), "n1")]
    leader.recorder.ports_moved(IP, runs, former="n2", reason="given", term=7)
    (record,) = leader.outbox.records
    assert (record.kind, record.subject, record.holder, record.previous) == ("ports-moved", str(IP), "n1", "n2")
    assert record.reason == "given"
    assert record.detail == {"ports": "1024-5119 7.12 n1, 6000-6063 7.13 n1", "leaderTerm": "7"}


def test_ports_that_go_to_several_nodes_at_once_are_one_record(leader: Leader) -> None:
    runs = [PortRun(1024, 5119, Stamp(7, 12), "n1"), PortRun(6000, 6063, Stamp(7, 12), "n2")]
    leader.recorder.ports_moved(IP, runs, former="", reason="given", term=7)
    (record,) = leader.outbox.records
    assert (record.holder, record.detail["ports"]) == ("", "1024-5119 7.12 n1, 6000-6063 7.12 n2")


def test_a_table_of_ports_says_all_that_nodes_have_in_one_record_while_that_fits(leader: Leader) -> None:
    leader.recorder.ports_table(IP, [PortRun(1024, 5119, Stamp(6, 12), "n1")], term=7)
    (record,) = leader.outbox.records
    assert (record.kind, record.subject, record.holder) == ("ports-table", str(IP), "")
    assert record.detail == {"ports": "1024-5119 6.12 n1", "span": "1024-65535", "leaderTerm": "7"}


def test_a_table_of_a_thousand_blocks_with_long_names_is_cut_and_loses_nothing(leader: Leader) -> None:
    runs = [PortRun(1024 + 64 * b, 1087 + 64 * b, Stamp(6, 10**9 + b), f"{b % 2}" + "n" * 252) for b in range(1008)]
    leader.recorder.ports_table(IP, runs, term=7)
    said = [run for record in leader.outbox.records for run in parse_runs(record.detail["ports"])]
    assert said == runs
    assert len(leader.outbox.records) == 9
    leader.recorder.ports_moved(IP, runs, former="", reason="given", term=7)
    assert [run for record in leader.outbox.records[9:] for run in parse_runs(record.detail["ports"])] == runs


@pytest.mark.parametrize(
    ("before", "holder", "kind"),
    [(None, "n1", "assigned"), ("n2", "n1", "assigned"), ("n2", None, "unassigned"), (None, None, "refused")],
)
def test_a_row_is_an_assignment_a_withdrawal_or_a_refusal(
    leader: Leader, before: str | None, holder: str | None, kind: str
) -> None:
    row = Assignment(IP, holder, None, Stamp(7, 2), "" if holder else "no node")
    leader.recorder.assigned(row, Assignment(IP, before, None, Stamp(7, 1)) if before else None)
    assert (leader.outbox.records[-1].previous, leader.outbox.records[-1].reason) == (before or "", row.reason)
    leader.recorder.removed(row, (7, 3, 0))
    assert leader.kinds() == [kind, "unassigned"]


def test_o3_a_drain_is_on_record_with_its_beginning_its_end_and_who_says_so(leader: Leader) -> None:
    leader.recorder.drains({})
    leader.recorder.drains({"n1": "cordoned"})
    leader.recorder.drains({"n1": "cordoned", "n2": "by egressgw drain"})
    leader.recorder.drains({"n2": "by egressgw drain"})
    records = [(record.kind, record.subject, record.reason) for record in leader.outbox.records]
    assert records == [
        (RecordKind.DRAIN_STARTED, "n1", "cordoned"),
        (RecordKind.DRAIN_STARTED, "n2", "by egressgw drain"),
        (RecordKind.DRAIN_ENDED, "n1", "cordoned"),
    ]


def test_a_drain_that_began_while_nobody_led_is_recorded_by_whoever_leads_next(outbox: Recorded) -> None:
    leader = Leader(outbox, leads=False)
    leader.recorder.drains({"n1": "cordoned"})
    assert outbox.records == []
    leader.recorder.elected(Token(7, 0, 1))
    assert [record.kind for record in outbox.records] == [RecordKind.LEADER_ELECTED, RecordKind.DRAIN_STARTED]
    assert outbox.records[-1].reason == "cordoned; found so", "an earlier leader may have recorded it"
