"""One history out of the records of several outboxes, and who held an address when. Pure.

Wall clocks of nodes differ, fencing tokens do not: per floating IP the token's order is the truth, and time only places
events among those of others. An address is held from the record of its acquisition (or, where the holder lost power
before its own was durable, from its grant by a majority of electors) to its end, or to the next token, whichever comes
first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from service.model.audit_record import DEADLINE, HELD_AT, AuditRecord, RecordKind

_BEGINS = (RecordKind.ACQUIRED, RecordKind.GRANTED)
_ENDS = (RecordKind.RELEASED, RecordKind.EXPIRED)

Token = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Tenure:
    """One node held one floating IP under one token."""

    floating_ip: str
    holder: str
    token: Token
    since_ns: int
    until_ns: int | None
    """Wall time; None where nothing later is on record."""
    begin: AuditRecord
    end: AuditRecord | None
    """The record of its end, or the next holder's beginning."""

    def covers(self, wall_time_ns: int) -> bool:
        """Whether it was held then; the end itself is no longer in it."""
        return self.since_ns <= wall_time_ns and (self.until_ns is None or wall_time_ns < self.until_ns)

    def overlaps(self, since_ns: int, until_ns: int) -> bool:
        """Whether it was held at any instant from `since_ns` to `until_ns`, both included."""
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
    begins, ends = _begins_and_ends(record for record in merge(records) if record.subject == floating_ip)
    tokens = sorted(begins)
    return [
        _tenure(floating_ip, token, begins[token], ends.get(token), begins[after] if after else None)
        for token, after in zip_longest(tokens, tokens[1:])
    ]


def _begins_and_ends(records: Iterable[AuditRecord]) -> tuple[dict[Token, AuditRecord], dict[Token, AuditRecord]]:
    """Of the records of one address, by token, the best word on each beginning and the first on each end."""
    begins: dict[Token, AuditRecord] = {}
    ends: dict[Token, AuditRecord] = {}
    promises = _Promises()
    for record in records:
        if record.token is None:
            continue
        known = begins.get(record.token)
        # The holder's own word beats an elector's: the grant comes half a round trip before the address answers.
        if record.kind in _BEGINS and (known is None or _rank(record) < _rank(known)):
            begins[record.token] = record
        elif record.kind in _ENDS:
            ends.setdefault(record.token, record)
        elif record.kind is RecordKind.PROMISED and promises.is_majority(record):
            begins.setdefault(record.token, record)
    return begins, ends


def _tenure(
    floating_ip: str, token: Token, begin: AuditRecord, end: AuditRecord | None, after: AuditRecord | None
) -> Tenure:
    # One holder at a time is what the fence enforces, so a later beginning on record bounds a missing end.
    last = min((record for record in (end, after) if record is not None), key=_instant, default=None)
    return Tenure(
        floating_ip=floating_ip,
        holder=begin.holder or begin.node,
        token=token,
        since_ns=_instant(begin),
        until_ns=_instant(last) if last is not None else None,
        begin=begin,
        end=last,
    )


def holder_at(known: Sequence[Tenure], wall_time_ns: int) -> Tenure | None:
    """Of an address's `tenures` the one at that time; None where nobody held it, or nothing is on record.

    Of two, which wall clocks that differ can make overlap, the higher token is right.
    """
    return next((tenure for tenure in reversed(known) if tenure.covers(wall_time_ns)), None)


def _rank(begin: AuditRecord) -> bool:
    return begin.kind is not RecordKind.ACQUIRED


class _Promises:
    """Promises of single electors, until they are a majority."""

    def __init__(self) -> None:
        self._electors: dict[tuple[Token | None, str], dict[str, None]] = {}

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


def _witness_order(record: AuditRecord) -> tuple[bool, bool, int, str]:
    """Of copies keep the holder's own, else the earliest: its clock is the one that its other records use.

    Its agent knows more of the cause than its keeper.
    """
    return (record.node != record.holder, record.actor.startswith("keeper/"), record.wall_time_ns, record.node)


def _token_order(record: AuditRecord) -> tuple[Token, int, str, str, int]:
    return (record.token or (0, 0, 0), record.wall_time_ns, record.node, record.boot_id, record.sequence)
