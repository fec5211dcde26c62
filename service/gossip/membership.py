"""SWIM with Lifeguard: who is up, and what everybody shall know (Das et al., DSN 2002; Dadgar et al., 2017).

One machine per process. Each period it probes one member, directly and then through helpers; who stays silent is
accused, and who does not refute in time is dead. News rides on every datagram. Where two members differ all the same,
the fingerprint on their probes says so and anti-entropy evens it out.

This decides who is probably up. It never decides who owns anything: that takes a majority (service.lease).

Here the pieces meet: what arrives is handed to the one it concerns, time is passed to all, lag is taken out of every
clock, and the bursts of news are timed. `prober` runs the probe cycle, `roster` holds and changes beliefs, `outbound`
puts datagrams together, `exchange` answers anti-entropy.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from service.gossip.admission import ROW_MALFORMED, ROWS_FULL
from service.gossip.config import DEFAULT_CONFIG, GossipConfig
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts, Subject
from service.gossip.event import Output, Refused, RowChanged, RowForgotten
from service.gossip.exchange import Exchange
from service.gossip.member import Member, MemberState
from service.gossip.message import (
    METADATA_BYTES_MAX,
    Ack,
    Delta,
    Digest,
    Message,
    Nack,
    Ping,
    PingRequest,
    Range,
    Record,
    Suspect,
    TableRow,
    Want,
    decode_packet,
    encode_message,
    is_name,
)
from service.gossip.outbound import Outbound
from service.gossip.prober import Prober
from service.gossip.randomness import Random
from service.gossip.retention import Retention
from service.gossip.roster import Roster
from service.gossip.seed import Seeds
from service.gossip.table import Row, Tables, VersionTuple, checked_row
from service.model.errors import InvariantError, OperatorError, PeerError
from service.model.machine import Address, Source

_SECOND = 1_000_000_000
HOUSEKEEPING_INTERVAL_NS = 60 * _SECOND
LEAVE_FANOUT = 16
# Datagrams in answer to the outdated news of one.
CORRECTIONS_MAX = 3

COUNTED = ("unknown_messages", "syncs", "misaddressed", "lags", "rows_refused", "rows_outdated")
CheckRow = Callable[[TableRow], None]


class Membership:
    """The machine. Its driver seals and opens datagrams; here a Source is who it says it is."""

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        incarnation: int,
        metadata: bytes,
        seeds: Sequence[Address],
        random: Random,
        config: GossipConfig = DEFAULT_CONFIG,
        tables: Collection[str] = (),
        check_row: CheckRow = lambda row: None,
        now_ns: int,
    ) -> None:
        """Start as a member of one.

        `tables` have their place whatever others write; `check_row` raises PeerError for a row that no reader of its
        table could use, so that it is not taken over.

        `incarnation` should be higher than in the process's last life (a boot counter, or seconds since 1970): then the
        others believe its first word. It need not be: hearing an old record of itself, it rises above it.
        """
        _check_metadata(metadata)
        self._config = config
        self._now_ns = now_ns
        self._index = Index()
        self._check_row = check_row
        self._tables = Tables(config, names=tables)
        self._speaker = address
        """Whose datagram is being taken; ourselves before the first."""
        self._retention = Retention(config)
        self._broadcasts = Broadcasts(config.retransmit_multiplier)
        local = Member(name, address, MemberState.ALIVE, metadata, incarnation)
        self._roster = Roster(
            local,
            config=config,
            random=random,
            index=self._index,
            broadcasts=self._broadcasts,
            refused=self._note_refusal,
        )
        self._seeds = Seeds(config, random, own=address)
        self._seeds.replace(seeds, now_ns=now_ns)
        self._make_parts(random, now_ns)
        self._start_timers(now_ns)
        self._counters = dict.fromkeys(COUNTED, 0)

    def _make_parts(self, random: Random, now_ns: int) -> None:
        config, index, roster = self._config, self._index, self._roster
        self._outputs = roster.outputs
        self._outbound = Outbound(
            config, index=index, roster=roster, broadcasts=self._broadcasts, retention=self._retention
        )
        self._prober = Prober(config, random, roster=roster, outbound=self._outbound, seeds=self._seeds, now_ns=now_ns)
        self._exchange = Exchange(
            index=index, roster=roster, tables=self._tables, payload_bytes_max=config.payload_bytes_max
        )

    def _start_timers(self, now_ns: int) -> None:
        self._gossip_ns: int | None = None
        """When the next burst of news is due; None where there is nothing to say and nobody accused."""
        # As if the last were an interval ago, so that the first news and the first difference need not wait.
        self._last_gossip_ns = now_ns - self._config.gossip_interval_ns
        self._last_sync_ns = now_ns - self._config.sync_interval_ns
        self._lag_noted_ns = now_ns
        """Up to when lag has been taken note of: what the pump and we both see counts once."""
        self._housekeeping_ns = now_ns + HOUSEKEEPING_INTERVAL_NS

    # The process's own side

    def set_metadata(self, metadata: bytes, *, now_ns: int) -> None:
        """Say something new about ourselves. Raises OperatorError above 512 bytes, with nothing changed."""
        _check_metadata(metadata)
        self._pass_time(now_ns)
        if metadata != self._roster.local.metadata and not self.has_left:
            self._roster.announce(now_ns=now_ns, metadata=metadata)
            self._arm_gossip()

    def set_seeds(self, seeds: Sequence[Address], *, now_ns: int) -> None:
        """Replace the seeds; those that are new are tried at the next period."""
        self._pass_time(now_ns)
        self._seeds.replace(seeds, now_ns=now_ns)

    def put(
        self, table: str, key: str, version: VersionTuple, value: bytes, *, ended: bool = False, now_ns: int
    ) -> bool:
        """Write a row and spread it. False, with nothing changed, where its version is not higher than the known one.

        `ended`: it is a tombstone, forgotten by all after some days (retention.py); a living row never is.

        Raises OperatorError where the value is above 512 bytes or the table or key does not fit.
        """
        row = checked_row(table, key, version, value, ended=self._retention.ending if ended else 0)
        self._pass_time(now_ns)
        if not self._accept_row(row):
            return False
        self._arm_gossip()
        return True

    def rows(self, table: str) -> Mapping[str, Row]:
        """A live read-only view of one table, tombstones included."""
        return self._tables.rows(table)

    def revision(self, table: str) -> int:
        """A number that differs from an earlier one of the table where it has changed since."""
        return self._tables.revision(table)

    def member(self, name: str) -> Member | None:
        """A member by name; None where it is unknown, or was forgotten."""
        return self._roster.get(name)

    def tick(self, *, now_ns: int) -> None:
        """Count on the age of all tombstones (retention.py): for a leader, once in each hour that it leads."""
        self._pass_time(now_ns)
        self._retention.advance()
        self._forget_expired_rows()

    def members(self) -> tuple[Member, ...]:
        """All known members by name, ourselves included; the same tuple until anything about anybody changes."""
        return self._roster.all()

    @property
    def has_left(self) -> bool:
        """Whether `leave` was called: this member still answers, but asks nothing and says nothing new."""
        return self._roster.has_left

    @property
    def counters(self) -> Mapping[str, int]:
        """For metrics: counts since the start, and the present health score."""
        return {
            **self._counters,
            "probes_failed": self._prober.failed,
            **self._roster.counters,
            "health_score": self._roster.awareness.score,
            "broadcasts_queued": len(self._broadcasts),
        }

    def leave(self, *, now_ns: int) -> None:
        """Say good-bye, so that nobody has to find out. Drive the machine for some 0.5 s more, then end the process."""
        self._pass_time(now_ns)
        if self.has_left:
            return
        self._prober.stop()
        self._roster.announce(now_ns=now_ns, state=MemberState.LEFT)
        # More than the usual fan-out: the one who knows will soon be gone.
        for member in self._roster.pick(LEAVE_FANOUT):
            self._outbound.send(member.address, member.name, now_ns=now_ns)
        self._arm_gossip()

    def note_lag(self, lag_ns: int, *, now_ns: int) -> None:
        """Tell that this process stood still for the last `lag_ns` (a late event loop, a SIGSTOP).

        The machine notices late timers itself; what both saw is counted once.
        """
        self._pass_time(now_ns, notice_lag=False)
        self._suffer_lag(min(lag_ns, now_ns - self._lag_noted_ns))

    # The machine contract

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError, with no state changed, where it is malformed."""
        if not is_name(source.node):
            # Authentic, and still none that may be passed on as an accuser's: others could not read it.
            raise PeerError(f"gossip: {source.node!r} is no name of a member")
        messages, unknown, tick = decode_packet(payload)
        self._pass_time(now_ns)
        self._counters["unknown_messages"] += unknown
        if source.node == self._roster.name:
            # Our own voice (a seed that is ourselves), or somebody with our name.
            if source.address != self._roster.local.address:
                self._roster.report_namesake(source.address, now_ns=now_ns)
            return
        self._speaker = source.address
        self._prober.note_origin(source)
        # News before questions: an answer then carries the refutation of what came with the question.
        for message in messages:
            if not isinstance(message, Ping):
                self._handle(source, message, tick)
        self._hear_tick(tick, messages)
        self._correct(source, messages)
        for message in messages:
            if isinstance(message, Ping):
                self._answer_ping(source, message)
        self._arm_gossip()

    def advance(self, *, now_ns: int) -> None:
        """Run every timer that is due."""
        self._pass_time(now_ns)
        self._roster.bury_overdue(now_ns=now_ns)
        self._prober.advance(now_ns=now_ns)
        if self._housekeeping_ns <= now_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_INTERVAL_NS
            self._roster.forget_expired(now_ns=now_ns)
            self._prober.forget_gone()
        self._arm_gossip()
        if self._gossip_ns is not None and self._gossip_ns <= now_ns:
            self._gossip()

    def deadline_ns(self) -> int:
        """When `advance` has something to do next. Never None: there is always a next period."""
        deadlines = [self._prober.deadline_ns(), self._housekeeping_ns]
        deadlines.extend(suspicion.deadline_ns for suspicion in self._roster.suspicions.values())
        if self._gossip_ns is not None:
            deadlines.append(self._gossip_ns)
        return min(deadlines)

    def drain(self) -> list[Output]:
        """Return what is wanted done since the last call, in order, and forget it."""
        outputs = self._outputs[:]
        self._outputs.clear()
        return outputs

    # Time and lag

    def _pass_time(self, now_ns: int, *, notice_lag: bool = True) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"gossip: time went back from {self._now_ns} to {now_ns}")
        deadline_ns = self.deadline_ns()
        self._now_ns = now_ns
        # Before anything of what waited meanwhile is judged: datagrams that queued up are not late, we are.
        if notice_lag and now_ns > deadline_ns:
            self._suffer_lag(min(now_ns - deadline_ns, now_ns - self._lag_noted_ns))

    def _suffer_lag(self, lag_ns: int) -> None:
        """Take the time we stood still out of every clock that runs against another (Lifeguard, local health).

        A probe whose answer waits in our own socket buffer has not failed, and a suspect whose refutation waits there
        has not been silent: both get the lost time back.
        """
        if lag_ns < self._config.lag_ns_min:
            return
        self._lag_noted_ns = self._now_ns
        self._counters["lags"] += 1
        self._roster.awareness.worsen(2 if lag_ns >= _SECOND else 1)
        for suspicion in self._roster.suspicions.values():
            suspicion.postpone(lag_ns)
        self._prober.postpone(lag_ns)

    # What arrives

    def _handle(self, source: Source, message: Message, tick: int) -> None:
        now_ns = self._now_ns
        match message:
            case Ack():
                self._prober.take_ack(source, message, now_ns=now_ns)
                self._compare_fingerprint(source, message.fingerprint)
            case Nack():
                self._prober.take_nack(source, message)
            case PingRequest():
                self._prober.help(source, message, now_ns=now_ns)
            case Suspect():
                self._roster.accuse(message.name, message.incarnation, accuser=message.accuser, now_ns=now_ns)
            case Record():
                self._roster.merge(message, hearsay_of=None, now_ns=now_ns)
            case TableRow():
                self._learn_row(message, tick)
            case Delta():
                for record in message.records:
                    self._roster.merge(record, hearsay_of=source.node, now_ns=now_ns)
                for row in message.rows:
                    self._learn_row(row, tick)
            case Range() | Digest() | Want():
                if isinstance(message, Digest) and self._retention.is_behind(tick):
                    self._drop_unlisted(message)
                for datagram in self._exchange.answer(message, now_ns=now_ns):
                    self._outbound.send(source.address, source.node, *datagram, now_ns=now_ns)

    def _answer_ping(self, source: Source, ping: Ping) -> None:
        # The address may have been another member's before.
        if ping.target not in ("", self._roster.name):
            self._counters["misaddressed"] += 1
            return
        self._outbound.acknowledge(source.address, source.node, ping.sequence, now_ns=self._now_ns)
        self._compare_fingerprint(source, ping.fingerprint)

    def _correct(self, source: Source, messages: Sequence[Message]) -> None:
        """Show the sender our record where it goes by something superseded.

        A refutation is told a bounded number of times, and under loss an accuser can miss them all: an old accusation
        that arrives is the sign of it. And a member whose own word is not newer than ours was restarted; it will rise
        above what it is shown.
        """
        news = [message for message in messages if isinstance(message, Suspect | Record)]
        outdated = {item.name: None for item in news if self._roster.is_outdated(source.node, item)}
        for name in list(outdated)[:CORRECTIONS_MAX]:
            record = self._roster.record(name, now_ns=self._now_ns)
            if record is not None:
                self._outbound.send(source.address, source.node, record, now_ns=self._now_ns)

    def _learn_row(self, row: TableRow, tick: int) -> None:
        is_unknown = self._tables.get(row.table, row.key) is None
        if is_unknown and self._retention.is_outdated(tick, now_ns=self._now_ns):
            # Its sender was away: what it brings may have ended, and been forgotten, meanwhile.
            self._counters["rows_outdated"] += 1
            return
        try:
            self._check_row(row)
        except PeerError as error:
            self._counters["rows_refused"] += 1
            self._note_refusal(ROW_MALFORMED, str(error))
            return
        if self._accept_row(row):
            self._outputs.append(RowChanged(row.table, row.key, row.version, row.value))

    def _accept_row(self, row: TableRow) -> bool:
        if self._retention.has_expired(row.ended):
            return False
        if not self._tables.has_room(row.table, row.key):
            self._counters["rows_refused"] += 1
            self._note_refusal(ROWS_FULL)
            return False
        if not self._tables.accept(row.table, row.key, Row(row.version, row.value, row.ended)):
            return False
        subject: Subject = ("row", row.table, row.key)
        self._index.put(subject, row.version)
        self._broadcasts.offer(subject, encode_message(row), urgent=True)
        return True

    # Rows that end

    def _hear_tick(self, tick: int, messages: Sequence[Message]) -> None:
        ours = self._index.short_fingerprint
        agrees = any(isinstance(one, Ping | Ack) and one.fingerprint == ours for one in messages)
        if self._retention.hear(tick, agrees=agrees, now_ns=self._now_ns):
            self._forget_expired_rows()

    def _forget_expired_rows(self) -> None:
        for table, key in self._tables.expired(self._retention.has_expired):
            self._forget_row(table, key)

    def _drop_unlisted(self, theirs: Digest) -> None:
        """We were away: what a member that was not has no row of has ended."""
        for kind, *names in self._index.unlisted(theirs):
            if kind == "row":
                table, key = names
                self._forget_row(table, key)
                self._outputs.append(RowForgotten(table, key))

    def _forget_row(self, table: str, key: str) -> None:
        self._tables.remove(table, key)
        self._index.remove(("row", table, key))
        self._broadcasts.retire(("row", table, key))

    def _note_refusal(self, reason: str, detail: str = "") -> None:
        self._outputs.append(Refused(reason, self._speaker, detail))

    # Anti-entropy

    def _compare_fingerprint(self, source: Source, fingerprint: int) -> None:
        """Start a round where a probe shows that the other holds something else."""
        if fingerprint == self._index.short_fingerprint or self.has_left:
            return
        # While news is still under way a difference is normal and mostly mends itself.
        patience = 3 if len(self._broadcasts) and self._roster.live_count > 2 else 1
        if self._now_ns - self._last_sync_ns < patience * self._config.sync_interval_ns:
            return
        self._last_sync_ns = self._now_ns
        self._counters["syncs"] += 1
        self._outbound.send(source.address, source.node, self._index.whole(), now_ns=self._now_ns)

    # Bursts of news

    def _arm_gossip(self) -> None:
        """Fresh news at once (but for the gap), repeats at the interval, nothing where there is nothing to say."""
        if not self._broadcasts and not self._roster.has_accused():
            self._gossip_ns = None
            return
        wait_ns = self._config.gossip_gap_ns if self._broadcasts.quick_bursts else self._config.gossip_interval_ns
        due_ns = max(self._now_ns, self._last_gossip_ns + wait_ns)
        self._gossip_ns = due_ns if self._gossip_ns is None else min(self._gossip_ns, due_ns)

    def _gossip(self) -> None:
        self._last_gossip_ns = self._now_ns
        self._gossip_ns = None
        self._broadcasts.quick_bursts = max(0, self._broadcasts.quick_bursts - 1)
        if self._broadcasts:
            for member in self._roster.pick(self._config.gossip_fanout):
                self._outbound.send(member.address, member.name, now_ns=self._now_ns)
        if not self.has_left:
            self._prober.ask_accused(now_ns=self._now_ns)
        self._arm_gossip()


def _check_metadata(metadata: bytes) -> None:
    if len(metadata) > METADATA_BYTES_MAX:
        raise OperatorError(f"gossip metadata: {len(metadata)} bytes, at most {METADATA_BYTES_MAX} are possible")
