"""The controller: two or three of them compete for the lease `leader`; the one that holds it places floating IPs.

It grants nothing. It says where each floating IP belongs and who comes next, and writes status; without it everything
that is placed goes on, and fails over to the successors chosen ahead of time.
"""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.audit.recorder import LeaderRecorder
from service.controller.elector_client import ElectorClient
from service.controller.holders import HolderTable
from service.controller.knowledge import Knowledge
from service.controller.leader import Leader
from service.controller.port_blocks import LeaderPortBlocks
from service.controller.status import controller_status, explained
from service.gateway.row import MemberMetadata
from service.host import identity
from service.host.clock import boot_ns, wall_ns
from service.host.supervisor import Run, Supervisor
from service.lease.holder import CloseFence, OpenFence
from service.lease.observer import Observed
from service.model.gateway_node import NodeRole
from service.model.objects import Change
from service.report.facts import Facts
from service.report.metrics import ReportCollector
from service.report.writer import StatusWriter
from service.settings import Settings
from service.sources.intake import Intake
from service.sources.source import Source, open_source
from service.version import VERSION
from service.web.electorate_metric import ElectorateCollector
from service.web.leader_metric import GivenPortCollector
from service.web.loop_metric import LoopLagCollector
from service.web.metrics import AuditCollector, RefusalCollector, TaskCollector
from service.web.notice import until_begun, until_listening
from service.web.order_client import CONTROLLER_ORDERS
from service.web.order_socket import OrderSocket
from service.web.orders import Orders
from service.web.server import WebServer
from service.wire import refusals
from service.wire.cluster_view import ClusterView

COALESCE_S = 0.005
"""What changes within this time is placed in one turn."""
REFRESH_S = 0.5
"""A turn at least so often: that a node has been silent for long is told by nobody."""


async def run(settings: Settings) -> None:
    """Run the controller until cancelled. Raises OperatorError where it cannot start."""
    async with AsyncExitStack() as stack:
        controller = Controller(settings)
        await controller.enter(stack)
        await controller.serve()


class Controller:
    """One controller process: what it is made of, in which order that is opened, and which tasks it runs."""

    def __init__(self, settings: Settings) -> None:
        """Make everything and start nothing. Raises OperatorError where a setting is bad."""
        self._settings = settings
        self._source: Source | None = None
        self._writer: StatusWriter | None = None
        self._dirty = asyncio.Event()
        self._tasks = Supervisor(clock=boot_ns)
        self._intake = Intake(settings.datapath)
        self._table = HolderTable(lease_ns=settings.lease_profile.lease_ns)
        self._make_record(settings)
        self._cluster = ClusterView(
            settings,
            MemberMetadata(NodeRole.CONTROLLER, False, False, (), VERSION, identity.start_id()),
            clock=boot_ns,
            changed=self._dirty.set,
            member_changed=lambda name, state: self._leader.note_member(name, state),
            name_conflict=self._recorder.name_conflict,
        )
        self._electors = ElectorClient(
            settings,
            self._cluster,
            handle=self._handle_lease,
            is_leading=lambda: self.is_leading,
            clock=boot_ns,
        )
        self._office = self._electors.office
        self._knowledge = Knowledge(
            self._intake,
            self._cluster,
            self._table,
            electors=lambda: self._office.book.known.members,
            silent=self._electors.silent_s,
            problems=self._office.problems,
            server=lambda: self._source.server_address() if self._source is not None else None,
            lacking_ports=lambda: self._blocks.lacking(),
            moves=lambda: self._leader.moves,
            clock=boot_ns,
        )
        self._leader = Leader(self._cluster, self._knowledge, self._recorder, clock=boot_ns, wall_clock=wall_ns)
        self._blocks = LeaderPortBlocks(
            settings, self._cluster, self._knowledge, clock=boot_ns, recorder=self._recorder
        )
        orders = Orders(self._intake, self._cluster, self._held, wall_ns)
        self._orders = OrderSocket(Path(settings.run_dir) / CONTROLLER_ORDERS, orders)
        self._refusals = self._cluster.socket.refusals, self._blocks.socket.refusals, *self._electors.refusals

    def _held(self) -> dict[IPv4Address, str]:
        return {floating_ip: held.node for floating_ip, held in self._knowledge.holders().items()}

    def _make_record(self, settings: Settings) -> None:
        self._outbox = Outbox(
            Path(settings.state_dir) / "outbox",
            Origin(settings.node, identity.boot_id(), settings.cluster, "controller"),
            clock=lambda: (wall_ns(), boot_ns()),
            context=self._term_and_epoch,
            cap_bytes=settings.audit.cap_mib << 20,
        )
        self._publisher = Publisher(settings.kafka, self._outbox, node=settings.node)
        self._recorder = LeaderRecorder(
            self._outbox, node=settings.node, lease_ns=settings.lease_profile.lease_ns, clock=boot_ns
        )

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open everything; it closes with the stack, in reverse. Giving up leadership comes before the sockets go."""
        settings = self._settings
        await stack.enter_async_context(self._publisher)
        await stack.enter_async_context(self._outbox)
        await until_begun(settings, lambda: stack.enter_async_context(self._cluster))
        for socket in (self._blocks.socket, *self._electors.sockets):
            await until_begun(settings, partial(stack.enter_async_context, socket))
        self._source = await stack.enter_async_context(open_source(settings, everything=True))
        self._writer = self._make_writer(self._source)
        stack.callback(self._electors.step_down)
        registry = CollectorRegistry()
        registry.register(ReportCollector(self._writer))
        registry.register(ElectorateCollector(lambda: self._office.trouble))
        registry.register(AuditCollector(self._outbox, self._publisher))
        registry.register(TaskCollector(self._tasks))
        registry.register(RefusalCollector(self._refusals))
        registry.register(GivenPortCollector(self._blocks))
        web = WebServer(settings.http.address, settings.ports.http, self, registry)
        registry.register(LoopLagCollector(lambda: {"controller": web.lag.lags}))
        await until_listening(stack, web)

    async def serve(self) -> None:
        """Compete for leadership and run every task until cancelled; one that fails is tried again. Needs `enter`."""
        assert self._writer is not None
        self._electors.claim_leadership()
        tasks: dict[str, Run] = {
            "write records": self._outbox.run,
            "publish records": self._publisher.run,
            "gossip": self._cluster.run,
            "take orders": self._orders.run,
            "lease port blocks": self._blocks.pump.run,
            "compete for leadership": self._electors.holder_pump.run,
            "observe leases": self._electors.observer_pump.run,
            "keep the electorate": self._office.run,
            "read objects": self._follow_source,
            "lead": self._lead_for_ever,
            "report": self._writer.run,
            "refresh": self._refresh,
        }
        await self._tasks.run(tasks)

    def _make_writer(self, source: Source) -> StatusWriter:
        return StatusWriter(
            source,
            name=self._settings.node,
            facts=self.facts,
            loss=lambda: self._knowledge.loss(is_leading=self.is_leading),
            sightings=self._knowledge.sightings,
            clock=boot_ns,
            wall_clock=wall_ns,
        )

    # -- what it says --

    @property
    def is_leading(self) -> bool:
        """This process holds the lease `leader`."""
        return self._leader.leadership.is_held

    def facts(self) -> Facts | None:
        """What reports are made from; None while this process does not lead, or knows too little."""
        return self._knowledge.facts(self._leader.leadership.term)

    def status(self) -> dict[str, Any]:
        """The document of /v1/status."""
        document = controller_status(
            node=self._settings.node,
            is_leading=self.is_leading,
            port_blocks=self._blocks.status(),
            cluster=self._cluster,
            intake=self._intake,
            source=self._source,
            holders=self._knowledge.holders(),
            office=self._office,
            has_majority=self._table.is_fresh(now_ns=boot_ns()),
            silent_s=self._electors.silent_s(),
            troubles=[
                *self._tasks.troubles(),
                *refusals.troubles(self._refusals),
                *filter(None, [self._orders.trouble]),
            ],
            outbox=self._outbox,
            publisher=self._publisher,
            untold=self._writer.troubles() if self._writer is not None else (),
        )
        return explained(document, self._knowledge.why(wall_ns=wall_ns()))

    def record_folders(self) -> list[Path]:
        """The controller's own outbox."""
        return [Path(self._settings.state_dir) / "outbox"]

    def not_ready_reasons(self) -> list[str]:
        """Why this controller could not lead now."""
        return self._knowledge.gaps()

    def _term_and_epoch(self) -> tuple[int, int]:
        """Under which an audit record is made: of this leader, or of the last one heard of."""
        term = self._leader.leadership.term or (self._cluster.leader() or ("", 0))[1]
        return term, self._office.book.known.epoch

    # -- what it hears --

    def _handle_lease(self, output: object) -> None:
        if isinstance(output, OpenFence):
            if self._leader.leadership.opened(output):
                self._dirty.set()
            self._blocks.lead(output.token.term, output.deadline_ns)
        elif isinstance(output, CloseFence):
            self._blocks.end()
            self._leader.leadership.closed(output)
        elif isinstance(output, Observed):
            self._recorder.observed(output.table, self._cluster.assignments())
            if self._table.observe(output.table, now_ns=boot_ns()):
                self._dirty.set()

    async def _follow_source(self) -> None:
        assert self._source is not None
        async for batch in self._source.changes():
            self._take_changes(batch)

    def _take_changes(self, batch: tuple[Change, ...]) -> None:
        self._recorder.changes(batch)
        self._recorder.policy_states(self._intake.take(batch).policies)
        self._cluster.know_nodes(self._intake.inventory.addresses())
        self._dirty.set()

    # -- leading --

    async def _lead_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(COALESCE_S)
            self._dirty.clear()
            self._leader.place()
            self._blocks.update()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self._dirty.set()
