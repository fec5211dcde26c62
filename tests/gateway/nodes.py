"""Short ways to write gateway nodes in tests."""

from ipaddress import IPv4Address, IPv4Network

from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment


def segment(text: str) -> Segment:
    """`10.0.0.1/24`: own address and prefix."""
    return Segment(IPv4Network(text, strict=False), IPv4Address(text.split("/")[0]), b"\x02\x00\x00\x00\x00\x01")


def node(
    name: str,
    *segments: str,
    role: NodeRole = NodeRole.WORKER,
    up: bool = True,
    ready: bool = True,
    schedulable: bool = True,
) -> GatewayNode:
    state = NodeState.UP if up else NodeState.DOWN
    return GatewayNode(name, role, state, ready, tuple(map(segment, segments)), schedulable)
