"""SWIM with Lifeguard: who is up, and what everybody shall know (Das et al., DSN 2002; Dadgar et al., 2017).

One machine per process. Each period it probes one member, directly and then through helpers; who stays silent is
accused, and who does not refute in time is dead. News rides on every datagram. Where two members differ all the same,
the fingerprint on their probes says so and anti-entropy evens it out.

This decides who is probably up. It never decides who owns anything: that takes a majority (service.lease).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.gossip.config import DEFAULT_CONFIG, GossipConfig
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts, Subject
from service.gossip.event import RowChanged
from service.gossip.exchange import Exchange
from service.gossip.member import Member, MemberState
from service.gossip.message import (
    METADATA_BYTES_MAX,
    PACKET_OVERHEAD_BYTES,
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
    encode_packet,
)
from service.gossip.probe import Origins, Probe, Relays, RoundTrips
from service.gossip.randomness import Random
from service.gossip.roster import Roster
from service.gossip.seed import Seeds
from service.gossip.table import Row, Tables, VersionTuple, checked_row
from service.model.errors import InvariantError, OperatorError
from service.model.machine import Address, Send, Source

_SECOND = 1_000_000_000
HOUSEKEEPING_INTERVAL_NS = 60 * _SECOND
# While alone, seeds are tried this often: nothing else is worth waiting for.
LONELY_RECONNECT_NS = _SECOND
LEAVE_FANOUT = 16
# Datagrams in answer to the outdated news of one.
CORRECTIONS_MAX = 3


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
        now_ns: int,
    ) -> None:
        """Start as a member of one.

        `incarnation` should be higher than in the process's last life (a boot counter, or seconds since 1970): then the
        others believe its first word. It need not be: hearing an old record of itself, it rises above it.
        """
        _check_metadata(metadata)
        self._config = config
        self._random = random
        self._now_ns = now_ns
        self._index = Index()
        self._broadcasts = Broadcasts(config.retransmit_multiplier)
        self._tables = Tables(config.rows_max)
        local = Member(name, address, MemberState.ALIVE, metadata, incarnation)
        self._roster = Roster(local, config=config, random=random, index=self._index, broadcasts=self._broadcasts)
        self._outputs = self._roster.outputs
        self._seeds = Seeds(config, random, own=address)
        self._seeds.replace(seeds, now_ns=now_ns)
        self._exchange = Exchange(
            index=self._index, roster=self._roster, tables=self._tables, payload_bytes_max=config.payload_bytes_max
        )
        self._probe: Probe | None = None
        self._origins = Origins()
        self._relays = Relays()
        self._round_trips = RoundTrips(config.probe_timeout_ns_min, config.probe_timeout_ns_max)
        self._sequence = 0
        # Members that start together shall not probe in step.
        self._period_ns = now_ns + int(0.1 * random.random() * config.probe_interval_ns)
        self._gossip_ns: int | None = None
        self._last_gossip_ns = now_ns - config.gossip_interval_ns
        self._last_sync_ns = now_ns - config.sync_interval_ns
        self._lag_noted_ns = now_ns
        self._housekeeping_ns = now_ns + HOUSEKEEPING_INTERVAL_NS
        self._counters = {"unknown_messages": 0, "probes_failed": 0, "syncs": 0, "misaddressed": 0, "lags": 0}

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

    def put(self, table: str, key: str, version: VersionTuple, value: bytes, *, now_ns: int) -> bool:
        """Write a row and spread it. False, with nothing changed, where its version is not higher than the known one.

        Raises OperatorError where the value is above 512 bytes or the table or key does not fit.
        """
        row = checked_row(table, key, version, value)
        self._pass_time(now_ns)
        if not self._accept_row(row):
            return False
        self._arm_gossip()
        return True

    def rows(self, table: str) -> Mapping[str, Row]:
        """A live read-only view of one table."""
        return self._tables.rows(table)

    def members(self) -> tuple[Member, ...]:
        """All known members by name, ourselves included."""
        return self._roster.all()

    @property
    def has_left(self) -> bool:
        return self._roster.local.state is MemberState.LEFT

    @property
    def counters(self) -> Mapping[str, int]:
        """For metrics: counts since the start, and the present health score."""
        return {
            **self._counters,
            **self._roster.counters,
            "rows_refused": self._tables.refused,
            "health_score": self._roster.awareness.score,
            "broadcasts_queued": len(self._broadcasts),
        }

    def leave(self, *, now_ns: int) -> None:
        """Say good-bye, so that nobody has to find out. Drive the machine for some 0.5 s more, then end the process."""
        self._pass_time(now_ns)
        if self.has_left:
            return
        self._probe = None
        self._roster.announce(now_ns=now_ns, state=MemberState.LEFT)
        # More than the usual fan-out: the one who knows will soon be gone.
        for member in self._roster.pick(LEAVE_FANOUT):
            self._send(member.address, member.name)
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
        messages, unknown = decode_packet(payload)
        self._pass_time(now_ns)
        self._counters["unknown_messages"] += unknown
        if source.node == self._roster.name:
            # Our own voice (a seed that is ourselves), or somebody with our name.
            if source.address != self._roster.local.address:
                self._roster.report_namesake(None, now_ns=now_ns, address=source.address)
            return
        self._origins.note(source, self._roster.get(source.node))
        # News before questions: an answer then carries the refutation of what came with the question.
        for message in messages:
            if not isinstance(message, Ping):
                self._handle(source, message)
        self._correct(source, messages)
        for message in messages:
            if isinstance(message, Ping):
                self._answer_ping(source, message)
        self._arm_gossip()

    def advance(self, *, now_ns: int) -> None:
        """Run every timer that is due."""
        self._pass_time(now_ns)
        self._roster.bury_overdue(now_ns=now_ns)
        self._relays.run_due(now_ns, self._send_nack)
        probe = self._probe
        if probe is not None and probe.indirect_at_ns is not None and probe.indirect_at_ns <= now_ns:
            self._probe_indirectly(probe)
        if self._period_ns <= now_ns:
            self._begin_period()
        if self._housekeeping_ns <= now_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_INTERVAL_NS
            self._roster.forget_expired(now_ns=now_ns)
            self._round_trips.keep(self._roster.live_others())
            self._origins.keep(self._roster.live_others())
        self._arm_gossip()
        if self._gossip_ns is not None and self._gossip_ns <= now_ns:
            self._gossip()

    def deadline_ns(self) -> int | None:
        """Never None: there is always a next period."""
        deadlines = [self._period_ns, self._housekeeping_ns]
        deadlines.extend(suspicion.deadline_ns for suspicion in self._roster.suspicions.values())
        relay_ns = self._relays.deadline_ns()
        indirect_ns = None if self._probe is None else self._probe.indirect_at_ns
        deadlines.extend(due_ns for due_ns in (self._gossip_ns, relay_ns, indirect_ns) if due_ns is not None)
        return min(deadlines)

    def drain(self) -> list[Any]:
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
        if notice_lag and deadline_ns is not None and now_ns > deadline_ns:
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
        if self._probe is not None:
            self._probe.postpone(lag_ns)
        self._relays.postpone(lag_ns)
        self._period_ns += lag_ns

    # Probing

    def _begin_period(self) -> None:
        """End the last probe, start the next one, and try one of the dead and the seeds that are due."""
        self._conclude_probe()
        now_ns = self._now_ns
        # Health stretches the period (Lifeguard, LHA-Probe); a little chance keeps members from falling into step.
        interval_ns = self._roster.awareness.scale(self._config.probe_interval_ns)
        self._period_ns = now_ns + int(interval_ns * (0.95 + 0.1 * self._random.random()))
        if self.has_left:
            return
        self._try_unreachable()
        target = self._roster.rotation.next()
        member = None if target is None else self._roster.get(target)
        if member is None:
            return
        timeout_ns = self._roster.awareness.scale(self._round_trips.timeout_ns(member.name))
        self._probe = Probe(
            target=member.name,
            address=member.address,
            sequence=self._next_sequence(),
            started_ns=now_ns,
            indirect_at_ns=now_ns + timeout_ns,
        )
        self._ping(member.address, member.name, self._probe.sequence)

    def _conclude_probe(self) -> None:
        """At the end of the period: no answer by any way is an accusation (SWIM 3.1)."""
        probe, self._probe = self._probe, None
        if probe is None or probe.acked:
            return
        self._counters["probes_failed"] += 1
        # Helpers that say they live but did not reach the target speak against the target; silent helpers, or none to
        # ask, speak against us.
        self._roster.awareness.worsen(probe.missing_nacks if probe.helpers else 1)
        member = self._roster.get(probe.target)
        if member is not None and member.is_live:
            self._roster.accuse(member.name, member.incarnation, accuser=self._roster.name, now_ns=self._now_ns)

    def _probe_indirectly(self, probe: Probe) -> None:
        """Ask helpers, in case only our own path to the target is bad (SWIM's ping-req)."""
        probe.indirect_at_ns = None
        if probe.acked:
            return
        helpers = self._roster.pick(self._config.indirect_probes, skip=probe.target)
        probe.helpers = tuple(helper.name for helper in helpers)
        request = PingRequest(probe.sequence, probe.target, probe.address.host, probe.address.port)
        for helper in helpers:
            self._send(helper.address, helper.name, request)
        # And once more ourselves: where packets get lost that halves the accusations, and it costs nothing elsewhere.
        for address in (probe.address, *self._origins.of(probe.target)):
            self._ping(address, probe.target, probe.sequence)

    def _help(self, source: Source, request: PingRequest) -> None:
        sequence = self._next_sequence()
        timeout_ns = self._round_trips.timeout_ns(request.target)
        is_open = self._relays.open(
            sequence,
            origin=source.address,
            name=source.node,
            origin_sequence=request.sequence,
            # In time to reach the asker before its period ends (memberlist: at four fifths of the timeout).
            nack_at_ns=self._now_ns + timeout_ns * 4 // 5,
            expires_ns=self._now_ns + self._config.probe_interval_ns,
        )
        if is_open:
            for address in (Address(request.host, request.port), *self._origins.of(request.target)):
                self._ping(address, request.target, sequence)

    def _try_unreachable(self) -> None:
        for name in self._roster.reconnect.due(self._now_ns, limit=1):
            member = self._roster.get(name)
            if member is not None:
                # The ping carries our notice of its death, and its answer the refutation.
                self._ping(member.address, member.name, self._next_sequence())
        others = [self._roster.get(name) for name in self._roster.live_others()]
        reached = {member.address: None for member in others if member is not None}
        wait_ns_max = None if reached else LONELY_RECONNECT_NS
        for seed in self._seeds.due(self._now_ns, wait_ns_max=wait_ns_max):
            if seed not in reached:
                # It may not know us: our own record goes along, so that it can.
                own = self._roster.record(self._roster.name, now_ns=self._now_ns)
                self._ping(seed, "", self._next_sequence(), *([] if own is None else [own]))

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % 2**32
        return self._sequence

    # What arrives

    def _handle(self, source: Source, message: Message) -> None:
        now_ns = self._now_ns
        match message:
            case Ack():
                self._take_ack(source, message)
            case Nack():
                if self._probe is not None and message.sequence == self._probe.sequence:
                    self._probe.nacks[source.node] = None
            case PingRequest():
                self._help(source, message)
            case Suspect():
                self._roster.accuse(message.name, message.incarnation, accuser=message.accuser, now_ns=now_ns)
            case Record():
                self._roster.merge(message, hearsay_of=None, now_ns=now_ns)
            case TableRow():
                self._learn_row(message)
            case Delta():
                for record in message.records:
                    self._roster.merge(record, hearsay_of=source.node, now_ns=now_ns)
                for row in message.rows:
                    self._learn_row(row)
            case Range() | Digest() | Want():
                for datagram in self._exchange.answer(message, now_ns=now_ns):
                    self._send(source.address, source.node, *datagram)

    def _answer_ping(self, source: Source, ping: Ping) -> None:
        # The address may have been another member's before.
        if ping.target not in ("", self._roster.name):
            self._counters["misaddressed"] += 1
            return
        self._send(source.address, source.node, Ack(ping.sequence, self._short_fingerprint()))
        self._compare_fingerprint(source, ping.fingerprint)

    def _take_ack(self, source: Source, ack: Ack) -> None:
        asker = self._relays.close(ack.sequence)
        if asker is not None:
            address, name, sequence = asker
            self._send(address, name, Ack(sequence, self._short_fingerprint()))
        probe = self._probe
        if probe is not None and ack.sequence == probe.sequence and not probe.acked:
            probe.acked = True
            self._roster.awareness.improve()
            # As in TCP (Karn), an answer after a repeat is no measure: it may belong to either ping.
            if source.node == probe.target and probe.indirect_at_ns is not None and probe.is_timing_clean:
                self._round_trips.observe(probe.target, self._now_ns - probe.started_ns)
        self._compare_fingerprint(source, ack.fingerprint)

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
                self._send(source.address, source.node, record)

    def _learn_row(self, row: TableRow) -> None:
        if self._accept_row(row):
            self._outputs.append(RowChanged(row.table, row.key, row.version, row.value))

    def _accept_row(self, row: TableRow) -> bool:
        if not self._tables.accept(row.table, row.key, Row(row.version, row.value)):
            return False
        subject: Subject = ("row", row.table, row.key)
        self._index.put(subject, row.version)
        self._broadcasts.offer(subject, encode_message(row), urgent=True)
        return True

    # Anti-entropy

    def _short_fingerprint(self) -> int:
        return self._index.fingerprint & 0xFFFFFFFF

    def _compare_fingerprint(self, source: Source, fingerprint: int) -> None:
        """Start a round where a probe shows that the other holds something else."""
        if fingerprint == self._short_fingerprint() or self.has_left:
            return
        # While news is still under way a difference is normal and mostly mends itself.
        patience = 3 if len(self._broadcasts) and self._roster.live_count > 2 else 1
        if self._now_ns - self._last_sync_ns < patience * self._config.sync_interval_ns:
            return
        self._last_sync_ns = self._now_ns
        self._counters["syncs"] += 1
        self._send(source.address, source.node, self._index.whole())

    # Sending

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
                self._send(member.address, member.name)
        # Whom we accuse we keep asking: each ping carries the accusation and each answer the refutation (Lifeguard,
        # buddy system). Under loss this is what an innocent member's life hangs on.
        if not self.has_left:
            for name in self._roster.has_accused():
                suspect = self._roster.get(name)
                if suspect is not None:
                    self._ping(suspect.address, name, self._next_sequence())
        self._arm_gossip()

    def _ping(self, address: Address, name: str, sequence: int, *more: Message) -> None:
        self._send(address, name, Ping(sequence, name, self._short_fingerprint()), *more)

    def _send_nack(self, address: Address, name: str, sequence: int) -> None:
        self._send(address, name, Nack(sequence))

    def _send(self, address: Address, name: str, *messages: Message) -> None:
        """Send messages, then what the receiver must hear about itself, then as much news as fits."""
        parts = [encode_message(message) for message in messages]
        budget = self._config.payload_bytes_max - PACKET_OVERHEAD_BYTES - sum(len(part) for part in parts)
        about_it = self._about(name)
        if about_it is not None and about_it not in parts and len(about_it) <= budget:
            parts.append(about_it)
            budget -= len(about_it)
        parts.extend(self._broadcasts.take(budget, live_members=self._roster.live_count, skip=parts))
        if parts:
            self._outputs.append(Send(address, encode_packet(parts)))

    def _about(self, name: str) -> bytes | None:
        """An accusation or death notice for its own subject, first hand (Lifeguard, buddy system)."""
        member = self._roster.get(name)
        if member is None or member.state is MemberState.ALIVE or name == self._roster.name:
            return None
        if member.state is MemberState.SUSPECT:
            suspicion = self._roster.suspicions[name]
            return encode_message(Suspect(name, member.incarnation, next(iter(suspicion.accusers))))
        record = self._roster.record(name, now_ns=self._now_ns)
        return None if record is None else encode_message(record)


def _check_metadata(metadata: bytes) -> None:
    if len(metadata) > METADATA_BYTES_MAX:
        raise OperatorError(f"gossip metadata: {len(metadata)} bytes, at most {METADATA_BYTES_MAX} are possible")
