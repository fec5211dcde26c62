"""A controller that leads, with everything that its turn asks: no socket, no elector, no API server, and no waiting.

What gossip knows it was told in datagrams, what electors say came in their reports, and what the source knows came in
as objects, as in a whole controller. Its clock stands still but where it is told to go on.
"""

import random
from collections.abc import Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from loadtest.scale.steps import Steps
from service.audit.outbox import Origin, Outbox
from service.audit.recorder import LeaderRecorder
from service.controller.elector_client import OBSERVE_NS
from service.controller.holders import HolderTable
from service.controller.knowledge import Knowledge
from service.controller.leader import Leader
from service.controller.port_blocks import LeaderPortBlocks
from service.gateway.row import MemberMetadata, encode_metadata
from service.gossip.message import ALIVE, DEAD, Delta, Record, WireState, encode_message, encode_packet
from service.lease.holder import OpenFence
from service.lease.message import Query, Row, decode, encode, reports
from service.lease.observer import Observed, Observer
from service.model.assignment import Assignment
from service.model.errors import TransientError
from service.model.gateway_node import Hearing, NodeRole, Segment
from service.model.lease import LEADER_KEY, Elector, Token
from service.model.machine import Address, Source
from service.model.objects import Change
from service.settings import DatapathSettings, ElectorateSettings, ElectorSettings, Settings
from service.sources.intake import Intake
from service.wire.cluster_view import ClusterView
from service.wire.pump import MachinePump

NODE = "controller-0"
TERM = 7
SUBNET = IPv4Network("172.16.0.0/16")
ELECTORS = 3
"""The first nodes."""
REPORT, WORD, FIRST_TURNS, FIRST_BLOCKS = (
    "an elector's report",
    "a member's word",
    "a turn of a new leader",
    "port blocks are told all",
)
"""Steps of its loop."""
_GOSSIP_PORT = 9640
_RECORDS = 4
"""In one datagram of gossip."""
_JOIN_NS = 20_000_000
"""Between two of those by which members become known: the pace that admission bears for ever."""
_ANSWER_NS = range(200_000, 2_000_000)
"""After which electors answer."""
_LEFT_MS = range(240, 300)
"""What a promise of 300 ms that is renewed each 60 ms has left."""
_FOR_EVER_NS = 10**15
_TURNS_MAX = 8


class VirtualClock:
    """Nanoseconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now_ns = 3600 * 10**9

    def __call__(self) -> int:
        """The time now."""
        return self.now_ns


class DrivenController:
    """What a controller is made of, as far as its turns go. `turn` is what is measured."""

    def __init__(self, folder: Path) -> None:
        settings = self._settings = _settings(folder)
        lease_ns = settings.lease_profile.lease_ns
        self.clock = VirtualClock()
        self.steps = Steps()
        self.is_dirty = False
        """Something has happened that brings a turn."""
        self.leases: dict[IPv4Address, tuple[str, Token]] = {}
        """As the electors have it."""
        self._random = random.Random(1)
        self._electorate = settings.electorate
        self._intake = Intake(settings.datapath)
        self._table = HolderTable(lease_ns=lease_ns)
        outbox = Outbox(
            folder / "outbox", Origin(NODE, "b", component="controller"), clock=lambda: (self.clock(), self.clock())
        )
        self._recorder = LeaderRecorder(outbox, node=NODE, lease_ns=lease_ns, clock=self.clock)
        self.cluster = ClusterView(
            settings,
            MemberMetadata(NodeRole.CONTROLLER, False, False, (), "1", 1),
            clock=self.clock,
            changed=self._note_change,
            member_changed=lambda name, state: self._leader.note_member(name, state),
        )
        self._make_leader()
        self._make_observer()

    def _make_leader(self) -> None:
        self.knowledge = Knowledge(
            self._intake,
            self.cluster,
            self._table,
            electors=lambda: self._electorate.members,
            silent=tuple,
            problems=tuple,
            server=lambda: None,
            lacking_ports=lambda: self._blocks.lacking(),
            moves=lambda: self._leader.moves,
            clock=self.clock,
        )
        self._leader = Leader(self.cluster, self.knowledge, self._recorder, clock=self.clock, wall_clock=self.clock)
        self._blocks = LeaderPortBlocks(
            self._settings, self.cluster, self.knowledge, clock=self.clock, recorder=self._recorder
        )

    def _make_observer(self) -> None:
        self._queries: list[Query] = []
        self._observer = Observer(
            electorate=self._electorate,
            lease_port=self._settings.ports.lease,
            interval_ns=OBSERVE_NS,
            now_ns=self.clock(),
        )
        self._observer_pump = MachinePump(
            self._observer, clock=self.clock, send=self._note_query, handle=self._handle_lease
        )

    # -- what it hears --

    def _note_change(self) -> None:
        self.is_dirty = True

    def _note_query(self, to: Address, payload: bytes) -> None:
        query = decode(payload)
        assert isinstance(query, Query)
        self._queries.append(query)

    def _handle_lease(self, output: object) -> None:
        assert isinstance(output, Observed)
        self._recorder.observed(output.table, self.cluster.assignments())
        if self._table.observe(output.table, now_ns=self.clock()):
            self.is_dirty = True

    def take(self, changes: Iterable[Change]) -> None:
        """One batch of a source's."""
        batch = tuple(changes)
        self._recorder.changes(batch)
        self._recorder.policy_states(self._intake.take(batch).policies)
        self.cluster.know_nodes(self._intake.inventory.addresses())
        self.is_dirty = True

    def meet(self, count: int) -> None:
        """So many agents there are by gossip."""
        for start in range(0, count, _RECORDS):
            self.clock.now_ns += _JOIN_NS
            records = tuple(_record(number) for number in range(start, min(start + _RECORDS, count)))
            self._hear(encode_message(Delta(records, ())))

    def change_member(self, number: int, incarnation: int) -> float:
        """An agent says something else of itself, which concerns no address. Returns ms of the loop."""
        record = _record(number, incarnation, own=(SUBNET[60_000] + incarnation,))
        return self.steps.take(WORD, partial(self._hear, encode_message(Delta((record,), ()))))

    def bury_member(self, number: int) -> float:
        """A member tells, first hand, that an agent is dead. Returns ms of the loop."""
        return self.steps.take(WORD, partial(self._hear, encode_message(_record(number, state=DEAD))))

    def _hear(self, message: bytes) -> None:
        source = Source(Address(str(node_address(0)), _GOSSIP_PORT), node_name(0), 1)
        self.cluster.pump.on_datagram(source, encode_packet([message]))

    def hear_electors(self) -> float:
        """The next round of questions, and all answers to it, within a few ms. Returns ms of the loop."""
        due_ns = self._observer.deadline_ns()
        assert due_ns is not None
        self.clock.now_ns = max(self.clock.now_ns, due_ns)
        self._queries.clear()
        self._observer.advance(now_ns=self.clock())
        self._observer_pump.wake()
        sequence = self._queries[0].sequence
        self.clock.now_ns += self._random.choice(_ANSWER_NS)
        answers = [(elector, self._report(sequence)) for elector in self._electorate.members]
        return sum(self.steps.take(REPORT, partial(self._hear_report, *answer)) for answer in answers)

    def _hear_report(self, elector: Elector, parts: Sequence[bytes]) -> None:
        source = Source(Address(elector.host, self._settings.ports.lease), elector.name, 1)
        for part in parts:
            self._observer_pump.on_datagram(source, part)

    def _report(self, sequence: int) -> list[bytes]:
        """What an elector answers: each promise has a little more or less left than the last time."""
        left_ms = partial(self._random.choice, _LEFT_MS)
        rows = [Row(LEADER_KEY, Token(TERM, 0, 1), NODE, left_ms())]
        rows += [Row(str(floating_ip), token, node, left_ms()) for floating_ip, (node, token) in self.leases.items()]
        parts = reports(self._electorate.epoch, sequence, voting=True, rows=rows)
        return [encode(part) for part in parts]

    # -- leading --

    def lead(self) -> None:
        """Elected: place everything, until every address is held by its node and nothing changes any more.

        Raises TransientError where something goes on changing.
        """
        self.hear_electors()
        until_ns = self.clock() + _FOR_EVER_NS
        self._leader.leadership.opened(OpenFence(LEADER_KEY, Token(TERM, 0, 1), until_ns, True))
        self.steps.take(FIRST_BLOCKS, partial(self._blocks.lead, TERM, until_ns))
        for _ in range(_TURNS_MAX):
            before = self.rows()
            self.turn(FIRST_TURNS)
            if before and self.rows() == before:
                return
            self._grant_all()
            self.hear_electors()
        raise TransientError("the leader's table goes on changing, though nothing happens")

    def turn(self, name: str) -> float:
        """What the controller does when something has changed, in one step. Returns ms of the loop."""
        self.is_dirty = False
        return self.steps.take(name, self._turn)

    def _turn(self) -> None:
        self._leader.place()
        self._blocks.update()

    def rows(self) -> dict[IPv4Address, Assignment]:
        """The table as it is published now."""
        return dict(self.cluster.assignments())

    def _grant_all(self) -> None:
        for floating_ip, row in self.rows().items():
            if row.holder is not None:
                self.leases[floating_ip] = row.holder, Token(*row.stamp, 1)

    def fail_over(self, node: str) -> None:
        """The leases of a node end, and the successors that the table names have them."""
        for floating_ip, row in self.rows().items():
            held = self.leases.get(floating_ip)
            if held is not None and held[0] == node and row.successor is not None:
                self.leases[floating_ip] = row.successor, Token(*row.stamp, 2)


def node_name(number: int) -> str:
    """Of an agent; numbers begin at 0."""
    return f"node-{number:04}"


def node_address(number: int) -> IPv4Address:
    """Of an agent on the segment."""
    return SUBNET[16 + number]


def _record(
    number: int, incarnation: int = 1, *, state: WireState = ALIVE, own: tuple[IPv4Address, ...] = ()
) -> Record:
    address = node_address(number)
    segment = Segment(SUBNET, address, b"\2\0" + number.to_bytes(4, "big"), "eth0", Hearing.HEARS)
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (segment,), "1", number + 1, own)
    return Record(node_name(number), str(address), _GOSSIP_PORT, incarnation, state, 0, encode_metadata(metadata))


def _settings(folder: Path) -> Settings:
    electors = tuple(
        ElectorSettings(name=node_name(number), address=str(node_address(number))) for number in range(ELECTORS)
    )
    return Settings(
        node=NODE,
        bind_address=str(SUBNET[2]),
        keyring=("11" * 32,),
        source=f"manifests:{folder}",
        state_dir=str(folder / "state"),
        run_dir=str(folder / "run"),
        electors=ElectorateSettings(members=electors),
        datapath=DatapathSettings(pod_cidrs=("10.0.0.0/8",)),
    )
