"""What is in the cluster, and never steered, whatever a policy says (rule W12). Pure.

Of a node only its own addresses are: a server in the nodes' subnet is as much outside as any other.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from service.model.cluster_range import ClusterRanges
from service.model.span import networks_of, spans

NEVER_STEERED = tuple(
    IPv4Network(cidr)
    for cidr in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32")
)
"""Destinations with no meaning beyond the node's own link, whatever a policy for 0.0.0.0/0 says (RFC 6890)."""

_ADDRESSES = 1 << 32
_SHOWN = 3
"""So many of what is exempt are named; how many more there are is said."""

Exemptions = Mapping[IPv4Network, str]
"""Each network that is never steered, and what it is, for a person."""


@dataclass(frozen=True, slots=True)
class Insiders:
    """What the exemptions follow from."""

    ranges: ClusterRanges
    nodes: tuple[IPv4Address, ...] = ()
    """Their own addresses; in any order, and perhaps twice."""
    floating_ips: tuple[IPv4Address, ...] = ()
    server: IPv4Address | None = None
    """The API server, where its address is known; in a pod that is mostly its service's."""
    inherited: tuple[IPv4Address, ...] = ()
    """Addresses that were exempt for a former process, which knew more."""

    def exemptions(self) -> Exemptions:
        """Everything that is never steered."""
        found = {IPv4Network(address): "node" for address in self.inherited} | dict.fromkeys(NEVER_STEERED, "no host")
        # A pod reaches a floating IP of this cluster as it would without a policy.
        found |= {IPv4Network(address): "floating IP" for address in self.floating_ips}
        found |= {IPv4Network(address): "node" for address in dict.fromkeys(self.nodes)}
        found |= dict.fromkeys(self.ranges.nodes, "node")
        found |= dict.fromkeys((*self.ranges.servers, *self.servers), "API server")
        return found | dict.fromkeys(self.ranges.services, "services") | dict.fromkeys(self.ranges.pods, "pods")

    @property
    def servers(self) -> tuple[IPv4Network, ...]:
        """The API server's address as a network; it may be that of a service."""
        return () if self.server is None else (IPv4Network(self.server),)


class ExemptionMemo:
    """Makes the exemptions anew only where something has changed: there is one for each node, and more."""

    def __init__(self) -> None:
        self._insiders: Insiders | None = None
        self._known: Exemptions = {}

    def of(self, insiders: Insiders) -> Exemptions:
        """The same value as the last time where nothing has changed."""
        if insiders != self._insiders:
            self._insiders, self._known = insiders, insiders.exemptions()
        return self._known


def unchanged(before: Iterable[IPv4Network], after: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """All addresses that are in both or in neither, as networks."""
    edges = {0, _ADDRESSES}
    for networks in (before, after):
        for span in spans(networks):
            edges.symmetric_difference_update(span)
    places = sorted(edges)
    found: list[IPv4Network] = []
    for first, end in zip(places[::2], places[1::2], strict=True):
        found += networks_of(first, end)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Exempted:
    """What of a policy's destinations is never steered. Empty `parts`: nothing."""

    parts: tuple[str, ...] = ()
    """The first of them in order, with what they are."""
    more: int = 0
    """How many others there are."""
    is_whole: bool = False
    """None of its destinations is steered."""

    def __str__(self) -> str:
        return ", ".join(self.parts) + (f" and {self.more} more" if self.more else "")


class ExemptRanges:
    """The exemptions, in order, to be asked for many policies."""

    def __init__(self, known: Exemptions) -> None:
        self._labels: list[str] = []
        self._first: list[int] = []
        self._end: list[int] = []
        for network, label in sorted(known.items()):
            first = int(network.network_address)
            # What lies in one that is exempt already says nothing more.
            if not self._end or first >= self._end[-1]:
                self._labels.append(f"{network} ({label})")
                self._first.append(first)
                self._end.append(first + network.num_addresses)

    def exempted(self, destinations: Sequence[IPv4Network]) -> Exempted:
        """`destinations`: what the policy would steer, free of overlaps."""
        found: dict[int, None] = {}
        rest = 0
        for network in destinations:
            first, end = int(network.network_address), int(network.broadcast_address) + 1
            rest += end - first
            place = bisect_left(self._end, first + 1)
            while place < len(self._first) and self._first[place] < end:
                found[place] = None
                rest -= min(end, self._end[place]) - max(first, self._first[place])
                place += 1
        parts = tuple(self._labels[place] for place in found)
        return Exempted(parts[:_SHOWN], max(0, len(parts) - _SHOWN), bool(destinations) and rest == 0)
