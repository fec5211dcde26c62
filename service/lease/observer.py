"""Who holds what, as a majority of electors says it (rule S2).

The leader asks all electors and counts. It learns which keys nobody holds without any elector deciding it alone, and it
never acts on one elector's word: a minority may remember a promise that was never a lease.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from service.lease.message import Query, Report, Row, decode, encode
from service.lease.tenure import Grant, quorum_deadline
from service.model.errors import InvariantError, PeerError
from service.model.lease import ZERO_TOKEN, Electorate, Token
from service.model.machine import Address, Send, Source

FRESH_INTERVALS = 3
"""Reports older than so many intervals are not counted."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One key as a majority knows it."""

    node: str | None
    """Whom a majority has promised it to; None where a majority has promised it to nobody."""
    token: Token
    """The highest token that any counted elector has granted."""
    age_ns: int
    """How long ago the oldest counted elector was asked."""
    remaining_ns: int = 0
    """How long the promises that make the majority last at most, without renewal, from when they were reported."""
    node_token: Token = ZERO_TOKEN
    """The highest token among the promises to `node`; below `token` where a minority has promised it to another."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The table at this time; replaces the last one.

    Only sent while a majority answers. A key no elector has ever granted is absent, which is to say vacant. A key about
    which electors disagree so that there is no majority either way is in `undecided`: it is about to change.
    """

    table: Mapping[str, Observation]
    undecided: tuple[str, ...] = ()


@dataclass(slots=True)
class _Answer:
    """The parts of one elector's report on one question."""

    asked_ns: int
    """When the question left: the report is true of some moment since."""
    sequence: int
    voting: bool
    settled: bool
    parts: dict[int, tuple[Row, ...]]
    """By number, as they come; whole when there are as many as each of them says."""

    def rows(self) -> dict[str, Row]:
        return {row.key: row for _, rows in sorted(self.parts.items()) for row in rows}


class Observer:
    """Asks every elector each interval. Follows the machine contract. Outputs: Send, Observed."""

    _asked: dict[int, int]
    """When each question left that may still be answered, by sequence. The rest of the answers come too late."""
    _partial: dict[str, _Answer]
    """The newest answer of each elector, whole or not."""
    _answers: dict[str, tuple[_Answer, dict[str, Row]]]
    """The last whole answer of each elector, and its table."""

    def __init__(self, *, electorate: Electorate, lease_port: int, interval_ns: int, now_ns: int) -> None:
        self._electorate = electorate
        self._lease_port = lease_port
        self._addresses = self._addresses_of(electorate)
        self._interval_ns = interval_ns
        self._now_ns = now_ns
        self._next_ns = now_ns
        # Never a sequence of an earlier process at this address, whose answers may still come.
        self._sequence = now_ns
        self._asked, self._partial, self._answers = {}, {}, {}
        self._since_ns = now_ns
        self._voted_ns: dict[str, int] = {}
        self._outputs: list[Send | Observed] = []
        self.epoch_in_force = 0
        """The newest epoch that a majority of its members was seen settled in (M3); once true of one it stays true."""

    def _addresses_of(self, electorate: Electorate) -> dict[str, Address]:
        return {elector.name: Address(elector.host, self._lease_port) for elector in electorate.contacts}

    def set_electorate(self, electorate: Electorate, *, now_ns: int) -> None:
        """Ask a newer electorate from now on. What the one before said is not counted with it (M4)."""
        self._pass(now_ns)
        if electorate.epoch <= self._electorate.epoch:
            return
        self._electorate = electorate
        self._addresses = self._addresses_of(electorate)
        self._partial.clear()
        self._answers.clear()
        self._since_ns = now_ns
        self._voted_ns.clear()
        self._next_ns = now_ns

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one part of a report. Raises PeerError, with nothing changed, where it is not one of this electorate."""
        message = decode(payload)
        self._pass(now_ns)
        if not isinstance(message, Report):
            raise PeerError("lease datagram: not for an observer")
        if message.epoch != self._electorate.epoch:
            raise PeerError(f"lease datagram: epoch {message.epoch}, ours is {self._electorate.epoch}")
        if source.node not in self._addresses:
            raise PeerError(f"lease datagram: {source.node} is no elector")
        asked_ns = self._asked.get(message.sequence)
        answer = self._partial.get(source.node)
        # An answer is as old as its question (as P5 has it for grants): one to no question of ours says nothing.
        if asked_ns is None or (answer is not None and answer.sequence > message.sequence):
            return
        if answer is None or answer.sequence < message.sequence:
            answer = self._partial[source.node] = _Answer(
                asked_ns, message.sequence, message.voting, message.settled, {}
            )
        answer.parts[message.part] = message.rows
        if len(answer.parts) == message.parts:
            # Only a whole report is counted: a key missing from a half one would pass for vacant.
            self._answers[source.node] = (answer, answer.rows())
            if answer.voting:
                self._voted_ns[source.node] = now_ns
            self._observe()

    def advance(self, *, now_ns: int) -> None:
        """Ask again when the interval is over."""
        self._pass(now_ns)
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + self._interval_ns
        self._sequence += 1
        self._asked[self._sequence] = now_ns
        for sequence in [sequence for sequence in self._asked if sequence <= self._sequence - FRESH_INTERVALS]:
            del self._asked[sequence]
        payload = encode(Query(self._electorate.epoch, self._sequence))
        self._outputs += [Send(address, payload) for address in self._addresses.values()]

    def deadline_ns(self) -> int | None:
        """When to ask next."""
        return self._next_ns

    def silent_since(self, before_ns: int) -> dict[str, int]:
        """Electors that have not said since `before_ns` that they vote, by name, with when each last did.

        Who never did counts from when it was first asked in this epoch.
        """
        heard = {name: self._voted_ns.get(name, self._since_ns) for name in self._addresses}
        return {name: since_ns for name, since_ns in heard.items() if since_ns < before_ns}

    def drain(self) -> list[Send | Observed]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError("time went backwards")
        self._now_ns = now_ns

    def _observe(self) -> None:
        fresh_ns = self._now_ns - FRESH_INTERVALS * self._interval_ns
        # An elector in its silence (P2) has forgotten what it promised: its empty table says nothing.
        counted = {
            name: (answer, rows)
            for name, (answer, rows) in self._answers.items()
            if answer.asked_ns >= fresh_ns and answer.voting
        }
        if not self._electorate.has_quorum({name: answer.settled for name, (answer, _) in counted.items()}):
            return
        if self._electorate.has_quorum({name: True for name, (answer, _) in counted.items() if answer.settled}):
            self.epoch_in_force = self._electorate.epoch
        age_ns = self._now_ns - min(answer.asked_ns for answer, _ in counted.values())
        table: dict[str, Observation] = {}
        undecided = []
        for key in sorted({key: None for _, rows in counted.values() for key in rows}):
            observation = self._count(
                {name: (answer.settled, rows.get(key)) for name, (answer, rows) in counted.items()}, age_ns
            )
            if observation is None:
                undecided.append(key)
            else:
                table[key] = observation
        self._outputs.append(Observed(table, tuple(undecided)))

    def _count(self, said: Mapping[str, tuple[bool, Row | None]], age_ns: int) -> Observation | None:
        """What a quorum says of one key, somebody or nobody; None where no quorum says the same."""
        votes: dict[str | None, dict[str, tuple[bool, Row | None]]] = {}
        for name, (settled, row) in said.items():
            # Who has never granted a key has promised it to nobody.
            votes.setdefault(row.node if row is not None else None, {})[name] = (settled, row)
        token = max((row.token for _, row in said.values() if row is not None), default=ZERO_TOKEN)
        for node, voters in votes.items():
            grants = {
                name: Grant(row.token, row.remaining_ms, settled) if row else Grant(ZERO_TOKEN, 0, settled)
                for name, (settled, row) in voters.items()
            }
            # The rule by which its holder counts, too (T4), but of whole leases: the holder has let go before (T2).
            last_ms = quorum_deadline(grants, self._electorate)
            if last_ms is not None:
                highest = max((grant.token for grant in grants.values()), default=ZERO_TOKEN)
                return Observation(node, token, age_ns, last_ms * 1_000_000, highest)
        return None
