"""What the leak check must know of a lab, taken from its plan."""

from collections.abc import Iterable
from ipaddress import IPv4Address

from service.lab.plan import POD_CIDR, SEGMENTS, SERVICE_CIDR, Plan
from service.lab.traffic.leak_check import CaptureSite


def capture_site(plan: Plan, floating_ips: Iterable[str]) -> CaptureSite:
    """Floating IPs are not of the plan: the gateway object lists them."""
    return CaptureSite(
        node_of_port={node.port(0): node.name for node in plan.nodes},
        second_uplink_ports=frozenset(f"{name}-1" for name in ("router", *(node.name for node in plan.nodes))),
        macs_of_node={node.name: tuple(mac_bytes(node.mac(segment)) for segment in (0, 1)) for node in plan.nodes},
        pod_cidrs=(POD_CIDR,),
        in_cluster=(POD_CIDR, SERVICE_CIDR, *SEGMENTS),
        floating_ips=frozenset(IPv4Address(address) for address in floating_ips),
    )


def mac_bytes(text: str) -> bytes:
    """The six bytes of a MAC as the plan writes it."""
    return bytes.fromhex(text.replace(":", ""))
