"""Who held an address for certain, by the instants on record."""

from typing import Any

import pytest

from service.audit.holding import Holdings
from service.model.audit_record import HELD_AT, HELD_UNTIL, AuditRecord, RecordKind

IP = "192.0.2.100"
SECOND = 1_000_000_000


def held(
    kind: RecordKind,
    at_s: float,
    *,
    node: str,
    counter: int,
    boot: str = "b1",
    holder: str = "",
    skew_s: float = 0,
    **detail: Any,
) -> AuditRecord:
    """A record of the second `at_s` of its node's boot; its wall clock is `skew_s` ahead."""
    boot_ns, wall_ns = int(at_s * SECOND), int((at_s + skew_s) * SECOND)
    token = (1, 1, counter)
    return AuditRecord(kind, node, boot, 1, wall_ns, boot_ns, IP, token, holder or node, detail=detail)


def acquired(at_s: float, **facts: Any) -> AuditRecord:
    return held(RecordKind.ACQUIRED, at_s, **{HELD_AT: str(int(at_s * SECOND))}, **facts)


def expired(at_s: float, **facts: Any) -> AuditRecord:
    return held(RecordKind.EXPIRED, at_s, **{HELD_UNTIL: str(int(at_s * SECOND))}, **facts)


def faults(*records: AuditRecord, clock_error_s: float = 0.5) -> list[str]:
    holdings = Holdings()
    for number, record in enumerate(records):
        holdings.take(record, f"@{number}")
    return [fault for fault, _, _ in holdings.faults(clock_error_ns=int(clock_error_s * SECOND))]


ONE = {"node": "n1", "counter": 1}
TWO = {"node": "n2", "counter": 2}


def test_one_after_the_other_is_good_and_at_once_is_not() -> None:
    assert faults(acquired(1, **ONE), expired(2, **ONE), acquired(3, **TWO)) == []
    assert faults(acquired(1, **ONE), expired(4, **ONE), acquired(3, **TWO)) == ["overlap"]


def test_within_one_boot_the_clock_decides_to_the_nanosecond() -> None:
    assert faults(acquired(1, **ONE), expired(3 - 1e-9, **ONE), acquired(3, **TWO)) == []
    assert faults(acquired(1, **ONE), expired(3, **ONE), acquired(3, **TWO)) == ["overlap"]


@pytest.mark.parametrize(("until_s", "found"), [(3.4, []), (3.6, ["overlap"])])
def test_between_boots_wall_clocks_may_be_apart(until_s: float, found: list[str]) -> None:
    assert faults(acquired(1, **ONE), expired(until_s, **ONE), acquired(3, boot="b2", **TWO)) == found


def test_a_missing_end_is_no_evidence_that_it_was_held_on() -> None:
    assert faults(acquired(1, **ONE), acquired(3, **TWO)) == []


def test_an_end_that_does_not_say_until_when_is_given_a_margin() -> None:
    late = held(RecordKind.RELEASED, 3.3, **ONE)
    assert faults(acquired(1, **ONE), late, acquired(3, **TWO)) == []
    assert faults(acquired(1, **ONE), held(RecordKind.RELEASED, 3.6, **ONE), acquired(3, **TWO)) == ["overlap"]


def test_one_token_has_one_holder_whenever_it_was() -> None:
    records = (acquired(1, **ONE), expired(2, **ONE), acquired(90, node="n2", counter=1))
    assert faults(*records) == ["overlap"]


def test_a_leaders_word_names_a_holder_and_proves_no_instant() -> None:
    grant = held(RecordKind.GRANTED, 2, node="c1", counter=2, holder="n2")
    assert faults(acquired(1, **ONE), expired(5, **ONE), grant) == []
    contrary = held(RecordKind.GRANTED, 2, node="c1", counter=1, holder="n2")
    assert faults(acquired(1, **ONE), contrary) == ["overlap"]


def test_instants_count_by_the_holders_own_clock_only() -> None:
    elsewhere = held(RecordKind.EXPIRED, 5, node="n3", counter=1, holder="n1")
    assert faults(acquired(1, **ONE), elsewhere, acquired(3, **TWO)) == []


def test_a_lower_token_in_use_after_a_higher_one_is_stale() -> None:
    records = (acquired(1, **TWO), expired(2, **TWO), acquired(5, **ONE), expired(6, **ONE))
    assert faults(*records) == ["stale-token"]


def test_one_node_may_hold_it_again_under_a_higher_token() -> None:
    assert faults(acquired(1, **ONE), expired(3, **ONE), acquired(2, node="n1", counter=2)) == []


def test_other_addresses_and_other_kinds_are_no_evidence() -> None:
    holdings = Holdings()
    for kind in (RecordKind.ASSIGNED, RecordKind.PROMISED, RecordKind.LEADER_ELECTED):
        holdings.take(held(kind, 1, **ONE), "@")
    assert holdings.count == 0
    holdings.take(acquired(1, **ONE), "@")
    holdings.take(acquired(1, **TWO), "@")
    assert holdings.count == 2
