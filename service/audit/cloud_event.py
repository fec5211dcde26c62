"""Audit records as CloudEvents 1.0 in JSON (`schema/`), and back. Pure.

The same bytes lie in the outbox and go to Kafka. `id` is the record's own: copies of one assignment event, written by
its holder and by electors, carry one id, and `source` names the cluster rather than the node, since CloudEvents calls
two events duplicates where source and id agree. Times are texts: a JSON number does not hold nanoseconds everywhere.

A reader outlives the writers it was built with: unknown members are ignored, an unknown kind stays a text, and of a
record of a later schema version is kept what can be read.
"""

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.model.audit_record import SCHEMA_VERSION, AuditRecord, RecordKind
from service.model.errors import PeerError

SPEC_VERSION = "1.0"
DATA_SCHEMA = "urn:egressgw:audit:record:v{}"
"""`dataschema` of an event, by schema version; the schema of version N is `schema/record-vN.json`."""
DIGEST_CHARS = 32
_TYPE_PREFIX = "egressgw."
_SECOND = 1_000_000_000
_GROUPS = {
    RecordKind.PORTS_MOVED: "ports.moved",
    RecordKind.PORTS_TABLE: "ports.table",
    RecordKind.LEADER_ELECTED: "leader.elected",
    RecordKind.LEADER_LOST: "leader.lost",
    RecordKind.NODE_UP: "node.up",
    RecordKind.NODE_DOWN: "node.down",
    RecordKind.DRAIN_STARTED: "drain.started",
    RecordKind.DRAIN_ENDED: "drain.ended",
    RecordKind.POLICY_ACCEPTED: "policy.accepted",
    RecordKind.POLICY_REFUSED: "policy.refused",
    RecordKind.POLICY_CHANGED: "policy.changed",
    RecordKind.POLICY_DELETED: "policy.deleted",
    RecordKind.GATEWAY_CHANGED: "gateway.changed",
    RecordKind.AGENT_STARTED: "agent.started",
    RecordKind.AGENT_STOPPED: "agent.stopped",
    RecordKind.GAP: "audit.gap",
}


_KINDS = {str(kind): kind for kind in RecordKind}


class _Data(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    kind: str
    node: str
    boot_id: str
    sequence: int
    boot_time_ns: str
    outbox: str = ""
    prev: str = ""
    actor: str = ""
    term: int = 0
    lease_epoch: int = 0
    generation: int = 0
    token: str = ""
    holder: str = ""
    previous: str = ""
    reason: str = ""
    detail: dict[str, str] = {}


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: _Data
    subject: str | msgspec.UnsetType = msgspec.UNSET  # absent rather than empty: CloudEvents forbids the empty subject
    datacontenttype: str = "application/json"
    dataschema: str = DATA_SCHEMA.format(1)  # what the first records, which did not say it, are


_DECODER = msgspec.json.Decoder(_Event)


def event_type(kind: str) -> str:
    """The CloudEvents `type`, such as `egressgw.assignment.acquired`."""
    known = _KINDS.get(kind)
    return _TYPE_PREFIX + (_GROUPS.get(known, f"assignment.{kind}") if known else f"assignment.{kind}")


def digest(payload: bytes) -> str:
    """What the next record of the outbox carries as `prev`: SHA-256 of the encoded event, its first half in hex."""
    return hashlib.sha256(payload).hexdigest()[:DIGEST_CHARS]


def encode(record: AuditRecord, *, cluster: str = "default") -> bytes:
    """Return the structured-mode JSON of one record. Raises UnicodeEncodeError where a text of it has surrogates."""
    event = _Event(
        specversion=SPEC_VERSION,
        id=record.id,
        source=f"/egressgw/{cluster}",
        type=event_type(record.kind),
        time=format_time(record.wall_time_ns),
        subject=record.subject or msgspec.UNSET,
        dataschema=DATA_SCHEMA.format(record.version),
        data=_data(record),
    )
    return msgspec.json.encode(event)


def _data(record: AuditRecord) -> _Data:
    return _Data(
        kind=record.kind,
        node=record.node,
        boot_id=record.boot_id,
        sequence=record.sequence,
        boot_time_ns=str(record.boot_time_ns),
        outbox=record.outbox,
        prev=record.prev,
        actor=record.actor,
        term=record.term,
        lease_epoch=record.lease_epoch,
        generation=record.generation,
        token=".".join(str(part) for part in record.token) if record.token is not None else "",
        holder=record.holder,
        previous=record.previous,
        reason=record.reason,
        detail=record.detail,
    )


def decode(payload: bytes) -> AuditRecord:
    """Parse what `encode` wrote, or will write one day. Raises PeerError where it is not an event of ours."""
    try:
        event = _DECODER.decode(payload)
        version = _schema_version(event.dataschema)
        record = _record(event, version)
    except (msgspec.MsgspecError, ValueError) as error:
        return _decode_foreign(payload, error)
    if event.specversion != SPEC_VERSION:
        raise PeerError(f"not an audit event: specversion {event.specversion!r}")
    if record.id != event.id:
        if version <= SCHEMA_VERSION:
            raise PeerError(f"not an audit event: its id should be {record.id!r}, not {event.id!r}")
        return replace(record, foreign_id=event.id)
    return record


def _record(event: _Event, version: int) -> AuditRecord:
    data = event.data
    return AuditRecord(
        kind=_KINDS.get(data.kind, data.kind),
        node=data.node,
        boot_id=data.boot_id,
        sequence=data.sequence,
        wall_time_ns=parse_time(event.time),
        boot_time_ns=int(data.boot_time_ns),
        subject=event.subject or "",
        token=_parse_token(data.token),
        holder=data.holder,
        previous=data.previous,
        reason=data.reason,
        detail=data.detail,
        outbox=data.outbox,
        prev=data.prev,
        actor=data.actor,
        term=data.term,
        lease_epoch=data.lease_epoch,
        generation=data.generation,
        version=version,
    )


def _decode_foreign(payload: bytes, error: Exception) -> AuditRecord:
    """What can be told of an event whose data are of a later version: shown, never taken for evidence."""
    failure = PeerError(f"not an audit event: {error}")
    try:
        event = msgspec.json.decode(payload)
        version = _schema_version(event["dataschema"])
        kind = str(event["type"])
        if version <= SCHEMA_VERSION or not kind.startswith(_TYPE_PREFIX) or event["specversion"] != SPEC_VERSION:
            raise failure
        data = event.get("data")
        data = data if isinstance(data, dict) else {"data": data}
        return AuditRecord(
            kind=_text(data.get("kind")) or kind.removeprefix(_TYPE_PREFIX),
            node=_text(data.get("node")),
            boot_id=_text(data.get("bootId")),
            sequence=0,
            wall_time_ns=parse_time(event["time"]),
            boot_time_ns=0,
            subject=_text(event.get("subject")),
            holder=_text(data.get("holder")),
            reason=f"schema version {version} is not known here",
            detail={str(key): value if isinstance(value, str) else _json(value) for key, value in data.items()},
            version=version,
            foreign_id=str(event["id"]),
        )
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError):
        raise failure from error


def _schema_version(dataschema: str) -> int:
    """1 where it is not said: the first records did not say it. Raises ValueError where it is not a schema of ours."""
    found = re.fullmatch(r"urn:egressgw:audit:record:v(\d{1,9})", dataschema)
    if found is None:
        raise ValueError(f"dataschema {dataschema!r}")
    return int(found[1])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def format_time(wall_time_ns: int) -> str:
    """RFC 3339 in UTC with nine decimals, so that text order is time order."""
    seconds, nanoseconds = divmod(wall_time_ns, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def parse_time(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time; one without an offset is taken as UTC. Raises ValueError."""
    head, dot, tail = text.partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    if dot and not 1 <= len(digits) <= 9:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    # datetime knows microseconds only: it gets the whole seconds and the offset, and the fraction is read apart
    moment = datetime.fromisoformat(head + tail[len(digits) :])
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * _SECOND + int(digits.ljust(9, "0"))


def _parse_token(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    term, version, counter = (int(part) for part in text.split("."))
    return term, version, counter
