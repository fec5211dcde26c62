"""The other agents, as gossip tells of them, and how each is reached. Pure.

Everything here follows from who is there and changes seldom: it is made anew only where that has changed, and stays the
same object where it comes out the same.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from service.datapath import desired
from service.datapath.desired import LocalUplink
from service.datapath.topology import NOTHING_PROVEN, Topology, TransportChoice
from service.gateway.validation import AddressFaults
from service.model.gateway_node import GatewayNode, Segment
from service.model.kept import Kept
from service.settings import Settings
from service.wire.cluster_view import parse_seeds


class Members:
    """`nodes` is to be replaced, never changed; so is `proven`: where segments let frames of floating IPs pass (X1)."""

    def __init__(self, node: str, transport: TransportChoice) -> None:
        self._node = node
        self._transport = transport
        self.nodes: tuple[GatewayNode, ...] = ()
        """All agents that have not left, this node among them."""
        self.proven = NOTHING_PROVEN
        self._segments = Kept[dict[str, Sequence[Segment]]]()
        self._numbers = Kept[dict[str, int]]()
        self._names = Kept[dict[int, str]]()
        self._tunnels = Kept[dict[str, IPv4Address]]()
        self._topology = Kept[Topology]()
        self._own_addresses = Kept[dict[str, tuple[IPv4Address, ...]]]()
        self._faults = Kept[AddressFaults]()
        self._has_former = Kept[bool]()

    def forget(self) -> None:
        """Make all of it anew at the next call."""
        for kept in vars(self).values():
            if isinstance(kept, Kept):
                kept.forget()

    @property
    def has_former(self) -> bool:
        """One of a release before NAT on the pod's node is there, whose steered frames have a pod's address."""
        nodes = self.nodes
        return self._has_former.of(lambda: any(not node.translates for node in nodes), nodes)

    def segments(self) -> dict[str, Sequence[Segment]]:
        """Subnets, addresses and MACs of each, by its name."""
        nodes = self.nodes
        return self._segments.of(lambda: {node.name: node.segments for node in nodes}, nodes)

    def numbers(self) -> dict[str, int]:
        """Of all of them, as in the map `members`."""
        segments = self.segments()
        return self._numbers.of(lambda: desired.member_numbers(segments), segments)

    def names(self) -> dict[int, str]:
        """The reverse of `numbers`."""
        numbers = self.numbers()
        return self._names.of(lambda: {number: name for name, number in numbers.items()}, numbers)

    def faults(self) -> AddressFaults:
        """What speaks against addresses as floating IPs. Most of what members say does not."""
        nodes, segments = self.nodes, self.segments()
        own = self._own_addresses.of(lambda: {node.name: node.own_addresses for node in nodes}, nodes)
        return self._faults.of(lambda: AddressFaults(nodes), segments, own)

    def topology(self, uplinks: Sequence[LocalUplink]) -> Topology:
        """How they are reached by these uplinks of this node."""
        segments, numbers, tunnels, proven = self.segments(), self.numbers(), self._tunnel_addresses(), self.proven
        return self._topology.of(
            lambda: Topology(self._node, uplinks, segments, numbers, tunnels, self._transport, proven),
            *(uplinks, segments, numbers, tunnels, proven),
        )

    def _tunnel_addresses(self) -> Mapping[str, IPv4Address]:
        """Of those that take packets out of the tunnel: by which gossip reaches them."""
        nodes = self.nodes
        return self._tunnels.of(
            lambda: {node.name: node.address for node in nodes if node.tunnels and node.address is not None}, nodes
        )


def configured_peers(settings: Settings) -> tuple[IPv4Address, ...]:
    """Nodes that are known before gossip has told of any: flows to them must not begin as flows to the outside."""
    seeds = parse_seeds(settings.gossip.seeds, settings.ports.gossip)
    hosts = [seed.host for seed in seeds] + [elector.host for elector in settings.electorate.members]
    return tuple(map(IPv4Address, hosts))
