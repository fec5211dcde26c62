"""Audit records as CloudEvents 1.0 in JSON, and back. Pure.

The same bytes lie in the outbox and go to Kafka. `id` is the record's own: copies of one assignment event, written by
its holder and by electors, carry one id, and `source` names the cluster rather than the node, since CloudEvents calls
two events duplicates where source and id agree. Times are texts: a JSON number does not hold nanoseconds everywhere.
"""

from datetime import UTC, datetime

import msgspec

from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import PeerError

SPEC_VERSION = "1.0"
_SECOND = 1_000_000_000
_GROUPS = {
    RecordKind.LEADER_ELECTED: "leader.elected",
    RecordKind.LEADER_LOST: "leader.lost",
    RecordKind.NODE_UP: "node.up",
    RecordKind.NODE_DOWN: "node.down",
    RecordKind.POLICY_ACCEPTED: "policy.accepted",
    RecordKind.POLICY_REFUSED: "policy.refused",
    RecordKind.POLICY_DELETED: "policy.deleted",
    RecordKind.GATEWAY_CHANGED: "gateway.changed",
    RecordKind.AGENT_STARTED: "agent.started",
    RecordKind.AGENT_STOPPED: "agent.stopped",
    RecordKind.GAP: "audit.gap",
}


class _Data(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    kind: str
    node: str
    boot_id: str
    sequence: int
    boot_time_ns: str
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


_DECODER = msgspec.json.Decoder(_Event)


def event_type(kind: RecordKind) -> str:
    """The CloudEvents `type`, such as `egressgw.assignment.acquired`."""
    return f"egressgw.{_GROUPS.get(kind, f'assignment.{kind}')}"


def encode(record: AuditRecord, *, cluster: str = "default") -> bytes:
    """Return the structured-mode JSON of one record."""
    data = _Data(
        kind=record.kind,
        node=record.node,
        boot_id=record.boot_id,
        sequence=record.sequence,
        boot_time_ns=str(record.boot_time_ns),
        token=".".join(str(part) for part in record.token) if record.token is not None else "",
        holder=record.holder,
        previous=record.previous,
        reason=record.reason,
        detail=record.detail,
    )
    event = _Event(
        specversion=SPEC_VERSION,
        id=record.id,
        source=f"/egressgw/{cluster}",
        type=event_type(record.kind),
        time=format_time(record.wall_time_ns),
        subject=record.subject or msgspec.UNSET,
        data=data,
    )
    return msgspec.json.encode(event)


def decode(payload: bytes) -> AuditRecord:
    """Parse what `encode` wrote; unknown members are ignored. Raises PeerError where it is not such an event."""
    try:
        event = _DECODER.decode(payload)
        data = event.data
        record = AuditRecord(
            kind=RecordKind(data.kind),
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
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"not an audit event: {error}") from error
    if event.specversion != SPEC_VERSION or record.id != event.id:
        raise PeerError(f"not an audit event: specversion {event.specversion!r}, id {event.id!r}")
    return record


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
