"""The probe cycle: one member a period, directly and then through helpers, and an accusation where nobody got through.

Each period begins by judging the probe of the last one. So a target has the whole period to answer by any way, and
there is never more than one probe of ours under way. `probe` has the values this works with; SWIM 3.1 and 4.3 have the
cycle, Lifeguard what it says about our own health.
"""

from service.gossip.config import GossipConfig
from service.gossip.message import Ack, Nack, PingRequest
from service.gossip.outbound import Outbound
from service.gossip.probe import Origins, Probe, Relays, RoundTrips
from service.gossip.randomness import Random
from service.gossip.roster import Roster
from service.gossip.seed import Seeds
from service.model.machine import Address, Source

# While alone, seeds are tried this often: nothing else is worth waiting for.
LONELY_RECONNECT_NS = 1_000_000_000


class Prober:
    """Our own probes, those made for others, and the attempts to reach the unreachable.

    Accusations go to the roster, which decides what becomes of them. The owner calls `advance` at `deadline_ns` at the
    latest and hands over every Ack, Nack and PingRequest that arrives.
    """

    def __init__(
        self, config: GossipConfig, random: Random, *, roster: Roster, outbound: Outbound, seeds: Seeds, now_ns: int
    ) -> None:
        self._config = config
        self._random = random
        self._roster = roster
        self._outbound = outbound
        self._seeds = seeds
        self._probe: Probe | None = None
        """Of the present period; None where there is nobody to probe, or after leaving."""
        self._origins = Origins()
        self._relays = Relays()
        self._round_trips = RoundTrips(config.probe_timeout_ns_min, config.probe_timeout_ns_max)
        self._sequence = 0
        """Of the last ping, whoever it was for: own probes and relayed ones are told apart by it."""
        # Members that start together shall not probe in step.
        self._period_ns = now_ns + int(0.1 * random.random() * config.probe_interval_ns)
        """When the present period ends and the next begins."""
        self.failed = 0
        """Probes that nobody answered, for metrics."""

    # Time

    def deadline_ns(self) -> int:
        """When `advance` has something to do next: there is always a next period."""
        indirect_ns = None if self._probe is None else self._probe.indirect_at_ns
        optional = (self._relays.deadline_ns(), indirect_ns)
        return min([self._period_ns, *(due_ns for due_ns in optional if due_ns is not None)])

    def advance(self, *, now_ns: int) -> None:
        """Send what is due: nacks to askers, requests to helpers, and the ping of a new period."""
        self._relays.run_due(
            now_ns, lambda address, name, sequence: self._outbound.send(address, name, Nack(sequence), now_ns=now_ns)
        )
        probe = self._probe
        if probe is not None and probe.indirect_at_ns is not None and probe.indirect_at_ns <= now_ns:
            self._probe_indirectly(probe, now_ns=now_ns)
        if self._period_ns <= now_ns:
            self._begin_period(now_ns)

    def postpone(self, span_ns: int) -> None:
        """Give everything under way the time back in which this process could hear no answer."""
        if self._probe is not None:
            self._probe.postpone(span_ns)
        self._relays.postpone(span_ns)
        self._period_ns += span_ns

    def stop(self) -> None:
        """Drop the probe under way: who leaves accuses nobody any more."""
        self._probe = None

    def forget_gone(self) -> None:
        """Keep what was measured and heard only of members that count as up."""
        self._round_trips.keep(self._roster.live_others())
        self._origins.keep(self._roster.live_others())

    # Our own probes

    def _begin_period(self, now_ns: int) -> None:
        """End the last probe, start the next one, and try one of the dead and the seeds that are due."""
        self._conclude_probe(now_ns)
        # Health stretches the period (Lifeguard, LHA-Probe); a little chance keeps members from falling into step.
        interval_ns = self._roster.awareness.scale(self._config.probe_interval_ns)
        self._period_ns = now_ns + int(interval_ns * (0.95 + 0.1 * self._random.random()))
        if self._roster.has_left:
            return
        self._try_unreachable(now_ns)
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
        self._outbound.ping(member.address, member.name, self._probe.sequence, now_ns=now_ns)

    def _conclude_probe(self, now_ns: int) -> None:
        """At the end of the period: no answer by any way is an accusation (SWIM 3.1)."""
        probe, self._probe = self._probe, None
        if probe is None or probe.acked:
            return
        self.failed += 1
        # Helpers that say they live but did not reach the target speak against the target; silent helpers, or none to
        # ask, speak against us.
        self._roster.awareness.worsen(probe.missing_nacks if probe.helpers else 1)
        # It may have died or left by another's word meanwhile; and the accusation names the incarnation of now.
        member = self._roster.get(probe.target)
        if member is not None and member.is_live:
            self._roster.accuse(member.name, member.incarnation, accuser=self._roster.name, now_ns=now_ns)

    def _probe_indirectly(self, probe: Probe, *, now_ns: int) -> None:
        """Ask helpers, in case only our own path to the target is bad (SWIM's ping-req)."""
        probe.indirect_at_ns = None
        if probe.acked:
            return
        helpers = self._roster.pick(self._config.indirect_probes, skip=probe.target)
        probe.helpers = tuple(helper.name for helper in helpers)
        request = PingRequest(probe.sequence, probe.target, probe.address.host, probe.address.port)
        for helper in helpers:
            self._outbound.send(helper.address, helper.name, request, now_ns=now_ns)
        # And once more ourselves: where packets get lost that halves the accusations, and it costs nothing elsewhere.
        for address in (probe.address, *self._origins.of(probe.target)):
            self._outbound.ping(address, probe.target, probe.sequence, now_ns=now_ns)

    def ask_accused(self, *, now_ns: int) -> None:
        """Ping whom we accuse, outside the rotation and with no verdict hanging on it.

        Each ping carries the accusation and each answer the refutation (Lifeguard, buddy system). Under loss this is
        what an innocent member's life hangs on.
        """
        for name in self._roster.has_accused():
            suspect = self._roster.get(name)
            if suspect is not None:
                self._outbound.ping(suspect.address, name, self._next_sequence(), now_ns=now_ns)

    def take_ack(self, source: Source, ack: Ack, *, now_ns: int) -> None:
        """Take an answer: to a probe made for another, which is passed on, or to our own, by any way."""
        asker = self._relays.close(ack.sequence)
        if asker is not None:
            address, name, sequence = asker
            self._outbound.acknowledge(address, name, sequence, now_ns=now_ns)
        probe = self._probe
        # A second answer (by a helper, or to the repeat) would count twice towards our health.
        if probe is not None and ack.sequence == probe.sequence and not probe.acked:
            probe.acked = True
            self._roster.awareness.improve()
            # As in TCP (Karn; RFC 6298, 3), an answer after a repeat is no measure: it may belong to either ping.
            if source.node == probe.target and probe.indirect_at_ns is not None and probe.is_timing_clean:
                self._round_trips.observe(probe.target, now_ns - probe.started_ns)

    def take_nack(self, source: Source, nack: Nack) -> None:
        """Note that a helper lives, though it has not reached the target. A nack of a former probe means nothing."""
        if self._probe is not None and nack.sequence == self._probe.sequence:
            self._probe.nacks[source.node] = None

    # Probes for others

    def help(self, source: Source, request: PingRequest, *, now_ns: int) -> None:
        """Probe a target for another member; the answer, or its absence, is passed back under the asker's sequence."""
        sequence = self._next_sequence()
        timeout_ns = self._round_trips.timeout_ns(request.target)
        is_open = self._relays.open(
            sequence,
            origin=source.address,
            name=source.node,
            origin_sequence=request.sequence,
            # In time to reach the asker before its period ends (memberlist: at four fifths of the timeout).
            nack_at_ns=now_ns + timeout_ns * 4 // 5,
            expires_ns=now_ns + self._config.probe_interval_ns,
        )
        if is_open:
            # The asker's address of the target, not ours: the asker may know a newer one.
            for address in (Address(request.host, request.port), *self._origins.of(request.target)):
                self._outbound.ping(address, request.target, sequence, now_ns=now_ns)

    # The unreachable

    def note_origin(self, source: Source) -> None:
        """Remember where a datagram really came from, where that is not the address its sender announces."""
        self._origins.note(source, self._roster.get(source.node))

    def _try_unreachable(self, now_ns: int) -> None:
        for name in self._roster.reconnect.due(now_ns, limit=1):
            member = self._roster.get(name)
            if member is not None:
                # The ping carries our notice of its death, and its answer the refutation.
                self._outbound.ping(member.address, member.name, self._next_sequence(), now_ns=now_ns)
        others = [self._roster.get(name) for name in self._roster.live_others()]
        reached = {member.address: None for member in others if member is not None}
        wait_ns_max = None if reached else LONELY_RECONNECT_NS
        for seed in self._seeds.due(now_ns, wait_ns_max=wait_ns_max):
            # A seed that is a live member is probed as one.
            if seed not in reached:
                # It may not know us: our own record goes along, so that it can.
                own = self._roster.record(self._roster.name, now_ns=now_ns)
                self._outbound.ping(seed, "", self._next_sequence(), *([] if own is None else [own]), now_ns=now_ns)

    def _next_sequence(self) -> int:
        # Wraps within the 32 bits of the wire. Ages before that a relay or probe of the same number has ended.
        self._sequence = (self._sequence + 1) % 2**32
        return self._sequence
