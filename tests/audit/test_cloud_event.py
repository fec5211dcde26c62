import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit.cloud_event import decode, encode, event_type, format_time, parse_time
from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import PeerError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
records = st.builds(
    AuditRecord,
    kind=st.sampled_from(RecordKind),
    node=texts,
    boot_id=texts,
    sequence=st.integers(0, 2**53),
    wall_time_ns=st.integers(0, 4_000_000_000 * 10**9),
    boot_time_ns=st.integers(0, 2**63),
    subject=texts,
    token=st.none() | st.tuples(*[st.integers(0, 2**24)] * 3),
    holder=texts,
    previous=texts,
    reason=texts,
    detail=st.dictionaries(texts, texts, max_size=3),
)


@given(records)
def test_a_record_survives_its_envelope(record: AuditRecord) -> None:
    assert decode(encode(record)) == record


def test_the_envelope_is_a_cloudevent() -> None:
    record = AuditRecord(
        kind=RecordKind.ACQUIRED,
        node="worker1",
        boot_id="b",
        sequence=7,
        wall_time_ns=1_795_444_404_405_209_856,
        boot_time_ns=9_007_199_254_740_993,
        subject="192.0.2.100",
        token=(3, 2, 1),
        holder="worker1",
    )
    assert json.loads(encode(record, cluster="east")) == {
        "specversion": "1.0",
        "id": "192.0.2.100/3.2.1/acquired",
        "source": "/egressgw/east",
        "type": "egressgw.assignment.acquired",
        "time": "2026-11-23T14:33:24.405209856Z",
        "subject": "192.0.2.100",
        "datacontenttype": "application/json",
        "dataschema": "urn:egressgw:audit:record:v1",
        "data": {
            "kind": "acquired",
            "node": "worker1",
            "bootId": "b",
            "sequence": 7,
            "bootTimeNs": "9007199254740993",
            "token": "3.2.1",
            "holder": "worker1",
        },
    }


def test_every_kind_has_a_type_of_its_own() -> None:
    types = [event_type(kind) for kind in RecordKind]
    assert len(set(types)) == len(types)
    assert event_type(RecordKind.POLICY_REFUSED) == "egressgw.policy.refused"


def test_an_event_without_subject_has_no_subject_member() -> None:
    event = json.loads(encode(AuditRecord(RecordKind.AGENT_STARTED, "n", "b", 1, 0, 0)))
    assert "subject" not in event


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"id": "other"},
        {"time": "yesterday"},
        {"time": "2026-11-23T14:33:24.Z"},
        {"data": {}},
        {"data": None},
    ],
)
def test_what_is_not_such_an_event_is_a_peer_error(change: dict[str, object]) -> None:
    event = json.loads(encode(AuditRecord(RecordKind.AGENT_STARTED, "n", "b", 1, 0, 0)))
    with pytest.raises(PeerError):
        decode(json.dumps(event | change).encode())


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[]", b'"x"'])
def test_garbage_is_a_peer_error(payload: bytes) -> None:
    with pytest.raises(PeerError):
        decode(payload)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-23T14:33:24Z", "2026-11-23T14:33:24.000000000Z"),
        ("2026-11-23T14:33:24.5+01:00", "2026-11-23T13:33:24.500000000Z"),
        ("2026-11-23 14:33", "2026-11-23T14:33:00.000000000Z"),
        ("2026-11-23T14:33:24.000000001Z", "2026-11-23T14:33:24.000000001Z"),
    ],
)
def test_times_are_read_as_rfc_3339_and_utc_without_an_offset(text: str, shown: str) -> None:
    assert format_time(parse_time(text)) == shown
