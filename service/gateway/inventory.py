"""What the cluster says of itself: Node and ServiceCIDR objects, where its API servers are, and pods whose address lies
in no known range. Pure.

Configured ranges win over those of objects: whoever writes them down knows why.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from service.model.cluster_range import ClusterRanges
from service.model.gateway_node import GatewayNode, NodeState
from service.model.objects import ApiServers, Change, ClusterNode, Delete, Kind, ObjectKey, Pod, ServiceRange, Upsert

_HOSTNAME = "kubernetes.io/hostname"
"""A label that every node has in Kubernetes, and so everywhere."""


class Inventory:
    """Nodes and ranges at this time; `ranges` is a new value whenever it changed."""

    def __init__(self, configured: ClusterRanges) -> None:
        self._configured = configured
        self._nodes: dict[str, ClusterNode] = {}
        self._services: dict[ObjectKey, ServiceRange] = {}
        self._servers: dict[ObjectKey, ApiServers] = {}
        self._pods: dict[ObjectKey, IPv4Address] = {}
        """Address of every pod that has one."""
        self._strays: dict[ObjectKey, IPv4Address] = {}
        """Those of them in none of the pod ranges; kept, because ranges seldom change and pods often."""
        self._prefixes: dict[int, dict[int, None]] = {}
        """The pod ranges: number of host bits -> network part of each range of that length."""
        self.ranges = ClusterRanges()
        self._renew_ranges()

    def apply(self, changes: Iterable[Change]) -> None:
        """Take a batch in order; what is no node, range or pod means nothing here."""
        is_range_changed = False
        for change in changes:
            if isinstance(change, Upsert):
                is_range_changed |= self._put(change.object)
            elif isinstance(change, Delete):
                is_range_changed |= self._remove(change.key)
        # Once for all of them: a batch of a thousand nodes at start is one change of the ranges.
        if is_range_changed:
            self._renew_ranges()

    @property
    def nodes(self) -> Mapping[str, ClusterNode]:
        """Return a live view of the Node objects by name; empty where the source has no such objects."""
        return MappingProxyType(self._nodes)

    def is_schedulable(self, name: str) -> bool:
        """False while the cluster has cordoned the node, or it is shutting down."""
        # Without an object nobody has cordoned it: a source of manifests has none at all.
        node = self._nodes.get(name)
        return node is None or node.is_schedulable

    def is_removed(self, name: str) -> bool:
        """The cluster has Node objects, and none for this one."""
        return bool(self._nodes) and name not in self._nodes

    def labels(self, node: GatewayNode) -> Mapping[str, str]:
        """Of its Node object; where the cluster has none of this name, those of its own settings."""
        known = self._nodes.get(node.name)
        return dict(known.labels) if known is not None else {_HOSTNAME: node.name, **dict(node.labels)}

    def complete(self, members: Iterable[GatewayNode], holding: Iterable[str]) -> tuple[GatewayNode, ...]:
        """The members with what their Node objects say.

        Without those that are down, are not among `holding` and have no Node object any more. Whether Kubernetes thinks
        a node ready is no matter here: its datapath may live on.
        """
        holders = dict.fromkeys(holding)
        return tuple(
            # Mostly there is nothing to add, and then it is the same object.
            node if not node.schedulable or self.is_schedulable(node.name) else replace(node, schedulable=False)
            for node in members
            if node.state is NodeState.UP or node.name in holders or not self.is_removed(node.name)
        )

    def addresses(self) -> tuple[IPv4Address, ...]:
        """The first InternalIP of each node, by name in order: where its gossip is found."""
        return tuple(node.addresses[0] for _, node in sorted(self._nodes.items()) if node.addresses)

    def strays(self) -> Mapping[ObjectKey, IPv4Address]:
        """Pods whose address lies in none of the known pod ranges, which are then not all there are."""
        return MappingProxyType(self._strays)

    def _put(self, item: object) -> bool:
        """Take one object; True where the ranges may be others now."""
        match item:
            case ClusterNode():
                self._nodes[item.key.name] = item
                return True
            case ServiceRange():
                self._services[item.key] = item
                return True
            case ApiServers():
                self._servers[item.key] = item
                return True
            case Pod():
                self._put_pod(item)
        return False

    def _put_pod(self, pod: Pod) -> None:
        self._pods.pop(pod.key, None)
        self._strays.pop(pod.key, None)
        if pod.ip is not None:
            self._pods[pod.key] = pod.ip
            self._look_at(pod.key, pod.ip)

    def _remove(self, key: ObjectKey) -> bool:
        match key.kind:
            case Kind.CLUSTER_NODE:
                return self._nodes.pop(key.name, None) is not None
            case Kind.SERVICE_RANGE:
                return self._services.pop(key, None) is not None
            case Kind.API_SERVERS:
                return self._servers.pop(key, None) is not None
            case Kind.POD:
                self._pods.pop(key, None)
                self._strays.pop(key, None)
        return False

    def _renew_ranges(self) -> None:
        ranges = self._present_ranges()
        if ranges == self.ranges:
            return
        self.ranges = ranges
        # By length: a pod is then looked up as often as there are lengths, however many nodes there are.
        self._prefixes = {}
        for network in ranges.pods:
            bits = 32 - network.prefixlen
            self._prefixes.setdefault(bits, {})[int(network.network_address) >> bits] = None
        self._strays.clear()
        for key, address in self._pods.items():
            self._look_at(key, address)

    def _present_ranges(self) -> ClusterRanges:
        pods = (network for node in self._nodes.values() for network in node.pod_ranges)
        services = (network for item in self._services.values() for network in item.networks)
        servers = (IPv4Network(address) for item in self._servers.values() for address in item.addresses)
        hosts = (IPv4Network(address) for node in self._nodes.values() for address in node.addresses)
        return ClusterRanges(
            # All or nothing: what is configured does not mix with what objects say.
            pods=_sorted(self._configured.pods or pods),
            services=_sorted(self._configured.services or services),
            # Whatever is configured: a node is in the cluster, wherever its address lies.
            nodes=_sorted((*self._configured.nodes, *hosts)),
            servers=_sorted(servers),
        )

    def _look_at(self, key: ObjectKey, address: IPv4Address) -> None:
        # With no range known, every pod would be a stray, which says nothing of any of them.
        if self._prefixes and not any(int(address) >> bits in found for bits, found in self._prefixes.items()):
            self._strays[key] = address


def _sorted(networks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    return tuple(sorted(dict.fromkeys(networks)))
