"""The gateway's side of port blocks: whose each block is in this node's kernel, as holder or successor.

It grants nothing. It answers the leader's reads, takes rows from it and, as a holder that never was a successor, from
owners (R3); it says what it has, and tells an owner whose packet it had to drop (Q3).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.errors import InvariantError, PeerError
from service.model.lease import TERM_MAX, Stamp, Token
from service.model.machine import Address, Send, Source
from service.port_block.block import NEVER_GIVEN, TIMES, Members, Row, Times
from service.port_block.gateway_table import GatewayTable, Kernel
from service.port_block.message import (
    POLLED_MAX,
    Ack,
    Batch,
    Correction,
    Entry,
    Grant,
    HeldRow,
    Message,
    Poll,
    Push,
    Read,
    Receiver,
    Table,
    Whole,
    cut,
    decode,
    encode,
    entries_of,
)

CORRECTIONS_MAX = 64
"""Owners told of a dropped packet within one interval; the rest are told by the next packet."""
TABLES_MAX = 16_384
"""Floating IPs that are known here; one more is refused."""
POLLS_MAX = 256
"""Questions that may still be answered."""


@dataclass(frozen=True, slots=True)
class SetOwner:
    """The kernel is to take packets of the block from the row's owner alone; from none where it has none.

    In force before any `Send` behind it leaves (Q3). The row is stored, for the next process; NEVER_GIVEN is none.
    """

    floating_ip: IPv4Address
    block: int
    row: Row


@dataclass(frozen=True, slots=True)
class Trust:
    """The kernel is to go by its rows of the address while the lease is of this tenure, and by none under another (R3).

    So rows that are old when this node comes to hold the address count for nothing, though its agent may be late, or
    dead. Stored in the kernel, for the next process.
    """

    floating_ip: IPv4Address
    tenure: Token


Output = Send | SetOwner | Trust


class GatewayBlocks:
    """Follows the machine contract, on CLOCK_BOOTTIME. Outputs: Send, SetOwner, Trust."""

    def __init__(self, kernel: Kernel, *, now_ns: int, times: Times = TIMES) -> None:
        self._kernel = kernel
        self._times = times
        self._now_ns = now_ns
        self._tables: dict[IPv4Address, GatewayTable] = {}
        self._served: tuple[IPv4Address, ...] = ()
        self._unserved_ns: dict[IPv4Address, int] = {}
        """Of the other tables, since when they are of no use here."""
        self._members: Members = {}
        self._leader: Address | None = None
        self._term_max = TERM_MAX
        self._poll_sequence = now_ns
        self._polled: dict[int, int] = {}
        """When each question left, by its number."""
        self._next_poll_ns = now_ns
        self._corrected: dict[tuple[str, IPv4Address, int], int] = {}
        self._outputs: list[Output] = []

    # Inputs

    def restore(
        self, floating_ip: IPv4Address, rows: Iterable[tuple[int, Row]], trusted: Token | None, *, now_ns: int
    ) -> None:
        """What the kernel has from an earlier process of this boot. Before anything else is told."""
        self._pass(now_ns)
        table = GatewayTable(floating_ip, self._kernel, self._times, self, now_ns=now_ns)
        table.restore(rows, trusted)
        self._tables[floating_ip] = table
        table.observe(now_ns)

    def observe(self, floating_ip: IPv4Address, *, now_ns: int) -> None:
        """The lease of the address has come or gone, as the keeper says: look at once."""
        self._pass(now_ns)
        self._table(floating_ip)

    def serve(self, floating_ips: Collection[IPv4Address], *, now_ns: int) -> None:
        """The addresses that this node holds or stands by for.

        Rows of others are kept for `down_ns`, since a former holder may be asked (Q7); then each of their blocks may
        be another's (Q5, Q9), so they prove nothing to anybody and end, in the kernel too.
        """
        self._pass(now_ns)
        self._served = tuple(sorted(floating_ips))
        for floating_ip in floating_ips:
            self._unserved_ns.pop(floating_ip, None)
        for floating_ip in self._tables.keys() - set(floating_ips):
            self._unserved_ns.setdefault(floating_ip, now_ns)
        self._next_poll_ns = now_ns

    def forget(self, floating_ip: IPv4Address, *, now_ns: int) -> None:
        """It is no floating IP any more; its rows end in the kernel."""
        self._pass(now_ns)
        self._unserved_ns.pop(floating_ip, None)
        table = self._tables.pop(floating_ip, None)
        for block in table.rows if table is not None else ():
            self._outputs.append(SetOwner(floating_ip, block, NEVER_GIVEN))

    def set_members(self, members: Members, *, now_ns: int) -> None:
        """Where to tell an owner that its packet was dropped."""
        self._pass(now_ns)
        self._members = members

    def set_leader(self, leader: Address | None, *, term_max: int, now_ns: int) -> None:
        """Whom to ask, and the highest term that a majority of electors has on disk: none above is believed (Q1)."""
        self._pass(now_ns)
        self._leader, self._term_max = leader, term_max

    def note_foreign(self, floating_ip: IPv4Address, block: int, node: str, *, now_ns: int) -> None:
        """A packet of this node was dropped, because the block is not its own here (Q3)."""
        self._pass(now_ns)
        key = (node, floating_ip, block)
        address = self._members.get(node)
        told_ns = self._corrected.get(key)
        if address is None or (told_ns is not None and now_ns - told_ns < self._times.resend_ns):
            return
        if told_ns is None and len(self._corrected) >= CORRECTIONS_MAX:
            self._corrected = {k: ns for k, ns in self._corrected.items() if now_ns - ns < self._times.resend_ns}
            if len(self._corrected) >= CORRECTIONS_MAX:
                return
        self._corrected[key] = now_ns
        self._correct(address, floating_ip, [block])

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError with nothing changed."""
        message = decode(Receiver.GATEWAY, payload)
        if not isinstance(message, Read | Grant | Push | Whole):
            raise PeerError("port blocks: not for a gateway")
        self._pass(now_ns)
        if len(self._tables) >= TABLES_MAX and self._is_new(message):
            raise PeerError("port blocks: of too many floating IPs")
        match message:
            case Read():
                self._take_read(source, message)
            case Grant():
                self._take_grant(source, message)
            case Push():
                self._take_push(source, message)
            case Whole():
                self._take_whole(message)

    def advance(self, *, now_ns: int) -> None:
        """Ask the leader again whether every row is here, and forget what is of no use."""
        self._pass(now_ns)
        self._forget_unserved()
        if now_ns < self._next_poll_ns:
            return
        self._next_poll_ns = now_ns + self._times.poll_ns
        for start in range(0, len(self._served) if self._leader is not None else 0, POLLED_MAX):
            self._poll(self._served[start : start + POLLED_MAX])

    def deadline_ns(self) -> int | None:
        """When to ask or to forget next."""
        times = [since_ns + self._times.down_ns for since_ns in self._unserved_ns.values()]
        if self._served and self._leader is not None:
            times.append(self._next_poll_ns)
        return min(times, default=None)

    def drain(self) -> list[Output]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def rows(self, floating_ip: IPv4Address) -> dict[int, Row]:
        """What is in force in the kernel, for status."""
        table = self._tables.get(floating_ip)
        return {} if table is None else dict(table.rows)

    # Inside

    def _poll(self, floating_ips: tuple[IPv4Address, ...]) -> None:
        assert self._leader is not None
        sessions = tuple(self._table(floating_ip).session for floating_ip in floating_ips)
        self._poll_sequence += 1
        self._polled[self._poll_sequence] = self._now_ns
        if len(self._polled) > POLLS_MAX:
            del self._polled[next(iter(self._polled))]
        poll = Poll(self._poll_sequence, tuple(int(one) for one in floating_ips), sessions)
        self._send(self._leader, Receiver.LEADER, poll)

    def _forget_unserved(self) -> None:
        for floating_ip, since_ns in list(self._unserved_ns.items()):
            if self._now_ns - since_ns < self._times.down_ns:
                continue
            if self._table(floating_ip).holds:
                self._unserved_ns[floating_ip] = self._now_ns
            else:
                self.forget(floating_ip, now_ns=self._now_ns)

    def _is_new(self, message: Read | Grant | Push | Whole) -> bool:
        match message:
            case Read() | Grant():
                return IPv4Address(message.floating_ip) not in self._tables
            case Push():
                return IPv4Address(message.rows[0].floating_ip) not in self._tables
        return False

    def _take_read(self, source: Source, message: Read) -> None:
        if message.term > self._term_max:
            return
        table = self._table(IPv4Address(message.floating_ip))
        table.read_by(message.term)
        if (message.session, message.edition) == (table.session, table.edition):
            self._answer(source, message, table, 0, 0, cut(())[0])
            return
        batches = cut(Entry(block, row) for block, row in sorted(table.rows.items()))
        for part, batch in enumerate(batches):
            self._answer(source, message, table, part, len(batches), batch)

    def _answer(self, source: Source, message: Read, table: GatewayTable, part: int, parts: int, batch: Batch) -> None:
        edition = (table.term, message.sequence, table.session, table.edition)
        head = (*edition, part, parts, message.floating_ip, table.holds, table.is_whole)
        self._send(source.address, Receiver.LEADER, Table(*head, *batch))

    def _take_grant(self, source: Source, message: Grant) -> None:
        floating_ip = IPv4Address(message.floating_ip)
        table = self._table(floating_ip)
        taken: list[bool] = []
        others: list[Entry] = []
        # Of another session nothing is taken: the leader has to read again (Q7).
        if (message.term, message.session) == (table.term, table.session):
            for entry in entries_of(message.names, message.rows):
                taken.append(table.take_grant(entry, self._now_ns))
                if not taken[-1]:
                    others.append(Entry(entry.block, table.row(entry.block)))
        names, rows = cut(others)[0]
        ack = Ack(message.sequence, table.session, message.floating_ip, table.holds, tuple(taken), names, rows)
        self._send(source.address, Receiver.LEADER, ack)

    def _take_push(self, source: Source, message: Push) -> None:
        number = message.rows[0].floating_ip
        table = self._table(IPv4Address(number))
        taken = tuple(self._take_held(table, source.node, held) for held in message.rows)
        # Whoever knows more than this gateway learns nothing from it, and asks again in its own time.
        newer = [h.block for h in message.rows if table.row(h.block).stamp > Stamp(h.term, h.version)]
        self._correct(source.address, table.floating_ip, newer)
        self._send(source.address, Receiver.OWNER, Ack(message.sequence, 0, number, table.holds, taken))

    def _take_held(self, table: GatewayTable, owner: str, held: HeldRow) -> bool:
        if held.term > self._term_max:
            return False
        row = Row(owner, Stamp(held.term, held.version))
        return table.take_push(held.block, row, is_acknowledged=held.is_acknowledged)

    def _take_whole(self, message: Whole) -> None:
        asked_ns = self._polled.get(message.sequence)
        if asked_ns is None:
            return
        for floating_ip in map(IPv4Address, message.floating_ips):
            # Said by a leader who has read this, and whom no other has followed here.
            if floating_ip in self._tables and self._table(floating_ip).term == message.term:
                self._table(floating_ip).take_whole(asked_ns, self._now_ns)

    def set_owner(self, floating_ip: IPv4Address, block: int, row: Row) -> None:
        """Called by a table."""
        self._outputs.append(SetOwner(floating_ip, block, row))

    def trust(self, floating_ip: IPv4Address, tenure: Token) -> None:
        """Called by a table."""
        self._outputs.append(Trust(floating_ip, tenure))

    def _correct(self, to: Address, floating_ip: IPv4Address, blocks: list[int]) -> None:
        table = self._table(floating_ip)
        known = [Entry(block, table.row(block)) for block in blocks]
        if known:
            # What is left out, with names too long for one datagram, is told at the next packet.
            names, rows = cut(known)[0]
            self._send(to, Receiver.OWNER, Correction(int(floating_ip), names, rows))

    def _table(self, floating_ip: IPv4Address) -> GatewayTable:
        table = self._tables.get(floating_ip)
        if table is None:
            table = GatewayTable(floating_ip, self._kernel, self._times, self, now_ns=self._now_ns)
            self._tables[floating_ip] = table
        table.observe(self._now_ns)
        return table

    def _send(self, to: Address, receiver: Receiver, message: Message) -> None:
        self._outputs.append(Send(to, encode(receiver, message)))

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"time went back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns
