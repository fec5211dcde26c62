"""The owner's side of port blocks: which ones this node may use, when it needs more, and how it gives one back.

A block comes from the leader, and is used when the holder has it in its kernel, and the successor too or half a second
has passed (Q3). Both are asked again and again, so that a gateway that never heard of a block learns it here (R3), and
so that this node knows that nobody took its blocks away while it was cut off (Q9). Without a leader nothing ends (Q6).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import ceil

from service.model.errors import InvariantError, PeerError
from service.model.lease import TERM_MAX, Stamp
from service.model.machine import Address, Send, Source
from service.port_block.block import BLOCK_PORTS, BLOCKS, TIMES, Members, Times
from service.port_block.holding import Holding
from service.port_block.message import (
    PARTS_MAX,
    ROWS_MAX,
    Ack,
    Ask,
    Correction,
    Grant,
    HeldRow,
    Holdings,
    Message,
    Push,
    Read,
    Recall,
    Receiver,
    Return,
    decode,
    encode,
    entries_of,
)
from service.port_block.push import Pushes, Question

HOLDINGS_MAX = 16_384
"""Floating IPs that are known here; one more is refused."""
PUSHED_MAX = 8 * ROWS_MAX
"""Blocks that are pushed to one gateway at once; the rest at the next look."""
RESERVE_S = 3.0
"""A node asks when its free ports last no longer than this at the present rate (Q2): a look at many flows and the pause
after it take over a second, and more has to be there before the one after that."""


@dataclass(frozen=True, slots=True)
class Usable:
    """New flows may take their ports from these blocks and from no others; replaces the last such list."""

    floating_ip: IPv4Address
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndFlows:
    """What flows in this block ends: it is, or was meanwhile, somebody else's."""

    floating_ip: IPv4Address
    block: int


@dataclass(frozen=True, slots=True)
class Store:
    """For the next process of this boot: the block is this node's, and when a holder last said so.

    `stamp` None: it is not. Stored before any `Send` behind it leaves: what was given back is never taken up again.
    """

    floating_ip: IPv4Address
    block: int
    stamp: Stamp | None
    contact_ns: int | None


Output = Send | Usable | EndFlows | Store


class OwnerBlocks:
    """Follows the machine contract, on CLOCK_BOOTTIME. Outputs: Send, Usable, EndFlows, Store."""

    def __init__(self, node: str, start_id: int, *, remembers_since_ns: int, now_ns: int, times: Times = TIMES) -> None:
        """`remembers_since_ns` is when the store was made that `restore` is read from; never later than any block."""
        self._name, self._start_id = node, start_id
        self._remembers_since_ns = remembers_since_ns
        self._times = times
        self._now_ns = now_ns
        self._holdings: dict[IPv4Address, Holding] = {}
        self._waiting: dict[IPv4Address, None] = {}
        """Of which something is to be had from the leader, or to be acknowledged by it."""
        self._pushes = Pushes(times, now_ns=now_ns)
        self._members: Members = {}
        self._leader: Address | None = None
        self._term = 0
        self._term_max = TERM_MAX
        self._edition = now_ns
        self._next_ask_ns = now_ns
        self._told: dict[IPv4Address, tuple[int, ...]] = {}
        self._outputs: list[Output] = []

    # Inputs

    def restore(
        self, floating_ip: IPv4Address, blocks: Iterable[tuple[int, Stamp, int | None]], *, now_ns: int
    ) -> None:
        """What an earlier process of this boot has stored: block, stamp, and its last contact."""
        self._pass(now_ns)
        holding = self._holding(floating_ip)
        for block, stamp, contact_ns in blocks:
            holding.grant(block, stamp, "", now_ns)
            holding.blocks[block].contact_ns = contact_ns
        self._pushes.wake(floating_ip, now_ns)
        self._changed(floating_ip)

    def set_members(self, members: Members, *, now_ns: int) -> None:
        """Where the gateways' sockets are."""
        self._pass(now_ns)
        self._members = members

    def set_leader(self, leader: Address | None, *, term_max: int, now_ns: int) -> None:
        """Whom to ask, and the highest term that a majority of electors has on disk: none above is believed (Q1)."""
        self._pass(now_ns)
        self._leader, self._term_max = leader, term_max

    def set_way(self, floating_ip: IPv4Address, holder: str, successor: str, *, now_ns: int) -> None:
        """Who holds the address now, and who comes next, as the datapath goes by it; empty where nobody is known."""
        self._pass(now_ns)
        holding = self._holding(floating_ip)
        if (holding.holder, holding.successor) != (holder, successor):
            holding.holder, holding.successor, holding.way_ns = holder, successor, now_ns
            self._pushes.wake(floating_ip, now_ns)
            self._changed(floating_ip)

    def forget(self, floating_ip: IPv4Address, *, now_ns: int) -> None:
        """It is no floating IP any more: what this node had of it ends."""
        self._pass(now_ns)
        holding = self._holdings.pop(floating_ip, None)
        self._pushes.forget(floating_ip)
        self._file(floating_ip)
        if holding is None:
            return
        # Whoever did not hear that it was listed no more is to hear that this node has nothing of it now.
        self._edition += 1
        if self._told.pop(floating_ip, ()):
            # First: what ends is made anew by its pod's next packet.
            self._outputs.append(Usable(floating_ip, ()))
        self._outputs += [EndFlows(floating_ip, block) for block in holding.blocks]
        self._outputs += [Store(floating_ip, block, None, None) for block in holding.blocks]

    def note_use(self, floating_ip: IPv4Address, ports_free: int, ports_per_s: float, *, now_ns: int) -> None:
        """How many ports are free towards the remote where they run out first, and how fast new flows want them."""
        self._pass(now_ns)
        holding = self._holding(floating_ip)
        short = ports_per_s * RESERVE_S - ports_free
        have = len(holding.blocks)
        holding.wanted = have
        if short > 0:
            holding.wanted = min(BLOCKS, have + ceil(short / BLOCK_PORTS))
            if holding.keep():
                self._changed(floating_ip)
        self._file(floating_ip)

    def note_scan(self, floating_ip: IPv4Address, live: Collection[int], *, begun_ns: int, now_ns: int) -> None:
        """A scan of the flows that began then found some in these blocks: live, ended or in TIME_WAIT (Q5)."""
        self._pass(now_ns)
        gone = self._holding(floating_ip).let_go(live, begun_ns)
        for block in gone:
            self._outputs.append(Store(floating_ip, block, None, None))
        if gone:
            self._changed(floating_ip)
            self._return(floating_ip)

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError with nothing changed."""
        message = decode(Receiver.OWNER, payload)
        if not isinstance(message, Read | Grant | Ack | Recall | Correction):
            raise PeerError("port blocks: not for an owner")
        self._pass(now_ns)
        is_new = isinstance(message, Grant | Correction) and IPv4Address(message.floating_ip) not in self._holdings
        if is_new and len(self._holdings) >= HOLDINGS_MAX:
            raise PeerError("port blocks: of too many floating IPs")
        match message:
            case Read() if self._is_believed(message.term):
                self._answer(source, message)
            # What was said to an earlier process may have been given back by it.
            case Grant() if message.session == self._start_id and self._is_believed(message.term):
                self._take_grant(source, message)
            case Recall() if self._is_believed(message.term):
                self._call_back(message)
            case Ack():
                self._take_ack(source, message)
            case Correction():
                self._take_correction(source, message)

    def advance(self, *, now_ns: int) -> None:
        """Push, ask and give back again what was not answered."""
        self._pass(now_ns)
        for floating_ip in self._pushes.due(now_ns):
            self._push(floating_ip)
            self._tell(floating_ip)
        # Whoever becomes short later asks at once, and not so long after another timer.
        if self._waiting and now_ns >= self._next_ask_ns:
            self._next_ask_ns = now_ns + self._times.ask_ns
            for floating_ip in self._waiting:
                self._ask(floating_ip)
                self._return(floating_ip)

    def deadline_ns(self) -> int | None:
        """When `advance` has something to do next."""
        due_ns = self._pushes.deadline_ns()
        asks = [self._next_ask_ns] if self._waiting and self._leader is not None else []
        return min([*asks, *([due_ns] if due_ns is not None else [])], default=None)

    def drain(self) -> list[Output]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def usable(self, floating_ip: IPv4Address) -> tuple[int, ...]:
        """What new flows may use now."""
        holding = self._holdings.get(floating_ip)
        return () if holding is None else tuple(holding.usable(self._now_ns))

    # The leader's word

    def _is_believed(self, term: int) -> bool:
        if not self._term <= term <= self._term_max:
            return False
        self._term = term
        return True

    def _answer(self, source: Source, message: Read) -> None:
        head = (self._term, message.sequence, self._edition, self._now_ns - self._remembers_since_ns)
        if message.edition == self._edition:
            self._send(source.address, Receiver.LEADER, Holdings(*head, 0, 0, ()))
            return
        rows = [
            HeldRow(int(floating_ip), block, *one.stamp)
            for floating_ip, holding in sorted(self._holdings.items())
            for block, one in sorted(holding.blocks.items())
        ]
        parts = [tuple(rows[start : start + ROWS_MAX]) for start in range(0, len(rows), ROWS_MAX)] or [()]
        for part, some in enumerate(parts[:PARTS_MAX]):
            self._send(source.address, Receiver.LEADER, Holdings(*head, part, len(parts), some))

    def _take_grant(self, source: Source, message: Grant) -> None:
        floating_ip = IPv4Address(message.floating_ip)
        holding = self._holding(floating_ip)
        over: list[int] = []
        for entry in entries_of(message.names, message.rows):
            if entry.row.owner == self._name:
                if holding.grant(entry.block, entry.row.stamp, message.successor, self._now_ns):
                    over.append(entry.block)
                self._store(floating_ip, entry.block)
            elif self._lose(floating_ip, entry.block, entry.row.stamp):
                over.append(entry.block)
        self._end_flows(floating_ip, over)
        self._pushes.wake(floating_ip, self._now_ns)
        self._push(floating_ip)
        self._changed(floating_ip)
        # Heard, that is: what it had let go of is not taken again.
        taken = (True,) * len(message.rows)
        self._send(source.address, Receiver.LEADER, Ack(message.sequence, 0, message.floating_ip, False, taken))

    def _call_back(self, message: Recall) -> None:
        floating_ip = IPv4Address(message.floating_ip)
        holding = self._holdings.get(floating_ip)
        is_spare = holding is not None and holding.wanted <= len(holding.blocks)
        if holding is not None and is_spare and holding.call_back(message.count, self._now_ns):
            self._changed(floating_ip)

    # The gateways' word

    def _take_ack(self, source: Source, message: Ack) -> None:
        for question, block, stamp, is_taken in self._pushes.answered(message.sequence, source.node, message.taken):
            one = self._holding(question.floating_ip).blocks.get(block)
            if one is not None and one.stamp == stamp and not is_taken:
                one.acknowledged_by.pop(source.node, None)
            elif one is not None and one.stamp == stamp:
                one.acknowledge(source.node, holds=message.holds, sent_ns=question.sent_ns)
                self._store(question.floating_ip, block)
        self._tell(IPv4Address(message.floating_ip))

    def _take_correction(self, source: Source, message: Correction) -> None:
        floating_ip = IPv4Address(message.floating_ip)
        holding = self._holding(floating_ip)
        over: list[int] = []
        for entry in entries_of(message.names, message.rows):
            one = holding.blocks.get(entry.block)
            # Where it was not known to be this node's, a flow was sent with a port of it all the same.
            if entry.row.owner != self._name and (self._lose(floating_ip, entry.block, entry.row.stamp) or one is None):
                over.append(entry.block)
            if one is not None and one.stamp > entry.row.stamp:
                # It knows less than this node does, and drops its packets (R3).
                one.acknowledged_by.pop(source.node, None)
                self._pushes.wake(floating_ip, self._now_ns)
        self._end_flows(floating_ip, over)
        self._changed(floating_ip)

    def _lose(self, floating_ip: IPv4Address, block: int, stamp: Stamp) -> bool:
        is_lost = self._holding(floating_ip).lose(block, stamp)
        self._file(floating_ip)
        return is_lost

    def _end_flows(self, floating_ip: IPv4Address, blocks: Collection[int]) -> None:
        """What ends is made anew by its pod's next packet: from then on not with a port of these blocks again."""
        if not blocks:
            return
        self._tell(floating_ip)
        self._outputs += [EndFlows(floating_ip, block) for block in blocks]
        own = self._holding(floating_ip).blocks
        self._outputs += [Store(floating_ip, block, None, None) for block in blocks if block not in own]

    # Sending

    def _push(self, floating_ip: IPv4Address) -> None:
        holding = self._holding(floating_ip)
        is_open = False
        for gateway in holding.gateways:
            blocks = self._pushes.open(holding, gateway, self._now_ns)
            is_open = is_open or bool(blocks)
            address = self._members.get(gateway)
            for start in range(0, min(len(blocks), PUSHED_MAX) if address is not None else 0, ROWS_MAX):
                self._push_some(floating_ip, gateway, blocks[start : start + ROWS_MAX])
        self._pushes.again(floating_ip, holding, is_open=is_open, now_ns=self._now_ns)

    def _push_some(self, floating_ip: IPv4Address, gateway: str, blocks: list[int]) -> None:
        own = self._holding(floating_ip).blocks
        asked = tuple((block, own[block].stamp) for block in blocks)
        sequence = self._pushes.ask(Question(gateway, floating_ip, asked, self._now_ns))
        rows = tuple(
            HeldRow(int(floating_ip), block, *stamp, own[block].is_acknowledged(self._times, self._now_ns))
            for block, stamp in asked
        )
        self._send(self._members[gateway], Receiver.GATEWAY, Push(sequence, rows))

    def _ask(self, floating_ip: IPv4Address) -> None:
        holding = self._holdings[floating_ip]
        if holding.wanted > len(holding.blocks) and self._leader is not None:
            self._send(self._leader, Receiver.LEADER, Ask(int(floating_ip), holding.wanted))

    def _return(self, floating_ip: IPv4Address) -> None:
        returned = sorted(self._holdings[floating_ip].returned.items())[:ROWS_MAX]
        if returned and self._leader is not None:
            rows = tuple(HeldRow(int(floating_ip), block, *stamp) for block, stamp in returned)
            self._send(self._leader, Receiver.LEADER, Return(rows))

    def _send(self, to: Address, receiver: Receiver, message: Message) -> None:
        self._outputs.append(Send(to, encode(receiver, message)))

    # Inside

    def _store(self, floating_ip: IPv4Address, block: int) -> None:
        one = self._holding(floating_ip).blocks.get(block)
        if one is not None:
            self._outputs.append(Store(floating_ip, block, one.stamp, one.contact_ns))

    def _changed(self, floating_ip: IPv4Address) -> None:
        self._file(floating_ip)
        self._edition += 1
        self._tell(floating_ip)

    def _tell(self, floating_ip: IPv4Address) -> None:
        blocks = tuple(self._holding(floating_ip).usable(self._now_ns))
        if blocks != self._told.get(floating_ip, ()):
            self._told[floating_ip] = blocks
            self._outputs.append(Usable(floating_ip, blocks))

    def _file(self, floating_ip: IPv4Address) -> None:
        """Its holding may be another one than before."""
        holding = self._holdings.get(floating_ip)
        if holding is not None and (holding.returned or holding.wanted > len(holding.blocks)):
            self._waiting[floating_ip] = None
        else:
            self._waiting.pop(floating_ip, None)

    def _holding(self, floating_ip: IPv4Address) -> Holding:
        holding = self._holdings.get(floating_ip)
        if holding is None:
            holding = self._holdings[floating_ip] = Holding(self._times)
        return holding

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"time went back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns
