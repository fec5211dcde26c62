"""How members are reached from here: which transport for each of them and each floating IP (rules W1, X1, X2). Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Literal

from service.datapath import layout
from service.datapath.desired import LocalUplink, Rows, uplink_for
from service.datapath.layout import BlockKind, WayKind
from service.gateway.transport import Pair, Proven
from service.model.assignment import Location
from service.model.gateway_node import Segment

TransportChoice = Literal["l2", "vxlan", "auto"]
"""As in `datapath.transport`."""
NOTHING_PROVEN = Proven()


@dataclass(frozen=True, slots=True)
class SegmentPath:
    """Over a segment that both are on."""

    uplink: LocalUplink
    mac: bytes


@dataclass(frozen=True, slots=True)
class TunnelPath:
    """Through the tunnel, to the member's own address."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Topology:
    """What is known of members, as far as ways and blocks depend on it."""

    node: str
    uplinks: Sequence[LocalUplink] = ()
    segments: Mapping[str, Sequence[Segment]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Of members, as in the map `members`."""
    addresses: Mapping[str, IPv4Address] = field(default_factory=dict)
    """Of the members that take packets out of the tunnel: by which gossip reaches them."""
    transport: TransportChoice = "l2"
    proven: Proven = NOTHING_PROVEN
    """Goes for `auto` alone."""

    def out(self, holder: str, floating_ip: IPv4Address) -> SegmentPath | TunnelPath | None:
        """To another member, for what pods of this node send from the floating IP; None where there is no way.

        One that takes nothing out of a tunnel, which has another setting yet, is reached over the segment.
        """
        return self._path(holder, floating_ip, self.proven.out)

    def back(self, owner: str, floating_ip: IPv4Address) -> SegmentPath | TunnelPath | None:
        """The same, for what comes back to that member's pods."""
        return self._path(owner, floating_ip, self.proven.back)

    def _path(self, name: str, floating_ip: IPv4Address, proven: frozenset[Pair]) -> SegmentPath | TunnelPath | None:
        shared, address = self.shared(name, floating_ip), self.addresses.get(name)
        is_proven = self.transport == "auto" and (name, floating_ip) in proven
        if address is None or self.transport == "l2" or (is_proven and shared is not None):
            return shared
        return TunnelPath(address)

    def shared(self, name: str, floating_ip: IPv4Address) -> SegmentPath | None:
        """Over the segment of the floating IP, whether it lets its frames pass or not."""
        uplink = uplink_for(self.uplinks, floating_ip)
        theirs = next((one for one in self.segments.get(name, ()) if floating_ip in one.network), None)
        return SegmentPath(uplink, theirs.mac) if uplink is not None and theirs is not None else None

    def pairs(self, floating_ip: IPv4Address, names: Iterable[str | None]) -> tuple[Pair, ...]:
        """Which of these members share the segment of the floating IP with this node; each once."""
        others = (name for name in dict.fromkeys(names) if name is not None and name != self.node)
        return tuple((name, floating_ip) for name in others if self.shared(name, floating_ip) is not None)

    def reach(self, owner: str, floating_ip: IPv4Address, seen_ns: int) -> bytes | None:
        """The kernel's row for a block of that member; None where there is no way to it."""
        if owner == self.node:
            return layout.block_value(BlockKind.LOCAL, 0, 0, layout.NO_MAC, layout.NO_MAC, seen_ns=seen_ns)
        number, path = self.numbers.get(owner), self.back(owner, floating_ip)
        if number is None or path is None:
            return None
        if isinstance(path, TunnelPath):
            return layout.tunnelled_block_value(number, path.address, seen_ns=seen_ns)
        return layout.block_value(BlockKind.L2, number, path.uplink.ifindex, path.uplink.mac, path.mac, seen_ns=seen_ns)

    def unchanged(self, former: "Topology") -> set[str]:
        """The members that are reached as they were there, beside what is of this node's own uplinks."""
        proven, before = self.proven, former.proven
        proofs = {name for name, _ in (proven.out ^ before.out) | (proven.back ^ before.back)}
        if self.transport != former.transport:
            return set()
        return {name for name in self.numbers if name not in proofs and self._of(name) == former._of(name)}

    def _of(self, name: str) -> object:
        return self.numbers.get(name), self.segments.get(name), self.addresses.get(name)


def way_rows(locations: Mapping[IPv4Address, Location], topology: Topology) -> Rows:
    """The way to each floating IP's holder (rules W1, W2); none where there is no such way."""
    rows = {}
    for floating_ip, location in locations.items():
        token = location.token.packed()
        if location.node == topology.node:
            rows[floating_ip.packed] = layout.way_value(token, WayKind.LOCAL, 0, layout.NO_MAC, layout.NO_MAC)
            continue
        path = topology.out(location.node, floating_ip)
        if isinstance(path, TunnelPath):
            rows[floating_ip.packed] = layout.tunnel_way_value(token, path.address)
        elif path is not None:
            uplink = path.uplink
            rows[floating_ip.packed] = layout.way_value(token, WayKind.L2, uplink.ifindex, uplink.mac, path.mac)
    return rows


def tunnel_member_rows(topology: Topology) -> Rows:
    """From whose addresses packets are taken out of the tunnel, and which member that is (rule X2).

    A member's stack chooses the outer source: any address that it has told of. Of nobody, where nothing is tunnelled.
    """
    if topology.transport == "l2":
        return {}
    rows: Rows = {}
    for name, addresses in sorted(_announced(topology)):
        if name != topology.node and name in topology.numbers:
            rows |= {address.packed: layout.member_value(topology.numbers[name]) for address in addresses}
    return rows


def _announced(topology: Topology) -> Iterable[tuple[str, list[IPv4Address]]]:
    for name, address in topology.addresses.items():
        yield name, [address, *(segment.address for segment in topology.segments.get(name, ()))]
