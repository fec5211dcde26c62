"""Whose a port of a floating IP was when, by the records of leaders. Pure.

The order of what leaders say is that of their terms, and within one that of the leader's own records; wall clocks place
it in time. A leader's first word on an address is its whole table, as it has read it. What the leader before it did at
last, and had no time to record, is in that table without its time: there the answer is a bound, and says so.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from service.audit.port_run import PORTS_MAX, PORTS_MIN, PortRun, parse_runs, parse_span
from service.audit.timeline import merge
from service.model.audit_record import IS_REMOVED, LEADER_TERM, PORTS, SPAN, AuditRecord, RecordKind

_Writer = tuple[str, str, str, int]
"""Node, boot, outbox, term: one leader."""


class Word(NamedTuple):
    """What one record says of one port: from now on, or now, it is this node's; empty for nobody."""

    record: AuditRecord
    term: int
    node: str
    former: str | None
    """Whose it was until now; None where the record tells only what is."""
    run: PortRun | None
    """The ports that it is said of; None where it says that all others are nobody's."""
    time_ns: int = 0
    """Wall time; never before that of an earlier word."""


@dataclass(slots=True)
class PortTenure:
    """One node had the port, or nobody had it."""

    node: str
    """Empty for nobody."""
    begin: Word
    since_ns: int | None
    """Wall time; None where it began before the records do."""
    is_since_known: bool
    """Else it began by then."""
    end: Word | None = None
    is_until_known: bool = True
    """Else it ended by the time of `end`."""
    proved: list[tuple[int, int]] = field(default_factory=list)
    """Spans of wall time, both ends included, in which the records leave no doubt."""

    @property
    def until_ns(self) -> int | None:
        """Wall time; None where nothing later is on record."""
        return self.end.time_ns if self.end is not None else None

    def covers(self, wall_time_ns: int) -> bool:
        """Whether it was so then; the end itself is no longer in it."""
        return self.overlaps(wall_time_ns, wall_time_ns)

    def overlaps(self, since_ns: int, until_ns: int) -> bool:
        """Whether it was so at any instant from `since_ns` to `until_ns`, both included."""
        is_begun = self.since_ns is None or self.since_ns <= until_ns
        return is_begun and (self.until_ns is None or since_ns < self.until_ns)

    def proves(self, wall_time_ns: int) -> bool:
        """Whether the records leave no doubt of that time."""
        return any(first <= wall_time_ns <= last for first, last in self.proved)


def port_tenures(records: Iterable[AuditRecord], floating_ip: str, port: int) -> list[PortTenure]:
    """Of one port, or ICMP id, in order and without holes from the first word on."""
    ordered = merge(records)
    reach = _reach(ordered)
    history = _History()
    for word in _words(ordered, floating_ip, port):
        history.take(word, reach.get(_writer(word.record, word.term), 0))
    return history.tenures


class _History:
    def __init__(self) -> None:
        self.tenures: list[PortTenure] = []
        self._last: Word | None = None

    def take(self, word: Word, reached_ns: int) -> None:
        """The next word; its leader is known to have said everything until `reached_ns`."""
        if not self.tenures and word.former:
            self.tenures.append(PortTenure(word.former, word, None, False))
        present = self.tenures[-1] if self.tenures else None
        if present is None or present.node != word.node:
            present = self._change(present, word)
        elif self._last is not None and _is_same_word(self._last, word):
            present.proved.append((self._last.time_ns, word.time_ns))
        # What this leader had done until then would be on record.
        present.proved.append((word.time_ns, max(word.time_ns, reached_ns)))
        self._last = word

    def _change(self, present: PortTenure | None, word: Word) -> PortTenure:
        is_known = word.former is not None
        if present is not None:
            is_known = is_known and (word.former == present.node or self._is_in_term_of(word))
            present.end, present.is_until_known = word, is_known
            if is_known and self._last is not None:
                present.proved.append((self._last.time_ns, word.time_ns))
        self.tenures.append(PortTenure(word.node, word, word.time_ns, is_known))
        return self.tenures[-1]

    def _is_in_term_of(self, word: Word) -> bool:
        return self._last is not None and self._last.term == word.term


def _is_same_word(before: Word, word: Word) -> bool:
    """Whether the port was nobody else's in between: by one leader, or by one stamp."""
    if before.term == word.term:
        return True
    return before.run is not None and word.run is not None and before.run.stamp == word.run.stamp


def _words(ordered: Iterable[AuditRecord], floating_ip: str, port: int) -> Iterator[Word]:
    found = [word for record in ordered if record.subject == floating_ip for word in _word(record, port)]
    latest_ns = 0
    for word in sorted(found, key=lambda word: (word.term, word.record.sequence)):
        latest_ns = max(latest_ns, word.record.wall_time_ns)
        yield word._replace(time_ns=latest_ns)


def _word(record: AuditRecord, port: int) -> Iterator[Word]:
    """What a record says of the port, if anything. What cannot be read, or was cut, says nothing."""
    if record.kind is RecordKind.UNASSIGNED and IS_REMOVED in record.detail:
        yield Word(record, record.term, "", None, None)
    if record.kind not in (RecordKind.PORTS_MOVED, RecordKind.PORTS_TABLE) or PORTS not in record.detail:
        return
    try:
        term = int(record.detail.get(LEADER_TERM, record.term))
        runs = parse_runs(record.detail[PORTS])
        first, last = parse_span(record.detail.get(SPAN, f"{PORTS_MIN}-{PORTS_MAX}"))
    except ValueError:
        return
    run = next((run for run in runs if run.first <= port <= run.last), None)
    if record.kind is RecordKind.PORTS_TABLE and first <= port <= last:
        yield Word(record, term, run.node if run is not None else "", None, run)
    elif record.kind is RecordKind.PORTS_MOVED and run is not None:
        yield Word(record, term, run.node, record.previous, run)


def _reach(ordered: Iterable[AuditRecord]) -> dict[_Writer, int]:
    """Until when each leader is known to have recorded all that it did: its newest record of that term."""
    reach: dict[_Writer, int] = {}
    over: dict[_Writer, None] = {}
    for record in ordered:
        writer = _writer(record, record.term)
        if writer in over:
            continue
        reach[writer] = max(record.wall_time_ns, reach.get(writer, 0))
        if record.kind is RecordKind.LEADER_LOST:
            over[writer] = None
    return reach


def _writer(record: AuditRecord, term: int) -> _Writer:
    return record.node, record.boot_id, record.outbox, term
