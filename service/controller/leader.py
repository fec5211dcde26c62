"""What this process does while it leads: it places floating IPs, publishes the rows, and puts them on record.

It decides under no await: what it knows when a turn begins is what it publishes by.
"""

import logging
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from service.audit.recorder import LeaderRecorder
from service.controller.knowledge import Knowledge
from service.controller.leadership import Leadership
from service.controller.orders import MoveOrders
from service.controller.placement import Placement, Revision
from service.model.assignment import Assignment, PlannedMove
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.lease import Token
from service.model.objects import GATEWAY_NAME
from service.model.order import MoveOrder
from service.wire.cluster_view import ClusterView

_log = logging.getLogger(__name__)


class Leader:
    """`leadership` says whether it is one; `place` may be called at any time, and does nothing where it is not."""

    def __init__(
        self,
        cluster: ClusterView,
        knowledge: Knowledge,
        recorder: LeaderRecorder,
        *,
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
    ) -> None:
        self.leadership = Leadership(began=self._begin, ended=self._end)
        self._cluster = cluster
        self._knowledge = knowledge
        self._recorder = recorder
        self._clock = clock
        self._wall_clock = wall_clock
        self._placement = Placement(0)
        """Of the present term, or the last one."""
        self._orders = MoveOrders()

    @property
    def moves(self) -> tuple[PlannedMove, ...]:
        """What is to move on purpose, by the last turn; nothing while this process does not lead."""
        return self._placement.moves if self.leadership.is_held else ()

    def _begin(self, token: Token) -> None:
        self._placement, self._orders = Placement(token.term), MoveOrders()
        self._cluster.publish_leader(token.term)
        self._recorder.elected(token)
        _log.info("leading in term %d", token.term)

    def _end(self, token: Token, reason: str) -> None:
        self._recorder.deposed(token, reason)
        _log.info("no longer leading: %s", reason)

    def note_member(self, name: str, state: NodeState) -> None:
        """Put on record that an agent came or went. Noted also while this process does not lead."""
        found = self._cluster.members().get(name)
        if found is None or found[1].role is NodeRole.CONTROLLER:
            return
        if self._recorder.member(name, state) and self.leadership.is_held:
            _log.info("node %s is %s", name, state)

    def place(self) -> None:
        """Bring the table in step with spec, nodes, holders and orders; publish and record what changed."""
        if (drains := self._knowledge.drains()) is not None:
            self._recorder.drains(drains)
        if not (self.leadership.is_held and self._knowledge.has_caught_up()):
            return
        gateway = self._knowledge.intake.index.gateway()
        floating_ips = gateway.floating_ips if gateway else ()
        self._recorder.gateway(GATEWAY_NAME, floating_ips)
        table, nodes = self._cluster.assignments(), self._knowledge.nodes()
        holders = {floating_ip: held.node for floating_ip, held in self._knowledge.holders().items()}
        self._end_orders(floating_ips, nodes, holders)
        revision = self._placement.revise(
            floating_ips,
            nodes,
            holders,
            self._cluster.conflicts(),
            table,
            ordered=self._orders.ordered,
            now_ns=self._clock(),
        )
        for order in self._orders.begun(self._placement.moves):
            self._report(order)
        self._publish(revision, table)
        self._cluster.tidy(floating_ips)

    def _end_orders(
        self, floating_ips: tuple[IPv4Address, ...], nodes: tuple[GatewayNode, ...], holders: Mapping[IPv4Address, str]
    ) -> None:
        for order in self._orders.decide(
            self._cluster.orders.moves(),
            floating_ips,
            nodes,
            holders,
            now_ns=self._clock(),
            now_s=self._wall_clock() // 1_000_000_000,
        ):
            self._report(order)

    def _report(self, order: MoveOrder) -> None:
        self._cluster.orders.report(order, term=self._placement.term)
        said = f" to {order.target}" if order.target else ""
        _log.info("order to move %s%s: %s %s", order.floating_ip, said, order.state, order.reason)

    def _publish(self, revision: Revision, table: Mapping[IPv4Address, Assignment]) -> None:
        for row in revision.changed:
            self._cluster.publish_assignment(row)
            self._recorder.assigned(row, table.get(row.floating_ip))
            _log.info("assigned %s to %s, then %s", row.floating_ip, row.holder or "nobody", row.successor or "nobody")
        for row in revision.removed:
            self._cluster.publish_assignment(row, removed=True)
            self._recorder.removed(row, (*row.stamp, 0))
