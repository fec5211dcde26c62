"""What a set of audit logs proves: nothing removed, doubled or altered, and never two holders of one address. Pure.

**Chains.** The records of one outbox (node, boot, outbox name) have sequences without gaps, and each carries the digest
of the one before. A missing sequence, a digest that does not fit or two records under one sequence are findings. Holes
that are counted by a gap record, or lie where a log does not reach back to, are told apart from those. Not provable:
the removal or alteration of the newest records of a chain (nothing follows that vouches for them, unless another log
has them), and a chain that was forged anew from some record to its end.

**Copies.** Publishing is at least once, so copies are normal: after a restart a run is repeated from some record on,
without skipping, until it is past the newest. A copy that fits no such run is a finding. Not provable: whether the
newest record of a partition was repeated by its publisher or by somebody else.

**One holder.** Tokens order the tenures of an address. Somebody held it from the first instant to the last at which it
is on record as held; a missing end is no evidence that it was held on, since the kernel lets go at the deadline by
itself. Two such spans of different holders that share an instant, one token with two holders, or a lower token in use
after a higher one are findings. Spans of one boot are compared by its clock, others by wall clocks that may differ by
`clock_error_ns`: a shorter overlap, or one outside the recorded instants, is not provable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from service.audit.cloud_event import digest
from service.audit.consumer import Entry, Extent, Unreadable, event_key
from service.audit.gaps import Gaps
from service.audit.holding import Holdings
from service.audit.replay import Replay
from service.model.audit_record import SCHEMA_VERSION, AuditRecord, RecordKind

ChainKey = tuple[str, str, str]
"""Node, boot id, outbox name."""


class Fault(StrEnum):
    """What a log can be found guilty of."""

    MISSING = "missing"
    """Records that were written are not there."""
    LOST = "lost"
    """Records were lost, and a gap record says so."""
    ALTERED = "altered"
    DOUBLED = "doubled"
    UNREADABLE = "unreadable"
    DISORDER = "disorder"
    """A partition has records of one address in another order than they were written."""
    OVERLAP = "overlap"
    """Two nodes held one address at once."""
    STALE_TOKEN = "stale-token"
    """A lower token was in use after a higher one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    fault: Fault
    subject: str
    """The chain or the floating IP."""
    message: str
    records: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the logs prove, and how much they were."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What limits the proof, without being wrong."""
    records: int
    """Read, copies included."""
    events: int
    """After de-duplication."""
    copies: int
    chains: int
    tenures: int
    first_ns: int | None
    last_ns: int | None
    """Wall times of the oldest and the newest record."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was found; notes do not count."""
        return not self.findings

    def summary(self) -> str:
        """One sentence; of a good log `nothing lost, nothing doubled, no overlap`."""
        faults = {finding.fault for finding in self.findings}
        lost = {Fault.MISSING, Fault.LOST, Fault.UNREADABLE} & faults
        doubled = {Fault.DOUBLED, Fault.DISORDER} & faults
        overlap = {Fault.OVERLAP, Fault.STALE_TOKEN} & faults
        parts = [
            "records are missing" if lost else "nothing lost",
            "records are doubled or out of order" if doubled else "nothing doubled",
            *(["records are altered"] if Fault.ALTERED in faults else []),
            "two holders at once" if overlap else "no overlap",
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class _Link:
    digest: str
    prev: str
    place: str


@dataclass(slots=True)
class _Chain:
    key: ChainKey
    links: dict[int, _Link] = field(default_factory=dict)
    seen: dict[str, dict[int, None]] = field(default_factory=dict)
    """Log -> its sequences in the order in which they first came."""

    @property
    def name(self) -> str:
        node, boot_id, outbox = self.key
        return f"{node}/{boot_id}" + (f"/{outbox}" if outbox else "")


@dataclass(slots=True)
class _Absent:
    """What became of the sequences of one chain that are not there."""

    unexplained: list[int] = field(default_factory=list)
    lost: int = 0
    removed: int = 0
    trimmed: int = 0


class Verification:
    """Give it every record of every log, then ask for the verdict once."""

    def __init__(self, *, clock_error_ns: int) -> None:
        self._clock_error_ns = clock_error_ns
        self._chains: dict[ChainKey, _Chain] = {}
        self._gaps: dict[tuple[str, str], Gaps] = {}
        """By node and outbox name."""
        self._replays: dict[tuple[str, ChainKey], Replay] = {}
        self._segments: dict[tuple[str, ChainKey, int], int] = {}
        self._highest: dict[tuple[str, ChainKey, str], int] = {}
        self._holdings = Holdings()
        self._findings: list[Finding] = []
        self._events: dict[object, None] = {}
        self._records = self._copies = self._foreign = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def take(self, item: Entry | Unreadable) -> None:
        """Take the next item of a log, in the log's order; logs one after the other, outboxes before the topic."""
        if isinstance(item, Unreadable):
            self._find(Fault.UNREADABLE, item.log, f"{item.place}: {item.reason}")
            return
        record = item.record
        self._records += 1
        self._first_ns = min(self._first_ns or record.wall_time_ns, record.wall_time_ns)
        self._last_ns = max(self._last_ns or record.wall_time_ns, record.wall_time_ns)
        self._foreign += record.version > SCHEMA_VERSION
        if not self._has_place(item, record):
            return
        if record.kind is RecordKind.GAP:
            self._note_gap(record)
        self._events[event_key(record)] = None
        self._holdings.take(record, item.place)

    def verdict(self, extents: Sequence[Extent]) -> Verdict:
        """Return what follows from all that was taken. `extents` says how far back each log reaches."""
        by_log = {extent.log: extent for extent in extents}
        notes = []
        for chain in self._chains.values():
            notes += self._check_chain(chain, by_log)
        for (_, key), replay in self._replays.items():
            for place in replay.unfinished():
                self._find(Fault.DOUBLED, self._chains[key].name, f"{place}: repeated out of order, {_REPLAY_HINT}")
        for fault, subject, message in self._holdings.faults(clock_error_ns=self._clock_error_ns):
            self._find(Fault(fault), subject, message)
        if self._foreign:
            notes.append(f"{self._foreign} records are of a later schema version and only their chains were checked")
        return Verdict(
            findings=tuple(self._findings),
            notes=tuple(notes),
            records=self._records,
            events=len(self._events),
            copies=self._copies,
            chains=len(self._chains),
            tenures=self._holdings.count,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
        )

    def _find(self, fault: Fault, subject: str, message: str, records: int = 1) -> None:
        self._findings.append(Finding(fault, subject, message, records))

    # -- one record --

    def _has_place(self, item: Entry, record: AuditRecord) -> bool:
        """Whether it is news, from where it says it is."""
        if record.sequence > 0:
            return self._link(item, record)
        # Of a later version it may be that the sequence cannot be read here; one of ours was put there.
        is_foreign = record.version > SCHEMA_VERSION
        if not is_foreign:
            self._find(Fault.ALTERED, record.node, f"{item.place}: no outbox gives a record sequence {record.sequence}")
        return is_foreign

    def _link(self, item: Entry, record: AuditRecord) -> bool:
        """Put a record into its chain; False where it is a copy, or cannot be what it says it is."""
        key = (record.node, record.boot_id, record.outbox)
        chain = self._chains.setdefault(key, _Chain(key))
        link = _Link(digest(item.payload), record.prev, item.place)
        known = chain.links.setdefault(record.sequence, link)
        if known.digest != link.digest:
            message = f"sequence {record.sequence}: {item.place} and {known.place} are different records"
            self._find(Fault.ALTERED, chain.name, message)
            return False
        seen = chain.seen.setdefault(item.log, {})
        replay = self._replays.setdefault((item.log, key), Replay())
        if record.sequence not in seen:
            seen[record.sequence] = None
            replay.first(record.sequence)
            self._segments[item.log, key, record.sequence] = item.segment
            self._check_order(item, chain, record)
            if known is not link:
                self._copies += 1  # in another log: that is what logs are for
            return known is link
        self._copies += 1
        # Within a segment the writer never writes a record twice; what failed to be written goes to the next one.
        if item.segment and self._segments[item.log, key, record.sequence] == item.segment:
            self._find(Fault.DOUBLED, chain.name, f"sequence {record.sequence}: again at {item.place}")
            return False
        for place in replay.copy(record.sequence, item.place):
            self._find(Fault.DOUBLED, chain.name, f"{place}: repeated out of order, {_REPLAY_HINT}")
        return False

    def _check_order(self, item: Entry, chain: _Chain, record: AuditRecord) -> None:
        """Order per address: a partition has what one outbox says of it in the order in which it was written."""
        if item.segment or not record.subject:
            return
        key = (item.log, chain.key, record.subject)
        highest = self._highest.get(key, 0)
        if record.sequence < highest:
            message = f"{item.place}: sequence {record.sequence} of {record.subject} comes after {highest}"
            self._find(Fault.DISORDER, chain.name, message)
        self._highest[key] = max(highest, record.sequence)

    def _note_gap(self, record: AuditRecord) -> None:
        try:
            self._gaps.setdefault((record.node, record.outbox), Gaps()).note(record)
        except ValueError:
            self._find(Fault.UNREADABLE, record.node, f"the gap record {record.id} does not say what is gone")
        if not {"firstSequence", "ranges"} & record.detail.keys():
            # They were lost before they had a sequence, so no chain misses them.
            self._find(Fault.LOST, record.node, f"{record.detail.get('records', 'some')} records: {record.reason}")

    # -- one chain --

    def _check_chain(self, chain: _Chain, extents: dict[str, Extent]) -> list[str]:
        """Find what is wrong with one chain; return what only limits the proof."""
        node, _, outbox = chain.key
        gaps = self._gaps.get((node, outbox), Gaps())
        own = [extents[log] for log in chain.seen if log in extents]
        self._check_digests(chain)
        absent = self._absent(chain, gaps, extents, has_kafka=any(extent.is_kafka for extent in own))
        notes = self._judge_absent(chain, absent, is_published=any(extent.is_published for extent in own))
        self._check_start(chain, extents, is_removed=gaps.has_removed)
        self._check_topic(chain, extents)
        return notes

    def _absent(self, chain: _Chain, gaps: Gaps, extents: dict[str, Extent], *, has_kafka: bool) -> _Absent:
        """Account for every sequence that is not there: by a gap record, by the cap, by how far back a log reaches."""
        boot_id = chain.key[1]
        counted = gaps.lost_count(boot_id)
        # The oldest go first, and the gap records of earlier removals with them; a topic has those.
        reaches = 0 if has_kafka else gaps.removed_up_to(boot_id)
        absent = _Absent()
        for first, last in _holes(chain):
            if last - first >= _HOLE_MAX:
                self._find(Fault.MISSING, chain.name, f"sequences {first} to {last} are not there", last - first + 1)
                continue
            for sequence in range(first, last + 1):
                # A gap record of the queue names a range and a count: beyond the count they are missing all the same.
                if absent.lost < counted and gaps.may_be_lost(boot_id, sequence):
                    absent.lost += 1
                elif sequence <= reaches or gaps.is_removed(boot_id, sequence):
                    absent.removed += 1
                elif self._is_trimmed(chain, sequence, extents):
                    absent.trimmed += 1
                else:
                    absent.unexplained.append(sequence)
        return absent

    def _judge_absent(self, chain: _Chain, absent: _Absent, *, is_published: bool) -> list[str]:
        """What is not there is a finding, unless it went as it should: then a note is returned."""
        notes = []
        left, lost, removed = absent.unexplained, absent.lost, absent.removed
        if left:
            self._find(Fault.MISSING, chain.name, f"{len(left)} records: sequence {_spans(left)}", len(left))
        if lost:
            text = f"{lost} records, counted by a gap record: the disk could not keep up"
            self._find(Fault.LOST, chain.name, text, lost)
        if removed and is_published:
            self._find(Fault.LOST, chain.name, f"{removed} records, removed by the size cap unpublished", removed)
        elif removed:
            notes.append(f"{chain.name}: {removed} oldest records were removed by the size cap")
        if absent.trimmed:
            notes.append(f"{chain.name}: {absent.trimmed} oldest records are no longer in the logs given")
        return notes

    def _check_digests(self, chain: _Chain) -> None:
        if not chain.key[2]:
            return  # written before there were chains
        links = chain.links
        for sequence, link in sorted(links.items()):
            before = links.get(sequence - 1)
            if before is None or before.digest == link.prev:
                continue
            after = links.get(sequence + 1)
            # Where its own successor vouches for the later record, it is the earlier that is not what was written.
            which = f"{before.place}" if after and after.prev == link.digest else f"{before.place} or {link.place}"
            self._find(Fault.ALTERED, chain.name, f"sequence {sequence - 1}: {which} is not what was written")

    def _check_start(self, chain: _Chain, extents: dict[str, Extent], *, is_removed: bool) -> None:
        """The first record of a boot is chained to the last one of the boot before."""
        node, _, outbox = chain.key
        first = chain.links.get(1)
        if first is None or not first.prev or not outbox or is_removed or self._is_trimmed(chain, 0, extents):
            return
        others = [one for one in self._chains.values() if (one.key[0], one.key[2]) == (node, outbox)]
        if any(link.digest == first.prev for other in others for link in other.links.values()):
            return
        self._find(Fault.MISSING, chain.name, "the record before its first one, of an earlier boot, is not there")

    def _check_topic(self, chain: _Chain, extents: dict[str, Extent]) -> None:
        """With outbox and topic at hand: what the topic passed over."""
        kafka = {log: seen for log, seen in chain.seen.items() if log in extents and extents[log].is_kafka}
        if not kafka or len(kafka) == len(chain.seen):
            return
        published = {sequence: None for seen in kafka.values() for sequence in seen}
        newest = max(published)
        missing = [
            sequence
            for sequence in sorted(chain.links)
            if sequence < newest and sequence not in published and not self._is_trimmed(chain, sequence, extents)
        ]
        if missing:
            message = f"{len(missing)} records are in the outbox and not in the topic: sequence {_spans(missing)}"
            self._find(Fault.MISSING, chain.name, message, len(missing))

    def _is_trimmed(self, chain: _Chain, sequence: int, extents: dict[str, Extent]) -> bool:
        """Whether a log that does not reach back to its beginning may have had it."""
        for log, extent in extents.items():
            if not extent.is_trimmed:
                continue
            seen = chain.seen.get(log)
            if seen is not None:
                if min(seen) > sequence:
                    return True
            elif extent.is_kafka or self._is_of_outbox(log, chain):
                return True
        return False

    def _is_of_outbox(self, log: str, chain: _Chain) -> bool:
        return any(
            log in other.seen and (other.key[0], other.key[2]) == (chain.key[0], chain.key[2])
            for other in self._chains.values()
        )


_HOLE_MAX = 1_000_000
"""A larger hole is not looked into: no outbox has so many records."""
_REPLAY_HINT = "or a publisher repeats it just now: then ask again"


def _holes(chain: _Chain) -> list[tuple[int, int]]:
    """Ranges of sequences that are not there. A first record that carries no digest is the first that was written."""
    holes = []
    expected = 1
    for index, sequence in enumerate(sorted(chain.links)):
        is_start = index == 0 and chain.key[2] and not chain.links[sequence].prev
        if sequence > expected and not is_start:
            holes.append((expected, sequence - 1))
        expected = sequence + 1
    return holes


def _spans(sequences: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for sequence in sequences:
        if spans and sequence == spans[-1][1] + 1:
            spans[-1][1] = sequence
        else:
            spans.append([sequence, sequence])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:5]]
    return ", ".join(shown) + (f" and {len(spans) - 5} more" if len(spans) > 5 else "")
