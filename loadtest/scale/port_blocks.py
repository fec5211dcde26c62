"""Row `port-blocks`: the leader's table of port blocks, by the number of floating IPs.

Each address has a block on each of so many nodes. There are further members, which have none: so many that the base of
a node is one block (Q2). Holders and successors are among the nodes, evenly. All of that is what agents have restored
after a start. The first leader finds no holder that vouches for its rows (Q8), so that every member has to answer
before it may give anything; then others follow it, one after the other, and each of them reads every gateway and every
member.

Two kinds of numbers: *loop time* is CPU time of the leader's steps, its records included (`LeaderRecorder`, as
`LeaderPortBlocks` makes them) and what `LeaderPortBlocks.update` gathers left out (row `placement`). The time of a
request is virtual: waiting for links and timers, and what the steps on its way took (`block_network`).
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from loadtest import goal
from loadtest.gateway import Report
from loadtest.goal import Figure, at_most
from loadtest.scale.block_network import MS, Agent, LeasesOfNode, Network, Process
from loadtest.scale.curve import Curve, Point
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.steps import Steps, frozen_heap, longest_of
from loadtest.statistics import median, percentile
from service.audit.outbox import Origin, Outbox
from service.audit.recorder import LeaderRecorder
from service.controller.port_blocks import by_move, runs_of
from service.host.memory import freeze_heap
from service.model.errors import TransientError
from service.model.lease import TERM_MAX, Stamp, Token
from service.model.machine import Address
from service.port_block.block import BLOCK_PORTS, BLOCKS, Row
from service.port_block.gateway import GatewayBlocks
from service.port_block.leader import LeaderBlocks
from service.port_block.owner import RESERVE_S, OwnerBlocks, Usable
from service.port_block.record import BlockMoved, TableRead
from service.port_block.way import LeaderMember, Way

REQUESTS = 100
"""For one more block, each of another node or for another address."""
ONE_BLOCK_MEMBERS = BLOCKS // 4 + 1
"""From so many members on a node's base is one block."""
TOLD, RECORD, SCAN = "told of members and addresses", "put on record", "a look at the flows"
"""Steps, beside those of the network."""
LEADER = "controller-0"
_LEADER_ADDRESS = Address("10.1.0.1", 9646)
_FIRST_NODE, _STATE_PORT = IPv4Address("10.1.1.0"), 9641
_FIRST_FLOATING_IP = IPv4Address("192.168.0.0")
_LEADER_STARTS = 1 << 32
"""Start ids of leaders are above it, those of agents below."""
_SECOND = 1000 * MS
_BEGAN_NS = 2000 * _SECOND
_REMEMBERS_SINCE_NS = _BEGAN_NS - 1000 * _SECOND
"""Longer ago than any block lives that its owner has forgotten (Q7)."""
_HELD = Token(1, 1, 1)
"""Under which addresses are held; what nodes have of them is of a leader of that term."""
_FOR_EVER_NS = 10**15
_LOOK_NS = 5 * MS
"""How often is looked whether what is waited for has come."""
_SETTLED_NS_MAX, _LEARNT_NS_MAX, _USABLE_NS_MAX = 120 * _SECOND, 60 * _SECOND, 10 * _SECOND
_GAP_MS = range(200, 400)
"""Between two requests, so that they meet every timer at another moment."""
_START_MS, _STEP_MS, _P50_MS, _P99_MS = 500, 20, 10, 50
"""Goals."""


class BlockCluster:
    """Nodes that have selected pods of every address, further members, and the leader of the present term."""

    def __init__(self, folder: Path, floating_ips: int, nodes: int) -> None:
        """At least two nodes. No leader yet."""
        self.network = Network(_BEGAN_NS)
        self.floating_ips = tuple(_FIRST_FLOATING_IP + number for number in range(floating_ips))
        names = [f"node-{number:04}" for number in range(max(nodes, ONE_BLOCK_MEMBERS))]
        self.nodes = tuple(names[:nodes])
        self.usable: dict[tuple[str, IPv4Address], tuple[int, ...]] = {}
        """The blocks of which each node may take ports, where it may of any."""
        self.moved = 0
        """Blocks that leaders have said to be another's now."""
        self.leader: Process
        self._leader_blocks: LeaderBlocks
        self._term = _HELD.term
        self._unsaid: list[BlockMoved | TableRead] = []
        outbox = Outbox(folder / "outbox", Origin(LEADER, "b"), clock=self._both_clocks)
        self._recorder = LeaderRecorder(outbox, node=LEADER, lease_ns=300 * MS, clock=lambda: self.network.now_ns)
        self._ways = {
            floating_ip: Way(self.nodes[number % nodes], self.nodes[(number + 1) % nodes])
            for number, floating_ip in enumerate(self.floating_ips)
        }
        self._rows = [(block, Row(name, Stamp(_HELD.term, block + 1))) for block, name in enumerate(self.nodes)]
        """Of every address."""
        self._own = {
            name: (block, row.stamp, _BEGAN_NS) for name, (block, row) in zip(self.nodes, self._rows, strict=True)
        }
        self._addresses = {name: Address(str(_FIRST_NODE + n), _STATE_PORT) for n, name in enumerate(names)}
        self._agent_steps = Steps()
        self._agents: dict[str, tuple[Process, Agent]] = {}
        for number, name in enumerate(names):
            self._add_agent(number, name)
        for name in names:
            process, _ = self._agents[name]
            self.network.step(process, TOLD, partial(self._tell_agent, name))
            # One after the other, so that their timers are not in step.
            self.network.run(MS)

    def _add_agent(self, number: int, name: str) -> None:
        kernel, now_ns = LeasesOfNode(), self.network.now_ns
        kernel.held = {ip: _HELD for ip, way in self._ways.items() if way.holder == name}
        owner = OwnerBlocks(name, number + 1, remembers_since_ns=_REMEMBERS_SINCE_NS, now_ns=now_ns)
        gateway = GatewayBlocks(kernel, now_ns=now_ns)
        for floating_ip in self._served(name):
            gateway.restore(floating_ip, self._rows, kernel.tenure(floating_ip), now_ns=now_ns)
        agent = Agent(owner, gateway)
        note = partial(self._note_agent, name)
        process = Process(name, self._addresses[name], number + 1, agent, note, self._agent_steps)
        self._agents[name] = process, agent
        self.network.add(process)

    def _tell_agent(self, name: str) -> None:
        _, agent = self._agents[name]
        now_ns = self.network.now_ns
        for machine in (agent.owner, agent.gateway):
            machine.set_members(self._addresses, now_ns=now_ns)
            machine.set_leader(_LEADER_ADDRESS, term_max=TERM_MAX, now_ns=now_ns)
        if name not in self.nodes:
            return
        for floating_ip, way in self._ways.items():
            agent.owner.restore(floating_ip, [self._own[name]], now_ns=now_ns)
            agent.owner.set_way(floating_ip, way.holder, way.successor, now_ns=now_ns)
        agent.gateway.serve(self._served(name), now_ns=now_ns)

    def _served(self, name: str) -> list[IPv4Address]:
        return [floating_ip for floating_ip, way in self._ways.items() if name in (way.holder, way.successor)]

    def _note_agent(self, name: str, output: object) -> None:
        if not isinstance(output, Usable):
            return
        if output.blocks:
            self.usable[name, output.floating_ip] = output.blocks
        else:
            self.usable.pop((name, output.floating_ip), None)

    def _both_clocks(self) -> tuple[int, int]:
        return self.network.now_ns, self.network.now_ns

    # -- leaders --

    def settle(self) -> None:
        """Gateways say that each node has its block of each address. Raises TransientError where they do not."""
        everywhere = len(self.nodes) * len(self.floating_ips)
        self._wait(lambda: len(self.usable) == everywhere, _SETTLED_NS_MAX, "each node has a block of each address")

    def start_leader(self) -> Steps:
        """Another one leads: its steps until it has learnt all, and for its first second at least.

        Raises TransientError where it does not learn all.
        """
        began_ns = self.network.now_ns
        self._elect()
        self._wait(self._is_learnt, _LEARNT_NS_MAX, "the new leader has learnt all")
        self.network.run(max(0, began_ns + _SECOND - self.network.now_ns))
        return self._take_steps()

    def idle_ms(self) -> float:
        """Of the leader's loop, in a second in which nobody asks for anything."""
        self._take_steps()
        self.network.run(_SECOND)
        return self._take_steps().total_ms

    def _take_steps(self) -> Steps:
        steps, self.leader.steps = self.leader.steps, Steps()
        return steps

    def _elect(self) -> None:
        self._term += 1
        machine = self._leader_blocks = LeaderBlocks(term=self._term, now_ns=self.network.now_ns)
        start_id = _LEADER_STARTS + self._term
        self._unsaid = []
        self.leader = Process(LEADER, _LEADER_ADDRESS, start_id, machine, self._note_leader, Steps())
        self.network.add(self.leader)
        self.network.step(self.leader, TOLD, self._tell_leader)

    def _tell_leader(self) -> None:
        machine, now_ns = self._leader_blocks, self.network.now_ns
        machine.set_leading_until(now_ns + _FOR_EVER_NS, now_ns=now_ns)
        machine.set_members({name: LeaderMember(at, True) for name, at in self._addresses.items()}, now_ns=now_ns)
        machine.set_floating_ips(self._ways, now_ns=now_ns)
        machine.set_demand(dict.fromkeys(self.floating_ips, self.nodes), now_ns=now_ns)

    def _is_learnt(self) -> bool:
        machine, nodes = self._leader_blocks, len(self.nodes)
        return all(machine.is_complete(ip) and len(machine.counts(ip)) == nodes for ip in self.floating_ips)

    def _note_leader(self, output: BlockMoved | TableRead) -> None:
        if not self._unsaid:
            self.leader.soon.append((RECORD, self._put_on_record))
        self._unsaid.append(output)

    def _put_on_record(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        moved = [one for one in unsaid if isinstance(one, BlockMoved)]
        self.moved += len(moved)
        for one in unsaid:
            if isinstance(one, TableRead):
                self._recorder.ports_table(one.floating_ip, runs_of(one.rows), term=self._term)
        for (floating_ip, former, cause), rows in by_move(moved).items():
            self._recorder.ports_moved(floating_ip, runs_of(rows), former=former, reason=cause, term=self._term)

    # -- requests --

    def request(self, name: str, floating_ip: IPv4Address) -> float:
        """A node runs out of ports: ms until it may use one more block. Raises TransientError where none comes."""
        process, agent = self._agents[name]
        key, asked_ns = (name, floating_ip), self.network.now_ns
        before = len(self.usable[key])
        lacking_per_s = (BLOCK_PORTS - 1) / RESERVE_S

        def look(ports_free: int, per_s: float) -> None:
            agent.owner.note_use(floating_ip, ports_free, per_s, now_ns=self.network.now_ns)

        self.network.step(process, SCAN, partial(look, 0, lacking_per_s))
        if not self.network.run(_USABLE_NS_MAX, is_over=lambda: len(self.usable.get(key, ())) > before):
            raise TransientError(f"{name} did not get one more block of {floating_ip}")
        usable_ns = process.free_ns
        self.network.step(process, SCAN, partial(look, BLOCK_PORTS, 0.0))
        return (usable_ns - asked_ns) / MS

    def _wait(self, is_so: Callable[[], bool], span_ns: int, what: str) -> None:
        for _ in range(span_ns // _LOOK_NS):
            if is_so():
                return
            self.network.run(_LOOK_NS)
        raise TransientError(f"not within {span_ns // _SECOND} s: {what}")


@dataclass(slots=True)
class Measured:
    """At one size."""

    first: Steps
    """Of the first leader, until it had learnt all."""
    starts: list[Steps] = field(default_factory=list)
    """Of each leader after it."""
    idle: list[float] = field(default_factory=list)
    """ms of the leader's loop in a second."""
    requests: list[float] = field(default_factory=list)
    """ms until one more block was usable."""
    serving: Steps = field(default_factory=Steps)
    """The leader's steps meanwhile."""

    @property
    def start_ms(self) -> list[float]:
        """Loop time of each start but the first, in all."""
        return [steps.total_ms for steps in self.starts]


def measure_port_blocks(options: ScaleOptions, report: Report) -> goal.Row:
    """With a tenth, three tenths and all of the floating IPs."""
    found: dict[int, Measured] = {}
    for addresses in address_counts(options.sizes):
        report(f"{addresses} addresses, each with a block on {options.sizes.block_nodes} nodes")
        with tempfile.TemporaryDirectory(prefix="egressgw-port-blocks-") as folder:
            found[addresses] = measure_size(Path(folder), addresses, options, requests=REQUESTS)
    return _row(found, options.sizes)


def address_counts(sizes: ScaleSizes) -> list[int]:
    """Ascending, each at least one."""
    return sorted({max(1, sizes.floating_ips * tenths // 10) for tenths in (1, 3, 10)})


def measure_size(folder: Path, addresses: int, options: ScaleOptions, *, requests: int) -> Measured:
    """Everything at one size. Raises TransientError where what was driven did not come about."""
    cluster = BlockCluster(folder, addresses, options.sizes.block_nodes)
    cluster.settle()
    chance = random.Random(1)
    with frozen_heap():
        found = Measured(cluster.start_leader())
        for _ in range(options.repeats):
            # What all nodes have is no leader's heap: its garbage collections walk what it has made itself.
            freeze_heap()
            found.starts.append(cluster.start_leader())
        found.idle = [cluster.idle_ms() for _ in range(options.repeats)]
        for number in range(requests):
            cluster.network.run(chance.choice(_GAP_MS) * MS)
            node = cluster.nodes[7 * number % len(cluster.nodes)]
            found.requests.append(cluster.request(node, cluster.floating_ips[number % addresses]))
        found.serving = cluster.leader.steps
    return found


def _row(found: dict[int, Measured], sizes: ScaleSizes) -> goal.Row:
    addresses, largest = max(found), found[max(found)]
    longest = longest_of([largest.first, *largest.starts, largest.serving])
    waited = f"{len(largest.requests)} requests; waiting is virtual, work is measured"
    figures = [
        Figure(
            f"a leader starts, {addresses} addresses on {sizes.block_nodes} nodes: its loop in all",
            largest.first.total_ms,
            "ms",
            0,
            at_most(_START_MS),
            "no holder vouches for its rows",
        ),
        Figure(
            "the same after another leader, whose rows the holders vouch for",
            median(largest.start_ms),
            "ms",
            0,
            at_most(_START_MS),
            f"at most {max(largest.start_ms):.0f} ms of {len(largest.starts)}",
        ),
        Figure("the leader's longest step", longest.ms, "ms", 1, at_most(_STEP_MS), longest.name),
        Figure("one more block, asked to usable, p50", median(largest.requests), "ms", 1, at_most(_P50_MS), waited),
        Figure("the same, p99", percentile(largest.requests, 0.99), "ms", 1, at_most(_P99_MS)),
        Figure("an idle second of the leader's table", median(largest.idle), "ms", 1),
    ]
    detail = {
        "curves": [curve.document() for curve in _curves(list(found.items()))],
        "sizes": [_document(count, measured) for count, measured in found.items()],
    }
    return goal.Row("port-blocks", figures, detail)


def _curves(found: Sequence[tuple[int, Measured]]) -> list[Curve]:
    def curve(title: str, costs: Sequence[float]) -> Curve:
        points = tuple(Point(addresses, cost) for (addresses, _), cost in zip(found, costs, strict=True))
        return Curve(title, "floating IPs", "ms", points)

    return [
        curve("the first leader starts", [one.first.total_ms for _, one in found]),
        curve("another leader starts", [median(one.start_ms) for _, one in found]),
        curve("an idle second of the leader", [median(one.idle) for _, one in found]),
        curve("one more block", [median(one.requests) for _, one in found]),
    ]


def _document(addresses: int, measured: Measured) -> dict[str, object]:
    return {
        "addresses": addresses,
        "first_ms": measured.first.total_ms,
        "start_ms": measured.start_ms,
        "idle_ms": measured.idle,
        "requests_ms": measured.requests,
        "steps": {
            "first": measured.first.document(),
            "starts": [steps.document() for steps in measured.starts],
            "serving": measured.serving.document(),
        },
    }
