"""One history out of the records of several outboxes, and who held an address when. Pure.

Wall clocks of nodes differ, fencing tokens do not: per floating IP the token's order is the truth, and time only places
events among those of others. An address is held from the record of its acquisition (or, where the holder lost power
before its own was durable, from its grant by a majority of electors) to its end, or to the next token, whichever comes
first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from service.model.audit_record import DEADLINE, HELD_AT, AuditRecord, RecordKind

_BEGINS = (RecordKind.ACQUIRED, RecordKind.GRANTED)
_ENDS = (RecordKind.RELEASED, RecordKind.EXPIRED)


@dataclass(frozen=True, slots=True)
class Tenure:
    """One node held one floating IP under one token."""

    floating_ip: str
    holder: str
    token: tuple[int, int, int]
    since_ns: int
    until_ns: int | None
    """Wall time; None where nothing later is on record."""
    begin: AuditRecord
    end: AuditRecord | None
    """The record of its end, or the next holder's beginning."""

    def covers(self, wall_time_ns: int) -> bool:
        return self.since_ns <= wall_time_ns and (self.until_ns is None or wall_time_ns < self.until_ns)

    def overlaps(self, since_ns: int, until_ns: int) -> bool:
        return self.since_ns <= until_ns and (self.until_ns is None or since_ns < self.until_ns)


def merge(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    """Drop copies and order: per floating IP by token, then time; all together by time as far as that allows."""
    placed: list[tuple[int, AuditRecord]] = []
    latest: dict[str, int] = {}
    for record in sorted(_unique(records), key=_token_order):
        time_ns = record.wall_time_ns
        if record.token is not None:
            # A higher token is never shown before a lower one of its address, whatever its node's clock says.
            time_ns = latest[record.subject] = max(time_ns, latest.get(record.subject, time_ns))
        placed.append((time_ns, record))
    placed.sort(key=lambda pair: pair[0])  # stable: ties keep the token's order
    return [record for _, record in placed]


def tenures(records: Iterable[AuditRecord], floating_ip: str) -> list[Tenure]:
    """Every tenure of one address, oldest token first."""
    begins: dict[tuple[int, int, int], AuditRecord] = {}
    ends: dict[tuple[int, int, int], AuditRecord] = {}
    promises = _Promises()
    for record in merge(records):
        if record.subject != floating_ip or record.token is None:
            continue
        known = begins.get(record.token)
        # The holder's own word beats an elector's: the grant comes half a round trip before the address answers.
        if record.kind in _BEGINS and (known is None or _rank(record) < _rank(known)):
            begins[record.token] = record
        elif record.kind in _ENDS:
            ends.setdefault(record.token, record)
        elif record.kind is RecordKind.PROMISED and promises.is_majority(record):
            begins.setdefault(record.token, record)
    found: list[Tenure] = []
    tokens = sorted(begins)
    for index, token in enumerate(tokens):
        begin = begins[token]
        after = begins[tokens[index + 1]] if index + 1 < len(tokens) else None
        # One holder at a time is what the fence enforces, so a later beginning on record bounds a missing end.
        candidates = [record for record in (ends.get(token), after) if record is not None]
        end = min(candidates, key=_instant, default=None)
        found.append(
            Tenure(
                floating_ip=floating_ip,
                holder=begin.holder or begin.node,
                token=token,
                since_ns=_instant(begin),
                until_ns=_instant(end) if end is not None else None,
                begin=begin,
                end=end,
            )
        )
    return found


def holder_at(records: Iterable[AuditRecord], floating_ip: str, wall_time_ns: int) -> Tenure | None:
    """Who held the address then; None where nobody did, or nothing is on record. Of two the higher token is right."""
    covering = [tenure for tenure in tenures(records, floating_ip) if tenure.covers(wall_time_ns)]
    return covering[-1] if covering else None


def _rank(begin: AuditRecord) -> bool:
    return begin.kind is not RecordKind.ACQUIRED


class _Promises:
    """Promises of single electors, until they are a majority."""

    def __init__(self) -> None:
        self._electors: dict[tuple[tuple[int, int, int] | None, str], dict[str, None]] = {}

    def is_majority(self, record: AuditRecord) -> bool:
        """Whether this promise, of those for its token and holder, makes the majority."""
        electors = self._electors.setdefault((record.token, record.holder), {})
        electors[record.node] = None
        count = record.detail.get("electors", "")
        return count.isascii() and count.isdecimal() and 2 * len(electors) > int(count)


def _instant(record: AuditRecord) -> int:
    """When it happened, by its node's wall clock: records come a little later, where their process hung much later."""
    for name in (HELD_AT, DEADLINE):
        boot_ns = record.instant(name)
        if boot_ns is not None and boot_ns <= record.boot_time_ns:
            return record.wall_of(boot_ns)
    return record.wall_time_ns


def _unique(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    kept: dict[object, AuditRecord] = {}
    for record in records:
        # Without a token the id says who wrote it, not what: two writers under one name must not hide each other.
        key: object = record.id if record.token is not None else (record.id, record.kind, record.wall_time_ns)
        known = kept.get(key)
        if known is None or _witness_order(record) < _witness_order(known):
            kept[key] = record
    return list(kept.values())


def _witness_order(record: AuditRecord) -> tuple[bool, int, str]:
    """Of copies keep the holder's own, else the earliest: its clock is the one that its other records use."""
    return (record.node != record.holder, record.wall_time_ns, record.node)


def _token_order(record: AuditRecord) -> tuple[tuple[int, int, int], int, str, str, int]:
    return (record.token or (0, 0, 0), record.wall_time_ns, record.node, record.boot_id, record.sequence)
