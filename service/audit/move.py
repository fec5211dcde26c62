"""What moved in a span of time, and why: every change of a holder, out of the records of holders and leaders. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.audit.timeline import Tenure, Token, merge, tenures
from service.model.audit_record import AuditRecord, RecordKind

_SECOND_NS = 1_000_000_000
_AT_ONCE_NS = 2 * _SECOND_NS
"""An end and the next beginning that are not further apart are one move."""
_NOWHERE = (RecordKind.REFUSED, RecordKind.UNASSIGNED)


@dataclass(frozen=True, slots=True)
class Move:
    """One floating IP went from one node to another, to nobody, or from nobody."""

    wall_time_ns: int
    floating_ip: str
    before: str
    """Empty for nobody on record."""
    after: str
    token: Token | None
    reason: str


def moves(records: Iterable[AuditRecord], *, since_ns: int, until_ns: int) -> list[Move]:
    """All that happened from `since_ns` to `until_ns`, both included, by time."""
    by_subject: dict[str, list[AuditRecord]] = {}
    for record in merge(records):
        if record.token is not None or record.kind is RecordKind.CONFLICT:
            by_subject.setdefault(record.subject, []).append(record)
    found = [move for subject, about in by_subject.items() for move in _of_address(subject, about)]
    return sorted(
        (move for move in found if since_ns <= move.wall_time_ns <= until_ns),
        key=lambda move: (move.wall_time_ns, move.floating_ip),
    )


def _of_address(subject: str, records: list[AuditRecord]) -> Iterable[Move]:
    failovers = {record.token: record for record in records if record.kind is RecordKind.FAILOVER}
    previous: Tenure | None = None
    for tenure in tenures(records, subject):
        if previous is not None and _is_dark_between(previous, tenure):
            yield _end(previous)
            yield _begin(tenure, None, failovers)
        else:
            yield _begin(tenure, previous, failovers)
        previous = tenure
    if previous is not None and previous.end is not None:
        yield _end(previous)
    for record in records:
        if record.kind in _NOWHERE:
            yield Move(record.wall_time_ns, subject, record.previous, "", record.token, f"no node: {record.reason}")
        elif record.kind is RecordKind.CONFLICT and "other" in record.detail:
            yield Move(record.wall_time_ns, subject, "", "", None, f"{record.reason}: {record.detail['other']}")


def _is_dark_between(previous: Tenure, tenure: Tenure) -> bool:
    return previous.until_ns is not None and tenure.since_ns - previous.until_ns > _AT_ONCE_NS


def _end(tenure: Tenure) -> Move:
    assert tenure.end is not None
    assert tenure.until_ns is not None
    reason = f"{tenure.end.kind}: {tenure.end.reason}" if tenure.end.reason else str(tenure.end.kind)
    return Move(tenure.until_ns, tenure.floating_ip, tenure.holder, "", tenure.token, reason)


def _begin(tenure: Tenure, previous: Tenure | None, failovers: Mapping[Token | None, AuditRecord]) -> Move:
    """The beginning of a tenure, with what is known of the end before it and of the gap between them."""
    failover = failovers.get(tenure.token)
    causes = [failover.reason if failover is not None else tenure.begin.reason or str(tenure.begin.kind)]
    if previous is not None and previous.end is not None and previous.end.token == previous.token:
        assert previous.until_ns is not None
        causes.append(previous.end.reason or str(previous.end.kind))
        gap_ns = tenure.since_ns - previous.until_ns
        causes += [f"nobody held it for {gap_ns / _SECOND_NS:.2f} s"] if gap_ns > 0 else []
    elif previous is not None:
        causes.append(f"the end at {previous.holder} is not on record")
    before = previous.holder if previous is not None else ""
    return Move(tenure.since_ns, tenure.floating_ip, before, tenure.holder, tenure.token, "; ".join(causes))
