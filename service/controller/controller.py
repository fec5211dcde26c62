"""The controller: two or three of them compete for the lease `leader`; the one that holds it places floating IPs.

It grants nothing. It says where each floating IP belongs and who comes next, and writes status; without it everything
that is placed goes on, and fails over to the successors chosen ahead of time.
"""

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.audit.recorder import LeaderRecorder
from service.controller.status import controller_status
from service.electorate.office import ElectorateOffice
from service.gateway.assignment import assign
from service.gateway.row import MemberMetadata
from service.host import clock, identity
from service.lease.holder import CloseFence, DesiredClaim, Holder, OpenFence
from service.lease.message import MessageKind, kind_of
from service.lease.observer import Observation, Observed, Observer
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.lease import LEADER_KEY, Electorate, Stamp, Token
from service.model.machine import Address, Machine, Source
from service.model.objects import (
    GATEWAY_NAME,
    Change,
    ObjectKey,
)
from service.report.writer import StatusWriter
from service.settings import Settings
from service.sources.intake import Intake
from service.sources.source import Source as ObjectSource
from service.sources.source import open_source
from service.version import VERSION
from service.web.metrics import AuditCollector
from service.web.server import WebServer
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_COALESCE_S = 0.005
_REFRESH_S = 0.5
_OBSERVE_NS = 100_000_000
_OBSERVATION_AGE_NS_MAX = 1_000_000_000
"""Older than this, what electors said is no longer true of anybody: every lease is over."""
_SETTLE_NS = 10_000_000_000
"""A controller that does not yet know every elector waits so long before it places anything: an address that is placed
on the first node seen stays there."""
_UNRESPONSIVE_NS = 2_000_000_000
"""A node that does not take what it was assigned within this time gets nothing until it does something again."""


async def run(settings: Settings) -> None:
    """Run the controller until cancelled. Raises OperatorError where it cannot start."""
    async with AsyncExitStack() as stack:
        controller = Controller(settings)
        await controller.enter(stack)
        await controller.serve()


class Controller:
    """One controller process. `term` is set while it leads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.intake = Intake(settings.datapath)
        self.index = self.intake.index
        self.term: int | None = None
        self.observed: dict[str, Observation] = {}
        self._observed_ns: int | None = None
        self.source: ObjectSource | None = None
        start_id = identity.start_id()
        self.cluster = ClusterView(
            settings,
            MemberMetadata(NodeRole.CONTROLLER, False, False, (), VERSION, start_id),
            clock=clock.boot_ns,
            changed=self._mark_dirty,
            member_changed=self._note_member,
            name_conflict=lambda name, address: self.recorder.name_conflict(name, address),
        )
        self.outbox = Outbox(
            Path(settings.state_dir) / "outbox",
            Origin(settings.node, identity.boot_id(), settings.cluster, "controller"),
            clock=lambda: (clock.wall_ns(), clock.boot_ns()),
            context=lambda: (self.term or (self.cluster.leader() or ("", 0))[1], self.electorate.epoch),
            cap_bytes=settings.audit.cap_mib << 20,
        )
        self.publisher = Publisher(settings.kafka, self.outbox, node=settings.node)
        self.recorder = LeaderRecorder(
            self.outbox, node=settings.node, lease_ns=settings.lease_profile.lease_ns, clock=clock.boot_ns
        )
        now_ns = clock.boot_ns()
        self._holder_socket, holder_id = self._lease_socket(lambda: self._holder_pump)
        self._office_socket, _ = self._lease_socket(lambda: self._office.pump)
        self._office: ElectorateOffice = ElectorateOffice(
            settings,
            self.cluster,
            self._office_socket,
            adopted=self._adopt_electorate,
            is_leading=lambda: self.term is not None,
        )
        self._holder = Holder(
            node=settings.node,
            boot_id=identity.boot_id(),
            start_id=holder_id,
            electorate=settings.electorate,
            profile=settings.lease_profile,
            lease_port=settings.ports.lease,
            random=random.Random(start_id),
            now_ns=now_ns,
        )
        self._holder_pump: MachinePump = self._pump(self._holder, self._holder_socket)
        self._observer_socket, _ = self._lease_socket(lambda: self._observer_pump)
        self._observer = Observer(
            electorate=settings.electorate,
            lease_port=settings.ports.lease,
            interval_ns=_OBSERVE_NS,
            now_ns=now_ns,
        )
        self._observer_pump: MachinePump = self._pump(self._observer, self._observer_socket)
        self._started_ns = now_ns
        self._version = 0
        self._assigned_ns: dict[IPv4Address, tuple[Stamp, int]] = {}
        """When each row last got a new stamp: from then on its holder is expected to take it."""
        self._dirty = asyncio.Event()

    async def enter(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        await stack.enter_async_context(self.publisher)
        await stack.enter_async_context(self.outbox)
        await stack.enter_async_context(self.cluster)
        await stack.enter_async_context(self._holder_socket)
        await stack.enter_async_context(self._observer_socket)
        await stack.enter_async_context(self._office_socket)
        self.source = await stack.enter_async_context(open_source(settings, everything=True))
        stack.callback(self._step_down)
        registry = CollectorRegistry()
        registry.register(AuditCollector(self.outbox, self.publisher))
        await stack.enter_async_context(WebServer(settings.http.address, settings.ports.http, self, registry))

    async def serve(self) -> None:
        """Run every task until cancelled or one fails."""
        self._holder.set_claims({LEADER_KEY: DesiredClaim("holder", Stamp(0, 0))}, now_ns=clock.boot_ns())
        async with asyncio.TaskGroup() as group:
            for task in (
                self.outbox.run,
                self.publisher.run,
                self.cluster.run,
                self._holder_pump.run,
                self._observer_pump.run,
                self._office.run,
                self._follow_source,
                self._lead_for_ever,
                self._write_status_for_ever,
                self._refresh,
            ):
                group.create_task(task(), name=task.__qualname__)

    def status(self) -> dict[str, Any]:
        """The document of /v1/status."""
        return controller_status(self)

    def not_ready_reasons(self) -> list[str]:
        """Why this controller could not lead now."""
        reasons = []
        if not self.intake.is_synced:
            reasons.append("objects have not been read yet")
        if not self.has_observed:
            reasons.append("no majority of electors answers")
        return reasons

    def holders(self) -> dict[IPv4Address, tuple[str, Token]]:
        """Who really holds each floating IP, by a majority of electors; nobody while no majority answers."""
        if not self.has_observed:
            return {}
        return {
            IPv4Address(key): (seen.node, seen.token)
            for key, seen in self.observed.items()
            if key != LEADER_KEY and seen.node is not None
        }

    def renewed_ns(self, floating_ip: IPv4Address) -> int:
        """When its holder renewed last, as far as the last answers of the electors tell; rather too early."""
        seen, asked_ns = self.observed.get(str(floating_ip)), self._observed_ns or 0
        if seen is None:
            return asked_ns
        # What is left of a promise says when it was made; of a longer one than usual, only that it lives.
        return asked_ns - seen.age_ns - max(0, self.settings.lease_profile.lease_ns - seen.remaining_ns)

    def nodes(self) -> tuple[GatewayNode, ...]:
        """The agents as members and Node objects together describe them, without those that were removed."""
        holding = [node for node, _ in self.holders().values()]
        return self.intake.inventory.complete(self.cluster.gateway_nodes(), holding)

    @property
    def has_observed(self) -> bool:
        """A majority of electors answered within the last second."""
        return self._observed_ns is not None and clock.boot_ns() - self._observed_ns < _OBSERVATION_AGE_NS_MAX

    @property
    def electorate(self) -> Electorate:
        """Who grants leases, as far as is known here."""
        return self._office.book.known

    def electorate_standing(self) -> dict[str, Any]:
        """Whether the epoch is in force, and what keepers said of themselves lately; for status."""
        return self._office.standing()

    @property
    def electorate_trouble(self) -> str:
        return self._office.trouble

    # -- inputs --

    def _lease_socket(self, pump: Any) -> tuple[SealedSocket, int]:
        # A socket and a start id for each machine: two senders under one start id would count nonces apart.
        start_id = identity.start_id()
        settings = self.settings
        envelope = Envelope(
            settings.keys(), cluster=settings.cluster, node=settings.node, start_id=start_id, purpose="lease"
        )
        socket = SealedSocket(
            Address(settings.bind_address, 0),
            envelope,
            bind_receiver=True,
            on_datagram=lambda source, payload: self._take_lease_datagram(socket, pump(), source, payload),
        )
        return socket, start_id

    def _take_lease_datagram(self, socket: SealedSocket, pump: MachinePump, source: Source, payload: bytes) -> None:
        if kind_of(payload) is MessageKind.ELECTORATE:
            self._office.book.receive(source, payload, send=socket.send)
        else:
            pump.on_datagram(source, payload)

    def _adopt_electorate(self, electorate: Electorate) -> None:
        now_ns = clock.boot_ns()
        self._holder.set_electorate(electorate, now_ns=now_ns)
        self._observer.set_electorate(electorate, now_ns=now_ns)
        self._holder_pump.wake()
        self._observer_pump.wake()

    def _pump(self, machine: Machine, socket: SealedSocket) -> MachinePump:
        return MachinePump(machine, clock=clock.boot_ns, send=socket.send, handle=self._handle_lease)

    def _mark_dirty(self) -> None:
        self._dirty.set()

    def _handle_lease(self, output: object) -> None:
        if isinstance(output, OpenFence):
            if self.term != output.token.term:
                self._take_office(output.token)
        elif isinstance(output, CloseFence):
            self._leave_office(output)
        elif isinstance(output, Observed):
            self._observed_ns = clock.boot_ns()
            self.recorder.observed(output.table, self.cluster.assignments())
            if dict(output.table) != self.observed:
                self.observed = dict(output.table)
                self._mark_dirty()

    def _take_office(self, token: Token) -> None:
        self.term, self._version = token.term, 0
        self._assigned_ns.clear()
        self.cluster.publish_leader(token.term)
        self.recorder.elected(token)
        _log.info("leading in term %d", token.term)
        self._mark_dirty()

    def _leave_office(self, output: CloseFence) -> None:
        if self.term is None:
            return
        self.recorder.deposed(output.token, output.reason)
        _log.info("no longer leading: %s", output.reason)
        self.term = None

    def _step_down(self) -> None:
        """Give leadership up at once, so that the next one need not wait for the lease to end."""
        self._holder.set_claims({}, now_ns=clock.boot_ns())
        self._holder_pump.wake()

    def _note_member(self, name: str, state: NodeState) -> None:
        found = self.cluster.members().get(name)
        if found is None or found[1].role is NodeRole.CONTROLLER:
            return
        if self.recorder.member(name, state) and self.term is not None:
            _log.info("node %s is %s", name, state)

    async def _follow_source(self) -> None:
        assert self.source is not None
        async for batch in self.source.changes():
            self._take_changes(batch)

    def _take_changes(self, batch: tuple[Change, ...]) -> None:
        self.recorder.changes(batch)
        self.recorder.policy_states(self.intake.take(batch).policies)
        self.cluster.know_nodes(self.intake.inventory.addresses())
        self._mark_dirty()

    # -- leading --

    async def _lead_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_COALESCE_S)
            self._dirty.clear()
            if self.term is not None and self.is_settled():
                self._place(self.term)

    def is_settled(self) -> bool:
        """Enough is known to place anything: objects, a majority of electors, and the members."""
        if not (self.intake.is_synced and self.has_observed):
            return False
        members = self.cluster.members()
        knows_all = all(
            elector.name in members and members[elector.name][1].ready for elector in self.electorate.members
        )
        return knows_all or clock.boot_ns() - self._started_ns > _SETTLE_NS

    def _place(self, term: int) -> None:
        """Bring the table in step with spec, nodes and holders; publish what changed."""
        gateway = self.index.gateway()
        floating_ips = gateway.floating_ips if gateway else ()
        previous = self.cluster.assignments()
        holders = {floating_ip: node for floating_ip, (node, _) in self.holders().items()}
        rows = assign(floating_ips, self._nodes(previous), holders, previous, term=term, version=self._version + 1)
        stamp = Stamp(term, self._version + 1)
        changed = [row for row in rows if row.stamp == stamp]
        removed = [row for floating_ip, row in previous.items() if floating_ip not in floating_ips]
        self.recorder.gateway(GATEWAY_NAME, floating_ips)
        if not changed and not removed:
            return
        self._version += 1
        now_ns = clock.boot_ns()
        for row in changed:
            self.cluster.publish_assignment(row)
            self._assigned_ns[row.floating_ip] = (stamp, now_ns)
            self.recorder.assigned(row, previous.get(row.floating_ip))
            _log.info("assigned %s to %s, then %s", row.floating_ip, row.holder or "nobody", row.successor or "nobody")
        for row in removed:
            self.cluster.publish_assignment(replace(row, stamp=stamp), removed=True)
            self._assigned_ns.pop(row.floating_ip, None)
            self.recorder.removed(row, (stamp.term, stamp.version, 0))

    def _nodes(self, table: dict[IPv4Address, Assignment]) -> tuple[GatewayNode, ...]:
        """The members, of which those that do not take what they were assigned count as not ready (rule S2)."""
        now_ns = clock.boot_ns()
        holders = self.holders()
        conflicts = self.cluster.conflicts()
        silent: dict[str, None] = {}
        for floating_ip, row in table.items():
            stamp, since_ns = self._assigned_ns.setdefault(floating_ip, (row.stamp, now_ns))
            if stamp != row.stamp or floating_ip in holders or floating_ip in conflicts:
                self._assigned_ns[floating_ip] = (row.stamp, now_ns)
            elif row.holder is not None and now_ns - since_ns > _UNRESPONSIVE_NS:
                silent[row.holder] = None
        return tuple(replace(node, ready=False) if node.name in silent else node for node in self.nodes())

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            self._mark_dirty()

    # -- status --

    async def _write_status_for_ever(self) -> None:
        assert self.source is not None
        await StatusWriter(self).run(self.source)

    def created(self, key: ObjectKey) -> str:
        """When a policy was created, as the source delivered it; empty for others."""
        policy = self.index.policy(key)
        return policy.created if policy else ""
