"""How an elector settles in a new epoch: it learns what was promised before it (leases.md, M3).

An elector that has accepted an epoch answers in no older one. Once so many members of the epoch before have left it
that the rest is no majority, nothing more can be promised there; and what was, at least one of those who left knows. So
their promises and tokens, taken together, are everything. Until an elector has them it answers as not settled, and a
holder needs majorities of both epochs, among which there is always one that knows.
"""

from dataclasses import dataclass

from service.lease.electorate_message import Transfer, TransferQuery, TransferRow, encode_electorate_message
from service.lease.promise import Identity, Instant, Promise
from service.model.lease import Electorate
from service.model.machine import Address, Send

ASK_INTERVAL_NS = 50_000_000
"""Between two questions to one that has not answered. Leases go on meanwhile, by majorities of both epochs."""
DISPUTED = Identity("", bytes(16))
"""Holder of a key that different electors promised to two sessions: it is nobody's until both promises are over."""


@dataclass(slots=True)
class _Answer:
    """The parts of one elector's answer to one question."""

    sequence: int
    parts: dict[int, tuple[TransferRow, ...]]


class Settlement:
    """Asks the other electors of both epochs until enough is known."""

    next_ns: int
    """When to ask again (CLOCK_BOOTTIME)."""
    heard: dict[str, tuple[TransferRow, ...]]
    """Whole answers of electors that vote and have left the epoch before."""
    _settled: dict[str, None]
    """Those of `heard` that are settled themselves: what they say is everything, not their share of it."""

    def __init__(self, electorate: Electorate, *, node: str, lease_port: int, now_ns: int) -> None:
        self._electorate = electorate
        self._node = node
        self._addresses = {
            elector.name: Address(elector.host, lease_port) for elector in electorate.contacts if elector.name != node
        }
        self.next_ns = now_ns
        # Never a sequence of an earlier process at this address, whose answers may still come.
        self._sequence = now_ns
        self._partial: dict[str, _Answer] = {}
        self.heard, self._settled = {}, {}

    def ask(self, now_ns: int) -> list[Send]:
        """Questions that are due to those who have not answered yet."""
        if now_ns < self.next_ns:
            return []
        self.next_ns = now_ns + ASK_INTERVAL_NS
        self._sequence += 1
        payload = encode_electorate_message(TransferQuery(self._electorate.epoch, self._sequence))
        return [Send(address, payload) for name, address in self._addresses.items() if name not in self.heard]

    def take(self, node: str, transfer: Transfer) -> None:
        """Count one part of an answer; an answer counts when it is whole."""
        # In its silence (P2) an elector has forgotten what it promised: its word says nothing.
        if node not in self._addresses or transfer.epoch != self._electorate.epoch or not transfer.voting:
            return
        answer = self._partial.get(node)
        if answer is None or answer.sequence < transfer.sequence:
            answer = self._partial[node] = _Answer(transfer.sequence, {})
        if answer.sequence != transfer.sequence:
            # Parts of two answers do not make one: a promise made between them could be in neither.
            return
        answer.parts[transfer.part] = transfer.rows
        if len(answer.parts) == transfer.parts:
            self.heard[node] = tuple(row for _, rows in sorted(answer.parts.items()) for row in rows)
            if transfer.settled:
                self._settled[node] = None

    def is_complete(self) -> bool:
        """Whether what was heard, with what the asking elector knows itself, is everything."""
        # So many have left the epoch before that nothing more can be granted there, and every majority that ever was
        # one there has at least one of them in it.
        if self._electorate.is_closed_by((self._node, *self.heard)):
            return True
        # Where the epoch before is gone for good: a majority of this one that is settled knows it all.
        return self._electorate.has_quorum(dict.fromkeys(self._settled, True))


def inherit(promise: Promise, row: TransferRow, now: Instant) -> None:
    """Let the promise say what the row says, too. It never ends earlier than either (P1)."""
    promise.token = max(promise.token, row.token)
    if row.holder is None:
        return
    until = now.later_by(row.remaining_ns)
    if promise.is_over(now):
        # Of its own it has nothing that is alive. The row's rest counts from now, after the answer was received: longer
        # by the answer's way than where it was promised, never shorter.
        promise.grant(row.holder, row.start_id, promise.token, until)
        return
    promise.extend(until)
    if promise.holder != row.holder:
        # One of the two never had a majority, but which is not known here.
        promise.holder, promise.start_id = DISPUTED, 0
