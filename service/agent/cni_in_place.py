"""Beside a CNI with which nothing was tested this node steers nothing, holds nothing, and says so (rule N2).

A selected pod's packets would be judged by programs or switches that know nothing of ours, before or after them; what
that comes to nobody has seen. So the policies are not even taken: pods send as if there was no gateway.
"""

import logging
from collections.abc import Iterable

from service.model.objects import Change, Delete, Kind, Upsert
from service.network.cni import unsupported_cni

_log = logging.getLogger(__name__)


class CniInPlace:
    """Looked at once, when the agent starts: whoever changes the CNI restarts what is on the node."""

    def __init__(self, *, is_tried: bool) -> None:
        """`is_tried`: the operator wants it all the same (`datapath.unsupported_cni: try`)."""
        self._is_tried = is_tried
        self.name = ""
        """Of the CNI beside which nothing is done; empty where all is done."""
        self._device = ""

    def look(self, devices: Iterable[str]) -> None:
        """Take the names of the node's devices."""
        name, device = unsupported_cni(devices)
        if name and self._is_tried:
            _log.warning("the CNI here is %s (device %s): not tested, and tried as set", name, device)
        elif name:
            self.name, self._device = name, device
            _log.error("%s", self.reasons()[0])

    def reasons(self) -> list[str]:
        """Why this node does nothing, with the way out; none where it works."""
        if not self.name:
            return []
        return [
            f"the CNI here is {self.name} (device {self._device}), which enforces in eBPF or OVS and was not tested "
            "with: this node steers nothing and holds nothing (datapath.unsupported_cni: try, to do it all the same)"
        ]

    def admit(self, batch: tuple[Change, ...]) -> tuple[Change, ...]:
        """What of a source's changes is taken."""
        return tuple(change for change in batch if not _is_of_policy(change)) if self.name else batch


def _is_of_policy(change: Change) -> bool:
    match change:
        case Upsert():
            return change.object.key.kind is Kind.POLICY
        case Delete():
            return change.key.kind is Kind.POLICY
    return False
