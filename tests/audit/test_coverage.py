"""What records cover, and what they therefore do not prove."""

from dataclasses import replace
from typing import Any

import pytest

from service.audit.coverage import coverage
from service.audit.timeline import Tenure, tenures
from service.model.audit_record import AuditRecord, RecordKind

IP = "192.0.2.100"


def record(kind: RecordKind, time: int, node: str = "n1", counter: int = 0, **more: Any) -> AuditRecord:
    facts: dict[str, Any] = {"subject": IP if counter else "x", "actor": f"agent/{node}"}
    facts |= {"token": (1, 1, counter), "holder": node} if counter else {}
    return AuditRecord(kind, node, "b", time, time, 0, **(facts | more))


def acquired(time: int, node: str = "n1", counter: int = 1) -> AuditRecord:
    return record(RecordKind.ACQUIRED, time, node, counter)


def proves(records: list[AuditRecord], wall_time_ns: int) -> bool:
    tenure = _covering(tenures(records, IP), wall_time_ns)
    return coverage(records).proves(tenure, wall_time_ns)


def _covering(known: list[Tenure], wall_time_ns: int) -> Tenure:
    return next(tenure for tenure in known if tenure.covers(wall_time_ns))


QUIET = record(RecordKind.NODE_UP, 50)


def test_a_tenure_is_proved_until_its_own_end() -> None:
    assert proves([acquired(10), record(RecordKind.EXPIRED, 40, counter=1)], 39)


def test_without_an_end_it_is_proved_as_far_as_the_records_of_its_holder_reach() -> None:
    assert proves([acquired(10), QUIET], 50)
    assert not proves([acquired(10), QUIET], 51)
    assert not proves([acquired(10)], 11)


def test_records_of_other_nodes_do_not_prove_that_it_went_on() -> None:
    assert not proves([acquired(10), record(RecordKind.NODE_UP, 90, "n2")], 20)


def test_that_another_holder_followed_does_not_prove_that_the_first_held_on_till_then() -> None:
    assert not proves([acquired(10), acquired(40, "n2", 2)], 30)


def test_a_holder_that_restarted_may_have_lost_the_record_of_the_end() -> None:
    started = record(RecordKind.AGENT_STARTED, 20)
    assert not proves([acquired(10), started, QUIET], 30)
    assert proves([acquired(10), started, QUIET], 19)
    assert proves([acquired(10), replace(started, node="n2", actor="agent/n2"), QUIET], 30)


def test_records_that_were_given_up_may_have_told_of_the_end() -> None:
    gap = record(RecordKind.GAP, 20, detail={"records": "4"})
    assert coverage([gap]).lost == 4
    assert not proves([acquired(10), gap, QUIET], 30)


def test_a_grant_of_a_node_whose_records_were_not_read_proves_no_more_than_the_instant() -> None:
    granted = record(RecordKind.GRANTED, 10, "leader", 1, holder="n9")
    assert not proves([granted, record(RecordKind.NODE_UP, 90, "leader")], 20)


def test_what_was_read_is_told_by_process_and_who_is_named_and_was_not() -> None:
    found = coverage(
        [
            acquired(10),
            QUIET,
            record(RecordKind.PROMISED, 12, "n2", 1, holder="n3", actor="keeper/n2"),
            record(RecordKind.NODE_DOWN, 13, subject="n4"),
            record(RecordKind.LEADER_ELECTED, 14, subject="leader", token=(1, 0, 0), holder="controller-a"),
        ]
    )
    assert [(one.actor, one.records, one.oldest_ns, one.newest_ns) for one in found.writers] == [
        ("agent/n1", 4, 10, 50),
        ("keeper/n2", 1, 12, 12),
    ]
    assert found.unread == ("n3", "n4", "x")


@pytest.mark.parametrize("text", ["", "many", "-1"])
def test_a_gap_that_does_not_say_how_many_counts(text: str) -> None:
    assert coverage([record(RecordKind.GAP, 1, detail={"records": text})]).lost == 1
