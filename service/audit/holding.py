"""Who held which floating IP for certain, by the instants on record, and what contradicts one holder. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from service.audit.cloud_event import format_time
from service.model.audit_record import HELD_AT, HELD_UNTIL, AuditRecord, RecordKind

Token = tuple[int, int, int]

_UNSTATED_NS = 500_000_000
"""An end that does not say until when the address was held is recorded at most so long after it, as a rule."""
_HOLDERS = (RecordKind.ACQUIRED, RecordKind.RELEASED, RecordKind.EXPIRED)
_WITNESSED = (*_HOLDERS, RecordKind.GRANTED, RecordKind.FAILOVER)
_ENDS = (RecordKind.RELEASED, RecordKind.EXPIRED)


@dataclass(frozen=True, slots=True)
class Instant:
    """The holder did hold the address then."""

    boot_id: str
    boot_ns: int
    wall_ns: int


@dataclass(slots=True)
class Span:
    """From the first to the last instant at which one node held an address under one token."""

    subject: str
    token: Token
    holder: str
    place: str
    begin: Instant | None = None
    """The first at which it was acquired, or adopted after a restart of the agent."""
    end: Instant | None = None
    """The last at which it was acquired, adopted or still held before it ended."""
    others: dict[str, str] = field(default_factory=dict)
    """Other nodes on record as holders under this token, and where."""

    @property
    def first(self) -> Instant | None:
        """The earliest instant on record as held; None where only others say that there was a tenure."""
        return self.begin or self.end

    @property
    def last(self) -> Instant | None:
        """The latest one. It may well have been held longer."""
        # An end that says less than the beginning adds nothing.
        return max((one for one in (self.begin, self.end) if one), key=lambda one: one.wall_ns, default=None)

    def extend(self, instant: Instant, *, is_end: bool) -> None:
        """Take another instant at which it was held. `is_end`: it comes from a record of the end, so begins nothing."""
        if not is_end and (self.begin is None or instant.wall_ns < self.begin.wall_ns):
            self.begin = instant
        if self.end is None or instant.wall_ns > self.end.wall_ns:
            self.end = instant


class Holdings:
    """Collects the evidence of all addresses."""

    def __init__(self) -> None:
        self._spans: dict[str, dict[Token, Span]] = {}

    @property
    def count(self) -> int:
        """Tenures on record: addresses times their tokens."""
        return sum(len(spans) for spans in self._spans.values())

    def take(self, record: AuditRecord, place: str) -> None:
        """Take a record as evidence; those that are of no address held are passed over. `place` is shown to people."""
        if record.kind not in _WITNESSED or record.token is None or not record.holder:
            return
        spans = self._spans.setdefault(record.subject, {})
        span = spans.setdefault(record.token, Span(record.subject, record.token, record.holder, place))
        if record.holder != span.holder:
            span.others.setdefault(record.holder, place)
        elif record.kind in _HOLDERS and record.node == record.holder:
            span.extend(_instant(record), is_end=record.kind in _ENDS)

    def faults(self, *, clock_error_ns: int) -> Iterator[tuple[str, str, str]]:
        """(fault, floating IP, what was found), ordered by address and token."""
        for subject, spans in sorted(self._spans.items()):
            ordered = [span for _, span in sorted(spans.items())]
            for span in ordered:
                for other, place in span.others.items():
                    text = f"{span.holder} ({span.place}) and {other} ({place}) both have token {_dotted(span.token)}"
                    yield "overlap", subject, text
            yield from _contradictions([span for span in ordered if span.first is not None], clock_error_ns)


def _contradictions(spans: list[Span], clock_error_ns: int) -> Iterator[tuple[str, str, str]]:
    """Compare each tenure with those of lower tokens that reach far enough: by one boot's clock, or by wall clocks."""
    # Only spans that reach furthest can reach into a later one: per boot and holder by its clock, per holder by wall.
    by_boot: dict[tuple[str, str], Span] = {}
    by_wall: dict[str, Span] = {}
    for span in spans:
        assert span.first is not None
        assert span.last is not None
        found: dict[int, tuple[Span, int]] = {}
        for (boot_id, holder), other in by_boot.items():
            assert other.last is not None
            if boot_id == span.first.boot_id and holder != span.holder:
                found[id(other)] = (other, other.last.boot_ns - span.first.boot_ns)
        for holder, other in by_wall.items():
            assert other.last is not None
            # One boot's clock is the better witness where it saw both.
            if holder != span.holder and other.last.boot_id != span.first.boot_id:
                found[id(other)] = (other, other.last.wall_ns - span.first.wall_ns - clock_error_ns)
        for other, excess_ns in found.values():
            if excess_ns >= 0 and other.token < span.token:
                yield _contradiction(other, span, clock_error_ns)
        key = (span.last.boot_id, span.holder)
        if key not in by_boot or _last(by_boot[key]).boot_ns < span.last.boot_ns:
            by_boot[key] = span
        if span.holder not in by_wall or _last(by_wall[span.holder]).wall_ns < span.last.wall_ns:
            by_wall[span.holder] = span


def _contradiction(lower: Span, higher: Span, clock_error_ns: int) -> tuple[str, str, str]:
    first, last = lower.first, lower.last
    assert first is not None
    assert last is not None
    assert higher.first is not None
    assert higher.last is not None
    text = (
        f"{lower.holder} held it until {format_time(last.wall_ns)} or later (token {_dotted(lower.token)}), and "
        f"{higher.holder} from {format_time(higher.first.wall_ns)} or earlier (token {_dotted(higher.token)})"
    )
    is_same_boot = first.boot_id == higher.last.boot_id
    late_ns = first.boot_ns - higher.last.boot_ns if is_same_boot else first.wall_ns - higher.last.wall_ns
    # Wholly behind the higher token's tenure: not at once, but a token that should have been dead.
    is_stale = late_ns > (0 if is_same_boot else clock_error_ns)
    return ("stale-token" if is_stale else "overlap"), lower.subject, text


def _last(span: Span) -> Instant:
    assert span.last is not None
    return span.last


def _instant(record: AuditRecord) -> Instant:
    """When the record says that the address was held; its own time where it says nothing better."""
    is_end = record.kind in _ENDS
    boot_ns = record.instant(HELD_UNTIL if is_end else HELD_AT)
    if boot_ns is None:
        boot_ns = record.boot_time_ns - (_UNSTATED_NS if is_end else 0)
    return Instant(record.boot_id, boot_ns, record.wall_of(boot_ns))


def _dotted(token: Token) -> str:
    return ".".join(map(str, token))
