"""The leader's side of port blocks: which node has which block of each floating IP (Q1, Q2, Q5).

One machine per term. It reads before it changes: each gateway of an address, which from then on listens to no leader
before this one, and each member. A block is given away only where the table is complete (Q7): no node can be using it.
"""

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address
from itertools import count

from service.model.errors import InvariantError, PeerError
from service.model.lease import Stamp
from service.model.machine import Address, Send, Source
from service.port_block.allotment import allot
from service.port_block.block import BLOCKS, TIMES, Row, Times, base_blocks
from service.port_block.evidence import Judge, Judgement, Witness, judge, merge
from service.port_block.gateway_view import GatewayView
from service.port_block.leader_table import WISH_ASKS, LeaderTable
from service.port_block.message import (
    ROWS_MAX,
    Ack,
    Ask,
    Entry,
    Grant,
    Holdings,
    Message,
    Poll,
    Read,
    Recall,
    Receiver,
    Return,
    Table,
    Whole,
    cut,
    decode,
    encode,
    entries_of,
)
from service.port_block.owner_view import OwnerView
from service.port_block.poll import answer_poll
from service.port_block.record import BlockMoved, Cause, TableRead
from service.port_block.stamps import Stamps
from service.port_block.unanswered import Sent, Unanswered
from service.port_block.way import LeaderMember, Way

TABLES_AT_ONCE, OUTPUTS_AT_ONCE = 8, 512
"""Floating IPs that are looked at in one step, and outputs that it brings, about; the rest follows 5 ms later."""
SENT_ROWS_MAX = 8 * ROWS_MAX
"""Rows that are sent to one peer at once; the rest follows when they are acknowledged."""


class LeaderBlocks:
    """Follows the machine contract, on CLOCK_BOOTTIME. Outputs: Send, BlockMoved, TableRead."""

    def __init__(
        self, *, term: int, now_ns: int, times: Times = TIMES, blocks: int = BLOCKS, quota: int = BLOCKS // 2
    ) -> None:
        """`quota` is the most blocks that one node may have of one floating IP."""
        self.term = term
        self._stamps = Stamps(term)
        self._reads = count(1)
        self._times, self._blocks, self._quota = times, blocks, quota
        self._began_ns = self._now_ns = self._tick_ns = self._recall_ns = self._sweep_ns = now_ns
        self._leads_until_ns = now_ns
        self._owners: dict[str, OwnerView] = {}
        self._members = 0
        self._tables: dict[IPv4Address, LeaderTable] = {}
        self._changed: dict[IPv4Address, None] = {}
        """Of which something has happened since it was looked at."""
        self._has_news = True  # For gateways or owners, perhaps; else only time makes one due.
        self._unanswered = Unanswered(now_ns)
        self._outputs: list[Send | BlockMoved | TableRead] = []

    # Inputs

    def set_leading_until(self, until_ns: int, *, now_ns: int) -> None:
        """Until when the lease of leadership lives, as its holder counts it; after that nothing is sent (Q7)."""
        self._pass(now_ns)
        self._leads_until_ns = until_ns

    def set_members(self, members: Mapping[str, LeaderMember], *, now_ns: int) -> None:
        """Every node that may have a block. One that is left out counts as Down for good."""
        self._pass(now_ns)
        self._has_news |= members.keys() != self._owners.keys()
        for name, member in sorted(members.items()):
            if name not in self._owners:
                self._owners[name] = OwnerView(name, member.address, self._times, now_ns=now_ns)
                for floating_ip, table in self._tables.items():
                    self._learn(floating_ip, table, self._owners[name])
            self._owners[name].see(member.address, is_up=member.is_up, now_ns=now_ns)
        for view in (view for name, view in self._owners.items() if name not in members):
            view.see(view.address, is_up=False, now_ns=now_ns)
        self._members = len(members)

    def set_floating_ips(self, ways: Mapping[IPv4Address, Way], *, now_ns: int) -> None:
        """Every floating IP and where it is. The members must be known."""
        self._pass(now_ns)
        for floating_ip in [one for one in self._tables if one not in ways]:
            del self._tables[floating_ip]
            for owner in self._owners.values():
                owner.forget(floating_ip)
        for floating_ip, way in sorted(ways.items()):
            table = self._tables.get(floating_ip)
            if table is None:
                quiet_until_ns = now_ns if way.is_new else self._began_ns + self._times.settle_ns
                table = LeaderTable(blocks=self._blocks, rest_ns=self._times.rest_ns, quiet_until_ns=quiet_until_ns)
                self._tables[floating_ip], table.is_new = table, way.is_new
            self._set_way(floating_ip, table, way)

    def set_demand(self, demand: Mapping[IPv4Address, Collection[str]], *, now_ns: int) -> None:
        """The nodes that a selected pod of the address is bound to, whether it runs or not (Q2)."""
        self._pass(now_ns)
        for floating_ip, table in self._tables.items():
            nodes = tuple(sorted(demand.get(floating_ip, ())))
            if nodes != table.demand:
                table.demand = nodes
                self._change(floating_ip)

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError with nothing changed."""
        message = decode(Receiver.LEADER, payload)
        if not isinstance(message, Table | Holdings | Ack | Ask | Return | Poll):
            raise PeerError("port blocks: not for a leader")
        self._pass(now_ns)
        owner = self._owners.get(source.node)
        if owner is None:
            return
        self._has_news |= not isinstance(message, Poll)
        if isinstance(message, Table | Holdings):
            if message.term != self.term:
                return
            if owner.is_followed_by(source.start_id, message.sequence):
                self._begin(owner, source.start_id)
        if not owner.is_current(source.start_id):
            owner.doubt(now_ns)
            return
        match message:
            case Table():
                self._take_table(source, message)
            case Holdings():
                self._take_holdings(owner, message)
            case Ack():
                self._take_ack(source, owner, message)
            case Ask():
                self._take_ask(owner, message)
            case Return():
                self._take_return(owner, message)
            case Poll():
                self._take_poll(source, message)

    def _begin(self, owner: OwnerView, start_id: int) -> None:
        owner.begin(start_id, self._now_ns)
        for table in self._tables.values():
            view = table.gateways.get(owner.name)
            if view is not None:
                view.close(self._now_ns)

    def advance(self, *, now_ns: int) -> None:
        """Read, give, take back, call back, and send again what was not acknowledged."""
        self._pass(now_ns)
        if now_ns < self._tick_ns or not self._leads:
            return
        # What ends by time is looked for now and then, all else at once; a few of them, since leases wait meanwhile.
        if now_ns >= self._recall_ns:
            self._recall_ns = now_ns + self._times.recall_ns
            self._changed.update(dict.fromkeys(self._tables))
        is_more = len(self._changed) > TABLES_AT_ONCE
        for floating_ip in list(self._changed)[:TABLES_AT_ONCE]:
            del self._changed[floating_ip]
            if floating_ip in self._tables:
                self._work(floating_ip, self._tables[floating_ip])
        if self._has_news or now_ns >= self._sweep_ns:
            self._speak()
        self._tick_ns = now_ns + (self._times.push_ns if is_more or self._has_news else self._times.resend_ns)

    def deadline_ns(self) -> int | None:
        """When `advance` has something to do next; None when leadership is over."""
        return max(self._tick_ns, self._now_ns) if self._leads else None

    def drain(self) -> list[Send | BlockMoved | TableRead]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # What is told

    def shortages(self) -> dict[IPv4Address, dict[str, int]]:
        """How many blocks of their base nodes lack, where there are none: a condition says so (Q2)."""
        return {floating_ip: dict(table.short) for floating_ip, table in self._tables.items() if table.short}

    def counts(self, floating_ip: IPv4Address) -> dict[str, int]:
        """How many blocks each node has that has any."""
        table = self._tables.get(floating_ip)
        return {} if table is None else table.counts()

    def is_complete(self, floating_ip: IPv4Address) -> bool:
        """Whether blocks are given (Q7)."""
        table = self._tables.get(floating_ip)
        return table is not None and table.is_complete

    # Reading

    def _set_way(self, floating_ip: IPv4Address, table: LeaderTable, way: Way) -> None:
        names = [name for name in dict.fromkeys((way.holder, way.successor)) if name in self._owners]
        if set(names) == set(table.gateways) and table.successor == way.successor:
            return
        if table.gateways:
            table.quiet_until_ns = max(table.quiet_until_ns, self._now_ns + self._times.settle_ns)
        for name in [name for name in table.gateways if name not in names]:
            del table.gateways[name]
        for name in names:
            if name not in table.gateways:
                address = self._owners[name].address
                table.gateways[name] = GatewayView(name, address, self._times, now_ns=self._now_ns)
        table.successor = way.successor
        self._change(floating_ip)

    def _take_table(self, source: Source, message: Table) -> None:
        floating_ip = IPv4Address(message.floating_ip)
        table = self._tables.get(floating_ip)
        view = table.gateways.get(source.node) if table is not None else None
        if table is None or view is None or not view.take_table(message, self._now_ns):
            return
        if table.is_complete:
            self._weigh(floating_ip, table, view.rows, Witness.of_gateway(holds=view.holds), judge)
            table.open(view, self._now_ns)
        self._change(floating_ip)

    def _take_holdings(self, owner: OwnerView, message: Holdings) -> None:
        if not owner.take_holdings(message, self._now_ns):
            return
        for floating_ip, table in self._tables.items():
            if table.is_complete:
                self._hear(floating_ip, table, owner, judge)
                self._learn(floating_ip, table, owner)
            else:
                # It may have waited for this member alone.
                self._change(floating_ip)
        self._tick_ns = self._now_ns

    def _complete(self, floating_ip: IPv4Address, table: LeaderTable, holder: GatewayView) -> None:
        """Make the table of what was read: what the holder has, and what the members say."""
        table.is_complete = True
        self._weigh(floating_ip, table, holder.rows, Witness.HOLDER, merge)
        for owner in self._owners.values():
            self._hear(floating_ip, table, owner, judge if holder.is_whole else merge)
        for view in table.gateways.values():
            self._weigh(floating_ip, table, view.rows, Witness.of_gateway(holds=view.holds), judge)
            table.open(view, self._now_ns)
        for owner in self._owners.values():
            self._learn(floating_ip, table, owner)

    def _hear(self, floating_ip: IPv4Address, table: LeaderTable, owner: OwnerView, weigh: Judge) -> None:
        rows = {block: Row(owner.name, stamp) for block, stamp in owner.known.get(floating_ip, {}).items()}
        self._weigh(floating_ip, table, rows, Witness.OWNER, weigh)

    def _weigh(
        self, floating_ip: IPv4Address, table: LeaderTable, rows: Mapping[int, Row], witness: Witness, weigh: Judge
    ) -> None:
        for block, row in sorted(rows.items()):
            if block < self._blocks:
                verdict = weigh(table.rows.get(block), row, witness, term=self.term)
                self._settle(floating_ip, table, block, row, verdict)

    def _settle(self, floating_ip: IPv4Address, table: LeaderTable, block: int, row: Row, verdict: Judgement) -> None:
        match verdict:
            case Judgement.TAKE:
                self._set(floating_ip, table, block, row, Cause.RECLAIMED if row.is_resting else Cause.FOUND)
            case Judgement.RESTAMP:
                own = table.row(block)._replace(stamp=self._stamps.next())
                self._set(floating_ip, table, block, own, Cause.FOUND)
            case Judgement.YIELD:
                self._set(floating_ip, table, block, Row(row.owner, self._stamps.next()), Cause.FOUND)

    def _learn(self, floating_ip: IPv4Address, table: LeaderTable, owner: OwnerView) -> None:
        """Whatever concerns an owner and it does not know is to be sent."""
        for block in sorted({*owner.known.get(floating_ip, ()), *table.by_owner.get(owner.name, ())}):
            owner.want((floating_ip, block), table.row(block), self._now_ns)

    def _set(self, floating_ip: IPv4Address, table: LeaderTable, block: int, row: Row, cause: Cause) -> None:
        former = table.set(block, row, self._now_ns)
        self._has_news = True
        for name in dict.fromkeys((former, row.owner)):
            if name is not None and name in self._owners:
                self._owners[name].want((floating_ip, block), row, self._now_ns)
        # What is true before it is told for the first time is told as a whole.
        if former != row.owner and table.stated_ns is not None and self._leads:
            self._outputs.append(BlockMoved(floating_ip, block, former, row, cause))

    # Deciding

    def _work(self, floating_ip: IPv4Address, table: LeaderTable) -> None:
        now_ns, holder = self._now_ns, table.holder
        if not table.is_complete and holder is not None and self._knows_all(table):
            self._complete(floating_ip, table, holder)
        if not table.is_complete:
            return
        if table.stated_ns is None or now_ns - table.stated_ns >= self._times.state_ns:
            self._outputs.append(table.state(floating_ip, now_ns))
        self._release(table)
        table.wishes = {name: wish for name, wish in table.wishes.items() if now_ns < wish.until_ns}
        up = [name for name, view in self._owners.items() if view.down_ns is None]
        result = allot(table, up, base=base_blocks(self._members, self._blocks), quota=self._quota, now_ns=now_ns)
        table.short = result.short
        self._give(floating_ip, table, result.gifts)
        is_recalling = now_ns >= table.recall_ns
        table.recall_ns = now_ns + self._times.recall_ns if is_recalling else table.recall_ns
        for name, blocks in result.recalls.items() if is_recalling else ():
            view = self._owners.get(name)
            if view is not None and view.down_ns is None:
                self._send(view.address, Receiver.OWNER, Recall(self.term, int(floating_ip), blocks))

    def _give(self, floating_ip: IPv4Address, table: LeaderTable, gifts: list[tuple[str, int]]) -> None:
        if not gifts:
            return
        if table.holder is None or self._now_ns < table.quiet_until_ns:
            self._changed[floating_ip] = None
            return
        stamp = self._stamps.next()
        for name, block in gifts:
            self._set(floating_ip, table, block, Row(name, stamp), Cause.GIVEN)

    def _knows_all(self, table: LeaderTable) -> bool:
        """Whether no block can be in use that is not in the table (Q7)."""
        holder = table.holder
        if holder is None:
            return False
        # A whole holder has every row that was ever confirmed (Q8). Else each member has to say what it has.
        if holder.is_whole or table.is_new:
            return True
        return all(view.is_settled(holder.opened_ns, self._now_ns) for view in self._owners.values())

    def _release(self, table: LeaderTable) -> None:
        """Ask the holder to take the blocks of whoever is Down for long, where it sees no packet of them (Q5)."""
        if self._now_ns < table.release_due_ns:
            return
        if blocks := table.unreleased([name for name, _ in table.owners() if self._is_lost(name)]):
            table.release(blocks, Row(None, self._stamps.next(), is_resting=True), self._now_ns)
            table.release_due_ns, self._has_news = self._now_ns + self._times.release_ns, True

    def _is_lost(self, name: str) -> bool:
        view = self._owners.get(name)
        down_ns = self._began_ns if view is None else view.down_ns
        return down_ns is not None and self._now_ns - down_ns >= self._times.down_ns

    def _take_ask(self, owner: OwnerView, message: Ask) -> None:
        table = self._tables.get(floating_ip := IPv4Address(message.floating_ip))
        if table is not None:
            self._changed[floating_ip] = None
            if table.wish(owner.name, message.wanted, self._now_ns + WISH_ASKS * self._times.ask_ns):
                self._changed = {floating_ip: None} | self._changed  # Before what is looked at now and then.
                self._tick_ns = min(self._tick_ns, self._now_ns + self._times.push_ns)  # Not at once: others ask too.
            if table.count(owner.name) >= message.wanted and not owner.waits_for(floating_ip):
                owner.doubt(self._now_ns)  # It has forgotten some that it was told of (Q2).

    def _take_return(self, owner: OwnerView, message: Return) -> None:
        nobodys = None
        for held in message.rows:
            floating_ip = IPv4Address(held.floating_ip)
            table = self._tables.get(floating_ip)
            if table is None or held.block >= self._blocks or not self._leads:
                continue
            key, stamp = (floating_ip, held.block), Stamp(held.term, held.version)
            row = table.row(held.block)
            owner.known.setdefault(floating_ip, {})[held.block] = stamp
            if row.stamp < stamp or row == Row(owner.name, stamp):
                # One stamp for all: neighbours are one change on record.
                nobodys = nobodys or Row(None, self._stamps.next())
                cause = Cause.RECALLED if table.has_use(owner.name) else Cause.RETURNED
                self._set(floating_ip, table, held.block, nobodys, cause)
                table.rows[held.block].superseded = max(table.rows[held.block].superseded, stamp)
            owner.want(key, table.row(held.block), self._now_ns)
            self._change(floating_ip)

    def _take_poll(self, source: Source, message: Poll) -> None:
        whole, anew = answer_poll(self._tables, source.node, message)
        for floating_ip in anew:
            self._tables[floating_ip].gateways[source.node].close(self._now_ns)
            self._change(floating_ip)
        if whole:
            self._send(source.address, Receiver.GATEWAY, Whole(self.term, message.sequence, whole))

    # Sending

    def _speak(self) -> None:
        for floating_ip, table in self._tables.items():
            for view in table.gateways.values():
                self._speak_to_gateway(floating_ip, table, view)
        for owner in self._owners.values():
            self._speak_to_owner(owner)
        self._has_news = len(self._outputs) >= OUTPUTS_AT_ONCE
        self._sweep_ns = self._now_ns + self._times.resend_ns

    def _speak_to_gateway(self, floating_ip: IPv4Address, table: LeaderTable, view: GatewayView) -> None:
        if not view.is_due(self._now_ns) or len(self._outputs) >= OUTPUTS_AT_ONCE:
            return
        if view.asks(self._now_ns):
            self._send(
                view.address, Receiver.GATEWAY, Read(self.term, next(self._reads), int(floating_ip), *view.edition)
            )
        # What was read may be old while not all was read: it is passed on to nobody (Q7).
        if view.session is not None and table.is_complete:
            rows = view.entries(table.row, SENT_ROWS_MAX)
            self._grant(Receiver.GATEWAY, view, floating_ip, table, rows, session=view.session)

    def _speak_to_owner(self, owner: OwnerView) -> None:
        if not owner.is_due(self._now_ns) or len(self._outputs) >= OUTPUTS_AT_ONCE:
            return
        if owner.asks(self._now_ns):
            self._send(owner.address, Receiver.OWNER, Read(self.term, next(self._reads), 0, 0, owner.edition))
        by_address: dict[IPv4Address, list[Entry]] = {}
        for floating_ip, block in list(owner.pending)[:SENT_ROWS_MAX]:
            table = self._tables.get(floating_ip)
            if table is None:
                del owner.pending[(floating_ip, block)]
            elif table.is_complete and owner.start_id is not None:
                by_address.setdefault(floating_ip, []).append(Entry(block, table.row(block)))
        for floating_ip, entries in by_address.items():
            table, session = self._tables[floating_ip], owner.start_id or 0
            self._grant(Receiver.OWNER, owner, floating_ip, table, entries, session=session)

    def _grant(
        self,
        receiver: Receiver,
        view: GatewayView | OwnerView,
        floating_ip: IPv4Address,
        table: LeaderTable,
        entries: Iterable[Entry],
        *,
        session: int,
    ) -> None:
        for names, rows in cut(entries):
            if not rows:
                continue
            sent = Sent(receiver, view.name, floating_ip, session, tuple(entries_of(names, rows)))
            head = (self.term, self._unanswered.add(sent), session, int(floating_ip), table.successor)
            self._send(view.address, receiver, Grant(*head, names, rows))

    def _take_ack(self, source: Source, owner: OwnerView, message: Ack) -> None:
        sent = self._unanswered.of(message.sequence, source.node)
        table = self._tables.get(sent.floating_ip) if sent is not None else None
        if sent is None or table is None:
            return
        if sent.receiver is Receiver.OWNER:
            if sent.session == owner.start_id and message.taken:
                owner.hear(sent.floating_ip, sent.entries, table.row)
            return
        view = table.gateways.get(source.node)
        if view is None or view.session != sent.session:
            return
        if message.session != sent.session:
            view.close(self._now_ns)
            self._change(sent.floating_ip)
        elif len(message.taken) == len(sent.entries):
            self._take_answers(sent, table, view, message)

    def _take_answers(self, sent: Sent, table: LeaderTable, view: GatewayView, message: Ack) -> None:
        others = {entry.block: entry for entry in entries_of(message.names, message.rows)}
        for entry, is_taken in zip(sent.entries, message.taken, strict=True):
            if is_taken:
                if table.confirm(view, entry.block, entry.row.stamp, self._now_ns):
                    self._set(sent.floating_ip, table, entry.block, entry.row, Cause.RECLAIMED)
            elif entry.block in others:
                self._refused(sent.floating_ip, table, view, entry, others[entry.block].row)

    def _refused(
        self, floating_ip: IPv4Address, table: LeaderTable, view: GatewayView, entry: Entry, other: Row
    ) -> None:
        """A gateway has another row than it was thought to have, or has seen packets of a block that is to rest."""
        block = entry.block
        is_late = view.known.get(block, Stamp(0, 0)) != other.stamp
        view.known[block] = other.stamp
        released = view.releases.get(block)
        if released is not None and released.stamp == entry.row.stamp:
            # In use, or changed meanwhile. It is asked again while its node is Down.
            del view.releases[block]
        one = table.rows.get(block)
        verdict = judge(one, other, Witness.of_gateway(holds=view.holds), term=self.term)
        if one is not None and one.row.stamp == entry.row.stamp and entry.if_idle and not is_late and view.holds:
            # Its owner sends: the block does not rest.
            verdict = Judgement.YIELD if other.owner is not None else verdict
        self._settle(floating_ip, table, block, other, verdict)

    def _change(self, floating_ip: IPv4Address) -> None:
        self._changed[floating_ip] = None
        self._tick_ns, self._has_news = self._now_ns, True

    @property
    def _leads(self) -> bool:
        return self._now_ns < self._leads_until_ns

    def _send(self, to: Address, receiver: Receiver, message: Message) -> None:
        # Whoever leads no more is silent: of two leaders only one may speak (Q7).
        if self._leads:
            self._outputs.append(Send(to, encode(receiver, message)))

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"time went back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns
