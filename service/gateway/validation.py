"""Which addresses can be floating IPs at all, given the segments of the members: known at run time, not to a file."""

from collections.abc import Sequence
from ipaddress import IPv4Address

from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode
from service.model.objects import NetworkGateway


def address_fault(floating_ip: IPv4Address, nodes: Sequence[GatewayNode]) -> str | None:
    """Say why the address must never be assigned; None where nothing speaks against it.

    The first fault counts, in the order of the nodes: one sentence is enough to act on.
    """
    # All members count, also those that are down and controllers: a node that returns still has its address.
    for node in nodes:
        for segment in node.segments:
            if floating_ip == segment.address:
                return f"{floating_ip} is the own address of node {node.name}; choose a free address of the subnet"
            # RFC 3021: a /31 (and a /32) has neither a network nor a broadcast address.
            if segment.network.prefixlen >= 31:
                continue
            if floating_ip == segment.network.network_address:
                return f"{floating_ip} is the network address of {segment.network}; choose a host address"
            if floating_ip == segment.network.broadcast_address:
                return f"{floating_ip} is the broadcast address of {segment.network}; choose a host address"
        if floating_ip in node.own_addresses:
            return (
                f"{floating_ip} is an address of an interface of node {node.name}, such as a virtual IP, or of its API "
                "server; choose a free address of the subnet"
            )
    return None


def node_address_errors(
    gateway: NetworkGateway, nodes: Sequence[GatewayNode], *, origin: str = ""
) -> tuple[ObjectError, ...]:
    """Name each floating IP that is a node's own, a network or a broadcast address, in the order of the spec."""
    errors = []
    for index, floating_ip in enumerate(gateway.floating_ips):
        fault = address_fault(floating_ip, nodes)
        if fault is not None:
            field = f"spec.floatingIPs[{index}]"
            errors.append(ObjectError(origin, gateway.key.kind, str(gateway.key), field, fault))
    return tuple(errors)
