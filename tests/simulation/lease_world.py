"""A world of lease keepers: virtual time, two clocks per node, a network with faults, kernels that outlive processes.

Unlike the general world this one executes every output as its own step, at which the process may stall or die: between
the closing of a fence and the release, between a written promise and its answer. The fence is state of the node's
kernel. It survives the death of the keeper, is compared with the node's own boot clock, and is lost with a reboot.

After every opening of a fence the world checks the two invariants, in true time: nobody else's fence for the key is
open, and tokens grow from tenure to tenure.
"""

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from service.electorate.book import ElectorateBook
from service.keeper.transition import may_follow
from service.lease.elector import ElectorMachine
from service.lease.elector_output import Persist, Promised, Remember, Settled
from service.lease.electorate_message import decode_electorate_message, encode_electorate_message
from service.lease.holder import CloseFence, DesiredClaim, Holder, OpenFence, boot_id_bytes
from service.lease.message import MessageKind, kind_of
from service.lease.promise import Instant, encode_promises
from service.lease.registrar import Registrar
from service.lease.succession import succession_fault
from service.lease.tiebreaker import Tiebreaker
from service.model.errors import PeerError
from service.model.lease import LEADER_KEY, NO_ELECTORATE, Elector, Electorate, LeaseProfile, Stamp, Token
from service.model.machine import Address, Send, Source

MS = 1_000_000
PORT = 9644
DEFAULT = LeaseProfile(300 * MS, 60 * MS)
LONG = LeaseProfile(900 * MS, 60 * MS)
LEASE_NS_MAX = 900 * MS


class InvariantViolated(AssertionError):
    """Two holders, or a token that did not grow."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What a clock reads at a true time."""

    offset_ns: int = 1_000_000_000
    rate_ppm: int = 0

    def read(self, true_ns: int) -> int:
        return self.offset_ns + true_ns + true_ns * self.rate_ppm // 1_000_000

    def true_ns(self, reading_ns: int) -> int:
        return (reading_ns - self.offset_ns) * 1_000_000 // (1_000_000 + self.rate_ppm) + 1


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_ns_min: int = 200_000
    delay_ns_max: int = 800_000


@dataclass(slots=True)
class Keeper:
    """A node: its kernel (clocks, fence, files) and the keeper process on it."""

    name: str
    address: Address
    is_elector: bool
    boot: Clock
    raw: Clock
    boot_id: str = ""
    start_id: int = 0
    profile: LeaseProfile = DEFAULT
    elector: ElectorMachine | None = None
    holder: Holder | None = None
    fence: dict[str, tuple[Token, int]] = field(default_factory=dict)
    promise_file: bytes | None = None
    token_file: bytes | None = None
    memory: int = 0
    """Number of the disk (rule M7)."""
    electorate_file: tuple[Electorate, bool] | None = None
    """The electorate, and whether it is settled."""
    electorate: Electorate = NO_ELECTORATE
    """The one in force in the process."""
    registrar: Registrar | None = None
    tiebreaker: Tiebreaker | None = None
    has_disk: bool = True
    """A controller has none: what it learnt of the electorate it learns anew at each start."""
    claims: dict[str, DesiredClaim] | None = None
    claiming: bool = True
    alive: bool = False
    paused_until_ns: int = 0
    pending: list[Any] = field(default_factory=list)
    inbox: list[tuple[Source, bytes]] = field(default_factory=list)
    wake_ns: int | None = None
    unwritten: Remember | None = None
    """The newest record that is not on disk yet, where that takes time."""
    stale_instant: Instant | None = None


Event = tuple[int, int, Callable[[], None]]


class LeaseWorld:
    """Drive it with `run_until`; faults are methods. All order comes from (time, sequence) and one seed."""

    def __init__(self, seed: int, *, majority_of: int = 3, others: int = 1, random_clocks: bool = False) -> None:
        self.random = random.Random(seed)
        self.now_ns = 0
        self.link = Link()
        self.links: dict[tuple[str, str], Link] = {}
        self.cut: dict[tuple[str, str], bool] = {}
        self.stall_chance = 0.0
        self.crash_chance = 0.0
        self.disk_ns_max = 0
        """How long a record of tokens may be on its way to the disk."""
        self.elector_type: type[ElectorMachine] = ElectorMachine
        self.holder_type: type[Holder] = Holder
        # Mutations of the driver: rules that are not the machines' own (P2, T1, M1).
        self.silent_after_reboot = True
        self.reads_clock_before_receiving = False
        self.stores_electorate = True
        self.log: list[tuple[int, str, str, Token]] = []
        self.close_log: list[tuple[int, str, str, str]] = []
        self.highest: dict[str, Token] = {}
        self.datagrams = 0
        self.trace = hashlib.sha256()
        self._events: list[Event] = []
        self._sequence = 0
        names = [f"node{index}" for index in range(majority_of + others)]
        members = tuple(Elector(name, f"10.0.0.{index}") for index, name in enumerate(names[:majority_of]))
        self.electorate = Electorate(1, members)
        self.nodes: dict[str, Keeper] = {}
        for index, name in enumerate(names):
            self.add(name, f"10.0.0.{index}", is_elector=index < majority_of, random_clocks=random_clocks)

    def number_disks(self) -> None:
        """Every agent may be an elector, and the electorate says on which disk each of its members has its records."""
        for node in self.nodes.values():
            node.is_elector, node.memory = True, self.random.getrandbits(63) + 1
            node.electorate_file = None
        members = tuple(replace(member, memory=self.nodes[member.name].memory) for member in self.electorate.members)
        self.electorate = Electorate(1, members)
        for node in self.nodes.values():
            node.electorate_file = (self.electorate, True)

    def add(self, name: str, host: str, *, is_elector: bool = False, random_clocks: bool = False) -> Keeper:
        rate = self.random.choice((-83_000, -20_000, 0, 20_000, 83_000)) if random_clocks else 0
        offset = self.random.randrange(10**9, 10**12)
        raw_rate = self.random.randrange(-100, 100) if random_clocks else 0
        node = Keeper(name, Address(host, PORT), is_elector, Clock(offset, rate), Clock(offset // 2, raw_rate))
        self.nodes[name] = node
        node.boot_id = f"{self.random.getrandbits(128):032x}"
        node.electorate_file = (self.electorate, True)
        return node

    # --- processes ---

    def start(self, name: str, *, knows_silence: bool = True) -> None:
        """Start the keeper. Without `knows_silence` an elector with no file votes at once (a fresh site)."""
        node = self.nodes[name]
        node.alive, node.paused_until_ns = True, 0
        node.start_id = self.random.getrandbits(63) + 1
        node.inbox, node.pending, node.wake_ns, node.stale_instant = [], [], None, None
        node.unwritten = None
        now = self.instant(node)
        if not node.has_disk:
            node.electorate_file = None
        electorate, settled = node.electorate_file or (NO_ELECTORATE, True)
        node.electorate = electorate
        if node.is_elector:
            promises = node.promise_file
            if promises is None and not (knows_silence and self.silent_after_reboot):
                promises = encode_promises(boot_id_bytes(node.boot_id), LEASE_NS_MAX, {})
            node.elector = self.elector_type(
                node=name,
                boot_id=boot_id_bytes(node.boot_id),
                electorate=electorate,
                memory=node.memory,
                settled=settled,
                lease_ns_max=LEASE_NS_MAX,
                promises=promises,
                tokens=node.token_file,
                now=now,
            )
        node.holder = self.holder_type(
            node=name,
            boot_id=node.boot_id,
            start_id=node.start_id,
            electorate=electorate,
            profile=node.profile,
            lease_port=PORT,
            random=self.random,
            now_ns=now.boot_ns,
        )
        self._adopt(node, node.holder, now.boot_ns)
        node.holder.set_claiming(node.claiming, now_ns=now.boot_ns)
        if node.claims is not None:
            node.holder.set_claims(node.claims, now_ns=now.boot_ns)
        self._pump(node)

    def learn(self, name: str, electorate: Electorate) -> None:
        """A newer electorate has come to this process: to disk first, then it is in force (M1)."""
        node = self.nodes[name]
        if not node.alive or node.holder is None or electorate.epoch <= node.electorate.epoch:
            return
        if succession_fault(node.electorate, electorate):
            return
        if node.paused_until_ns:
            self.at(node.paused_until_ns + MS, lambda: self.learn(name, electorate))
            return
        if self.stores_electorate and node.has_disk:
            node.electorate_file = (electorate, not electorate.previous)
        node.electorate = electorate
        now = self.instant(node)
        if node.elector is not None:
            node.elector.adopt(electorate, now=now)
        node.holder.set_electorate(electorate, now_ns=now.boot_ns)
        self._pump(node)

    def learn_written(self, name: str, electorate: Electorate, *, begun_anew: bool = False) -> None:
        """What the agent, or the controller, on this node has read of the object (M8)."""
        node = self.nodes[name]
        if node.alive and not node.paused_until_ns and electorate.epoch > node.electorate.epoch:
            book = ElectorateBook(node.electorate, adopted=lambda taken: self.learn(name, taken))
            book.offer_written(electorate, begun_anew=begun_anew, may_follow=lambda said: self._may_follow(node, said))

    def _may_follow(self, node: Keeper, following: Electorate) -> bool:
        if node.registrar is not None:
            return node.registrar.is_in_force
        settled = {
            member.name: True
            for member in node.electorate.members
            if (one := self.nodes[member.name].elector) is not None
            and (one.is_elector, one.is_settled, one.epoch) == (True, True, node.electorate.epoch)
        }
        assert node.elector is not None
        epoch_in_force = node.electorate.epoch if node.electorate.has_quorum(settled) else 0
        return may_follow(following, node.electorate, node.elector, epoch_in_force=epoch_in_force)

    def start_all(self) -> None:
        for name in list(self.nodes):
            self.start(name, knows_silence=False)

    def _adopt(self, node: Keeper, holder: Holder, boot_ns: int) -> None:
        # As keepers do (S8). Leadership is the process's, not the kernel's: it is not adopted.
        node.fence.pop(LEADER_KEY, None)
        for key, (token, deadline_ns) in sorted(node.fence.items()):
            if deadline_ns > boot_ns:
                holder.adopt(key, token, deadline_ns, now_ns=boot_ns)
            else:
                node.fence.pop(key)

    def kill(self, name: str) -> None:
        """SIGKILL: what was not yet executed is lost; kernel and files stay."""
        node = self.nodes[name]
        node.alive, node.elector, node.holder, node.registrar, node.tiebreaker = False, None, None, None, None
        node.inbox, node.pending, node.wake_ns, node.paused_until_ns = [], [], None, 0
        node.fence.pop(LEADER_KEY, None)

    def prolong(self, name: str) -> None:
        """As a keeper does that is stopped to be started again."""
        node = self.nodes[name]
        assert node.holder is not None
        node.holder.prolong(LEASE_NS_MAX, now_ns=node.boot.read(self.now_ns))
        self._pump(node)

    def reboot(self, name: str) -> None:
        """Power off: all but the disk is lost. Start it again with `start`."""
        self.kill(name)
        node = self.nodes[name]
        node.fence, node.promise_file = {}, None
        node.boot_id = f"{self.random.getrandbits(128):032x}"
        node.boot = Clock(self.random.randrange(10**9, 10**12) - self.now_ns, node.boot.rate_ppm)
        node.raw = Clock(node.boot.offset_ns, node.raw.rate_ppm)

    def lose_disk(self, name: str) -> None:
        """The machine is installed anew under its old name (rule M7)."""
        self.reboot(name)
        node = self.nodes[name]
        node.token_file = node.electorate_file = None
        node.memory = self.random.getrandbits(63) + 1

    def pause(self, name: str, span_ns: int) -> None:
        """SIGSTOP for a while. The socket goes on buffering, the kernel goes on forwarding."""
        node = self.nodes[name]
        if node.alive:
            node.paused_until_ns = max(node.paused_until_ns, self.now_ns + span_ns)
            self.at(node.paused_until_ns, lambda: self._resume(node, node.start_id))

    def _resume(self, node: Keeper, start_id: int) -> None:
        if not node.alive or node.start_id != start_id or self.now_ns < node.paused_until_ns:
            return
        node.paused_until_ns = 0
        self._pump(node)
        inbox, node.inbox = node.inbox, []
        for index, (source, payload) in enumerate(inbox):
            if node.paused_until_ns or not node.alive:
                node.inbox = inbox[index:] + node.inbox
                return
            self._handle(node, source, payload)
        self._tick(node)
        # The agent's heartbeats say it again and again; the one after the pause is heard.
        self._apply(node)

    def _apply(self, node: Keeper) -> None:
        if not node.alive or node.holder is None or node.paused_until_ns:
            return
        now_ns = node.boot.read(self.now_ns)
        node.holder.set_claiming(node.claiming, now_ns=now_ns)
        if node.claims is not None:
            node.holder.set_claims(node.claims, now_ns=now_ns)
        self._pump(node)

    # --- what the agent and the leader do ---

    def claim(self, name: str, claims: dict[str, tuple[str, int, int]]) -> None:
        """Replace the claims of a node: key -> (role, term, version)."""
        node = self.nodes[name]
        node.claims = {
            key: DesiredClaim("holder" if role == "holder" else "successor", Stamp(term, version))
            for key, (role, term, version) in claims.items()
        }
        self._apply(node)

    def set_claiming(self, name: str, allowed: bool) -> None:
        node = self.nodes[name]
        node.claiming = allowed
        self._apply(node)

    # --- network ---

    def cut_between(self, left: str, right: str, *, one_way: bool = False) -> None:
        self.cut[left, right] = True
        if not one_way:
            self.cut[right, left] = True

    def isolate(self, name: str) -> None:
        for other in self.nodes:
            if other != name:
                self.cut_between(name, other)

    def heal(self) -> None:
        self.cut.clear()
        self.links.clear()
        self.link = Link()
        self.stall_chance = self.crash_chance = 0.0

    def _transmit(self, node: Keeper, to: Address, payload: bytes) -> None:
        self.datagrams += 1
        assert len(payload) + 112 <= 1200
        target = next((other for other in self.nodes.values() if other.address == to), None)
        if target is None:
            return
        link = self.links.get((node.name, target.name), self.link)
        if node is not target and (self.cut.get((node.name, target.name)) or self.random.random() < link.loss):
            return
        source = Source(node.address, node.name, node.start_id)
        # The envelope binds a datagram to the receiving process: one that was restarted meanwhile refuses it.
        start_id = target.start_id
        for _ in range(2 if self.random.random() < link.duplication else 1):
            delay = self.random.randrange(link.delay_ns_min, link.delay_ns_max + 1)
            self.at(self.now_ns + delay, lambda: self._deliver(target, start_id, source, payload))

    def _deliver(self, node: Keeper, start_id: int, source: Source, payload: bytes) -> None:
        if not node.alive or node.start_id != start_id:
            return
        if node.paused_until_ns:
            node.inbox.append((source, payload))
            return
        self._handle(node, source, payload)

    def _handle(self, node: Keeper, source: Source, payload: bytes) -> None:
        now = self.instant(node)
        try:
            kind = kind_of(payload)
            if kind is MessageKind.ELECTORATE:
                self._take_electorate(node, source, payload)
            elif kind is MessageKind.STANDING:
                for listener in (node.registrar, node.tiebreaker):
                    if listener is not None:
                        listener.receive(source, payload, now_ns=now.boot_ns)
            elif kind is not MessageKind.ACK:
                if node.elector is not None:
                    node.elector.receive(source, payload, now=self._elector_instant(node, now))
            elif node.holder is not None:
                node.holder.receive(source, payload, now_ns=now.boot_ns)
        except PeerError:
            pass
        self._pump(node)

    def _take_electorate(self, node: Keeper, source: Source, payload: bytes) -> None:
        said = decode_electorate_message(payload)
        assert isinstance(said, Electorate)
        if said.epoch > node.electorate.epoch:
            self.learn(node.name, said)
        elif said.epoch < node.electorate.epoch:
            self._transmit(node, source.address, encode_electorate_message(node.electorate))

    def _elector_instant(self, node: Keeper, now: Instant) -> Instant:
        if not self.reads_clock_before_receiving:
            return now
        # Rule T1 dropped: the clock was read when the process last did something, before it waited for a datagram.
        before, node.stale_instant = node.stale_instant or now, now
        return before

    # --- the driver ---

    def instant(self, node: Keeper) -> Instant:
        return Instant(node.boot.read(self.now_ns), node.raw.read(self.now_ns))

    def at(self, true_ns: int, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (max(true_ns, self.now_ns), self._sequence, action))

    def run_until(self, true_ns: int) -> None:
        while self._events and self._events[0][0] <= true_ns:
            when, _, action = heapq.heappop(self._events)
            self.now_ns = when
            action()
        self.now_ns = true_ns

    def run_for(self, span_ns: int) -> None:
        self.run_until(self.now_ns + span_ns)

    def _pump(self, node: Keeper) -> None:
        """Execute outputs one by one; between any two the process may stall or die."""
        for machine in (node.elector, node.holder, node.registrar, node.tiebreaker):
            if machine is not None:
                # What is only for the record changes nothing, and no stall or death around it does either.
                outputs: list[Any] = list(machine.drain())
                node.pending += [output for output in outputs if not isinstance(output, Promised)]
        while node.pending and node.alive and not node.paused_until_ns:
            output = node.pending.pop(0)
            self._execute(node, output)
            if self.stall_chance and self.random.random() < self.stall_chance:
                self.pause(node.name, self.random.randrange(1, 700) * MS)
            elif self.crash_chance and self.random.random() < self.crash_chance:
                self.kill(node.name)
                self.at(self.now_ns + self.random.randrange(1, 200) * MS, lambda: self._restart(node.name))
        self._arm(node)

    def _restart(self, name: str) -> None:
        if not self.nodes[name].alive:
            self.start(name)

    def _execute(self, node: Keeper, output: Any) -> None:
        match output:
            case Send(to=to, payload=payload):
                self._transmit(node, to, payload)
            case Remember():
                self._write_tokens(node, output)
            case Persist(data=data):
                node.promise_file = data
            case Settled(epoch=epoch):
                if node.electorate_file is not None and node.electorate_file[0].epoch == epoch:
                    node.electorate_file = (node.electorate_file[0], True)
                if node.elector is not None:
                    node.elector.confirm_settled(epoch)
            case Electorate():
                self.learn(node.name, output)
            case OpenFence():
                self._open(node, output)
            case CloseFence(key=key, reason=reason):
                self.close_log.append((self.now_ns, node.name, key, reason))
                node.fence.pop(key, None)

    def _write_tokens(self, node: Keeper, record: Remember) -> None:
        """Into the file, and tell the elector; `disk_ns_max` says how long that may take."""
        if not self.disk_ns_max:
            node.token_file = record.data
            if node.elector is not None:
                node.elector.confirm_durable(record.number)
            return
        is_writing, node.unwritten = node.unwritten is not None, record
        if not is_writing:
            self._begin_writing(node, node.start_id)

    def _begin_writing(self, node: Keeper, start_id: int) -> None:
        record = node.unwritten
        assert record is not None
        when_ns = self.now_ns + self.random.randrange(self.disk_ns_max)
        self.at(when_ns, lambda: self._have_written(node, start_id, record))

    def _have_written(self, node: Keeper, start_id: int, record: Remember) -> None:
        # Killed or powered off meanwhile: it never came to the disk.
        if not node.alive or node.start_id != start_id:
            return
        node.token_file = record.data
        if node.paused_until_ns:
            # The thread has written; the process hears of it when it goes on.
            self.at(node.paused_until_ns + 1, lambda: self._have_written(node, start_id, record))
            return
        if node.unwritten is record:
            node.unwritten = None
        else:
            # Of those that came meanwhile the last one is written next.
            self._begin_writing(node, start_id)
        if node.elector is not None:
            node.elector.confirm_durable(record.number)
            self._pump(node)

    def _arm(self, node: Keeper) -> None:
        if not node.alive or node.paused_until_ns:
            return
        machines = (node.elector, node.holder, node.registrar, node.tiebreaker)
        deadlines = [machine.deadline_ns() for machine in machines if machine]
        due = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if due is None:
            node.wake_ns = None
            return
        wake_ns = max(node.boot.true_ns(due), self.now_ns + 1)
        if node.wake_ns is None or node.wake_ns > wake_ns or node.wake_ns <= self.now_ns:
            node.wake_ns = wake_ns
            self.at(wake_ns, lambda: self._wake(node, node.start_id, wake_ns))

    def _wake(self, node: Keeper, start_id: int, wake_ns: int) -> None:
        if node.alive and node.start_id == start_id and node.wake_ns == wake_ns and not node.paused_until_ns:
            self._tick(node)

    def _tick(self, node: Keeper) -> None:
        node.wake_ns = None
        now = self.instant(node)
        if node.elector is not None:
            node.elector.advance(now=self._elector_instant(node, now))
        if node.holder is not None:
            node.holder.advance(now_ns=now.boot_ns)
        if node.registrar is not None:
            node.registrar.advance(now_ns=now.boot_ns)
        if node.tiebreaker is not None:
            node.tiebreaker.advance(now_ns=now.boot_ns)
        self._pump(node)

    # --- invariants ---

    def _open(self, node: Keeper, output: OpenFence) -> None:
        key = output.key
        self.trace.update(repr((self.now_ns, node.name, output)).encode())
        is_extension = node.fence.get(key, (None, 0))[0] == output.token
        node.fence[key] = (output.token, output.deadline_ns)
        if output.deadline_ns <= node.boot.read(self.now_ns):
            return
        holders = self.holders(key)
        if holders != [node.name]:
            raise InvariantViolated(f"{self.now_ns / MS:.3f} ms: {key} is held by {holders}")
        highest = self.highest.get(key)
        if highest is not None and not (output.token > highest or (is_extension and output.token == highest)):
            raise InvariantViolated(f"{self.now_ns / MS:.3f} ms: {key} at {node.name}: {output.token} after {highest}")
        self.highest[key] = output.token
        if not is_extension:
            self.log.append((self.now_ns, node.name, key, output.token))

    def holders(self, key: str) -> list[str]:
        """Who forwards for the key at this true time."""
        return [
            node.name
            for node in self.nodes.values()
            if key in node.fence and node.fence[key][1] > node.boot.read(self.now_ns)
        ]

    def remaining_ns(self, name: str, key: str) -> int:
        node = self.nodes[name]
        return node.fence[key][1] - node.boot.read(self.now_ns)
