"""What the leak check must know of a lab, taken from its plan."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from service.lab.plan import POD_CIDR, SERVICE_CIDR, Plan
from service.lab.traffic.leak_check import CaptureSite


def capture_site(plan: Plan, floating_ips: Iterable[str]) -> CaptureSite:
    """Floating IPs are not of the plan: the gateway object lists them."""
    listed = frozenset(IPv4Address(address) for address in floating_ips)
    return CaptureSite(
        node_of_port={node.port(node.segments[0]): node.name for node in plan.nodes},
        second_uplink_ports=frozenset(
            f"{name}-1" for name in ("router", *(node.name for node in plan.nodes if not node.is_far))
        ),
        macs_of_node={
            node.name: tuple(mac_bytes(node.mac(segment)) for segment in node.segments) for node in plan.nodes
        },
        pod_cidrs=(POD_CIDR,),
        in_cluster=(POD_CIDR, SERVICE_CIDR, *map(IPv4Network, (*_own_addresses(plan), *listed))),
        floating_ips=listed,
    )


def _own_addresses(plan: Plan) -> Iterator[IPv4Address]:
    """Of members: no other host of their segments is in the cluster (rule W12)."""
    for node in plan.nodes:
        yield from (node.address(segment) for segment in node.segments)
    yield from (controller.ip for controller in plan.controllers)


def mac_bytes(text: str) -> bytes:
    """The six bytes of a MAC as the plan writes it."""
    return bytes.fromhex(text.replace(":", ""))
