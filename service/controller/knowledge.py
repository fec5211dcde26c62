"""What one controller knows now: objects by its source, members and the leader's table by gossip, holders by electors.

Each of the three may be behind the others, or silent. `has_caught_up` says when together they are enough to act upon.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from service.controller.holders import HolderTable
from service.controller.placement import has_caught_up
from service.model.assignment import PlannedMove
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Elector, HeldBy
from service.model.object_event import ObjectEvent
from service.model.validity import LEADER_SILENT, Loss
from service.report.absence import Absence, find_absence
from service.report.exemption import PolicyExemptions
from service.report.exhaustion import find_exhaustions
from service.report.facts import Facts, Sightings
from service.sources.intake import Intake
from service.sources.timestamp import timestamp_from_ns
from service.wire.cluster_view import ClusterView


class Knowledge:
    """Reads, and changes nothing. `electors` are the members of the electorate as it is known here.

    `silent` names those of them that are not seen to vote, `problems` what is wrong with the object that names them;
    `server` is the API server's address, where it is known; `lacking_ports` which nodes lack blocks of
    their base, by floating IP; `moves` what this process, where it leads, has begun to move on purpose.
    """

    def __init__(
        self,
        intake: Intake,
        cluster: ClusterView,
        table: HolderTable,
        *,
        electors: Callable[[], Sequence[Elector]],
        silent: Callable[[], Iterable[str]],
        problems: Callable[[], Iterable[ObjectEvent]],
        server: Callable[[], IPv4Address | None],
        lacking_ports: Callable[[], Mapping[IPv4Address, Mapping[str, int]]],
        moves: Callable[[], tuple[PlannedMove, ...]],
        clock: Callable[[], int],
    ) -> None:
        self.intake = intake
        self.cluster = cluster
        self._table = table
        self._electors = electors
        self._silent = silent
        self._problems = problems
        self._server = server
        self._lacking_ports = lacking_ports
        self._moves = moves
        self._clock = clock
        self._started_ns = clock()
        self._exemptions = PolicyExemptions()

    def gaps(self) -> list[str]:
        """What is not known and without which nobody can lead; empty where this process could."""
        gaps = []
        if not self.intake.is_synced:
            gaps.append("objects have not been read yet")
        if not self._table.is_fresh(now_ns=self._clock()):
            gaps.append("no majority of electors answers")
        return gaps

    def loss(self, *, is_leading: bool) -> Loss:
        """Why nobody can say what is true now, or nobody does, where no leader reports."""
        now_ns = self._clock()
        leader = self._table.leader(now_ns=now_ns)
        if not self._table.is_fresh(now_ns=now_ns):
            return Loss("MajorityLost", f"no majority of electors answers{self._silent_electors()}")
        if is_leading:
            lacking = "; ".join(self.gaps()) or "not every node that grants leases has been heard of"
            return Loss("LeaderUnready", f"the leading controller does not know enough yet: {lacking}")
        if leader is None:
            return Loss("NoLeader", "no controller holds the lease that makes it the leader")
        return Loss(LEADER_SILENT, f"controller {leader} leads, and has not reported")

    def why(self, *, wall_ns: int) -> dict[IPv4Address, str]:
        """Of each floating IP why it is on no node, or may soon be, in one sentence; empty where a node holds it.

        `wall_ns` is Unix time, for the end of a lease.
        """
        gateway, seen, conflicts = self.intake.index.gateway(), self.sightings(), self.cluster.conflicts()
        listed = gateway.floating_ips if gateway is not None else ()
        why = {}
        for floating_ip in dict.fromkeys((*listed, *seen.assignments)):
            absence = find_absence(floating_ip, seen, conflicts)
            if absence is None:
                why[floating_ip] = self._doomed(floating_ip, seen, wall_ns - self._clock())
            else:
                why[floating_ip] = self._reason(floating_ip, absence)
        return why

    def _reason(self, floating_ip: IPv4Address, absence: Absence) -> str:
        now_ns = self._clock()
        if absence.reason in ("InvalidFloatingIP", "FloatingIPConflict"):
            return absence.message
        if not self._table.is_fresh(now_ns=now_ns):
            last = self._table.last().get(floating_ip)
            return self.loss(is_leading=False).message + (f"; node {last} held it last" if last else "")
        return absence.message + ("" if self._table.leader(now_ns=now_ns) else "; and no controller leads")

    def _doomed(self, floating_ip: IPv4Address, seen: Sightings, wall_offset_ns: int) -> str:
        """A node that is gone may hold it still, and nobody else can take it before its lease ends."""
        name = seen.holders[floating_ip].node
        node = next((node for node in seen.nodes if node.name == name), None)
        if node is not None and node.state is NodeState.UP:
            return ""
        end = timestamp_from_ns(self._table.ends_ns(floating_ip) + wall_offset_ns)
        return f"node {name} is down, and holds its lease until {end[:19]}Z at the latest, unless it renews it"

    def _silent_electors(self) -> str:
        silent = ", ".join(self._silent())
        return f": of {', '.join(elector.name for elector in self._electors())} are silent: {silent}" if silent else ""

    def has_caught_up(self) -> bool:
        """Enough is known to place anything."""
        return has_caught_up(
            is_synced=self.intake.is_synced,
            has_observed=self._table.is_fresh(now_ns=self._clock()),
            electors=self._electors(),
            members=self.cluster.members(),
            waited_ns=self._clock() - self._started_ns,
        )

    def holders(self) -> Mapping[IPv4Address, HeldBy]:
        """Who really holds each floating IP, by a majority of electors; nobody while no majority answers."""
        return self._table.holders(now_ns=self._clock())

    def nodes(self) -> tuple[GatewayNode, ...]:
        """The agents as members and Node objects together describe them, without those that were removed."""
        holding = [held.node for held in self.holders().values()]
        return self.intake.gateway_nodes(self.cluster.gateway_nodes(), holding)

    def drains(self) -> dict[str, str] | None:
        """The nodes that are to be emptied, each with who says so; None before the objects have been read."""
        if not self.intake.is_synced:
            return None
        said = {}
        for node in self.nodes():
            cluster_node = self.intake.inventory.nodes.get(node.name)
            if node.drained:
                said[node.name] = "by egressgw drain"
            elif cluster_node is not None and cluster_node.is_shutting_down:
                said[node.name] = "its kubelet shuts it down"
            elif not node.schedulable:
                said[node.name] = "cordoned"
        return said

    def sightings(self) -> Sightings:
        """What is seen of the floating IPs, whether this process leads or not."""
        return Sightings(
            nodes=self.nodes(),
            holders=self.holders(),
            renewed_ns=self._table.renewed_ns(),
            assignments=self.cluster.assignments(),
        )

    def facts(self, term: int | None) -> Facts | None:
        """What reports are made from; None while this process does not lead (`term` None), or knows too little."""
        if term is None or not self.has_caught_up():
            return None
        seen, index, inventory = self.sightings(), self.intake.index, self.intake.inventory
        # Copies: what the index and the inventory hand out are live views.
        policies, members = dict(index.policy_states()), self.cluster.members()
        return Facts(
            nodes=seen.nodes,
            holders=seen.holders,
            renewed_ns=seen.renewed_ns,
            assignments=seen.assignments,
            term=term,
            members=members,
            conflicts=self.cluster.conflicts(),
            gateway=index.gateway(),
            policies=policies,
            exempted=self._exemptions.of(index, inventory.ranges, seen.nodes, self._server()),
            exhausted=find_exhaustions(policies, seen.nodes, members, index.nodes_of),
            created={key: policy.created for key in policies if (policy := index.policy(key)) is not None},
            refused=self.intake.errors,
            cluster_nodes=dict(inventory.nodes),
            problems=tuple(self._problems()),
            lacking_ports=self._lacking_ports(),
            moves=self._moves(),
            strays=dict(inventory.strays()),
        )
