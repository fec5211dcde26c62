"""What a controller knows at one moment, as values: everything that its reports are made from.

The controller makes them in one go, without an await, so the parts agree with each other; a report reads nothing else.
Nothing in them changes afterwards: whoever has to know what is true after an await asks for new ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from service.gateway.exemption import Exempted
from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.model.assignment import Assignment, PlannedMove
from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode
from service.model.lease import HeldBy
from service.model.object_event import ObjectEvent
from service.model.objects import ClusterNode, NetworkGateway, ObjectKey
from service.policy.acceptance import PolicyState
from service.report.exhaustion import Exhaustion


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """What any controller sees of the floating IPs, whether it leads or not: enough to notice that one has moved."""

    nodes: tuple[GatewayNode, ...] = ()
    """Without those that are down, hold nothing and were removed from the cluster."""
    holders: Mapping[IPv4Address, HeldBy] = field(default_factory=dict)
    """Who really holds each floating IP, by a majority of electors; empty while no majority answers."""
    renewed_ns: Mapping[IPv4Address, int] = field(default_factory=dict)
    """CLOCK_BOOTTIME of each holder's last renewal, as far as electors tell; rather too early."""
    assignments: Mapping[IPv4Address, Assignment] = field(default_factory=dict)
    """The leader's table as far as it has come here. Whom a row names need not hold the address, nor the reverse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(Sightings):
    """What the leader knows, once it knows enough to place anything: less would put empty status over a true one."""

    term: int
    """In which it leads; goes with what is written, so that a leader of the past replaces nothing."""
    members: Mapping[str, tuple[Member, MemberMetadata]] = field(default_factory=dict)
    conflicts: Mapping[IPv4Address, bytes] = field(default_factory=dict)
    """MAC of the stranger that answers for an address."""
    gateway: NetworkGateway | None = None
    """The one in force."""
    policies: Mapping[ObjectKey, PolicyState] = field(default_factory=dict)
    exempted: Mapping[ObjectKey, Exempted] = field(default_factory=dict)
    """What of each policy's destinations is never steered."""
    exhausted: Mapping[ObjectKey, Exhaustion] = field(default_factory=dict)
    """Policies whose pods get no new flows on some nodes."""
    created: Mapping[ObjectKey, str] = field(default_factory=dict)
    """When each policy was created, as the source delivered it: tells one from its namesake of before."""
    refused: tuple[ObjectError, ...] = ()
    """What is wrong with objects that cannot be used as they are now; an earlier version may be in force."""
    cluster_nodes: Mapping[str, ClusterNode] = field(default_factory=dict)
    """The Node objects; empty where the source has no such objects, and then they mean nothing."""
    problems: tuple[ObjectEvent, ...] = ()
    """What is wrong with objects that have no status of ours: the one that says who grants leases."""
    lacking_ports: Mapping[IPv4Address, Mapping[str, int]] = field(default_factory=dict)
    """By floating IP and node, how many blocks of ports the node lacks of its base (rule Q2)."""
    moves: tuple[PlannedMove, ...] = ()
    """What is to move on purpose, and has not yet (rule O1)."""
    strays: Mapping[ObjectKey, IPv4Address] = field(default_factory=dict)
    """Pods whose address is in none of the known pod ranges."""

    def is_removed(self, node: str) -> bool:
        """The cluster has Node objects, and none of this name."""
        return bool(self.cluster_nodes) and node not in self.cluster_nodes
