"""What this process does while it leads: it places floating IPs, publishes the rows, and puts them on record.

It decides under no await: what it knows when a turn begins is what it publishes by.
"""

import logging
from collections.abc import Callable

from service.audit.recorder import LeaderRecorder
from service.controller.knowledge import Knowledge
from service.controller.leadership import Leadership
from service.controller.placement import Placement
from service.model.gateway_node import NodeRole, NodeState
from service.model.lease import Token
from service.model.objects import GATEWAY_NAME
from service.wire.cluster_view import ClusterView

_log = logging.getLogger(__name__)


class Leader:
    """`leadership` says whether it is one; `place` may be called at any time, and does nothing where it is not."""

    def __init__(
        self, cluster: ClusterView, knowledge: Knowledge, recorder: LeaderRecorder, *, clock: Callable[[], int]
    ) -> None:
        self.leadership = Leadership(began=self._begin, ended=self._end)
        self._cluster = cluster
        self._knowledge = knowledge
        self._recorder = recorder
        self._clock = clock
        self._placement = Placement(0)
        """Of the present term, or the last one."""

    def _begin(self, token: Token) -> None:
        self._placement = Placement(token.term)
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
        """Bring the table in step with spec, nodes and holders; publish and record what changed."""
        if not (self.leadership.is_held and self._knowledge.has_caught_up()):
            return
        gateway = self._knowledge.intake.index.gateway()
        floating_ips = gateway.floating_ips if gateway else ()
        self._recorder.gateway(GATEWAY_NAME, floating_ips)
        table = self._cluster.assignments()
        revision = self._placement.revise(
            floating_ips,
            self._knowledge.nodes(),
            {floating_ip: held.node for floating_ip, held in self._knowledge.holders().items()},
            self._cluster.conflicts(),
            table,
            now_ns=self._clock(),
        )
        for row in revision.changed:
            self._cluster.publish_assignment(row)
            self._recorder.assigned(row, table.get(row.floating_ip))
            _log.info("assigned %s to %s, then %s", row.floating_ip, row.holder or "nobody", row.successor or "nobody")
        for row in revision.removed:
            self._cluster.publish_assignment(row, removed=True)
            self._recorder.removed(row, (*row.stamp, 0))
        self._cluster.tidy(floating_ips)
