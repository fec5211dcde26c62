"""A leader without a network: what StatusWriter reads of a controller, set by the test."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.model.assignment import Assignment
from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.objects import Change, Errors, ObjectKey, Synced
from service.policy.index import PolicyIndex

SUBNET = IPv4Network("192.168.1.0/24")


def node(name: str, number: int, *, state: NodeState = NodeState.UP, ready: bool = True) -> GatewayNode:
    segment = Segment(SUBNET, IPv4Address(f"192.168.1.{number}"), bytes([2, 0, 0, 0, 0, number]))
    return GatewayNode(name, NodeRole.WORKER, state, ready, (segment,))


@dataclass
class Cluster:
    nodes: tuple[GatewayNode, ...] = ()
    table: dict[IPv4Address, Assignment] = field(default_factory=dict)
    conflicting: dict[IPv4Address, bytes] = field(default_factory=dict)

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        return self.nodes

    def assignments(self) -> dict[IPv4Address, Assignment]:
        return self.table

    def conflicts(self) -> dict[IPv4Address, bytes]:
        return self.conflicting

    def members(self) -> dict[str, tuple[Member, MemberMetadata]]:
        return {}


class Leader:
    """Stands in for service.controller.Controller."""

    def __init__(self, *nodes: GatewayNode) -> None:
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.cluster = Cluster(nodes)
        self.errors: tuple[ObjectError, ...] = ()
        self.term: int | None = 7
        self.is_synced = False
        self.held: dict[str, str] = {}

    def is_settled(self) -> bool:
        return self.is_synced

    def holders(self) -> dict[IPv4Address, tuple[str, Token]]:
        return {IPv4Address(address): (name, Token(7, 1, 1)) for address, name in self.held.items()}

    def created(self, key: ObjectKey) -> str:
        return ""

    def place(self, address: str, holder: str | None, reason: str = "") -> None:
        row = Assignment(IPv4Address(address), holder, None, Stamp(7, 1), reason)
        self.cluster.table[row.floating_ip] = row
        if holder is not None:
            self.held[address] = holder

    async def follow(self, source: Any) -> None:
        async for batch in source.changes():
            self.take(batch)

    def take(self, batch: tuple[Change, ...]) -> None:
        for change in batch:
            if isinstance(change, Errors):
                self.errors = change.errors
            elif isinstance(change, Synced):
                self.is_synced = True
        self.index.apply(batch)
