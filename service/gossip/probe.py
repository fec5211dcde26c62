"""Whom to probe next, how long to wait, and what a probe has found out (SWIM 3.1 and 4.3, Lifeguard LHA-Probe)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from service.gossip.member import Member
from service.gossip.randomness import Random
from service.model.machine import Address, Source


class RoundTrip:
    """Smoothed round trip to one member and the timeout that follows from it (RFC 6298, sections 2.2 and 2.3)."""

    def __init__(self) -> None:
        self._smoothed_ns: int | None = None
        """SRTT of the RFC; None before the first measurement."""
        self._variation_ns = 0
        """RTTVAR of the RFC."""

    def observe(self, round_trip_ns: int) -> None:
        """Take a measurement, with the gains of the RFC: 1/8 and 1/4."""
        if self._smoothed_ns is None:
            self._smoothed_ns = round_trip_ns
            self._variation_ns = round_trip_ns // 2
            return
        self._variation_ns += (abs(self._smoothed_ns - round_trip_ns) - self._variation_ns) // 4
        self._smoothed_ns += (round_trip_ns - self._smoothed_ns) // 8

    def timeout_ns(self, timeout_ns_min: int, timeout_ns_max: int) -> int:
        """smoothed + 4 * variation within bounds; the upper bound where nothing is known yet."""
        if self._smoothed_ns is None:
            return timeout_ns_max
        return min(timeout_ns_max, max(timeout_ns_min, self._smoothed_ns + 4 * self._variation_ns))


class RoundTrips:
    """One estimate per member: a distant member's usual round trip would be a near one's timeout."""

    def __init__(self, timeout_ns_min: int, timeout_ns_max: int) -> None:
        self._timeout_ns_min = timeout_ns_min
        self._timeout_ns_max = timeout_ns_max
        self._estimates: dict[str, RoundTrip] = {}

    def observe(self, name: str, round_trip_ns: int) -> None:
        """Take a measurement that is surely of this member's answer to this ping."""
        self._estimates.setdefault(name, RoundTrip()).observe(round_trip_ns)

    def timeout_ns(self, name: str) -> int:
        """After how long this member's silence is worth asking helpers."""
        return self._estimates.get(name, RoundTrip()).timeout_ns(self._timeout_ns_min, self._timeout_ns_max)

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others."""
        self._estimates = {name: self._estimates[name] for name in names if name in self._estimates}


class Origins:
    """Where members in a pod network are heard: behind their CNI's masquerade, not at the address they announce.

    Such a member is asked by that way too, since the CNI may know no other to it. It changes with each new mapping.
    """

    def __init__(self) -> None:
        self._addresses: dict[str, Address] = {}

    def note(self, source: Source, member: Member | None) -> None:
        """Remember the source of a member that announces another address; the last one counts."""
        self._addresses.pop(source.node, None)
        if member is not None and member.address != source.address:
            self._addresses[source.node] = source.address

    def of(self, name: str) -> tuple[Address, ...]:
        """None or one."""
        address = self._addresses.get(name)
        return () if address is None else (address,)

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others."""
        self._addresses = {name: self._addresses[name] for name in names if name in self._addresses}


class Rotation:
    """Round robin over a shuffled list, reshuffled after each turn (SWIM 4.3).

    It bounds the time between two probes of one member to 2n - 1 periods, where random choice has no bound.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._names: list[str] = []
        self._position = 0
        """Names before it were probed in this turn."""
        self._hastened: dict[str, None] = {}
        """Names to be probed first, in order of arrival. They keep their place in the turn too."""

    def add(self, name: str) -> None:
        """Insert at a random place, so that members that join together are not probed in a convoy."""
        if name in self._names:
            return
        place = int(self._random.random() * (len(self._names) + 1))
        self._names.insert(place, name)
        # What was already probed in this turn stays before the position.
        if place < self._position:
            self._position += 1

    def remove(self, name: str) -> None:
        """Probe it no more; nothing where it is not in the list."""
        self._hastened.pop(name, None)
        if name not in self._names:
            return
        place = self._names.index(name)
        del self._names[place]
        if place < self._position:
            self._position -= 1

    def hasten(self, name: str) -> None:
        """Probe this one next, out of turn: it was accused, and a second opinion is wanted soon."""
        if name in self._names:
            self._hastened[name] = None

    def next(self) -> str | None:
        """The next member to probe; None where there is none."""
        for name in self._hastened:
            del self._hastened[name]
            return name
        if self._position >= len(self._names):
            self._random.shuffle(self._names)
            self._position = 0
        if not self._names:
            return None
        self._position += 1
        return self._names[self._position - 1]


@dataclass(slots=True)
class Probe:
    """The probe of one period."""

    target: str
    address: Address
    sequence: int
    """Of the ping, its repeat and the requests to helpers alike: any Ack of this number is the target's answer."""
    started_ns: int
    indirect_at_ns: int | None
    """When indirect probes start; None once they have."""
    is_timing_clean: bool = True
    """False once this process stood still meanwhile: the answer's time then says nothing of the network."""
    acked: bool = False
    helpers: tuple[str, ...] = ()
    """Who was asked; empty before the timeout, and where there was nobody to ask."""
    nacks: dict[str, None] = field(default_factory=dict)
    """Helpers that answered without the target's ack, by name: a repeat does not count twice."""

    @property
    def missing_nacks(self) -> int:
        """Helpers that said nothing at all: more likely we, or our link, are the sick one (Lifeguard, LHA-Probe)."""
        return len(self.helpers) - len(self.nacks)

    def postpone(self, span_ns: int) -> None:
        """Take time in which this process stood still out of the probe."""
        self.is_timing_clean = False
        self.started_ns += span_ns
        if self.indirect_at_ns is not None:
            self.indirect_at_ns += span_ns


@dataclass(slots=True)
class _Relayed:
    """A probe made for `origin`, kept under the sequence of our own ping."""

    origin: Address
    origin_name: str
    origin_sequence: int
    nack_at_ns: int | None
    """None once the nack is sent."""
    expires_ns: int
    """When the asker's period is over, so that no ack is of use to it any more."""


RELAYS_MAX = 256
"""Open at once. Each of a thousand members asks three helpers only where a probe fails, so this is a storm."""


class Relays:
    """Probes made for others: the ack is passed back, and a nack is sent in time if none has come."""

    def __init__(self) -> None:
        self._relayed: dict[int, _Relayed] = {}

    def open(
        self, sequence: int, *, origin: Address, name: str, origin_sequence: int, nack_at_ns: int, expires_ns: int
    ) -> bool:
        """False where too many are open: then silence tells the asker that this member is overloaded."""
        if len(self._relayed) >= RELAYS_MAX:
            return False
        self._relayed[sequence] = _Relayed(origin, name, origin_sequence, nack_at_ns, expires_ns)
        return True

    def close(self, sequence: int) -> tuple[Address, str, int] | None:
        """Who asked for the probe now answered, and under which sequence. An ack after the nack still counts."""
        relayed = self._relayed.pop(sequence, None)
        return None if relayed is None else (relayed.origin, relayed.origin_name, relayed.origin_sequence)

    def run_due(self, now_ns: int, nack: Callable[[Address, str, int], None]) -> None:
        """Call `nack` with (address, name, sequence) of each asker that shall hear we have no answer yet."""
        for sequence, relayed in list(self._relayed.items()):
            if relayed.nack_at_ns is not None and relayed.nack_at_ns <= now_ns:
                relayed.nack_at_ns = None
                nack(relayed.origin, relayed.origin_name, relayed.origin_sequence)
            if relayed.expires_ns <= now_ns:
                del self._relayed[sequence]

    def postpone(self, span_ns: int) -> None:
        """Take time in which this process stood still out of all of them."""
        for relayed in self._relayed.values():
            relayed.expires_ns += span_ns
            if relayed.nack_at_ns is not None:
                relayed.nack_at_ns += span_ns

    def deadline_ns(self) -> int | None:
        """When `run_due` has something to do next; None where nothing is relayed."""
        return min((relayed.nack_at_ns or relayed.expires_ns for relayed in self._relayed.values()), default=None)
