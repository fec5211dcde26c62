"""A world of port blocks: agents, two controllers, kernels that outlive agents, and packets that cross it meanwhile.

Network, clocks and pauses are those of `world`. The leases are given: one node at a time has a floating IP, and one
controller at a time leads, as the lease machines prove in their own simulator. Who knows of it, and when, is not given:
ways, members and terms come late. The durations of rule Q5 are forty times shorter than in the product; those that are
about datagrams are as they are.

At each packet that a gateway takes the world checks, in true time: if another node used the block before, that one let
go of it by its own word, or neither has used it for the times of rule Q5.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from loadtest.scale.block_network import Agent
from service.model.lease import Stamp, Token
from service.model.machine import Address, Source
from service.port_block.block import NEVER_GIVEN, Row, Times
from service.port_block.gateway import GatewayBlocks, SetOwner, Trust
from service.port_block.leader import LeaderBlocks
from service.port_block.owner import RESERVE_S, EndFlows, OwnerBlocks, Store, Usable
from service.port_block.record import BlockMoved, TableRead
from service.port_block.way import LeaderMember, Way
from tests.simulation.world import MS, SECOND, Clock, Node, World

PORT = 9641
IPS = (IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101"))
BLOCKS = 8
TIMES = Times(
    down_ns=6 * SECOND,
    rest_ns=6 * SECOND,
    contact_ns=5 * SECOND,
    confirm_ns=1_250 * MS,
    release_ns=250 * MS,
    grace_ns=100 * MS,
)
UNUSED_NS_MIN = 9 * (TIMES.down_ns + TIMES.rest_ns) // 10
"""Clocks may be a twelfth fast."""
LEADER_LEASE_NS = 300 * MS


class InvariantViolated(AssertionError):
    """A block was used by two nodes within the times of Q5."""


@dataclass(slots=True)
class HostKernel:
    """What outlives an agent, and not a reboot."""

    owners: dict[tuple[IPv4Address, int], Row] = field(default_factory=dict)
    """As gateway: whose each block is."""
    trusted: dict[IPv4Address, Token] = field(default_factory=dict)
    """As gateway: under which tenure the rows count."""
    packets: dict[tuple[IPv4Address, int], int] = field(default_factory=dict)
    """As gateway: when a packet of the block was last taken, in true time."""
    usable: dict[IPv4Address, tuple[int, ...]] = field(default_factory=dict)
    own: dict[tuple[IPv4Address, int], tuple[Stamp, int | None]] = field(default_factory=dict)
    flows: dict[tuple[IPv4Address, int], None] = field(default_factory=dict)
    """Blocks with a flow in them."""
    made_ns: int = 0
    """By its own clock."""


class Controller:
    """A process that may lead; the machine is that of its last term."""

    def __init__(self) -> None:
        self.leader: LeaderBlocks | None = None

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        if self.leader is not None:
            self.leader.receive(source, payload, now_ns=now_ns)

    def advance(self, *, now_ns: int) -> None:
        if self.leader is not None:
            self.leader.advance(now_ns=now_ns)

    def deadline_ns(self) -> int | None:
        return None if self.leader is None else self.leader.deadline_ns()

    def drain(self) -> list[Any]:
        return [] if self.leader is None else self.leader.drain()


class KernelView:
    """The kernel of one node, as its gateway machine reads it."""

    def __init__(self, world: "BlockWorld", name: str) -> None:
        self._world, self._name = world, name

    def tenure(self, floating_ip: IPv4Address) -> Token | None:
        holder, token = self._world.leases[floating_ip]
        return token if holder == self._name else None

    def last_packet_ns(self, floating_ip: IPv4Address, block: int) -> int | None:
        true_ns = self._world.kernels[self._name].packets.get((floating_ip, block))
        return None if true_ns is None else self._world.net.nodes[self._name].clock.read(true_ns)


class BlockWorld:
    """Faults are methods of `net`, of this, and of `BlockChaos`."""

    def __init__(self, seed: int, *, agents: int = 5, is_new: bool = True, blocks: int = BLOCKS) -> None:
        self.blocks = blocks
        self.net = World(seed)
        self.random = random.Random(f"{seed}/blocks")
        self.net.on_output = self._execute
        self.kernels: dict[str, HostKernel] = {}
        self.controllers = ("controller-a", "controller-b")
        self.leases: dict[IPv4Address, tuple[str, Token]] = {}
        self.successors: dict[IPv4Address, str] = {}
        self.demand: dict[IPv4Address, dict[str, None]] = {}
        self.needs: dict[tuple[str, IPv4Address], int] = {}
        """Blocks that each node has use for."""
        self.used: dict[tuple[IPv4Address, int], tuple[str, int]] = {}
        """Who used a block last, and when."""
        self.let_go: dict[tuple[str, IPv4Address, int], int] = {}
        """When a node said that it has no use for a block."""
        self.dark: set[tuple[str, str]] = set()
        """Pairs between which no packet of the datapath passes."""
        self.ways: dict[str, dict[IPv4Address, tuple[str, str]]] = {}
        self.leading: tuple[str, int] = ("", 0)
        self.renewed_ns = -LEADER_LEASE_NS
        self.departed: dict[str, Address] = {}
        """Names that are Down for good."""
        self.slandered: dict[str, None] = {}
        """Nodes that gossip wrongly takes for Down."""
        self.barred: dict[str, None] = {}
        """Controllers that cannot renew."""
        self.is_new = is_new
        self.new_in_term = 1
        """Whose leader takes the addresses for new ones."""
        self.accepted = self.refused = self.moved = 0
        self._tokens = 0
        self._starts = 0
        for index in range(agents):
            self.add_agent(f"node{index}", index)
        for index, name in enumerate(self.controllers):
            clock = self._clock()
            self.net.add(name, Address(f"10.0.1.{index}", PORT), Controller(), clock=clock, start_id=self._start())
        for floating_ip in IPS:
            holder, successor = self.random.sample(sorted(self.kernels), 2)
            self.demand[floating_ip] = {}
            self.give_lease(floating_ip, holder, successor)

    # Processes

    def _start(self) -> int:
        self._starts += 1
        return self._starts

    def _clock(self) -> Clock:
        drift_ppm = self.random.choice((-83_000, -20_000, 0, 20_000, 83_000))
        return Clock(offset_ns=self.random.randrange(10**9, 10**12), drift_ppm=drift_ppm)

    def add_agent(self, name: str, index: int) -> None:
        """A node that was not there before."""
        clock = self._clock()
        self.kernels[name] = HostKernel(made_ns=clock.read(self.net.now_ns))
        self.ways[name] = {}
        self._run_agent(name, Address(f"10.0.0.{index}", PORT), clock)

    def _run_agent(self, name: str, address: Address, clock: Clock) -> None:
        now_ns = clock.read(self.net.now_ns)
        kernel = self.kernels[name]
        start_id = self._start()
        owner = OwnerBlocks(name, start_id, remembers_since_ns=kernel.made_ns, now_ns=now_ns, times=TIMES)
        gateway = GatewayBlocks(KernelView(self, name), now_ns=now_ns, times=TIMES)
        node = self.net.add(name, address, Agent(owner, gateway), clock=clock, start_id=start_id)
        for floating_ip in IPS:
            if floating_ip in self.leases:
                rows = [(b, row) for (ip, b), row in kernel.owners.items() if ip == floating_ip]
                gateway.restore(floating_ip, rows, kernel.trusted.get(floating_ip), now_ns=now_ns)
            own = [(b, *one) for (ip, b), one in kernel.own.items() if ip == floating_ip]
            owner.restore(floating_ip, own, now_ns=now_ns)
        self._inform(name)
        self.net.settle(node)

    def kill(self, name: str) -> None:
        """The process ends; its kernel goes on."""
        self.net.stop(name)

    def restart(self, name: str) -> None:
        """Another process, in the kernel as it is."""
        node = self.net.nodes[name]
        if isinstance(node.machine, Agent):
            if name in self.kernels:
                self._run_agent(name, node.address, node.clock)
        else:
            self.net.add(name, node.address, Controller(), clock=node.clock, start_id=self._start())

    def reboot(self, name: str) -> None:
        """The kernel's memory is gone, and its clock begins anew."""
        self.kill(name)
        node = self.net.nodes[name]
        offset_ns = node.clock.offset_ns - self.local_ns(name) + self.random.randrange(1, 10) * SECOND
        node.clock = Clock(offset_ns, node.clock.drift_ppm)
        self.kernels[name] = HostKernel(made_ns=self.local_ns(name))
        for floating_ip, (holder, _) in self.leases.items():
            if holder == name:
                self.fail_over(floating_ip)

    def rename(self, former: str, name: str, index: int) -> None:
        """The same machine under another name, which is another owner (Q5)."""
        self.kill(former)
        del self.kernels[former]
        self.departed[former] = self.net.nodes[former].address
        for demand in self.demand.values():
            if former in demand:
                del demand[former]
                demand[name] = None
        self.add_agent(name, index)
        for floating_ip, (holder, _) in self.leases.items():
            if former == self.successors[floating_ip]:
                others = [one for one in sorted(self.kernels) if one != holder]
                self.successors[floating_ip] = self.random.choice(others)
            if holder == former:
                self.fail_over(floating_ip)

    def is_running(self, name: str) -> bool:
        node = self.net.nodes[name]
        return not node.stopped and not node.paused

    def local_ns(self, name: str) -> int:
        return self.net.local_ns(name)

    # Leases and leadership, which others prove

    def give_lease(self, floating_ip: IPv4Address, holder: str, successor: str) -> None:
        self._tokens += 1
        self.leases[floating_ip] = (holder, Token(1, self._tokens, 1))
        self.successors[floating_ip] = successor

    def lapse(self, floating_ip: IPv4Address, span_ns: int) -> None:
        """The lease is over for a while, and comes back to the same node; nobody else has it in between."""
        holder, token = self.leases[floating_ip]
        self.leases[floating_ip] = ("", token)

        def come_back() -> None:
            if self.leases[floating_ip] != ("", token):
                return
            if holder not in self.kernels or self.net.nodes[holder].stopped:
                self.fail_over(floating_ip)
            else:
                self.leases[floating_ip] = (holder, Token(token.term, token.version, token.counter + 1))

        self.net.after(span_ns, come_back)

    def fail_over(self, floating_ip: IPv4Address, *, to: str | None = None) -> None:
        """The lease goes to the successor, or to a node that never was one; then another successor is chosen."""
        former = self.leases[floating_ip][0]
        holder = to or self.successors[floating_ip]
        others = [name for name in sorted(self.kernels) if name != holder]
        self.give_lease(floating_ip, holder, self.random.choice([n for n in others if n != former] or others))

    def elect(self) -> None:
        """Each 50 ms: the leader renews, or another is elected when its lease is over."""
        name, term = self.leading
        # A process that was started again leads no more, though its lease goes on for a moment.
        if self.leader() is not None and self.is_running(name) and name not in self.barred:
            self.renewed_ns = self.net.now_ns
            self._renew(name)
            return
        if self.net.now_ns - self.renewed_ns < LEADER_LEASE_NS:
            return
        able = [one for one in self.controllers if self.is_running(one) and one not in self.barred]
        if able:
            name, term = self.random.choice(able), term + 1
            self.leading, self.renewed_ns = (name, term), self.net.now_ns
            controller = self.net.nodes[name].machine
            assert isinstance(controller, Controller)
            now_ns = self.local_ns(name)
            quota = max(1, self.blocks // 2)
            controller.leader = LeaderBlocks(term=term, now_ns=now_ns, times=TIMES, blocks=self.blocks, quota=quota)
            self._renew(name)
            self._inform_leader()

    def _renew(self, name: str) -> None:
        node = self.net.nodes[name]
        assert isinstance(node.machine, Controller)
        assert node.machine.leader is not None
        now_ns = self.local_ns(name)
        node.machine.leader.set_leading_until(now_ns + 9 * LEADER_LEASE_NS // 10, now_ns=now_ns)
        self.net.settle(node)

    # What is known, late

    def inform(self) -> None:
        """Each 100 ms some learn where addresses are, who leads, and who is up."""
        for name in sorted(self.kernels):
            is_alone = sum(name in pair for pair in self.net.cuts) >= len(self.kernels)
            if self.random.random() < (0.02 if is_alone else 0.7):
                self._inform(name)
        if self.random.random() < 0.7:
            self._inform_leader()

    def _inform(self, name: str) -> None:
        if not self.is_running(name) or len(self.leases) < len(IPS):
            return
        node, now_ns = self.net.nodes[name], self.local_ns(name)
        agent = node.machine
        assert isinstance(agent, Agent)
        members = {one: self.net.nodes[one].address for one in sorted(self.kernels)}
        leader, term = self.leading
        address = self.net.nodes[leader].address if leader else None
        served = []
        for floating_ip in IPS:
            holder, successor = self.leases[floating_ip][0], self.successors[floating_ip]
            self.ways[name][floating_ip] = (holder, successor)
            agent.owner.set_way(floating_ip, holder, successor, now_ns=now_ns)
            served += [floating_ip] if name in (holder, successor) else []
            agent.gateway.observe(floating_ip, now_ns=now_ns)
        for machine in (agent.owner, agent.gateway):
            machine.set_members(members, now_ns=now_ns)
            machine.set_leader(address, term_max=term, now_ns=now_ns)
        agent.gateway.serve(served, now_ns=now_ns)
        self.net.settle(node)

    def _inform_leader(self) -> None:
        name = self.leading[0]
        if not name or not self.is_running(name):
            return
        node, now_ns = self.net.nodes[name], self.local_ns(name)
        assert isinstance(node.machine, Controller)
        leader = node.machine.leader
        if leader is None:
            return
        members = {one: LeaderMember(self.net.nodes[one].address, self._seems_up(name, one)) for one in self.kernels}
        members |= {one: LeaderMember(address, False) for one, address in self.departed.items()}
        leader.set_members(members, now_ns=now_ns)
        is_new = self.is_new and self.leading[1] == self.new_in_term
        ways = {ip: Way(self.leases[ip][0], self.successors[ip], is_new) for ip in IPS}
        leader.set_floating_ips(ways, now_ns=now_ns)
        leader.set_demand(self.demand, now_ns=now_ns)
        self.net.settle(node)

    def _seems_up(self, observer: str, name: str) -> bool:
        cuts = self.net.cuts
        return (
            name not in self.slandered and self.is_running(name) and not ({(observer, name), (name, observer)} & cuts)
        )

    # The datapath

    def packet(self) -> None:
        """One node sends one packet of one block: of a flow it has, or of a new one."""
        name = self.random.choice(sorted(self.kernels))
        floating_ip = self.random.choice(IPS)
        kernel = self.kernels[name]
        live = [block for ip, block in kernel.flows if ip == floating_ip]
        able = kernel.usable.get(floating_ip, ()) if len(live) < self.needs.get((name, floating_ip), 1) else ()
        way = self.ways[name].get(floating_ip)
        if way is None or not (live or able):
            return
        block = self.random.choice(live + list(able))
        kernel.flows[(floating_ip, block)] = None
        self._arrive(name, way[0], floating_ip, block)

    def _arrive(self, name: str, gateway: str, floating_ip: IPv4Address, block: int) -> None:
        if not gateway or (name, gateway) in self.dark or self.leases[floating_ip][0] != gateway:
            return
        key, kernel = (floating_ip, block), self.kernels[gateway]
        row = kernel.owners.get(key)
        is_trusted = kernel.trusted.get(floating_ip) == self.leases[floating_ip][1]
        if row is None or row.owner != name or not is_trusted:
            self.refused += 1
            if self.is_running(gateway):
                node = self.net.nodes[gateway]
                assert isinstance(node.machine, Agent)
                node.machine.gateway.note_foreign(floating_ip, block, name, now_ns=self.local_ns(gateway))
                self.net.settle(node)
            return
        self.accepted += 1
        kernel.packets[key] = self.net.now_ns
        self._check(name, floating_ip, block)
        self.used[key] = (name, self.net.now_ns)

    def _check(self, name: str, floating_ip: IPv4Address, block: int) -> None:
        former, when_ns = self.used.get((floating_ip, block), (name, 0))
        let_go_ns = self.let_go.get((former, floating_ip, block), -1)
        unused_ns = self.net.now_ns - when_ns
        if former != name and let_go_ns < when_ns and unused_ns < UNUSED_NS_MIN:
            raise InvariantViolated(
                f"{self.net.now_ns / 1e9:.3f}: {name} uses {floating_ip} {block}, which {former} used "
                f"{unused_ns / 1e9:.3f} s ago (seed {self.net.seed})"
            )

    def scan(self) -> None:
        """Flows end, and agents look which blocks have any."""
        for name in sorted(self.kernels):
            kernel = self.kernels[name]
            for key in [key for key in kernel.flows if self.random.random() < 0.1]:
                del kernel.flows[key]
            if not self.is_running(name):
                continue
            node, now_ns = self.net.nodes[name], self.local_ns(name)
            assert isinstance(node.machine, Agent)
            for floating_ip in IPS:
                live = [block for ip, block in kernel.flows if ip == floating_ip]
                lack = self.needs.get((name, floating_ip), 0) - len(kernel.usable.get(floating_ip, ()))
                node.machine.owner.note_use(floating_ip, 0, 64.0 * max(0, lack) / RESERVE_S, now_ns=now_ns)
                node.machine.owner.note_scan(floating_ip, live, begun_ns=now_ns, now_ns=now_ns)
            self.net.settle(node)

    def _execute(self, node: Node, output: Any) -> None:
        name = node.key
        if isinstance(output, BlockMoved):
            self.moved += 1
        if isinstance(output, BlockMoved | TableRead):
            return
        kernel = self.kernels[name]
        if isinstance(output, SetOwner):
            kernel.owners[(output.floating_ip, output.block)] = output.row
            if output.row == NEVER_GIVEN:
                del kernel.owners[(output.floating_ip, output.block)]
        elif isinstance(output, Trust):
            kernel.trusted[output.floating_ip] = output.tenure
        elif isinstance(output, Usable):
            kernel.usable[output.floating_ip] = output.blocks
        elif isinstance(output, EndFlows):
            kernel.flows.pop((output.floating_ip, output.block), None)
            # It was taken: what follows is not the node's own word.
            kernel.own.pop((output.floating_ip, output.block), None)
        elif isinstance(output, Store):
            self._store(name, kernel, output)

    def _store(self, name: str, kernel: HostKernel, output: Store) -> None:
        key = (output.floating_ip, output.block)
        if output.stamp is not None:
            kernel.own[key] = (output.stamp, output.contact_ns)
            return
        usable = kernel.usable.get(output.floating_ip, ())
        kernel.usable[output.floating_ip] = tuple(block for block in usable if block != output.block)
        if kernel.own.pop(key, None) is not None:
            assert key not in kernel.flows, f"{name} lets go of {key} with a flow in it"
            self.let_go[(name, *key)] = self.net.now_ns

    # Running

    def begin(self) -> None:
        self._each(50 * MS, self.elect)
        self._each(100 * MS, self.inform)
        self._each(7 * MS, self.packet)
        self._each(200 * MS, self.scan)

    def _each(self, span_ns: int, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self.net.after(span_ns, again)

        self.net.after(span_ns, again)

    def leader(self) -> LeaderBlocks | None:
        name = self.leading[0]
        machine = self.net.nodes[name].machine if name else None
        return machine.leader if isinstance(machine, Controller) else None
