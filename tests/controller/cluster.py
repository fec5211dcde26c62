"""What one process knows by gossip, set by the test; keeps what is published."""

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from service.gateway.row import MemberMetadata
from service.gossip.member import Member, MemberState
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeRole
from service.model.machine import Address
from service.wire.order_board import OrderBoard
from tests.wire.board import Rows


def member(
    name: str, *, role: NodeRole = NodeRole.WORKER, ready: bool = True, host: str = "10.0.0.1"
) -> tuple[Member, MemberMetadata]:
    metadata = MemberMetadata(role, ready, True, (), "1.2.3", 1)
    return Member(name, Address(host, 9640), MemberState.ALIVE, b"", 1), metadata


@dataclass
class Cluster:
    """Stands in for ClusterView."""

    nodes: tuple[GatewayNode, ...] = ()
    known: dict[str, tuple[Member, MemberMetadata]] = field(default_factory=dict)
    rows: dict[IPv4Address, Assignment] = field(default_factory=dict)
    strangers: dict[IPv4Address, bytes] = field(default_factory=dict)
    terms: list[int] = field(default_factory=list)
    """Published by this process."""
    tidied: list[Collection[IPv4Address]] = field(default_factory=list)
    """The floating IPs at each call of `tidy`."""
    gossip: Rows = field(default_factory=Rows)

    @property
    def orders(self) -> OrderBoard:
        return self.gossip.board("controller-a")

    def tidy(self, floating_ips: Collection[IPv4Address]) -> None:
        self.tidied.append(tuple(floating_ips))

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        return self.nodes

    def members(self) -> dict[str, tuple[Member, MemberMetadata]]:
        return dict(self.known)

    def assignments(self) -> dict[IPv4Address, Assignment]:
        return dict(self.rows)

    def conflicts(self) -> dict[IPv4Address, bytes]:
        return dict(self.strangers)

    def publish_leader(self, term: int) -> bool:
        self.terms.append(term)
        return True

    def publish_assignment(self, assignment: Assignment, *, removed: bool = False) -> bool:
        before = self.rows.pop(assignment.floating_ip, None)
        if before is not None and before.stamp > assignment.stamp:
            self.rows[assignment.floating_ip] = before
            return False
        if not removed:
            self.rows[assignment.floating_ip] = assignment
        return True
