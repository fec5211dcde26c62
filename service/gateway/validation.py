"""Which addresses can be floating IPs at all, given the segments of the members: known at run time, not to a file."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, Segment
from service.model.objects import NetworkGateway


class AddressFaults:
    """Why addresses must never be assigned, given these nodes; made once and asked for many addresses.

    All members count, also those that are down and controllers: a node that returns still has its address.
    """

    def __init__(self, nodes: Iterable[GatewayNode]) -> None:
        self._found: dict[IPv4Address, tuple[str, GatewayNode, Segment | None]] = {}
        """What speaks against an address: which kind of fault, whose, and on which segment. The first one counts, in
        the order of the nodes: one sentence is enough to act on."""
        for node in nodes:
            for segment in node.segments:
                self._found.setdefault(segment.address, ("own", node, segment))
                # RFC 3021: a /31 (and a /32) has neither a network nor a broadcast address.
                if segment.network.prefixlen < 31:
                    self._found.setdefault(segment.network.network_address, ("network", node, segment))
                    self._found.setdefault(segment.network.broadcast_address, ("broadcast", node, segment))
            for address in node.own_addresses:
                self._found.setdefault(address, ("interface", node, None))

        self.addresses = frozenset(self._found)
        """All against which something speaks."""

    def __contains__(self, floating_ip: IPv4Address) -> bool:
        """Whether something speaks against it."""
        return floating_ip in self._found

    def of(self, floating_ip: IPv4Address) -> str | None:
        """What speaks against it, for a person; None where nothing does."""
        found = self._found.get(floating_ip)
        if found is None:
            return None
        kind, node, segment = found
        if segment is None:
            return (
                f"{floating_ip} is an address of an interface of node {node.name}, such as a virtual IP, or of its API "
                "server; choose a free address of the subnet"
            )
        if kind == "own":
            return f"{floating_ip} is the own address of node {node.name}; choose a free address of the subnet"
        return f"{floating_ip} is the {kind} address of {segment.network}; choose a host address"


def address_fault(floating_ip: IPv4Address, nodes: Sequence[GatewayNode]) -> str | None:
    """Say why the address must never be assigned; None where nothing speaks against it."""
    return AddressFaults(nodes).of(floating_ip)


def node_address_errors(
    gateway: NetworkGateway, nodes: Sequence[GatewayNode], *, origin: str = ""
) -> tuple[ObjectError, ...]:
    """Name each floating IP that is a node's own, a network or a broadcast address, in the order of the spec."""
    errors, faults = [], AddressFaults(nodes)
    for index, floating_ip in enumerate(gateway.floating_ips):
        fault = faults.of(floating_ip)
        if fault is not None:
            field = f"spec.floatingIPs[{index}]"
            errors.append(ObjectError(origin, gateway.key.kind, str(gateway.key), field, fault))
    return tuple(errors)
