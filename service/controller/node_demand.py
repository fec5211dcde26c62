"""Which nodes need ports of which floating IP: those that a selected pod of it is bound to (rule Q2). Pure.

Kept in step by differences: a cluster has a hundred thousand pods, and a leader asks twice a second.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

from service.model.objects import ObjectKey
from service.policy.rule_set import Selection


class NodeDemand:
    """Of all selected pods of a cluster."""

    def __init__(self, selections: Mapping[ObjectKey, Selection]) -> None:
        self._wants: dict[ObjectKey, tuple[tuple[IPv4Address, ...], str]] = {}
        """Of each pod its floating IPs and its node."""
        self._pods: dict[IPv4Address, Counter[str]] = {}
        """Pods of each node; none that has none."""
        self.take(selections)

    def take(self, selections: Mapping[ObjectKey, Selection | None]) -> None:
        """The selections of these pods as they are now; None: not selected, or gone."""
        for key, selection in selections.items():
            floating_ips, node = self._wants.pop(key, ((), ""))
            for floating_ip in floating_ips:
                self._remove(floating_ip, node)
            if selection is None:
                continue
            self._wants[key] = selection.rule_set.addresses(), selection.pod.node
            for floating_ip in self._wants[key][0]:
                self._pods.setdefault(floating_ip, Counter())[selection.pod.node] += 1

    def nodes(self) -> Mapping[IPv4Address, Collection[str]]:
        """By floating IP; a live view."""
        return self._pods

    def _remove(self, floating_ip: IPv4Address, node: str) -> None:
        pods = self._pods[floating_ip]
        pods[node] -= 1
        if not pods[node]:
            del pods[node]
        if not pods:
            del self._pods[floating_ip]
