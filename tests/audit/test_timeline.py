from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.audit.timeline import holder_at, merge, tenures
from service.model.audit_record import AuditRecord, RecordKind

IP = "192.0.2.100"


def record(kind: RecordKind, time: int, *, node: str, counter: int | None = None, sequence: int = 0) -> AuditRecord:
    return AuditRecord(
        kind=kind,
        node=node,
        boot_id="b",
        sequence=sequence,
        wall_time_ns=time,
        boot_time_ns=time,
        subject=IP,
        token=(1, 1, counter) if counter is not None else None,
        holder=node if counter is not None else "",
    )


def acquired(time: int, node: str, counter: int) -> AuditRecord:
    return record(RecordKind.ACQUIRED, time, node=node, counter=counter)


def expired(time: int, node: str, counter: int) -> AuditRecord:
    return record(RecordKind.EXPIRED, time, node=node, counter=counter)


def granted(time: int, elector: str, holder: str, counter: int) -> AuditRecord:
    return replace(record(RecordKind.GRANTED, time, node=elector, counter=counter), holder=holder)


HISTORY = [
    acquired(100, "n1", 1),
    expired(200, "n1", 1),
    acquired(210, "n2", 2),
    record(RecordKind.RELEASED, 300, node="n2", counter=2),
    acquired(301, "n1", 3),
]


@given(st.permutations(HISTORY + HISTORY))
def test_copies_collapse_and_order_does_not_depend_on_arrival(records: list[AuditRecord]) -> None:
    assert merge(records) == HISTORY


def test_the_token_orders_an_address_whatever_the_clocks_say() -> None:
    slow, fast = acquired(50, "slow", 2), acquired(100, "fast", 1)
    other = replace(acquired(70, "n", 9), subject="192.0.2.7")
    assert merge([slow, fast, other]) == [other, fast, slow]


def test_of_copies_the_holders_own_is_kept() -> None:
    copies = [granted(99, "e1", "n1", 1), granted(98, "e2", "n1", 1)]
    assert merge(copies) == [copies[1]]
    own = granted(101, "n1", "n1", 1)
    assert merge([*copies, own]) == [own]


def test_of_the_holders_own_copies_its_agents_is_kept_which_knows_more_of_the_cause() -> None:
    by_keeper = replace(expired(5, "n1", 1), actor="keeper/n1", reason="given up by the lease keeper")
    by_agent = replace(expired(6, "n1", 1), actor="agent/n1", reason="assigned to n2")
    for both in ([by_keeper, by_agent], [by_agent, by_keeper]):
        assert [one.reason for one in merge(both)] == ["assigned to n2"]
    assert merge([by_keeper]) == [by_keeper]


def test_records_without_a_token_are_never_taken_for_copies_of_different_events() -> None:
    up = record(RecordKind.NODE_UP, 1, node="n1", sequence=5)
    down = record(RecordKind.NODE_DOWN, 1, node="n1", sequence=5)
    assert len(merge([up, down, up])) == 2


def test_who_held_an_address_at_each_time() -> None:
    at = {
        time: tenure.holder if (tenure := holder_at(tenures(HISTORY, IP), time)) else None
        for time in (99, 100, 199, 200, 209, 210, 299, 300, 301, 10**9)
    }
    assert at == {
        99: None,
        100: "n1",
        199: "n1",
        200: None,
        209: None,
        210: "n2",
        299: "n2",
        300: None,
        301: "n1",
        10**9: "n1",
    }


def test_a_missing_end_is_bounded_by_the_next_holder() -> None:
    records = [acquired(100, "n1", 1), acquired(500, "n2", 2)]
    first, second = tenures(records, IP)
    assert (first.until_ns, first.end) == (500, records[1])
    assert (second.until_ns, second.end) == (None, None)


def test_a_grant_stands_in_for_a_holder_that_lost_its_own_record() -> None:
    found = holder_at(tenures([granted(100, "e1", "n1", 1)], IP), 150)
    assert found is not None
    assert found.holder == "n1"
    both = holder_at(tenures([granted(100, "e1", "n1", 1), acquired(101, "n1", 1)], IP), 150)
    assert both is not None
    assert both.since_ns == 101


def promised(time: int, elector: str, holder: str, counter: int) -> AuditRecord:
    base = record(RecordKind.PROMISED, time, node=elector, counter=counter)
    return replace(base, holder=holder, detail={"electors": "3"})


def test_a_majority_of_promises_stands_in_too_and_a_minority_does_not() -> None:
    first, second = promised(100, "e1", "n1", 1), promised(102, "e2", "n1", 1)
    stranger = promised(101, "e3", "n2", 1)
    assert tenures([first, stranger, first], IP) == []
    (found,) = tenures([first, stranger, second], IP)
    assert (found.holder, found.since_ns) == ("n1", 102)
    (found,) = tenures([first, second, acquired(105, "n1", 1)], IP)
    assert found.begin.kind is RecordKind.ACQUIRED


def test_a_tenure_ends_at_its_deadline_and_begins_when_it_was_held() -> None:
    late = replace(expired(900, "n1", 1), detail={"deadlineBootTimeNs": "250", "heldUntilBootTimeNs": "200"})
    begun = replace(acquired(120, "n1", 1), detail={"heldAtBootTimeNs": "110"})
    (found,) = tenures([begun, late], IP)
    assert (found.since_ns, found.until_ns) == (110, 250)


def test_other_addresses_do_not_count() -> None:
    assert holder_at(tenures(HISTORY, "192.0.2.1"), 150) is None


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 60))
def test_never_two_holders_at_once(times: list[int], when: int) -> None:
    records = [acquired(time, f"n{counter}", counter) for counter, time in enumerate(sorted(times))]
    assert sum(tenure.covers(when) for tenure in tenures(records, IP)) <= 1


def test_the_holders_own_word_on_its_beginning_beats_that_of_others_whichever_came_first() -> None:
    for grant in (granted(90, "c1", "n1", 1), granted(110, "c1", "n1", 1)):
        (tenure,) = tenures([acquired(100, "n1", 1), grant], IP)
        assert (tenure.begin.kind, tenure.since_ns) == (RecordKind.ACQUIRED, 100)


def test_where_clocks_make_two_tenures_overlap_the_higher_token_is_right() -> None:
    known = tenures([acquired(1, "n1", 1), acquired(5, "n2", 2), acquired(3, "slow", 3)], IP)
    assert [tenure.holder for tenure in known if tenure.covers(4)] == ["n1", "slow"]
    found = holder_at(known, 4)
    assert found is not None
    assert found.holder == "slow"
