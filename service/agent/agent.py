"""The agent: one on every node. Gossip member, datapath, endpoint announcements, gratuitous ARP, audit of what it did.

The lease keeper beside it decides whether an address may be used; the agent only prepares and announces. Everything is
level-triggered: inputs update the reconciler's knowledge and set `dirty`; one task brings the kernel and the peers in
step with it.
"""

import asyncio
import logging
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.agent.status import agent_status
from service.audit.outbox import Origin, Outbox
from service.audit.promise_log import KEEPER_OUTBOX
from service.audit.publisher import Publisher
from service.audit.recorder import AgentRecorder, Part
from service.datapath import node_datapath
from service.datapath.desired import uplink_for
from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.datapath.upkeep import Upkeep
from service.electorate.follower import ElectorateFollower
from service.endpoint.sync import (
    Acknowledged,
    EndpointAnnounced,
    EndpointSync,
    EndpointWithdrawn,
    LocationHeard,
)
from service.gateway.row import MemberMetadata
from service.host import clock, identity
from service.model.assignment import Assignment, Location
from service.model.errors import TransientError
from service.model.gateway_node import NodeRole, NodeState
from service.model.keeper_message import Claim, Heartbeat, HeldLease, LeaseReport, Uplink
from service.model.lease import Token
from service.model.machine import Address
from service.model.objects import Change
from service.network.announcer import Announcer, Outlet
from service.network.conflict_watch import ConflictWatch, ProbePoint
from service.settings import Settings
from service.sources.intake import Intake
from service.sources.source import Source, open_source
from service.version import VERSION
from service.web.metrics import AuditCollector, DatapathCollector
from service.web.server import WebServer
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.keeper_link import KeeperLink
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_COALESCE_S = 0.002
"""Changes that come together are reconciled together."""
_RETRY_S = 0.2
_INHERITANCE_NS = 30_000_000_000
"""How long pods that a former agent served are served without having been announced again."""
_REFRESH_S = 1.0
"""How often members, uplinks and acknowledgements are looked at even if nothing was reported."""


async def run(settings: Settings) -> None:
    """Run the agent until cancelled. Raises OperatorError, in one sentence, where it cannot start."""
    async with AsyncExitStack() as stack:
        agent = Agent(settings)
        await agent.enter(stack)
        try:
            await agent.serve()
        finally:
            agent.recorder.stopped()


async def uninstall(settings: Settings, *, purge: bool = False) -> None:
    """Remove everything an agent put on this node; its keeper must have been stopped first.

    `purge`: the state and run folders too, with audit records that were not published.
    """
    await node_datapath.uninstall(settings)
    for folder in (settings.state_dir, settings.run_dir) if purge else ():
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class Agent:
    """One node's agent. `enter` opens everything in order; `serve` runs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.start_id = identity.start_id()
        self.intake = Intake(settings.datapath)
        self.source: Source | None = None
        self.index = self.intake.index
        self.reconciler = Reconciler(settings, self.index)
        self.datapath = NodeDatapath(settings)
        self.held: dict[IPv4Address, HeldLease] = {}
        self.report: LeaseReport | None = None
        self.electorate = ElectorateFollower(settings, changed=lambda record: self.keeper.say_electorate(record))
        self.outbox = Outbox(
            Path(settings.state_dir) / "outbox",
            Origin(settings.node, identity.boot_id(), settings.cluster, "agent"),
            clock=lambda: (clock.wall_ns(), clock.boot_ns()),
            context=lambda: ((self.cluster.leader() or ("", 0))[1], self._epoch()),
            cap_bytes=settings.audit.cap_mib << 20,
        )
        self.publisher = Publisher(
            settings.kafka, self.outbox, node=settings.node, foreign=[Path(settings.state_dir) / KEEPER_OUTBOX]
        )
        self.recorder = AgentRecorder(self.outbox, node=settings.node)
        self.cluster: ClusterView
        """From `enter` on: a member that did not say at once where it is would be cut off by its peers."""
        self.sync = EndpointSync(node=settings.node, start_id=self.start_id, now_ns=clock.boot_ns())
        self.state_socket = SealedSocket(
            Address(settings.bind_address, settings.ports.state),
            Envelope(
                settings.keys(),
                cluster=settings.cluster,
                node=settings.node,
                start_id=self.start_id,
                purpose="state",
            ),
            bind_receiver=True,
            on_datagram=lambda source, payload: self.sync_pump.on_datagram(source, payload),
        )
        self.sync_pump = MachinePump(
            self.sync, clock=clock.boot_ns, send=self.state_socket.send, handle=self._handle_sync
        )
        self.keeper = KeeperLink(Path(settings.run_dir), clock=clock.boot_ns, on_report=self._take_report)
        self.upkeep = Upkeep(
            self.datapath, self.reconciler, changed=self._mark_dirty, uplinks_changed=self._uplinks_changed
        )
        self.announcer = Announcer(clock=clock.boot_ns, outlets=self._outlets)
        self.registry = CollectorRegistry()
        self.conflicts = ConflictWatch(is_member=self._is_member_mac, changed=self._mark_dirty)
        self._dirty = asyncio.Event()
        self._unresolved: dict[tuple[str, IPv4Address], EndpointAnnounced] = {}
        """Announced endpoints whose policies are not known here yet: acknowledged when they are."""
        self._peers_known: set[str] = set()
        self._states: dict[str, NodeState] = {}
        self._netfilter: tuple[Any, ...] = ()
        self._steer_pairs: tuple[Any, ...] = ()

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open outbox, datapath, sockets and the HTTP server, in that order."""
        settings = self.settings
        await stack.enter_async_context(self.publisher)
        await stack.enter_async_context(self.outbox)
        await stack.enter_async_context(self.datapath)
        stack.enter_context(self.announcer)
        self.reconciler.uplinks = self.datapath.uplinks
        self.reconciler.egw_ifindex = self.datapath.egw_ifindex
        inherited = await asyncio.to_thread(self.datapath.inherited)
        for pod_ip, rule_set in inherited.steered.items():
            self.reconciler.steering.adopt(pod_ip, rule_set, now_ns=clock.boot_ns())
        self.reconciler.devices = inherited.devices
        self.reconciler.inherit(inherited.endpoints, inherited.ways, inherited.rule_sets)
        segments = tuple(uplink.segment for uplink in self.datapath.uplinks)
        self.cluster = ClusterView(
            settings,
            MemberMetadata(self.role, False, True, segments, VERSION, self.start_id),
            clock=clock.boot_ns,
            changed=self._mark_dirty,
            member_changed=self._note_member,
            location_heard=self._hear_location,
            name_conflict=self.recorder.name_conflict,
        )
        await stack.enter_async_context(self.cluster)
        await stack.enter_async_context(self.state_socket)
        await stack.enter_async_context(self.keeper)
        self.registry.register(DatapathCollector(self.datapath, self))
        self.registry.register(AuditCollector(self.outbox, self.publisher))
        await stack.enter_async_context(WebServer(settings.http.address, settings.ports.http, self, self.registry))
        self.recorder.started(VERSION)

    async def serve(self) -> None:
        """Run every task until cancelled or one fails."""
        async with asyncio.TaskGroup() as group:
            for task in (
                self.outbox.run,
                self.publisher.run,
                self.datapath.pool.run,
                self.cluster.run,
                self.sync_pump.run,
                self.keeper.run,
                self._follow_source,
                self.electorate.run,
                self._reconcile_for_ever,
                self.upkeep.clear_connections,
                self.upkeep.find_devices,
                self.upkeep.follow_links,
                self.announcer.run,
                self.conflicts.run,
                self.upkeep.repair,
                self._refresh,
            ):
                group.create_task(task(), name=task.__qualname__)

    def _epoch(self) -> int:
        known = self.report.electorate if self.report else None
        return known.epoch if known else self.settings.electorate.epoch

    # -- what others ask --

    def status(self) -> dict[str, Any]:
        """The document of /v1/status."""
        return agent_status(self)

    @property
    def role(self) -> NodeRole:
        """As configured, else as the Node object says."""
        node = self.intake.inventory.nodes.get(self.settings.node)
        return self.settings.role or (node.role if node else NodeRole.WORKER)

    def not_ready_reasons(self) -> list[str]:
        """What keeps this node from doing its whole part: no other node should be restarted meanwhile."""
        reasons = self._unfit_reasons()
        report = self.report
        if report is not None and self.keeper.is_keeper_alive:
            if report.elector and not report.voting:
                reasons.append("the elector of this node has lost its memory, and keeps silent for the longest lease")
            if not report.majority:
                reasons.append("the lease keeper sees no majority of electors")
        return reasons

    def _unfit_reasons(self) -> list[str]:
        """Why this node should hold no floating IP now."""
        reasons = []
        if not self.intake.is_synced:
            reasons.append("objects have not been read yet")
        if not self.keeper.is_keeper_alive:
            reasons.append("the lease keeper of this node does not report")
        if not any(uplink.carrier for uplink in self.datapath.uplinks):
            reasons.append("no uplink has a carrier")
        return reasons

    # -- inputs --

    def _mark_dirty(self) -> None:
        self._dirty.set()

    async def _follow_source(self) -> None:
        async with open_source(self.settings) as source:
            self.source = source
            async for batch in source.changes():
                self._take_changes(batch)

    def _take_changes(self, batch: tuple[Change, ...]) -> None:
        self.intake.take(batch)
        self.upkeep.is_synced = self.intake.is_synced
        self.reconciler.ranges = self.intake.inventory.ranges
        self.cluster.know_nodes(self.intake.inventory.addresses())
        self._mark_dirty()

    def _note_member(self, name: str, state: NodeState) -> None:
        # A member is back: the segment was parted, and its neighbours may have learned anything meanwhile.
        if state is NodeState.UP and self._states.get(name) is NodeState.DOWN:
            self.announcer.restart(self.held)
        self._states[name] = state

    def _hear_location(self, location: Location) -> None:
        if self.reconciler.learn_location(location):
            self._mark_dirty()

    def _take_report(self, report: LeaseReport) -> None:
        """The keeper says what it holds: announce what is new, stop what is gone, at once."""
        before, self.report = self.report, report
        self.electorate.hear(report)
        held = {IPv4Address(lease.floating_ip): lease for lease in report.held}
        for floating_ip, lease in held.items():
            known = self.held.get(floating_ip)
            if known is None or _token(known) != _token(lease):
                self._acquired(floating_ip, lease, is_first_report=before is None)
        for floating_ip, lease in self.held.items():
            if floating_ip not in held:
                self._lost(floating_ip, lease, before, is_released=str(floating_ip) in report.released)
        self.held = held

    def _acquired(self, floating_ip: IPv4Address, lease: HeldLease, *, is_first_report: bool) -> None:
        node, token, now_ns = self.settings.node, _token(lease), clock.boot_ns()
        previous = self.reconciler.locations.get(floating_ip)
        location = Location(floating_ip, node, token)
        self.reconciler.learn_location(location)
        self.sync.locate(location, self._peers(), now_ns=now_ns)
        self.sync_pump.wake()
        self.cluster.publish_location(location)
        self.announcer.start(floating_ip)
        assert self.report is not None
        self.recorder.acquired(lease, self._part(floating_ip, previous), self.report, is_first_report=is_first_report)
        _log.info("holding %s with token %s", floating_ip, ".".join(map(str, token)))
        self._mark_dirty()

    def _part(self, floating_ip: IPv4Address, previous: Location | None) -> Part:
        assignment = self.cluster.assignments().get(floating_ip)
        parts = {assignment.successor: "successor", assignment.holder: "holder"} if assignment else {}
        is_previous_up = previous is not None and previous.node in self._peers()
        return Part(parts.get(self.settings.node, ""), previous, is_previous_up)

    def _lost(
        self, floating_ip: IPv4Address, lease: HeldLease, before: LeaseReport | None, *, is_released: bool
    ) -> None:
        self.announcer.stop(floating_ip)
        now_ns = clock.boot_ns()
        is_over = not is_released and lease.deadline_ns <= now_ns
        assignment = self.cluster.assignments().get(floating_ip)
        self.recorder.ended(lease, before, assignment, now_ns, is_released=is_released)
        _log.info("%s %s", "lease expired for" if is_over else "released", floating_ip)
        self._mark_dirty()

    def _handle_sync(self, output: object) -> None:
        if isinstance(output, EndpointAnnounced):
            self._unresolved[output.endpoint.node, output.endpoint.pod_ip] = output
        elif isinstance(output, EndpointWithdrawn):
            self._unresolved.pop((output.node, output.pod_ip), None)
            self.reconciler.endpoints.pop((output.node, output.pod_ip), None)
        elif isinstance(output, LocationHeard):
            self._hear_location(output.location)
        elif not isinstance(output, Acknowledged):
            raise TypeError(f"unknown output {output!r}")
        self._mark_dirty()

    # -- bringing the kernel and the peers in step --

    async def _reconcile_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_COALESCE_S)
            self._dirty.clear()
            try:
                await self._reconcile()
            except TransientError as error:
                _log.warning("reconcile: %s; trying again", error)
                await asyncio.sleep(_RETRY_S)
                self._mark_dirty()

    async def _reconcile(self) -> None:
        reconciler = self.reconciler
        reconciler.nodes = self.cluster.gateway_nodes()
        reconciler.assignments = self.cluster.assignments()
        for location in self.cluster.locations().values():
            reconciler.learn_location(location)
        self._beat()
        if not self.intake.is_synced:
            return
        await self._update_netfilter()
        now_ns = clock.boot_ns()
        selections = reconciler.local_selections()
        reconciler.steering.select(selections, now_ns=now_ns)
        self._tell_peers(now_ns)
        confirmed = self._resolve_endpoints()
        deadline_ns = reconciler.steering.admit(reconciler.audience, self.sync.acknowledged, now_ns=now_ns)
        if any(pod_ip not in reconciler.devices for pod_ip in selections):
            self.upkeep.devices_wanted.set()
        self.datapath.write(reconciler.rows())
        if reconciler.steering.to_clear():
            self.upkeep.clearing_wanted.set()
        if deadline_ns is not None:
            asyncio.get_running_loop().call_later((deadline_ns - now_ns) / 1e9 + 0.001, self._mark_dirty)
        if confirmed:
            await self._confirm_endpoints(confirmed)

    def _beat(self) -> None:
        """Tell the keeper and the members what this node is ready for."""
        is_ready = not self._unfit_reasons()
        self.cluster.describe(
            ready=is_ready,
            segments=tuple(uplink.segment for uplink in self.reconciler.uplinks),
            role=self.role,
            schedulable=self.intake.inventory.is_schedulable(self.settings.node),
        )
        parts = self._parts()
        self._watch_conflicts(parts)
        claims = [
            Claim(str(floating_ip), role, assignment.stamp.term, assignment.stamp.version)
            for floating_ip, (role, assignment) in parts.items()
            if floating_ip in self.reconciler.locations or self.conflicts.is_clear(floating_ip)
        ]
        uplinks = []
        for floating_ip in self.reconciler.floating_ips():
            for uplink in self.reconciler.uplinks:
                if floating_ip in uplink.address.network:
                    uplinks.append(
                        Uplink(str(floating_ip), uplink.name, uplink.ifindex, uplink.mac.hex(), uplink.carrier)
                    )
        self.keeper.say(Heartbeat(self.intake.is_synced, tuple(uplinks), tuple(claims), self.electorate.record))

    def _parts(self) -> dict[IPv4Address, tuple[str, Assignment]]:
        """This node's part in each assignment that concerns it."""
        node, parts = self.settings.node, {}
        for floating_ip, assignment in sorted(self.reconciler.assignments.items()):
            role = {assignment.holder: "holder", assignment.successor: "successor"}.get(node)
            if role is not None:
                parts[floating_ip] = (role, assignment)
        return parts

    def _watch_conflicts(self, parts: Mapping[IPv4Address, object]) -> None:
        """Ask about addresses that no member has held yet, and tell everybody who else has one."""
        points = {}
        for floating_ip in parts:
            uplink = uplink_for(self.reconciler.uplinks, floating_ip)
            if uplink is not None and floating_ip not in self.reconciler.locations:
                points[floating_ip] = ProbePoint(uplink.name, uplink.mac)
        self.conflicts.want(points)
        known, found = self.cluster.conflicts(), self.conflicts.conflicts()
        at_s = clock.wall_ns() // 1_000_000_000
        for floating_ip, mac in found.items():
            if known.get(floating_ip) != mac:
                self.cluster.publish_conflict(floating_ip, mac, at_s=at_s)
                self.recorder.address_conflict(floating_ip, mac)
        for floating_ip in known:
            if self.conflicts.is_clear(floating_ip):
                self.cluster.publish_conflict(floating_ip, b"", at_s=at_s)

    def _is_member_mac(self, mac: bytes) -> bool:
        return any(segment.mac == mac for node in self.reconciler.nodes for segment in node.segments)

    async def _update_netfilter(self) -> None:
        """Cluster ranges and uplinks change rarely: the whole table then; pairs of pods change often: only those."""
        reconciler = self.reconciler
        names = tuple(uplink.name for uplink in reconciler.uplinks)
        wanted = (reconciler.ranges.pods, reconciler.cluster_networks(), names)
        pairs = reconciler.steer_pairs()
        if wanted != self._netfilter:
            await self.datapath.set_netfilter(*wanted, steer=pairs)
            self._netfilter, self._steer_pairs = wanted, pairs
        elif pairs != self._steer_pairs:
            added = [pair for pair in pairs if pair not in self._steer_pairs]
            removed = [pair for pair in self._steer_pairs if pair not in pairs]
            await self.datapath.nftables.update_steer(added, removed)
            self._steer_pairs = pairs

    def _peers(self) -> tuple[str, ...]:
        """Every other agent that is not known to be dead."""
        return tuple(
            node.name
            for node in self.cluster.gateway_nodes()
            if node.name != self.settings.node and node.state is NodeState.UP
        )

    def _tell_peers(self, now_ns: int) -> None:
        present = {node.name for node in self.reconciler.nodes}
        for name in sorted(present | self._peers_known):
            address = self.cluster.address_of(name, self.settings.ports.state) if name in present else None
            self.sync.set_peer(name, address, now_ns=now_ns)
        self._peers_known = present
        endpoints, targets = self.reconciler.announced_endpoints()
        self.sync.announce(targets, endpoints, now_ns=now_ns)
        self.sync_pump.wake()

    def _resolve_endpoints(self) -> list[EndpointAnnounced]:
        """Take announced endpoints whose policies are known by now; they are confirmed once in the kernel."""
        known = [said for said in self._unresolved.values() if self.reconciler.is_resolvable(said.endpoint)]
        for said in known:
            key = (said.endpoint.node, said.endpoint.pod_ip)
            del self._unresolved[key]
            self.reconciler.endpoints[key] = said.endpoint
        return known

    async def _confirm_endpoints(self, installed: list[EndpointAnnounced]) -> None:
        await self.datapath.settled()
        now_ns = clock.boot_ns()
        for said in installed:
            self.sync.confirm(said.endpoint.node, said.endpoint.pod_ip, said.revision, now_ns=now_ns)
        self.sync_pump.wake()

    def _uplinks_changed(self) -> None:
        self._netfilter = ()
        self.announcer.restart(self.held)
        self._mark_dirty()

    def _outlets(self, floating_ip: IPv4Address) -> list[Outlet]:
        return [
            Outlet(uplink.name, uplink.mac)
            for uplink in self.reconciler.uplinks
            if floating_ip in uplink.address.network
        ]

    async def _refresh(self) -> None:
        """A slow beat: what no event reports (a keeper that fell silent) is seen within a second."""
        inherited_until_ns = clock.boot_ns() + _INHERITANCE_NS
        while True:
            await asyncio.sleep(_REFRESH_S)
            if clock.boot_ns() > inherited_until_ns:
                self.reconciler.disinherit()
            self._mark_dirty()


def _token(lease: HeldLease) -> Token:
    return Token(lease.term, lease.version, lease.counter)
