"""The agent: one on every node. Gossip member, datapath, blocks of ports, gratuitous ARP, audit of what it did.

The lease keeper beside it decides whether an address may be used; the agent only prepares and announces. Everything is
level-triggered: inputs update what is known and set `dirty`; one task, `turn`, brings the kernel and the peers in step.
"""

import asyncio
import shutil
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.agent.cni_in_place import CniInPlace
from service.agent.conflicts import Conflicts
from service.agent.drain_record import FILE_NAME, DrainRecord
from service.agent.heartbeat import keeper_reasons
from service.agent.holdings import Holdings, Returns
from service.agent.neighbours import Neighbours
from service.agent.netfilter import NetfilterDifference
from service.agent.port_blocks import PortBlocks
from service.agent.segment_watch import SegmentWatch
from service.agent.status import agent_status
from service.agent.transport_watch import TransportWatch
from service.agent.turn import Turn
from service.audit.outbox import Origin, Outbox
from service.audit.promise_log import KEEPER_OUTBOX
from service.audit.publisher import Publisher
from service.audit.recorder import AgentRecorder
from service.datapath import layout, node_datapath
from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.datapath.shortage import Shortage
from service.datapath.upkeep import Upkeep
from service.electorate.follower import ElectorateFollower
from service.gateway.row import MemberMetadata
from service.host import identity
from service.host.clock import boot_ns, wall_ns
from service.host.loop_lag import NO_LAGS, Lags
from service.host.supervisor import Run, Supervisor
from service.model.assignment import Location
from service.model.gateway_node import NodeRole
from service.model.keeper_message import LeaseReport
from service.model.objects import Change
from service.network.announcer import Announcer, Outlet
from service.settings import Settings
from service.sources.intake import Intake
from service.sources.source import ObjectSource, open_source
from service.version import VERSION
from service.web.electorate_metric import ElectorateCollector
from service.web.loop_metric import LoopLagCollector
from service.web.metrics import (
    AuditCollector,
    DatapathCollector,
    KeeperCollector,
    PolicyCollector,
    PortCollector,
    RefusalCollector,
    SegmentCollector,
    ShortageCollector,
    TaskCollector,
    TransportCollector,
)
from service.web.notice import until_begun, until_listening
from service.web.order_client import AGENT_ORDERS
from service.web.order_socket import OrderSocket
from service.web.orders import Orders
from service.web.server import WebServer
from service.wire import refusals
from service.wire.cluster_view import ClusterView
from service.wire.keeper_link import KeeperLink

_INHERITANCE_NS = 30_000_000_000
"""How long pods that a former agent served are served without having been announced again."""
_REPORT_SLACK_NS = 1_000_000_000
"""A deadline in a report is that old when the next one comes, five times over."""
REFRESH_S = 1.0
"""How often members, uplinks and acknowledgements are looked at even if nothing was reported."""


async def run(settings: Settings) -> None:
    """Run the agent until cancelled. Raises OperatorError, in one sentence, where it cannot start."""
    async with AsyncExitStack() as stack:
        agent = Agent(settings, NodeDatapath(settings))
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
    """One node's agent: what it is made of, in which order that is opened, and which tasks it runs."""

    def __init__(self, settings: Settings, datapath: NodeDatapath) -> None:
        """Make everything and start nothing. Raises OperatorError where a setting is bad."""
        self._settings = settings
        self._datapath = datapath
        self._dirty = asyncio.Event()
        self._tasks = Supervisor(clock=boot_ns)
        self._source: ObjectSource | None = None
        self._intake = Intake(settings.datapath)
        self._cni = CniInPlace(is_tried=settings.datapath.unsupported_cni == "try")
        self._reconciler = Reconciler(settings, self._intake.index)
        start_id = identity.start_id()
        self._make_record()
        self._make_cluster(start_id)
        self._keeper = KeeperLink(Path(settings.run_dir), clock=boot_ns, on_report=self._take_report)
        self._cluster.add_keys("keeper", self._keeper.key_ids)
        self._electorate = ElectorateFollower(settings, changed=self._keeper.say_electorate)
        self._neighbours = Neighbours(
            settings,
            self._cluster,
            self._reconciler,
            start_id=start_id,
            clock=boot_ns,
            changed=self._dirty.set,
            others=lambda source, payload: self._blocks.take(source, payload),
        )
        self._blocks = PortBlocks(
            settings,
            self._cluster,
            self._reconciler,
            start_id=start_id,
            clock=boot_ns,
            send=self._neighbours.socket.send,
            is_synced=lambda: self._intake.is_synced,
            changed=self._dirty.set,
        )
        self._refusals = self._cluster.socket.refusals, self._neighbours.socket.refusals
        self._transports = TransportWatch(
            settings,
            self._reconciler,
            start_id=start_id,
            clock=boot_ns,
            answering=self._cluster.answering,
            held=lambda: self._holdings.held,
            heard=self._hear_location,
            changed=self._dirty.set,
        )
        self._make_holdings()
        self._make_turn()

    def _make_record(self) -> None:
        settings = self._settings
        self._outbox = Outbox(
            Path(settings.state_dir) / "outbox",
            Origin(settings.node, identity.boot_id(), settings.cluster, "agent"),
            clock=lambda: (wall_ns(), boot_ns()),
            context=self._term_and_epoch,
            cap_bytes=settings.audit.cap_mib << 20,
        )
        foreign = [Path(settings.state_dir) / KEEPER_OUTBOX]
        self._publisher = Publisher(settings.kafka, self._outbox, node=settings.node, foreign=foreign)
        self.recorder = AgentRecorder(self._outbox, node=settings.node)

    def _make_cluster(self, start_id: int) -> None:
        self._returns = Returns(lambda: self._announcer.restart(self._holdings.held))
        self._cluster = ClusterView(
            self._settings,
            MemberMetadata(
                self._settings.role or NodeRole.WORKER,
                False,
                True,
                (),
                VERSION,
                start_id,
                tunnels=self._settings.datapath.transport != "l2",
                labels=tuple(sorted(self._settings.labels.items())),
            ),
            clock=boot_ns,
            changed=self._dirty.set,
            member_changed=self._returns.note,
            location_heard=self._hear_location,
            name_conflict=self.recorder.name_conflict,
        )
        settings = self._settings
        self._drain = DrainRecord(Path(settings.state_dir) / FILE_NAME, settings.node, self._cluster.orders)
        orders = Orders(self._intake, self._cluster, self._located, wall_ns)
        self._orders = OrderSocket(Path(settings.run_dir) / AGENT_ORDERS, orders)

    def _located(self) -> dict[IPv4Address, str]:
        return {floating_ip: location.node for floating_ip, location in self._cluster.locations().items()}

    def _make_holdings(self) -> None:
        self._announcer = Announcer(clock=boot_ns, outlets=self._outlets)
        self._holdings = Holdings(
            self._settings.node,
            clock=boot_ns,
            announcer=self._announcer,
            recorder=self.recorder,
            assignments=self._cluster.assignments,
            locations=lambda: self._reconciler.locations,
            is_up=self._neighbours.is_up,
            tell=self._tell_location,
            changed=self._dirty.set,
        )

    def _make_turn(self) -> None:
        self._upkeep = Upkeep(
            self._datapath,
            self._reconciler,
            clock=boot_ns,
            changed=self._dirty.set,
            uplinks_changed=self._uplinks_changed,
            held=lambda: self._holdings.held,
        )
        self._netfilter = NetfilterDifference(self._datapath, self._reconciler)
        self._segment_watch = SegmentWatch(
            self._settings,
            self._reconciler,
            clock=boot_ns,
            held=lambda: self._holdings.held,
            gateways=lambda: self._datapath.gateways,
            is_answering=self._cluster.is_answering,
            announced=self._transports.hear_announcement,
            changed=self._dirty.set,
        )
        self._conflicts = Conflicts(
            self._reconciler,
            self._cluster,
            self.recorder,
            self._segment_watch,
            clock=boot_ns,
            wall_clock=wall_ns,
            changed=self._dirty.set,
        )
        self._turn = Turn(
            self._settings,
            clock=boot_ns,
            intake=self._intake,
            reconciler=self._reconciler,
            datapath=self._datapath,
            upkeep=self._upkeep,
            cluster=self._cluster,
            keeper=self._keeper,
            electorate=self._electorate,
            neighbours=self._neighbours,
            blocks=self._blocks,
            segment_watch=self._segment_watch,
            transports=self._transports,
            conflicts=self._conflicts,
            netfilter=self._netfilter,
            cni=self._cni,
            held=lambda: {floating_ip: lease.token for floating_ip, lease in self._holdings.held.items()},
            dirty=self._dirty,
        )

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open outbox, datapath, sockets and the HTTP server, in that order; all close with the stack, in reverse."""
        settings = self._settings
        await stack.enter_async_context(self._publisher)
        await stack.enter_async_context(self._outbox)
        await until_begun(settings, self._datapath.prepare)
        await stack.enter_async_context(self._datapath)
        self._cni.look(self._datapath.device_names)
        stack.enter_context(self._announcer)
        stack.enter_context(self._segment_watch)
        stack.enter_context(self._transports)
        await self._inherit()
        segments = tuple(uplink.segment for uplink in self._datapath.uplinks)
        self._cluster.describe(ready=False, segments=segments, role=self._turn.role, schedulable=True)
        for probes in self._transports.sockets:
            await until_begun(settings, partial(stack.enter_async_context, probes))
        for socket in (self._cluster, self._neighbours.socket):
            await until_begun(settings, partial(stack.enter_async_context, socket))
        await self._drain.recall()
        await stack.enter_async_context(self._keeper)
        registry = CollectorRegistry()
        registry.register(DatapathCollector(self._datapath, self._holdings))
        registry.register(ElectorateCollector(self._electorate_trouble))
        registry.register(AuditCollector(self._outbox, self._publisher))
        registry.register(TaskCollector(self._tasks))
        registry.register(ShortageCollector(self._shortages))
        registry.register(PortCollector(self._blocks))
        registry.register(PolicyCollector(lambda: self._datapath.flows, self._datapath))
        registry.register(RefusalCollector(self._refusals))
        registry.register(KeeperCollector(self._living_report))
        registry.register(SegmentCollector(self._segment_watch))
        registry.register(TransportCollector(self._transports))
        web = WebServer(settings.http.address, settings.ports.http, self, registry)
        registry.register(LoopLagCollector(lambda: {"agent": web.lag.lags} | self._keeper_lags()))
        await until_listening(stack, web)
        self.recorder.started(VERSION)

    async def serve(self) -> None:
        """Run every task until cancelled; one that fails is tried again (`host.supervisor`). Needs `enter`."""
        tasks: dict[str, Run] = {
            "write records": self._outbox.run,
            "publish records": self._publisher.run,
            "write maps": self._datapath.pool.run,
            "gossip": self._cluster.run,
            "take orders": self._orders.run,
            "remember drains": self._drain.run,
            "talk to peers": self._neighbours.pump.run,
            "keep port blocks": self._blocks.run,
            "talk to the keeper": self._keeper.run,
            "read objects": self._follow_source,
            "follow the electorate": self._electorate.run,
            "reconcile": self._turn.run,
            "clear connections": self._upkeep.clear_connections,
            "follow rows": self._upkeep.follow_rows,
            "plant connections": self._datapath.planter.run,
            "find pod devices": self._upkeep.find_devices,
            "follow links": self._upkeep.follow_links,
            "announce": self._announcer.run,
            "look for conflicts": self._conflicts.watch.run,
            "watch the segments": self._segment_watch.run,
            "prove transports": self._transports.run,
            "repair": self._upkeep.repair,
            "refresh": self._refresh,
        }
        await self._tasks.run(tasks)

    async def _inherit(self) -> None:
        """Go on with what a former agent of this node left in the kernel: nothing it did is interrupted."""
        self._reconciler.learn_uplinks(self._datapath.uplinks)
        self._reconciler.learn_addresses(self._datapath.addresses)
        self._reconciler.learn_steering_device(self._datapath.egw_ifindex)
        inherited = await asyncio.to_thread(self._datapath.inherited)
        for pod_ip, rule_set in inherited.steered.items():
            self._reconciler.steering.adopt(pod_ip, rule_set)
        self._reconciler.learn_devices(inherited.devices)
        self._reconciler.inherit(inherited.ways, inherited.rule_sets, inherited.exempt)
        self._transports.adopt(layout.segment_ways(inherited.ways))
        await asyncio.to_thread(self._blocks.connect, self._datapath.blocks, self._datapath.flows)

    # -- what it says --

    def status(self) -> dict[str, Any]:
        """The document of /v1/status."""
        return agent_status(
            node=self._settings.node,
            role=self._turn.role,
            cluster=self._cluster,
            now_ns=boot_ns(),
            intake=self._intake,
            source=self._source,
            reconciler=self._reconciler,
            datapath=self._datapath,
            held=self._holdings.held,
            report=self._living_report(),
            port_blocks=self._blocks,
            transports=self._transports.status(),
            troubles=[
                *self._tasks.troubles(),
                *refusals.troubles(self._refusals),
                *self._keeper.troubles(),
                *self._datapath.troubles(),
                *self._cluster.troubles(),
                *filter(None, (self._orders.trouble, self._drain.trouble)),
                *self._conflicts.troubles(),
                *self._conflicts.watch.troubles(),
                *map(str, self._shortages()),
                *self._upkeep.troubles(),
                *self._cni.reasons(),
            ],
            outbox=self._outbox,
            publisher=self._publisher,
        )

    def record_folders(self) -> list[Path]:
        """The outboxes of the agent and of the keeper beside it."""
        return [Path(self._settings.state_dir) / name for name in ("outbox", KEEPER_OUTBOX)]

    def _electorate_trouble(self) -> str:
        report = self._living_report()
        return report.trouble if report is not None else ""

    def not_ready_reasons(self) -> list[str]:
        """What keeps this node from doing its whole part: no other node should be restarted meanwhile."""
        return self._turn.unfit_reasons() + keeper_reasons(self._living_report())

    def _keeper_lags(self) -> dict[str, Lags]:
        report = self._living_report()
        # A keeper of another version may count by other bounds, or not at all.
        is_told = report is not None and len(report.lags) == len(NO_LAGS.counts)
        return {"keeper": Lags(report.lags, report.lag_sum_s)} if report is not None and is_told else {}

    def _living_report(self) -> LeaseReport | None:
        return self._holdings.report if self._keeper.is_keeper_alive else None

    def _shortages(self) -> tuple[Shortage, ...]:
        return self._reconciler.shortages(self._datapath.pool)

    def _term_and_epoch(self) -> tuple[int, int]:
        """Under which an audit record is made: of the last leader heard of, of the keeper's electorate."""
        report = self._holdings.report
        known = report.electorate if report else None
        return (self._cluster.leader() or ("", 0))[1], known.epoch if known else self._settings.electorate.epoch

    # -- what it hears --

    async def _follow_source(self) -> None:
        self._intake.begin_again()
        async with open_source(self._settings) as source:
            self._source = source
            server = source.server_address()
            if server is not None:
                self._reconciler.learn_server(server)
            async for batch in source.changes():
                self._take_changes(batch)

    def _take_changes(self, batch: tuple[Change, ...]) -> None:
        self._intake.take(self._cni.admit(batch))
        self._upkeep.is_synced = self._intake.is_synced
        self._reconciler.learn_ranges(self._intake.inventory.ranges)
        self._cluster.know_nodes(self._intake.inventory.addresses())
        self._dirty.set()

    def _take_report(self, report: LeaseReport) -> None:
        self._electorate.hear(report)
        # Vouched for before anybody hears of it: what is sent here sooner is dropped (R3).
        self._blocks.observe({IPv4Address(lease.floating_ip): lease.token for lease in report.held})
        self._holdings.take_report(report)
        self._learn_held()

    def _learn_held(self) -> None:
        """What is leased here stays behind the fence until it is over, whoever lists it or does not any more."""
        over_ns = boot_ns() - _REPORT_SLACK_NS
        held = self._holdings.held.items()
        leased = frozenset(ip for ip, lease in held if lease.deadline_ns > over_ns)
        # At once: until its machine has looked, a new holder's kernel goes by no row (R3).
        self._blocks.observe({ip: lease.token for ip, lease in self._holdings.held.items()})
        if self._reconciler.learn_held(leased):
            self._dirty.set()

    def _hear_location(self, location: Location) -> None:
        if self._reconciler.learn_location(location):
            self._dirty.set()

    def _tell_location(self, location: Location) -> None:
        """An address is here now: to the own datapath, directly to the peers, and by gossip (rule W2)."""
        self._reconciler.learn_location(location)
        self._neighbours.locate(location)
        self._cluster.publish_location(location)

    def _uplinks_changed(self) -> None:
        self._netfilter.forget()
        self._announcer.restart(self._holdings.held)
        self._dirty.set()

    def _outlets(self, floating_ip: IPv4Address) -> list[Outlet]:
        """Where an address is announced: every uplink on its segment."""
        uplinks = self._reconciler.uplinks
        return [Outlet(uplink.name, uplink.mac) for uplink in uplinks if floating_ip in uplink.address.network]

    async def _refresh(self) -> None:
        """A slow beat: what no event reports (a keeper that fell silent) is seen within a second."""
        inherited_until_ns = boot_ns() + _INHERITANCE_NS
        silent_looks = 0
        while True:
            await asyncio.sleep(REFRESH_S)
            if boot_ns() > inherited_until_ns:
                self._reconciler.disinherit()
            self._learn_held()
            # Twice: after a stall of this loop its reports may only wait to be read.
            silent_looks = 0 if self._keeper.is_keeper_alive else silent_looks + 1
            if silent_looks >= 2:
                self._holdings.expire()
            self._dirty.set()
