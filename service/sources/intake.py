"""Where a source's changes go: one intake for agents and controllers."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from service.gateway.inventory import Inventory
from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode
from service.model.objects import Change, Delete, Errors, ObjectKey, Synced, Upsert
from service.policy.index import PolicyDelta, PolicyIndex
from service.policy.selector import is_match
from service.settings import DatapathSettings

_log = logging.getLogger(__name__)


class Intake:
    """All that a source has told so far: what it selects, what the cluster is made of, and what is refused."""

    def __init__(self, datapath: DatapathSettings) -> None:
        self.inventory = Inventory(datapath.ranges)
        self.index = PolicyIndex(pod_cidrs_known=bool(self.inventory.ranges.pods))
        self.errors: tuple[ObjectError, ...] = ()
        """Objects refused at present."""
        self.is_synced = False
        """Everything has been told once; until then, absence means nothing."""
        self._known: dict[ObjectKey, None] = {}
        self._missed: dict[ObjectKey, None] = {}
        """Told by an earlier source, and not yet by this one."""

    def begin_again(self) -> None:
        """A source tells everything anew, after one was lost: what it does not tell until it is synced is gone."""
        self._missed |= self._known
        # Absence means something only for what was told before; the objects in force stay in force meanwhile.

    def take(self, batch: tuple[Change, ...]) -> PolicyDelta:
        """Take one batch in order; return its net effect on policies and selections."""
        for change in batch:
            if isinstance(change, Upsert):
                self._known[change.object.key] = None
                self._missed.pop(change.object.key, None)
            elif isinstance(change, Delete):
                self._known.pop(change.key, None)
                self._missed.pop(change.key, None)
            elif isinstance(change, Errors):
                self._note(change.errors)
            elif isinstance(change, Synced):
                self.is_synced = True
                batch = (*batch, *self._take_missed())
        self.inventory.apply(batch)
        return self.index.apply(batch, pod_cidrs_known=bool(self.inventory.ranges.pods))

    def gateway_nodes(self, members: Iterable[GatewayNode], holding: Iterable[str]) -> tuple[GatewayNode, ...]:
        """The members with what their Node objects and the gateway's selector say (rule O2).

        `holding`: who holds an address, and counts though it has no Node object any more.
        """
        return self.marked(self.inventory.complete(members, holding))

    def marked(self, nodes: tuple[GatewayNode, ...]) -> tuple[GatewayNode, ...]:
        """The nodes, each with whether the gateway's selector matches it."""
        gateway = self.index.gateway()
        selector = gateway.node_selector if gateway is not None else None
        if selector is None:
            return nodes
        matches = ((node, is_match(selector, self.inventory.labels(node))) for node in nodes)
        return tuple(
            node if node.selected == selected else replace(node, selected=selected) for node, selected in matches
        )

    def _take_missed(self) -> list[Change]:
        gone, self._missed = list(self._missed), {}
        for key in gone:
            del self._known[key]
        return [Delete(key) for key in gone]

    def _note(self, errors: tuple[ObjectError, ...]) -> None:
        for error in errors:
            if error not in self.errors:
                _log.error("refused: %s", error)
        self.errors = errors
