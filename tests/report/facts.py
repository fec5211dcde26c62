"""What a test says is true of a site, and the facts that a controller would make of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.model.assignment import Assignment, PlannedMove
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.lease import HeldBy, Stamp, Token
from service.model.object_event import ObjectEvent
from service.model.objects import Change, NetworkGateway, Synced, Upsert
from service.report.exemption import PolicyExemptions
from service.report.exhaustion import find_exhaustions
from service.report.facts import Facts, Sightings
from service.report.objects import GATEWAY
from service.settings import DatapathSettings
from service.sources.intake import Intake
from service.sources.source import Source

SUBNET = IPv4Network("192.168.1.0/24")
FIRST, SECOND = "192.168.1.100", "192.168.1.101"


def node(
    name: str, number: int, *, state: NodeState = NodeState.UP, ready: bool = True, schedulable: bool = True
) -> GatewayNode:
    segment = Segment(SUBNET, IPv4Address(f"192.168.1.{number}"), bytes([2, 0, 0, 0, 0, number]))
    return GatewayNode(name, NodeRole.WORKER, state, ready, (segment,), schedulable)


@dataclass
class Site:
    """A site whose leader knows everything; set to what is to be true next."""

    nodes: tuple[GatewayNode, ...] = ()
    clock: Callable[[], int] = lambda: 0
    term: int | None = 7
    """Of the controller whose facts these are; None: it does not lead."""
    held: dict[str, str] = field(default_factory=dict)
    age_ns: int = 0
    """How long ago every holder had renewed last."""
    rows: dict[IPv4Address, Assignment] = field(default_factory=dict)
    conflicts: dict[IPv4Address, bytes] = field(default_factory=dict)
    members: dict[str, tuple[Member, MemberMetadata]] = field(default_factory=dict)
    problems: tuple[ObjectEvent, ...] = ()
    moves: tuple[PlannedMove, ...] = ()
    lacking_ports: dict[IPv4Address, dict[str, int]] = field(default_factory=dict)
    intake: Intake = field(default_factory=lambda: Intake(DatapathSettings(pod_cidrs=("10.244.0.0/16",))))

    @property
    def is_synced(self) -> bool:
        return self.intake.is_synced

    def take(self, *changes: Change) -> None:
        self.intake.take(changes)

    async def follow(self, source: Source) -> None:
        async for batch in source.changes():
            self.take(*batch)

    def list_only(self, *floating_ips: str) -> None:
        """Make these the spec of the gateway."""
        self.take(Upsert(NetworkGateway(GATEWAY, tuple(map(IPv4Address, floating_ips)), 2)))

    def place(self, address: str, holder: str | None, reason: str = "", *, successor: str | None = None) -> None:
        """The leader's row, which the holder obeys."""
        row = Assignment(IPv4Address(address), holder, successor, Stamp(7, 1), reason)
        self.rows[row.floating_ip] = row
        if holder is not None:
            self.held[address] = holder

    def sightings(self) -> Sightings:
        holders = {IPv4Address(address): HeldBy(name, Token(7, 1, 1)) for address, name in self.held.items()}
        renewed_ns = dict.fromkeys(holders, self.clock() - self.age_ns)
        return Sightings(nodes=self.nodes, holders=holders, renewed_ns=renewed_ns, assignments=dict(self.rows))

    def facts(self) -> Facts:
        seen, index, inventory = self.sightings(), self.intake.index, self.intake.inventory
        return Facts(
            nodes=seen.nodes,
            holders=seen.holders,
            renewed_ns=seen.renewed_ns,
            assignments=seen.assignments,
            term=self.term or 0,
            members=dict(self.members),
            conflicts=dict(self.conflicts),
            gateway=index.gateway(),
            policies=dict(index.policy_states()),
            exempted=PolicyExemptions().of(index, inventory.ranges, seen.nodes, None),
            exhausted=find_exhaustions(index.policy_states(), seen.nodes, self.members, index.nodes_of),
            created={key: policy.created for key in index.policy_states() if (policy := index.policy(key))},
            refused=self.intake.errors,
            cluster_nodes=dict(inventory.nodes),
            problems=self.problems,
            lacking_ports=self.lacking_ports,
            moves=self.moves,
            strays=dict(inventory.strays()),
        )

    def facts_of_a_leader(self) -> Facts | None:
        """None while the controller does not lead, or does not know the objects."""
        return self.facts() if self.term is not None and self.is_synced else None


def two_held(clock: Callable[[], int] = lambda: 0) -> Site:
    """Two floating IPs, each held by the node that the leader named, and nothing wrong."""
    site = Site((node("worker1", 1), node("worker2", 2)), clock)
    site.list_only(FIRST, SECOND)
    site.take(Synced())
    site.place(FIRST, "worker1")
    site.place(SECOND, "worker2")
    return site
