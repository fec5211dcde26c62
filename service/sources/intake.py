"""Where a source's changes go: one intake for agents and controllers."""

import logging

from service.gateway.inventory import Inventory
from service.model.errors import ObjectError
from service.model.objects import Change, Errors, Synced
from service.policy.index import PolicyDelta, PolicyIndex
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

    def take(self, batch: tuple[Change, ...]) -> PolicyDelta:
        """Take one batch in order; return its net effect on policies and selections."""
        for change in batch:
            if isinstance(change, Errors):
                self._note(change.errors)
            elif isinstance(change, Synced):
                self.is_synced = True
        self.inventory.apply(batch)
        return self.index.apply(batch, pod_cidrs_known=bool(self.inventory.ranges.pods))

    def _note(self, errors: tuple[ObjectError, ...]) -> None:
        for error in errors:
            if error not in self.errors:
                _log.error("refused: %s", error)
        self.errors = errors
