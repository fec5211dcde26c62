"""Which node has which block of ports, as long as this process leads (docs/port-blocks.md).

A machine per term: it reads what gateways and nodes have before it gives anything.
"""

import asyncio
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from operator import is_
from typing import Any

from service.audit.port_run import PortRun
from service.audit.recorder import LeaderRecorder
from service.controller.knowledge import Knowledge
from service.controller.node_demand import NodeDemand
from service.host import identity
from service.model.gateway_node import NodeState
from service.model.kept import Kept
from service.model.lease import Stamp
from service.model.machine import Address, Source
from service.port_block.block import BLOCKS, ports_of
from service.port_block.leader import LeaderBlocks
from service.port_block.record import BlockMoved, Cause, TableRead
from service.port_block.way import LeaderMember, Way
from service.settings import Settings
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket


class _PresentTerm:
    """The machine of the term in which this process leads, if it does; what comes for another time is nobody's."""

    def __init__(self) -> None:
        self.machine: LeaderBlocks | None = None

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        if self.machine is not None:
            self.machine.receive(source, payload, now_ns=now_ns)

    def advance(self, *, now_ns: int) -> None:
        if self.machine is not None:
            self.machine.advance(now_ns=now_ns)

    def deadline_ns(self) -> int | None:
        return self.machine.deadline_ns() if self.machine is not None else None

    def drain(self) -> list[Any]:
        return list(self.machine.drain()) if self.machine is not None else []


class LeaderPortBlocks:
    """Owns the machine of each term, their socket and its pump. The socket is opened, the pump run, by the caller."""

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        knowledge: Knowledge,
        *,
        clock: Callable[[], int],
        recorder: LeaderRecorder,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._knowledge = knowledge
        self._clock = clock
        self._recorder = recorder
        self._unsaid: list[BlockMoved | TableRead] = []
        """Not yet on record: what moves together is one record."""
        self._present = _PresentTerm()
        self._kept_members = Kept[dict[str, LeaderMember]]()
        self._kept_ways = Kept[dict[IPv4Address, Way]]()
        self._told: tuple[object, object, object] = (None, None, None)
        """Which machine was told last, of which members and ways."""
        index = knowledge.intake.index
        self._demand = NodeDemand(index.selections())
        index.follow(lambda delta: self._demand.take(delta.selections))
        envelope = Envelope(
            settings.keys,
            cluster=settings.cluster,
            node=settings.node,
            start_id=identity.start_id(),
            purpose="state",
        )
        self.socket = SealedSocket(
            Address(settings.bind_address, settings.ports.leader),
            envelope,
            bind_receiver=True,
            on_datagram=lambda source, payload: self.pump.on_datagram(source, payload),
        )
        self.pump = MachinePump(self._present, clock=clock, send=self.socket.send, handle=self._handle)

    def lead(self, term: int, until_ns: int) -> None:
        """This process leads in that term until then, unless it is told again."""
        machine, now_ns = self._present.machine, self._clock()
        if machine is None or machine.term != term:
            self._record()
            machine = self._present.machine = LeaderBlocks(term=term, now_ns=now_ns)
            machine.set_leading_until(until_ns, now_ns=now_ns)
            self.update()
        else:
            machine.set_leading_until(until_ns, now_ns=now_ns)
        self.pump.wake()

    def end(self) -> None:
        """It leads no more."""
        self._record()
        self._present.machine = None
        self.pump.wake()

    def update(self) -> None:
        """Bring the machine in step with what is known: members, where addresses are, and which nodes need ports."""
        machine = self._present.machine
        if machine is None or not self._knowledge.has_caught_up():
            return
        now_ns = self._clock()
        members, ways = self._members(), self._ways()
        machine.set_members(members, now_ns=now_ns)
        told = machine, members, ways
        if not all(map(is_, told, self._told)):
            machine.set_floating_ips(ways, now_ns=now_ns)
            self._told = told
        machine.set_demand(self._demand.nodes(), now_ns=now_ns)
        self.pump.wake()

    def status(self) -> dict[str, Any]:
        """Of each floating IP: how many blocks each node has, and lacks of its base, and how many are nobody's, those
        that rest (Q5) among them; empty while it does not lead."""
        machine, gateway = self._present.machine, self._knowledge.intake.index.gateway()
        if machine is None or gateway is None:
            return {}
        short = self.lacking()
        found = {}
        for floating_ip in gateway.floating_ips:
            owners = machine.counts(floating_ip)
            found[str(floating_ip)] = {
                "isComplete": machine.is_complete(floating_ip),
                "blocks": owners,
                "unowned": BLOCKS - sum(owners.values()),
                "lacking": short.get(floating_ip, {}),
            }
        return found

    def lacking(self) -> dict[IPv4Address, dict[str, int]]:
        """How many blocks of their base nodes lack, by floating IP (rule Q2); empty while it does not lead."""
        machine = self._present.machine
        return machine.shortages() if machine is not None else {}

    def _members(self) -> dict[str, LeaderMember]:
        nodes, sockets = self._cluster.gateway_nodes(), self._cluster.sockets(self._settings.ports.state)
        return self._kept_members.of(
            lambda: {
                node.name: LeaderMember(sockets[node.name], node.state is NodeState.UP)
                for node in nodes
                if node.name in sockets
            },
            nodes,
            sockets,
        )

    def _ways(self) -> dict[IPv4Address, Way]:
        gateway = self._knowledge.intake.index.gateway()
        holders, assignments = self._knowledge.holders(), self._cluster.assignments()

        def ways() -> dict[IPv4Address, Way]:
            found = {}
            for floating_ip in gateway.floating_ips if gateway is not None else ():
                held, assigned = holders.get(floating_ip), assignments.get(floating_ip)
                successor = (assigned.successor or "") if assigned is not None else ""
                found[floating_ip] = Way(held.node if held is not None else "", successor)
            return found

        return self._kept_ways.of(ways, gateway, holders, assignments)

    def _handle(self, output: object) -> None:
        if not isinstance(output, BlockMoved | TableRead):
            raise TypeError(f"unknown output {output!r}")
        if not self._unsaid:
            asyncio.get_running_loop().call_soon(self._record)
        self._unsaid.append(output)

    def _record(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        term = self._present.machine.term if self._present.machine is not None else 0
        moved: list[BlockMoved] = []
        for one in unsaid:
            if isinstance(one, BlockMoved):
                moved.append(one)
                continue
            self._record_moves(moved, term)
            moved = []
            self._recorder.ports_table(one.floating_ip, runs_of(one.rows), term=term)
        self._record_moves(moved, term)

    def _record_moves(self, moved: Iterable[BlockMoved], term: int) -> None:
        for (floating_ip, former, cause), rows in by_move(moved).items():
            self._recorder.ports_moved(floating_ip, runs_of(rows), former=former, reason=cause, term=term)


Move = tuple[IPv4Address, str, Cause]
"""Of a floating IP: from whom (empty: nobody), and why."""
Held = tuple[int, str, Stamp]
"""A block, whose it is (empty: nobody's), and the stamp."""


def by_move(moved: Iterable[BlockMoved]) -> dict[Move, list[Held]]:
    """The blocks of each move, with whose they are now."""
    found: dict[Move, list[Held]] = {}
    for one in moved:
        key = one.floating_ip, one.former or "", one.cause
        found.setdefault(key, []).append((one.block, one.row.owner or "", one.row.stamp))
    return found


def runs_of(rows: Iterable[Held]) -> list[PortRun]:
    """Their ports, in order; neighbours of one node and stamp are one run."""
    found: list[PortRun] = []
    for block, node, stamp in sorted(rows):
        ports = ports_of(block)
        last = found[-1] if found else None
        if last is not None and (last.last + 1, last.node, last.stamp) == (ports.start, node, stamp):
            found[-1] = last._replace(last=ports.stop - 1)
        else:
            found.append(PortRun(ports.start, ports.stop - 1, stamp, node))
    return found
