"""A leader without a network: what StatusWriter reads of a controller, set by the test."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.host import clock
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.objects import Change, ObjectKey
from service.settings import DatapathSettings
from service.sources.intake import Intake

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
    """Stands in for service.controller.controller.Controller."""

    def __init__(self, *nodes: GatewayNode) -> None:
        self.intake = Intake(DatapathSettings(pod_cidrs=("10.244.0.0/16",)))
        self.index = self.intake.index
        self.cluster = Cluster(nodes)
        self.term: int | None = 7
        self.age_ns = 0
        """How long ago every holder had renewed last."""
        self.held: dict[str, str] = {}

    @property
    def is_synced(self) -> bool:
        return self.intake.is_synced

    def is_settled(self) -> bool:
        return self.is_synced

    def renewed_ns(self, floating_ip: IPv4Address) -> int:
        return clock.boot_ns() - self.age_ns

    def nodes(self) -> tuple[GatewayNode, ...]:
        return self.cluster.nodes

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
        self.intake.take(batch)
