"""The schema is a contract with whoever reads the topic: compatible changes only.

`corpus/` holds what was once published: schemas and events. Nothing in it is ever edited; lines and files are added.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

import service.audit
from service.audit.cloud_event import DATA_SCHEMA, decode, digest, encode
from service.model.audit_record import SCHEMA_VERSION, AuditRecord, RecordKind

SCHEMAS = Path(service.audit.__file__).parent / "schema"
CORPUS = Path(__file__).parent / "corpus"
EVENTS = (CORPUS / "events-v1.jsonl").read_bytes().splitlines()


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def validator(folder: Path = SCHEMAS) -> Draft202012Validator:
    record = load(folder, "record-v1")
    registry = Registry().with_resource(record["$id"], Resource.from_contents(record))
    return Draft202012Validator(
        load(folder, "event-v1"), registry=registry, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def full_record(kind: RecordKind) -> AuditRecord:
    return AuditRecord(
        kind,
        "worker1",
        "boot",
        1,
        1_800_000_000_123_456_789,
        99,
        subject="192.0.2.1",
        token=(1, 2, 3),
        holder="worker1",
        previous="worker2",
        reason="r",
        detail={"a": "b"},
        outbox="0a0b0c0d",
        prev=digest(b"x"),
        actor="agent/worker1",
        term=1,
        lease_epoch=1,
        generation=2,
    )


def retyped(before: Any, after: Any) -> list[str]:
    """What a reader of `before` would trip over in `after`, by field."""
    faults = []
    if before.get("required") != after.get("required"):
        faults.append(f"required: {before.get('required')} became {after.get('required')}")
    for name, field in before["properties"].items():
        now = after["properties"].get(name)
        if now is None:
            faults.append(f"{name}: removed or renamed")
            continue
        constraints = [{k: v for k, v in one.items() if k not in ("description", "anyOf")} for one in (field, now)]
        if constraints[0] != constraints[1]:
            faults.append(f"{name}: retyped")
    kinds = [
        set(one["properties"].get("kind", {"anyOf": [{"enum": []}]})["anyOf"][0]["enum"]) for one in (before, after)
    ]
    if kinds[0] - kinds[1]:
        faults.append(f"kinds removed: {sorted(kinds[0] - kinds[1])}")
    return faults


@pytest.mark.parametrize("name", ["record-v1", "event-v1"])
def test_the_schema_is_a_schema_and_compatible_with_the_published_one(name: str) -> None:
    Draft202012Validator.check_schema(load(SCHEMAS, name))
    assert retyped(load(CORPUS, name), load(SCHEMAS, name)) == []


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda s: s["properties"].pop("token"), "token: removed or renamed"),
        (lambda s: s["properties"]["sequence"].update(type="string"), "sequence: retyped"),
        (lambda s: s["required"].append("term"), "required"),
        (lambda s: s["required"].remove("node"), "required"),
        (lambda s: s["properties"]["kind"]["anyOf"][0]["enum"].remove("acquired"), "kinds removed"),
    ],
)
def test_an_incompatible_change_would_be_noticed(spoil: Any, fault: str) -> None:
    changed = load(CORPUS, "record-v1")
    spoil(changed)
    assert any(fault in found for found in retyped(load(CORPUS, "record-v1"), changed))


def test_a_new_field_and_a_new_kind_are_compatible() -> None:
    changed = load(CORPUS, "record-v1")
    changed["properties"]["weather"] = {"type": "string"}
    changed["properties"]["kind"]["anyOf"][0]["enum"].append("rained")
    assert retyped(load(CORPUS, "record-v1"), changed) == []


@pytest.mark.parametrize("kind", list(RecordKind))
def test_every_kind_validates_full_and_bare(kind: RecordKind) -> None:
    for record in (full_record(kind), AuditRecord(kind, "n", "b", 1, 0, 0)):
        validator().validate(json.loads(encode(record)))


def test_the_schema_names_every_kind_and_every_field_that_is_written() -> None:
    schema = load(SCHEMAS, "record-v1")
    assert set(schema["properties"]["kind"]["anyOf"][0]["enum"]) == set(RecordKind)
    data = json.loads(encode(full_record(RecordKind.ACQUIRED)))["data"]
    assert set(data) == set(schema["properties"])
    assert schema["$id"] == DATA_SCHEMA.format(SCHEMA_VERSION)


def test_what_is_no_event_does_not_validate() -> None:
    event = json.loads(encode(full_record(RecordKind.ACQUIRED)))
    event["data"]["sequence"] = "1"
    with pytest.raises(ValidationError):
        validator().validate(event)


@pytest.mark.parametrize("line", EVENTS, ids=range(len(EVENTS)))
def test_what_was_ever_published_stays_valid_and_readable(line: bytes) -> None:
    validator().validate(json.loads(line))
    event, record = json.loads(line), decode(line)
    assert record.id == event["id"]
    assert record.kind in set(RecordKind)
    # Nothing of it is lost by reading and writing it again.
    again = json.loads(encode(record))
    assert again["data"] == event["data"]
    assert {key: again[key] for key in event} == event


def test_the_corpus_has_every_kind() -> None:
    assert {decode(line).kind for line in EVENTS} == set(RecordKind)


# --- later versions


def changed_event(version: int, **data: Any) -> bytes:
    event = json.loads(encode(full_record(RecordKind.ACQUIRED)))
    event["dataschema"] = f"urn:egressgw:audit:record:v{version}"
    event["data"] |= data
    event["data"] = {key: value for key, value in event["data"].items() if value is not None}
    return json.dumps(event).encode()


def test_unknown_members_are_ignored() -> None:
    event = json.loads(changed_event(1, weather={"rain": 3})) | {"traceparent": "00-1"}
    assert decode(json.dumps(event).encode()) == full_record(RecordKind.ACQUIRED)


def test_an_unknown_kind_is_shown_as_it_is() -> None:
    event = json.loads(changed_event(1, kind="teleported"))
    event |= {"type": "egressgw.assignment.teleported", "id": "192.0.2.1/1.2.3/teleported"}
    record = decode(json.dumps(event).encode())
    assert (record.kind, record.subject, record.token) == ("teleported", "192.0.2.1", (1, 2, 3))
    assert json.loads(encode(record)) == event


def test_a_later_version_that_still_fits_is_read_as_far_as_it_is_known() -> None:
    event = json.loads(changed_event(2)) | {"id": "made by another rule"}
    record = decode(json.dumps(event).encode())
    assert (record.version, record.id, record.holder, record.sequence) == (2, "made by another rule", "worker1", 1)


def test_a_later_version_that_does_not_fit_is_shown_and_no_evidence() -> None:
    record = decode(changed_event(3, sequence="first", token=[1, 2], node=None, detail=7))
    assert (record.version, record.kind, record.subject, record.sequence, record.token) == (
        3,
        "acquired",
        "192.0.2.1",
        0,
        None,
    )
    assert record.detail["sequence"] == "first"
    assert record.detail["token"] == "[1,2]"
