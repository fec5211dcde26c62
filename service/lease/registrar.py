"""Asks every keeper how far it is, and says what the electorate should be next (leases.md, M2-M5).

It decides nothing: its proposals go through a compare-and-swap on the one object that holds the electorate, and what it
asks is answered by keepers in every epoch, electors or not. Several may run at once.
"""

from collections.abc import Mapping
from dataclasses import replace

from service.lease.electorate import Candidate, Known, first_electorate, is_in_force, is_present, step, target
from service.lease.electorate_message import Standing, Survey, decode_electorate_message, encode_electorate_message
from service.lease.message import MessageKind, kind_of
from service.model.errors import InvariantError, PeerError
from service.model.lease import NO_ELECTORATE, Elector, Electorate
from service.model.machine import Address, Send, Source

INTERVAL_NS = 500_000_000
FRESH_INTERVALS = 4
"""A keeper that has not answered for so long is not counted as there."""
DOWN_NS = 60_000_000_000
"""An elector that has not answered for so long is replaced (M5)."""
STEADY_NS = 3_000_000_000
"""A newcomer that has answered for so long without a gap may be added. Of two electors that lost each other one goes on
alone within a moment; without a pause a bad link between them would have it removed and added without end."""


class Registrar:
    """Follows the machine contract. Outputs: Send, and Electorate where a newer one was heard of than is known here."""

    _candidates: dict[str, Candidate]
    """The agents that gossip says are up."""
    _unchanged_since_ns: int
    """Since when they have been the same (CLOCK_BOOTTIME, as every time here)."""
    _in_force: bool
    """Whether `_electorate` was seen in force. The next step is not made before (M2)."""
    _hints: tuple[Elector, ...]
    """Electors that the object names and nobody vouches for (M8): they are asked, too, and not counted."""
    _standings: dict[str, tuple[int, Standing]]
    """The last word of each keeper, and when it came; also of those that have fallen silent since."""
    _missed_since_ns: dict[str, int]
    """Members that do not answer, or answer from another disk, and since when."""
    _steady_since_ns: dict[str, int]
    """Since when each keeper has answered without a gap."""

    def __init__(self, *, lease_port: int, now_ns: int, down_ns: int = DOWN_NS, interval_ns: int = INTERVAL_NS) -> None:
        self._lease_port = lease_port
        self._now_ns = now_ns
        self._next_ns = now_ns
        self._down_ns = down_ns
        self._interval_ns = interval_ns
        self._sequence = now_ns
        self._candidates = {}
        self._unchanged_since_ns = now_ns
        self._electorate = NO_ELECTORATE
        self._in_force = False
        self._hints = ()
        self._standings, self._missed_since_ns, self._steady_since_ns = {}, {}, {}
        self._outputs: list[Send | Electorate] = []

    @property
    def electorate(self) -> Electorate:
        """The newest that this process knows of."""
        return self._electorate

    @property
    def is_in_force(self) -> bool:
        """A majority of the members was seen to have settled in the epoch."""
        return self._in_force

    def set_candidates(self, candidates: Mapping[str, Candidate], *, now_ns: int) -> None:
        """The agents that are there now."""
        self._pass(now_ns)
        if dict(candidates) != self._candidates:
            self._candidates = dict(candidates)
            self._unchanged_since_ns = now_ns

    def set_hints(self, electors: tuple[Elector, ...]) -> None:
        """Whom else to ask: whoever among them is a keeper tells its electorate."""
        self._hints = electors

    def is_present(self, *, since_ns: int) -> bool:
        """A majority has said since then that it votes in the epoch that is known here, so goes by no newer one."""
        return is_present(
            self._electorate,
            {name: one for name, one in self.known().items() if self._standings[name][0] >= since_ns},
        )

    def set_electorate(self, electorate: Electorate, *, now_ns: int) -> None:
        """What the book has taken over. An older one changes nothing."""
        self._pass(now_ns)
        if electorate.epoch > self._electorate.epoch:
            self._electorate, self._in_force = electorate, False
            # Not forgotten with the epoch: who was missed in the last one is missed in this one.
            members = {member.name for member in electorate.members}
            self._missed_since_ns = {name: ns for name, ns in self._missed_since_ns.items() if name in members}
        self._judge()

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take a standing, or an electorate. Raises PeerError with nothing changed."""
        if kind_of(payload) not in (MessageKind.STANDING, MessageKind.ELECTORATE):
            raise PeerError("lease datagram: not for a registrar")
        message = decode_electorate_message(payload)
        self._pass(now_ns)
        if isinstance(message, Electorate):
            if message.epoch > self._electorate.epoch:
                self._outputs.append(message)
        elif isinstance(message, Standing):
            if source.node not in self.known():
                self._steady_since_ns[source.node] = now_ns
            self._standings[source.node] = (now_ns, message)
            self._tell(source, message)
            self._judge()

    def _tell(self, source: Source, standing: Standing) -> None:
        # Who is behind learns it here, too; who is ahead is asked who decides.
        if standing.epoch < self._electorate.epoch:
            self._outputs.append(Send(source.address, encode_electorate_message(self._electorate)))
        elif standing.epoch > self._electorate.epoch:
            known = encode_electorate_message(self._electorate)
            self._outputs.append(Send(source.address, known))

    def advance(self, *, now_ns: int) -> None:
        """Ask again when the interval is over."""
        self._pass(now_ns)
        self._judge()
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + self._interval_ns
        self._sequence += 1
        payload = encode_electorate_message(Survey(self._electorate.epoch, self._sequence))
        hosts = {elector.name: elector.host for elector in (*self._hints, *self._electorate.contacts)}
        hosts |= {one.name: one.host for one in self._candidates.values()}
        self._outputs += [Send(Address(host, self._lease_port), payload) for host in hosts.values()]

    def deadline_ns(self) -> int | None:
        """When to ask next."""
        return self._next_ns

    def drain(self) -> list[Send | Electorate]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def known(self) -> dict[str, Known]:
        """What keepers have said of themselves lately, by name."""
        return {
            name: Known(said.epoch, said.memory, said.voting, said.settled, said.elector, said.misses_other)
            for name, (heard_ns, said) in sorted(self._standings.items())
            if self._now_ns - heard_ns < FRESH_INTERVALS * self._interval_ns
        }

    def proposal(self, *, unchanged_ns: int) -> Electorate | None:
        """The electorate to write next, or None where there is nothing to change, or not yet.

        The first one only after the same agents have been there for `unchanged_ns`, and only where no keeper remembers
        any: what a majority knows is never begun anew.
        """
        known = self.known()
        if self._electorate.epoch == 0:
            same_ns = self._now_ns - self._unchanged_since_ns
            if same_ns < unchanged_ns or any(one.epoch for one in known.values()):
                return None
            # An agent whose keeper does not answer holds the others up for a while, not for ever.
            is_patient = same_ns < 3 * unchanged_ns
            candidates = {name: one for name, one in self._candidates.items() if is_patient or name in known}
            return first_electorate(candidates, known)
        if not self._in_force:
            # Who settles asks the epoch before, and only that one (M3): it must know everything when the next is made.
            return None
        known = {name: self._once_steady(name, one) for name, one in known.items()}
        return step(self._electorate, target(self._electorate, self._candidates, known, self._dead(known)), known)

    def _once_steady(self, name: str, one: Known) -> Known:
        is_steady = self._now_ns - self._steady_since_ns[name] >= STEADY_NS
        return one if is_steady or self._electorate.member(name) is not None else replace(one, voting=False)

    def _dead(self, known: Mapping[str, Known]) -> dict[str, None]:
        dead: dict[str, None] = {}
        for member in self._electorate.members:
            one = known.get(member.name)
            has_other_disk = one is not None and member.memory not in (0, one.memory)
            since_ns = self._missed_since_ns.get(member.name)
            if has_other_disk or (since_ns is not None and self._now_ns - since_ns >= self._down_ns):
                dead[member.name] = None
        return dead

    def _judge(self) -> None:
        known = self.known()
        if not self._in_force and self._electorate.epoch:
            self._in_force = is_in_force(self._electorate, known)
        for member in self._electorate.members:
            one = known.get(member.name)
            if one is not None and member.memory in (0, one.memory):
                self._missed_since_ns.pop(member.name, None)
            else:
                self._missed_since_ns.setdefault(member.name, self._now_ns)

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError("time went backwards")
        self._now_ns = now_ns
