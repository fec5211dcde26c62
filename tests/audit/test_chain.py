"""Records made one after the other, so that none can be taken away unseen."""

from itertools import pairwise
from typing import Any

import pytest

from service.audit.chain import Chain, Facts, Origin
from service.audit.cloud_event import decode, digest
from service.audit.segment import PAYLOAD_BYTES_MAX
from service.model.audit_record import AuditRecord, RecordKind

ORIGIN = Origin("worker1", "boot-1", cluster="site", component="agent")


def chain(*, boot_ns: int = 5_000_000, **options: Any) -> Chain:
    return Chain(
        options.pop("origin", ORIGIN), "o1", clock=lambda: (1_000_000_000, boot_ns), context=lambda: (7, 3), **options
    )


def made(links: Chain, count: int) -> list[tuple[AuditRecord, bytes]]:
    return [links.next(RecordKind.NODE_UP, {"subject": f"n{number}"}) for number in range(count)]


def test_each_record_has_the_next_sequence_and_the_digest_of_the_one_before() -> None:
    records = made(chain(), 3)
    assert [record.sequence for record, _ in records] == [1, 2, 3]
    assert records[0][0].prev == ""
    for (_, payload), (after, _) in pairwise(records):
        assert after.prev == digest(payload)


def test_a_record_says_whose_it_is_and_by_what_was_known_then() -> None:
    facts: Facts = {"subject": "192.0.2.1", "token": (7, 1, 2), "holder": "worker1", "reason": "r", "generation": 4}
    record, payload = chain().next(RecordKind.ACQUIRED, facts)
    assert (record.node, record.boot_id, record.actor, record.outbox) == ("worker1", "boot-1", "agent/worker1", "o1")
    assert (record.term, record.lease_epoch) == (7, 3)
    assert (record.wall_time_ns, record.boot_time_ns) == (1_000_000_000, 5_000_000)
    assert (record.subject, record.token, record.generation) == ("192.0.2.1", (7, 1, 2), 4)
    assert decode(payload) == record
    assert b'"source":"/egressgw/site"' in payload


def test_without_a_component_nobody_is_named_as_actor() -> None:
    record, _ = chain(origin=Origin("worker1", "boot-1")).next(RecordKind.NODE_UP, {})
    assert record.actor == ""


def test_an_older_outbox_goes_on_under_its_name_and_behind_its_last_record() -> None:
    links = chain()
    links.resume(41, "older", "d" * 32)
    record, _ = links.next(RecordKind.NODE_UP, {})
    assert (record.sequence, record.outbox, record.prev) == (42, "older", "d" * 32)


def test_an_outbox_of_before_there_were_chains_begins_one() -> None:
    links = chain()
    links.resume(41, "", "d" * 32)
    record, _ = links.next(RecordKind.NODE_UP, {})
    assert (record.sequence, record.outbox, record.prev) == (42, "o1", "")


def test_where_the_old_records_cannot_be_read_no_sequence_is_given_out_twice() -> None:
    links = chain(boot_ns=90_000_000_000)
    links.begin_unread()
    # More records than microseconds since the boot cannot have been written.
    assert links.next(RecordKind.NODE_UP, {})[0].sequence == 90_000_001
    links.resume(3, "older", "")
    assert links.next(RecordKind.NODE_UP, {})[0].sequence == 4


def test_details_are_texts_whatever_they_were_made_of() -> None:
    detail: Any = {"electors": 3, "kind": RecordKind.GAP}
    record, payload = chain().next(RecordKind.NODE_UP, {"detail": detail})
    assert record.detail == {"electors": "3", "kind": "gap"}
    assert decode(payload).detail == record.detail


@pytest.mark.parametrize("facts", [{"reason": "x" * 70_000}, {"detail": {"a": "y" * 70_000}}])
def test_what_is_too_long_for_a_frame_is_cut_and_says_so(facts: Facts) -> None:
    links = chain()
    _, payload = links.next(RecordKind.NODE_UP, facts)
    assert len(payload) <= PAYLOAD_BYTES_MAX
    found = decode(payload)
    assert int(found.detail["truncatedBytes"]) > 70_000
    assert len(found.reason) <= 1000
    # What is chained is what was written.
    assert links.next(RecordKind.NODE_UP, {})[0].prev == digest(payload)


def test_a_text_that_is_none_is_on_record_readably() -> None:
    _, payload = chain().next(RecordKind.NODE_UP, {"reason": "file \udcff", "detail": {"a": "\ud800"}})
    found = decode(payload)
    assert "udcff" in found.reason
    assert "ud800" in found.detail["unreadable"]
