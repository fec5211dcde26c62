"""What one process knows of the cluster by gossip: members, the leader's assignments, and where floating IPs are.

Owns the gossip machine, its socket and its pump; everything above asks this and is told when something changed.
"""

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self, TypeVar

from service.gateway import row
from service.gateway.order import DRAIN_TABLE, MOVE_TABLE, decode_drain, decode_move
from service.gateway.row import (
    ASSIGNMENT_TABLE,
    CONFLICT_TABLE,
    KEYS_TABLE,
    LEADER_TABLE,
    LOCATION_TABLE,
    MemberMetadata,
)
from service.gossip.event import MemberChanged, NameConflict, Refused, RowChanged
from service.gossip.member import Member, MemberState
from service.gossip.membership import Membership
from service.gossip.message import METADATA_BYTES_MAX
from service.gossip.table import Row, VersionTuple
from service.model.assignment import Assignment, Location
from service.model.errors import OperatorError
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.kept import Kept
from service.model.lease import LEADER_KEY
from service.model.machine import Address
from service.settings import Settings
from service.wire import refusals
from service.wire.decoded import Decoded
from service.wire.envelope import Envelope
from service.wire.order_board import OrderBoard
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_NODE = ("agent", "keeper")
_CONTROLLER = ("controller",)
TICK_NS = 3600 * 1_000_000_000
"""Of leading, between two ticks of the clock by which tombstones age (gossip.md, Tables)."""

T = TypeVar("T")


def parse_seeds(seeds: Sequence[str], default_port: int) -> tuple[Address, ...]:
    """`host` or `host:port` each. Raises OperatorError naming the entry."""
    parsed = []
    for index, seed in enumerate(seeds):
        host, _, port = seed.partition(":")
        try:
            parsed.append(Address(str(IPv4Address(host)), int(port) if port else default_port))
        except ValueError as error:
            raise OperatorError(f"gossip.seeds[{index}]: write IPV4 or IPV4:PORT, not {seed!r}") from error
    return tuple(parsed)


class ClusterView:
    """Gossip of this process. `changed` is called, on the loop, after anything below may have changed."""

    def __init__(
        self,
        settings: Settings,
        metadata: MemberMetadata,
        *,
        clock: Callable[[], int],
        changed: Callable[[], None],
        member_changed: Callable[[str, NodeState], None] = lambda name, state: None,
        location_heard: Callable[[Location], None] = lambda location: None,
        name_conflict: Callable[[str, str], None] = lambda name, address: None,
    ) -> None:
        self._settings = settings
        self._metadata = metadata
        self._clock = clock
        self._changed = changed
        self._member_changed = member_changed
        self._location_heard = location_heard
        self._name_conflict = name_conflict
        self._stack = AsyncExitStack()
        self._is_open = False
        self._seeds = parse_seeds(settings.gossip.seeds, settings.ports.gossip)
        self._known_seeds: tuple[IPv4Address, ...] = ()
        """Of the last call of `know_nodes`; the configured ones are seeds besides."""
        self._make_readers()
        self._ticked_ns = clock()
        """When this process began to lead, or made its last tick."""
        self._untold = 0
        """Segments of this node that there is no room for in what it says of itself."""
        own = Address(settings.bind_address, _gossip_port(settings, metadata.role))
        self._machine = _machine(settings, metadata, own, self._seeds, now_ns=clock())
        # The pump is made after its socket: no datagram comes before the socket is entered.
        self.socket = SealedSocket(
            own,
            _envelope(settings, metadata),
            on_datagram=lambda source, payload: self.pump.on_datagram(source, payload),
            keys_read=self._tell_keys,
        )
        self.pump = MachinePump(
            self._machine,
            clock=clock,
            send=self.socket.send,
            handle=self._handle,
            on_lag=self._note_lag,
            on_refused=lambda origin, error: self.socket.refusals.note(refusals.NOT_UNDERSTOOD, origin, detail=error),
        )

    def _make_readers(self) -> None:
        """What is decoded of members and tables, and kept."""
        # Quietly: one of a later release says what we do not understand, and is a member all the same.
        self._words = Decoded(_metadata_of, level=logging.DEBUG)
        self._assignments = _living(row.decode_assignment)
        self._locations = _living(row.decode_location)
        self._conflicts = _living(row.decode_conflict)
        self._leader = _living(row.decode_leader)
        self._keys = _living(row.decode_keys)
        drains, moves = _living(decode_drain), _living(decode_move)
        self.orders = OrderBoard(
            self._settings.node,
            put=self._put,
            rows=lambda table: self._machine.rows(table),
            read_drains=lambda: self._rows(DRAIN_TABLE, drains),
            read_moves=lambda: self._rows(MOVE_TABLE, moves),
        )
        """What operators have ordered."""
        self._agents: Decoded[Member, GatewayNode] = Decoded(self._agent_of, level=logging.DEBUG)
        self._kept_members = Kept[dict[str, tuple[Member, MemberMetadata]]]()
        self._kept_keys, self._kept_names = Kept[frozenset[str]](), Kept[frozenset[str]]()
        self._tidied: dict[str, tuple[object, frozenset[str]]] = {}
        """Of each table at which revision, and for which keys, it was gone through."""
        self._kept_answering = Kept[frozenset[str]]()
        self._kept_nodes = Kept[tuple[GatewayNode, ...]]()
        self._kept_assignments = Kept[dict[IPv4Address, Assignment]]()
        self._kept_locations = Kept[dict[IPv4Address, Location]]()
        self._kept_sockets: dict[int, Kept[dict[str, Address]]] = {}
        own_process = "controller" if self._metadata.role is NodeRole.CONTROLLER else "agent"
        self._key_ids: dict[str, Callable[[], tuple[str, ...]]] = {own_process: lambda: self.socket.key_ids}

    async def __aenter__(self) -> Self:
        """Bind the socket. Raises OperatorError or TransientError naming the address, as the socket does."""
        await self._stack.enter_async_context(self.socket)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Only a controller leaves: nothing hangs on it. An agent that stops is mostly restarted, and its node goes on
        # forwarding under the leases of its keeper; a word of farewell would make the leader move its addresses.
        if self._metadata.role is NodeRole.CONTROLLER:
            self._machine.leave(now_ns=self._clock())
            self.pump.wake()
        await self._stack.aclose()

    async def run(self) -> None:
        """Serve timers until cancelled."""
        await self.pump.run()

    def know_nodes(self, addresses: tuple[IPv4Address, ...]) -> None:
        """Join by these nodes too, beside the configured seeds; replaces those of the last call."""
        if addresses == self._known_seeds:
            return
        self._known_seeds = addresses
        port = self._settings.ports.gossip
        seeds = (*self._seeds, *(Address(str(address), port) for address in addresses))
        self._machine.set_seeds(seeds, now_ns=self._clock())
        self.pump.wake()

    def describe(
        self,
        *,
        ready: bool,
        segments: tuple[Segment, ...],
        role: NodeRole,
        schedulable: bool,
        own_addresses: tuple[IPv4Address, ...] = (),
        unrouted: tuple[IPv4Address, ...] = (),
        over_quota: tuple[IPv4Address, ...] = (),
        out_of_ports: tuple[IPv4Address, ...] = (),
        unsupported_cni: str = "",
    ) -> None:
        """Tell the others whether this node may hold floating IPs and on which segments; a no-op if unchanged.

        Also before this is entered: a member whose first word does not say where it is would be cut off by its peers.
        """
        metadata = replace(
            self._metadata,
            ready=ready,
            segments=segments,
            role=role,
            schedulable=schedulable,
            own_addresses=own_addresses,
            # As they go out, so that of more than that nothing is told anew which says the same.
            unrouted=unrouted[: row.DROPPING_MAX],
            over_quota=over_quota[: row.DROPPING_MAX],
            out_of_ports=out_of_ports[: row.DROPPING_MAX],
            unsupported_cni=unsupported_cni,
        )
        if metadata == self._metadata:
            return
        self._metadata = metadata
        told = row.fitting(metadata, METADATA_BYTES_MAX)
        self._untold = len(metadata.segments) - len(told.segments)
        self._machine.set_metadata(row.encode_metadata(told), now_ns=self._clock())
        # Before it is open nothing may be sent: what the machine has to say first, whom it joins by, would be lost.
        if self._is_open:
            self.pump.wake()

    def troubles(self) -> list[str]:
        """What this process could not tell the others, for status; none where it has told all."""
        if not self._untold:
            return []
        return [f"gossip: {self._untold} segments of this node are not told to the others: there is room for no more"]

    def publish_assignment(self, assignment: Assignment, *, removed: bool = False) -> bool:
        """Disseminate one row of the leader's table; False where a newer one is known."""
        stamp = assignment.stamp
        return self._put(
            ASSIGNMENT_TABLE,
            str(assignment.floating_ip),
            (stamp.term, stamp.version, 0),
            row.encode_assignment(assignment, removed=removed),
            ended=removed,
        )

    def publish_location(self, location: Location) -> bool:
        """Disseminate where a floating IP is now; False where a newer token is known."""
        token = location.token
        return self._put(LOCATION_TABLE, str(location.floating_ip), token, location.node.encode("ascii"))

    def publish_leader(self, term: int) -> bool:
        """Disseminate that this process leads in `term`: for status only, authority is the lease."""
        self._ticked_ns = self._clock()
        return self._put(LEADER_TABLE, LEADER_KEY, (term, 0, 0), self._settings.node.encode("ascii"))

    def leader(self) -> tuple[str, int] | None:
        """(name, term) of the last leader heard of."""
        return self._rows(LEADER_TABLE, self._leader).get(LEADER_KEY)

    def publish_conflict(self, floating_ip: IPv4Address, mac: bytes, *, at_s: int) -> bool:
        """Disseminate that a stranger answers for an address (`mac`), or no longer does (empty). `at_s`: Unix time."""
        known = self._machine.rows(CONFLICT_TABLE).get(str(floating_ip))
        version = row.conflict_version(known.version if known else None, self._settings.node, at_s=at_s)
        return self._put(CONFLICT_TABLE, str(floating_ip), version, mac, ended=not mac)

    def add_keys(self, process: str, key_ids: Callable[[], tuple[str, ...]]) -> None:
        """Tell the others which keys are in force in another process of this node, too."""
        self._key_ids[process] = key_ids

    def _tell_keys(self) -> None:
        # Again and again: after a restart the first word is below that of the former life, until that is heard.
        said = {process: key_ids() for process, key_ids in self._key_ids.items()}
        value = row.encode_keys({process: ids for process, ids in said.items() if ids})
        known = self._machine.rows(KEYS_TABLE).get(self._settings.node)
        if known is None or known.value != value:
            self._put(KEYS_TABLE, self._settings.node, (known.version[0] + 1 if known else 1, 0, 0), value)

    def keys(self) -> dict[str, dict[str, tuple[str, ...] | None]]:
        """The keys in force in each process of every member that is up, the one that seals first; None: unknown."""
        told = self._rows(KEYS_TABLE, self._keys)
        return {
            name: {
                process: told.get(name, {}).get(process)
                for process in (_CONTROLLER if metadata.role is NodeRole.CONTROLLER else _NODE)
            }
            for name, (member, metadata) in self.members().items()
            if member.is_live
        }

    def tidy(self, floating_ips: Collection[IPv4Address]) -> None:
        """The leader's part: what is said of addresses that are floating IPs no longer ends, and tombstones age.

        To be called again and again while this process leads: a row that comes back ends again.
        """
        assignments, members = self.assignments(), self._machine.members()
        kept = self._kept_keys.of(
            lambda: frozenset(map(str, (*floating_ips, *assignments))), tuple(floating_ips), assignments
        )
        for table in (ASSIGNMENT_TABLE, LOCATION_TABLE, CONFLICT_TABLE, MOVE_TABLE):
            self._end_others(table, kept)
        names = self._kept_names.of(lambda: frozenset(member.name for member in members), members)
        for table in (KEYS_TABLE, DRAIN_TABLE):
            self._end_others(table, names)
        now_ns = self._clock()
        if now_ns - self._ticked_ns >= TICK_NS:
            self._ticked_ns = now_ns
            self._machine.tick(now_ns=now_ns)
            self.pump.wake()

    def _end_others(self, table: str, kept: frozenset[str]) -> None:
        if self._tidied.get(table) == (self._machine.revision(table), kept):
            return
        for key, entry in list(self._machine.rows(table).items()):
            if key not in kept and not entry.ended:
                self._end(table, key, entry)
        self._tidied[table] = self._machine.revision(table), kept

    def _end(self, table: str, key: str, entry: Row) -> None:
        if table == ASSIGNMENT_TABLE:
            version, value = row.ended_assignment(entry.version, entry.value)
            self._put(table, key, version, value, ended=True)
        elif table == LOCATION_TABLE:
            self._put(table, key, row.ended_location(entry.version), b"", ended=True)
        elif table == KEYS_TABLE:
            # Below what the member says next, if it comes back.
            self._put(table, key, (entry.version[0], 1, 0), b"", ended=True)
        elif table in (DRAIN_TABLE, MOVE_TABLE):
            self.orders.end(table, key, entry)
        else:
            self.publish_conflict(IPv4Address(key), b"", at_s=0)

    def conflicts(self) -> dict[IPv4Address, bytes]:
        """MAC of the stranger per floating IP that somebody else has."""
        return dict(self._rows(CONFLICT_TABLE, self._conflicts).values())

    def assignments(self) -> Mapping[IPv4Address, Assignment]:
        """The leader's table as far as it has come here, without removed floating IPs; the same object until it
        changes."""
        return self._kept_assignments.of(
            lambda: {one.floating_ip: one for one in self._rows(ASSIGNMENT_TABLE, self._assignments).values()},
            self._machine.revision(ASSIGNMENT_TABLE),
        )

    def locations(self) -> Mapping[IPv4Address, Location]:
        """Where each floating IP was last said to be; the same object until it changes."""
        return self._kept_locations.of(
            lambda: {one.floating_ip: one for one in self._rows(LOCATION_TABLE, self._locations).values()},
            self._machine.revision(LOCATION_TABLE),
        )

    def members(self) -> Mapping[str, tuple[Member, MemberMetadata]]:
        """Every member whose metadata is understood, with this process itself, by name in order."""
        members = self._machine.members()
        return self._kept_members.of(lambda: self._understand(members), members)

    def _understand(self, members: tuple[Member, ...]) -> dict[str, tuple[Member, MemberMetadata]]:
        understood = self._understood()
        return {member.name: (member, understood[member.name]) for member in members if member.name in understood}

    def _understood(self) -> Mapping[str, MemberMetadata]:
        members = self._machine.members()
        return self._words.read(members, lambda: ((member.name, member.metadata) for member in members))

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        """All agents that have not left, as the assignment sees them; the same object until that changes."""
        members, drains = self._machine.members(), self._machine.revision(DRAIN_TABLE)
        return self._kept_nodes.of(lambda: self._read_nodes(members), members, drains)

    def _read_nodes(self, members: tuple[Member, ...]) -> tuple[GatewayNode, ...]:
        nodes = self._agents.read(members, lambda: ((one.name, one) for one in members)).values()
        drained = {name for name, drain in self.orders.drains().items() if drain.is_drained}
        return tuple(replace(node, schedulable=False, drained=True) if node.name in drained else node for node in nodes)

    def _agent_of(self, name: str, member: Member) -> GatewayNode | None:
        metadata = self._understood().get(name)
        if metadata is None or metadata.role is NodeRole.CONTROLLER or member.state is MemberState.LEFT:
            return None
        return GatewayNode(
            name=name,
            role=metadata.role,
            state=node_state(member.state),
            ready=metadata.ready,
            segments=metadata.segments,
            schedulable=metadata.schedulable,
            own_addresses=metadata.own_addresses,
            address=IPv4Address(member.address.host),
            tunnels=metadata.tunnels,
            translates=metadata.translates,
            labels=metadata.labels,
        )

    def is_answering(self, name: str) -> bool:
        """Whether it is a member that nobody suspects to be dead: what it has said was true a moment ago."""
        member = self._machine.member(name)
        return member is not None and member.state is MemberState.ALIVE

    def answering(self) -> frozenset[str]:
        """All of those; the same object until they are others."""
        members = self._machine.members()
        return self._kept_answering.of(
            lambda: frozenset(member.name for member in members if member.state is MemberState.ALIVE), members
        )

    def sockets(self, port: int) -> Mapping[str, Address]:
        """Another port of each member's announced address; the same object until one changes."""
        members = self.members()
        return self._kept_sockets.setdefault(port, Kept()).of(
            lambda: {name: Address(member.address.host, port) for name, (member, _) in members.items()}, members
        )

    def _rows(self, table: str, decoded: Decoded[Row, T]) -> Mapping[str, T]:
        """What the rows of a table say, by key."""
        return decoded.read(self._machine.revision(table), self._machine.rows(table).items)

    def _put(self, table: str, key: str, version: VersionTuple, value: bytes, *, ended: bool = False) -> bool:
        written = self._machine.put(table, key, version, value, ended=ended, now_ns=self._clock())
        self.pump.wake()
        return written

    def _note_lag(self, lag_ns: int) -> None:
        self._machine.note_lag(lag_ns, now_ns=self._clock())

    def _handle(self, output: object) -> None:
        if isinstance(output, MemberChanged):
            self._member_changed(output.member.name, node_state(output.member.state))
        elif isinstance(output, RowChanged) and output.table == LOCATION_TABLE:
            # It was checked before it was taken over.
            location = row.decode_location(output.key, output.version, output.value)
            if location is not None:
                self._location_heard(location)
        elif isinstance(output, NameConflict):
            _log.error("gossip: two processes call themselves %s; the other is at %s", output.name, output.address)
            self._name_conflict(output.name, f"{output.address.host}:{output.address.port}")
        elif isinstance(output, Refused):
            self.socket.refusals.note(output.reason, output.origin, detail=output.detail)
            return
        self._changed()


def node_state(state: MemberState) -> NodeState:
    """A suspect is not yet dead: it counts as Up until the suspicion ends."""
    return NodeState.UP if state in (MemberState.ALIVE, MemberState.SUSPECT) else NodeState.DOWN


def _machine(
    settings: Settings, metadata: MemberMetadata, own: Address, seeds: Sequence[Address], *, now_ns: int
) -> Membership:
    return Membership(
        name=settings.node,
        address=own,
        # Boot time: a process started later on the same boot has a higher one. After a reboot it may be lower than in
        # the last life, and hearing the old record raises it.
        incarnation=now_ns,
        metadata=row.encode_metadata(metadata),
        seeds=seeds,
        random=random.Random(metadata.start_id),
        tables=row.TABLES,
        check_row=lambda item: row.check(item.table, item.key, item.version, item.value),
        now_ns=now_ns,
    )


def _gossip_port(settings: Settings, role: NodeRole) -> int:
    return settings.ports.controller_gossip if role is NodeRole.CONTROLLER else settings.ports.gossip


def _envelope(settings: Settings, metadata: MemberMetadata) -> Envelope:
    return Envelope(
        settings.keys,
        cluster=settings.cluster,
        node=settings.node,
        start_id=metadata.start_id,
        purpose="gossip",
    )


def _metadata_of(name: str, metadata: bytes) -> MemberMetadata:
    return row.decode_metadata(metadata, member=name)


def _living(decode: Callable[[str, VersionTuple, bytes], T | None]) -> Decoded[Row, T]:
    """Of the rows of one table: tombstones say nothing."""
    return Decoded(
        lambda key, entry: None if entry.ended else decode(key, entry.version, entry.value), level=logging.WARNING
    )
