"""What moved, and why."""

from typing import Any

from service.audit.move import Move, moves
from service.model.audit_record import AuditRecord, RecordKind

IP, OTHER = "192.0.2.100", "192.0.2.101"
SECOND = 1_000_000_000


def record(kind: RecordKind, seconds: float, node: str, counter: int, **more: Any) -> AuditRecord:
    time_ns = round(seconds * SECOND)
    facts: dict[str, Any] = {"subject": IP, "token": (1, 1, counter), "holder": node}
    return AuditRecord(kind, node, "b", time_ns, time_ns, 0, **(facts | more))


def moved(records: list[AuditRecord], *, since: float = 0, until: float = 1000) -> list[Move]:
    return moves(records, since_ns=round(since * SECOND), until_ns=round(until * SECOND))


def told(records: list[AuditRecord], **span: float) -> list[tuple[float, str, str, str]]:
    return [(move.wall_time_ns / SECOND, move.before, move.after, move.reason) for move in moved(records, **span)]


FAILOVER = [
    record(RecordKind.ACQUIRED, 10, "n1", 1, reason="assigned"),
    record(RecordKind.EXPIRED, 20, "n1", 1, reason="not renewed"),
    record(RecordKind.ACQUIRED, 20.5, "n2", 2, reason="failover: previous holder's lease ended"),
]


def test_a_failover_is_one_move_with_both_causes_and_the_gap() -> None:
    assert told(FAILOVER) == [
        (10, "", "n1", "assigned"),
        (20.5, "n1", "n2", "failover: previous holder's lease ended; not renewed; nobody held it for 0.50 s"),
    ]


def test_the_leader_knows_the_cause_better() -> None:
    leader = record(RecordKind.FAILOVER, 21, "n2", 2, previous="n1", reason="n1 is down")
    assert told([*FAILOVER, leader])[-1][3].startswith("n1 is down; not renewed")


def test_a_time_in_which_nobody_held_it_is_an_end_and_a_beginning() -> None:
    late = record(RecordKind.ACQUIRED, 60, "n2", 2, reason="assigned")
    assert told([*FAILOVER[:2], late])[1:] == [(20, "n1", "", "expired: not renewed"), (60, "", "n2", "assigned")]


def test_an_end_without_a_successor_is_told() -> None:
    assert told(FAILOVER[:2])[-1] == (20, "n1", "", "expired: not renewed")


def test_an_end_that_is_on_no_record_is_told_as_such() -> None:
    assert told([FAILOVER[0], FAILOVER[2]])[-1][3].endswith("the end at n1 is not on record")


def test_why_no_node_was_found_is_told() -> None:
    refused = record(RecordKind.REFUSED, 30, "", 9, previous="n1", reason="no node is ready")
    assert told([refused]) == [(30, "n1", "", "no node: no node is ready")]


def test_a_stranger_is_told() -> None:
    stranger = AuditRecord(
        RecordKind.CONFLICT, "n1", "b", 1, SECOND, 0, subject=IP, reason="somebody else", detail={"other": "02:00"}
    )
    assert told([stranger]) == [(1, "", "", "somebody else: 02:00")]


def test_only_what_happened_in_the_span_is_told_but_with_what_was_before() -> None:
    assert [found[1:3] for found in told(FAILOVER, since=15)] == [("n1", "n2")]
    assert told(FAILOVER, since=15, until=20.2) == []


def test_leadership_is_no_address() -> None:
    elected = AuditRecord(
        RecordKind.LEADER_ELECTED, "c", "b", 1, SECOND, 0, subject="leader", token=(1, 0, 0), holder="c"
    )
    assert moved([elected]) == []


def test_addresses_come_mixed_by_time() -> None:
    other = record(RecordKind.ACQUIRED, 15, "n3", 1, subject=OTHER)
    assert [move.floating_ip for move in moved([*FAILOVER, other])] == [IP, OTHER, IP]
