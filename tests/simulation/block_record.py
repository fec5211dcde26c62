"""What leaders of a world of port blocks put on record, as their controllers do, and what the records then say.

A controller that is killed loses what it recorded last. Wall clocks are true here: what they do to an answer is a
matter of how far they are wrong, and no more.
"""

import random
from ipaddress import IPv4Address
from typing import Any, Unpack, cast

from service.audit.chain import Facts
from service.audit.outbox import Outbox
from service.audit.port_tenure import PortTenure, port_tenures
from service.audit.recorder import LeaderRecorder
from service.controller.port_blocks import by_move, runs_of
from service.model.audit_record import AuditRecord, RecordKind
from service.port_block.block import ports_of
from service.port_block.record import BlockMoved, TableRead
from tests.simulation.block_world import BlockWorld, Controller
from tests.simulation.world import MS, Node

UNSYNCED_NS_MAX = 300 * MS


class _Outbox:
    """Of one controller; survives it, but for its end."""

    def __init__(self, world: BlockWorld, name: str) -> None:
        self._world, self._name = world, name
        self.records: list[AuditRecord] = []
        self.term = 0

    def append(self, kind: RecordKind, **facts: Unpack[Facts]) -> None:
        now_ns, term = self._world.net.now_ns, self.term
        place = len(self.records) + 1
        self.records.append(
            AuditRecord(kind, self._name, "b", place, now_ns, now_ns, outbox=self._name, term=term, **facts)
        )


class BlockRecord:
    """Follows a world from its beginning."""

    def __init__(self, world: BlockWorld) -> None:
        self._world = world
        self._random = random.Random(f"{world.net.seed}/record")
        self._outboxes = {name: _Outbox(world, name) for name in world.controllers}
        self.uses: list[tuple[int, IPv4Address, int, str]] = []
        """(true time, address, block, node) of packets that a gateway took."""
        self._execute, self._check, self._kill = world.net.on_output, world._check, world.kill
        world.net.on_output = self._note
        world._check = self._use  # type: ignore[method-assign]
        world.kill = self._lose  # type: ignore[method-assign]

    def _note(self, node: Node, output: Any) -> None:
        self._execute(node, output)
        if not isinstance(output, BlockMoved | TableRead):
            return
        assert isinstance(node.machine, Controller)
        assert node.machine.leader is not None
        term = node.machine.leader.term
        box = self._outboxes[node.key]
        box.term = term
        recorder = LeaderRecorder(cast(Outbox, box), node=node.key, lease_ns=1, clock=lambda: self._world.net.now_ns)
        if isinstance(output, TableRead):
            recorder.ports_table(output.floating_ip, runs_of(output.rows), term=term)
            return
        for (floating_ip, former, cause), rows in by_move([output]).items():
            recorder.ports_moved(floating_ip, runs_of(rows), former=former, reason=cause, term=term)

    def _use(self, name: str, floating_ip: IPv4Address, block: int) -> None:
        self._check(name, floating_ip, block)
        self.uses.append((self._world.net.now_ns, floating_ip, block, name))

    def _lose(self, name: str) -> None:
        self._kill(name)
        if name in self._outboxes:
            until_ns = self._world.net.now_ns - self._random.randrange(UNSYNCED_NS_MAX)
            box = self._outboxes[name]
            # A sequence that was given out and not written is given out again, by the next process.
            box.records = [one for one in box.records if one.wall_time_ns <= until_ns]

    def records(self) -> list[AuditRecord]:
        """What is on disk, of all controllers."""
        return [record for box in self._outboxes.values() for record in box.records]

    def answers(self) -> tuple[int, int, list[str]]:
        """Of the packets taken: how many the records prove, how many they at least name right, and what is wrong."""
        known: dict[tuple[IPv4Address, int], list[PortTenure]] = {}
        proved = named = 0
        wrong = []
        records = self.records()
        for at_ns, floating_ip, block, name in self.uses:
            key = floating_ip, block
            if key not in known:
                known[key] = port_tenures(records, str(floating_ip), ports_of(block).start)
            found = next((one for one in known[key] if one.covers(at_ns)), None)
            named += found is not None and found.node == name
            if found is not None and found.proves(at_ns):
                proved += 1
                if found.node != name:
                    wrong.append(f"{at_ns / 1e9:.3f} {floating_ip} {block}: {name}, and not {found.node or 'nobody'}")
        return proved, named, wrong
