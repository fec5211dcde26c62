"""Where each floating IP belongs: its holder, and the successor that keeps the standing claim (design, section 6).

A pure function of what the leader knows. It is sticky: a holder that still qualifies stays, and so does a successor as
long as the spread over nodes does not suffer, because a change of either costs a full resync of NAT state. Called again
with its own result it changes nothing.

A move on purpose (rule O1) is made in two steps: first the heir becomes the successor, and the holder stays; only when
the caller says that the heir has had notice does the row name it the holder.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.gateway.candidates import Candidates, Pool, Rank, is_on_segment
from service.gateway.validation import AddressFaults
from service.model.assignment import Assignment, PlannedMove
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.lease import Stamp


@dataclass(frozen=True, slots=True)
class Plan:
    """The table, and what in it is under way."""

    rows: tuple[Assignment, ...]
    """One per floating IP, in spec order."""
    moves: tuple[PlannedMove, ...]
    """On purpose, of addresses that their former holder still has."""


def assign(
    floating_ips: Sequence[IPv4Address],
    nodes: Sequence[GatewayNode],
    holders: Mapping[IPv4Address, str],
    previous: Mapping[IPv4Address, Assignment],
    *,
    stamp: Stamp,
    ordered: Mapping[IPv4Address, str] | None = None,
    noticed: Mapping[IPv4Address, str] | None = None,
    doubtful: Collection[str] = (),
) -> Plan:
    """Place every floating IP.

    `holders` says who really holds each IP now, as far as known; `previous` is the table of last time. Rows whose
    content did not change keep their stamp; the others carry `stamp`, which the caller has made higher than any before.
    `ordered`: the node that an operator wants an IP to be on, empty for any other than the present one. `noticed`: the
    heirs that have been successors for long enough to become holders. `doubtful`: nodes that may be dead; others go
    first.
    """
    table = _Placement(nodes, ordered or {}, noticed or {}, doubtful)
    # Each once: an address listed twice is one address.
    order = tuple(dict.fromkeys(floating_ips))
    table.fill(order, holders, previous)
    return Plan(tuple(_row(ip, table, previous.get(ip), stamp) for ip in order), tuple(table.moves))


def candidates(floating_ip: IPv4Address, nodes: Sequence[GatewayNode]) -> tuple[GatewayNode, ...]:
    """The nodes that can be given the IP now, by name in order (rule 1 of the design)."""
    return tuple(_Placement(nodes, {}, {}, ()).candidates(floating_ip))


def role_rank(node: GatewayNode) -> int:
    """The lower, the rather: between workers and control-plane nodes only, as controllers are no candidates."""
    return 0 if node.role is NodeRole.WORKER else 1


def unfit_reason(node: GatewayNode, floating_ip: IPv4Address) -> str:
    """Why the node cannot be given the IP, in a few words; empty where it can."""
    if node.role is NodeRole.CONTROLLER or not _has_segment(node, floating_ip):
        return "has no interface on its subnet"
    return next((words for words, is_so in _OBSTACLES if is_so(node, floating_ip)), "")


def _row(ip: IPv4Address, table: "_Placement", previous: Assignment | None, stamp: Stamp) -> Assignment:
    holder, successor = table.holder.get(ip), table.successor.get(ip)
    reason = table.why_unassigned(ip) if holder is None else table.stays.get(ip, "")
    row = Assignment(ip, holder, successor, stamp, reason)
    if previous is None:
        return row
    # An unchanged row keeps its stamp, even one of an earlier leader: electors and holders compare stamps, and a new
    # one would make them do the work of a move.
    unchanged = (previous.holder, previous.successor, previous.reason) == (holder, successor, reason)
    return previous if unchanged else row


class _Placement:
    """The table while it is being filled."""

    def __init__(
        self,
        nodes: Sequence[GatewayNode],
        ordered: Mapping[IPv4Address, str],
        noticed: Mapping[IPv4Address, str],
        doubtful: Collection[str],
    ) -> None:
        self._nodes = tuple(sorted(nodes, key=lambda node: node.name))
        self._by_name = {node.name: node for node in self._nodes}
        self._ordered = ordered
        self._noticed = noticed
        self._doubtful = doubtful
        self.holder: dict[IPv4Address, str] = {}
        """Without the floating IPs that nobody can hold."""
        self.successor: dict[IPv4Address, str] = {}
        """Without those that only one node can hold."""
        self.moves: list[PlannedMove] = []
        self.stays: dict[IPv4Address, str] = {}
        """Why an IP stays on a node that should give it up."""
        self._faults = AddressFaults(self._nodes)
        self._candidates = Candidates(self._nodes)
        self._held = {node.name: 0 for node in self._nodes}
        """How many floating IPs each node holds, by the table so far."""
        self._inherits: dict[str, Counter[str]] = {}
        """Holder -> how many floating IPs would go to each successor if it died."""
        self._standby = {node.name: 0 for node in self._nodes}
        """How many standing claims each node keeps, whoever the holder is."""
        self.by_load: Rank = self._rank
        self.by_standby: Rank = self._standby_rank
        """Ranks of nodes while holders are placed, and then while successors are; the same objects at each use."""

    def fill(
        self,
        order: Sequence[IPv4Address],
        holders: Mapping[IPv4Address, str],
        previous: Mapping[IPv4Address, Assignment],
    ) -> None:
        """Place holders and successors of all, in spec order."""
        # All that stay first, so that the load a newcomer is measured by is the load there is.
        leaving = {ip: name for ip in order if (name := holders.get(ip)) is not None and self._departure(ip, name)}
        kept = {ip: self.keep_holder(ip, holders.get(ip), previous.get(ip)) for ip in order if ip not in leaving}
        for ip, present in leaving.items():
            self.hand_over(ip, present, previous.get(ip))
        for ip in order:
            if ip not in leaving and kept[ip] is None:
                self.place_holder(ip)
        # Then successors: who takes over depends on what every node holds by then.
        heirs = {move.floating_ip: move.heir for move in self.moves}
        for ip in order:
            row = previous.get(ip)
            if ip not in heirs:
                self.place_successor(ip, row.successor if row else None)
            elif heirs[ip] != self.holder[ip]:
                self._set_successor(ip, heirs[ip])
            # Else the former holder is about to let go. A third node that stood by under this row, before the heir has
            # heard of it, would be granted the IP in its place (rule P4): it is named once the heir holds it.

    def candidates(self, ip: IPv4Address) -> Pool:
        """Rule 1: nodes that can be given the IP now, in name order."""
        # Never an address that is a node's own, a network or a broadcast address, whoever is up.
        return self._candidates.of(ip) if ip not in self._faults else _NOBODY

    def keep_holder(self, ip: IPv4Address, present: str | None, previous: Assignment | None) -> str | None:
        """Rule 2: the present holder stays if it qualifies; else whoever the last table lets expect it."""
        qualified = self.candidates(ip)
        if present is not None and present not in qualified and self._may_keep(present, ip):
            # Its lease lives, so its keeper does: only its agent is away, or gossip is cut. Membership chooses among
            # candidates, it never revokes a live lease (rule S2); a keeper whose agent stays away hands over (rule S6).
            self._set_holder(ip, present)
            return present
        # In this order: who has the lease; who was told to take it and may be about to; and the successor, whose
        # standing claim the electors grant without asking us. To choose a third node now would only delay the failover.
        expected = (present, previous.holder, previous.successor) if previous else (present,)
        for name in expected:
            if name is not None and name in qualified:
                self._set_holder(ip, name)
                return name
        named = previous.holder if previous is not None else None
        if named is not None and not qualified and self._could_serve(named, ip):
            # Nobody is seen to hold it, maybe only at this moment, and nobody else can: rule O1 in the dark.
            self._stay(ip, named)
            return named
        return None

    def _may_keep(self, name: str, ip: IPv4Address) -> bool:
        """Whether a holder that is down or not ready may go on: all of rule 1 but what can be asked only of the living.

        One that shall give it up (rule O1) may as well, until somebody else can take it.
        """
        node = self._by_name.get(name)
        is_fit = node is not None and node.role is not NodeRole.CONTROLLER and is_on_segment(node, ip)
        return is_fit and ip not in self._faults

    def _could_serve(self, name: str, ip: IPv4Address) -> bool:
        """Whether all that is against a node, if anything, is that it is not wanted there."""
        node = self._by_name.get(name)
        return node is not None and node.state is NodeState.UP and node.ready and self._may_keep(name, ip)

    def _departure(self, ip: IPv4Address, present: str) -> str:
        """Why a living holder shall give the IP up on purpose; empty where it need not, or could not keep it at all."""
        if not self._may_keep(present, ip):
            return ""
        node = self._by_name[present]
        if node.drained:
            return f"node {present} is drained"
        if not node.schedulable:
            return f"node {present} is cordoned or draining"
        if not node.selected:
            return f"node {present} is not selected by spec.nodeSelector"
        is_asked = self._ordered.get(ip, present) != present
        return "an operator has ordered it" if is_asked else ""

    def hand_over(self, ip: IPv4Address, present: str, previous: Assignment | None) -> None:
        """Rule O1: the heir is named successor first; it becomes the holder once it has had notice.

        Nobody else can take it: it stays. An address that goes dark serves nobody, least of all who drains a node.
        """
        heir, reason = self._heir(ip, present, previous), self._departure(ip, present)
        if heir is None:
            self._stay(ip, present)
            return
        self.moves.append(PlannedMove(ip, present, heir, reason))
        self._set_holder(ip, heir if self._noticed.get(ip) == heir else present)

    def _stay(self, ip: IPv4Address, present: str) -> None:
        self._set_holder(ip, present)
        others = self._obstacles(ip, without=present)
        self.stays[ip] = f"{self._departure(ip, present)}, and no other node can take {ip}: {others}"

    def _heir(self, ip: IPv4Address, present: str, previous: Assignment | None) -> str | None:
        others = {node.name: node for node in self.candidates(ip) if node.name != present}
        named = previous.holder if previous is not None else None
        is_under_way = named != present and named == self._noticed.get(ip)
        if named is not None and is_under_way and self._could_serve(named, ip):
            # The row names it the holder already, and it may have taken the IP by now: that is not taken back.
            return named
        # Whom the operator named; who took part in this move so far, so that it does not begin anew; and who has kept
        # the standing claim all along.
        asked: tuple[str | None, ...] = (self._ordered.get(ip),)
        if previous is not None:
            asked += (previous.holder, previous.successor)
        for name in asked:
            if name is not None and name in others:
                return name
        return min(others.values(), key=self._rank).name if others else None

    def _rank(self, node: GatewayNode) -> tuple[int | str, ...]:
        """Rules 3 to 5: workers before control-plane nodes, fewest floating IPs, name."""
        return *self._order(node), self._held[node.name], node.name

    def _standby_rank(self, node: GatewayNode) -> tuple[int | str, ...]:
        """As a successor of somebody whose other addresses go elsewhere: `_succession_rank`."""
        return *self._order(node), self._held[node.name], self._standby[node.name], node.name

    def _order(self, node: GatewayNode) -> tuple[int, int]:
        return role_rank(node), node.name in self._doubtful

    def place_holder(self, ip: IPv4Address) -> None:
        """Give an IP that nobody holds to the best node that there is."""
        # None qualifies: the row says why, and stays without a holder until one does.
        if (best := self.candidates(ip).best(self.by_load)) is not None:
            self._set_holder(ip, best.name)

    def _set_holder(self, ip: IPv4Address, name: str) -> None:
        self.holder[ip] = name
        self._held[name] += 1

    def place_successor(self, ip: IPv4Address, present: str | None) -> None:
        """Choose the next best other node, so that what one dead node held spreads over all that are left."""
        # Nobody to succeed: with no holder there is no promise whose end a standing claim could wait for.
        holder = self.holder.get(ip)
        if holder is None:
            return
        fit = self.candidates(ip)
        best = self._best_successor(fit, holder)
        if best is None:
            return
        chosen = best.name
        named = self._by_name.get(present or "")
        if named is not None and present in fit and present != holder and self._order(named) == self._order(best):
            # The present successor has the NAT state already. One IP more than the best is no reason to resync.
            spare = self._load_after(holder, best.name) + 1 - self._load_after(holder, named.name)
            chosen = named.name if spare >= 0 else best.name
        self._set_successor(ip, chosen)

    def _best_successor(self, fit: Pool, holder: str) -> GatewayNode | None:
        """Of those that inherit nothing from the holder so far the first, or one of the few that do."""
        heirs = self._inherits.get(holder, Counter())
        others = [self._by_name[name] for name in heirs if name in fit and name != holder]
        fresh = fit.best(self.by_standby, {holder, *heirs})
        if fresh is not None:
            others.append(fresh)
        return min(others, key=lambda node: self._succession_rank(holder, node), default=None)

    def _set_successor(self, ip: IPv4Address, chosen: str) -> None:
        self.successor[ip] = chosen
        self._standby[chosen] += 1
        self._inherits.setdefault(self.holder[ip], Counter())[chosen] += 1

    def _load_after(self, dead: str, heir: str) -> int:
        """How many floating IPs the heir has once the dead node's are gone where they go so far."""
        heirs = self._inherits.get(dead)
        return self._held[heir] + (heirs[heir] if heirs else 0)

    def _succession_rank(self, holder: str, node: GatewayNode) -> tuple[int | str, ...]:
        # The same rules as for holders, applied to the world in which the holder is dead; all standing claims of the
        # node break the tie, so that NAT state to keep is spread too.
        return *self._order(node), self._load_after(holder, node.name), self._standby[node.name], node.name

    def why_unassigned(self, ip: IPv4Address) -> str:
        """Give the reason as one sentence for the condition; the same facts give the same words."""
        fault = self._faults.of(ip)
        if fault is not None:
            return fault
        near = [node for node in self._nodes if node.role is not NodeRole.CONTROLLER and _has_segment(node, ip)]
        if not near:
            return f"no node has an interface in a subnet that contains {ip}"
        return f"none of the nodes on the subnet of {ip} can hold it: {self._obstacles(ip)}"

    def _obstacles(self, ip: IPv4Address, *, without: str = "") -> str:
        # Counted, not named: a row whose words change gets a new stamp.
        near = (node for node in self._nodes if node.role is not NodeRole.CONTROLLER and _has_segment(node, ip))
        causes = Counter(unfit_reason(node, ip) for node in near if node.name != without)
        return ", ".join(f"{causes[words]} {words}" for words, _ in _OBSTACLES if causes[words]) or "there is none"


def _has_segment(node: GatewayNode, ip: IPv4Address) -> bool:
    return any(ip in segment.network for segment in node.segments)


_OBSTACLES: tuple[tuple[str, Callable[[GatewayNode, IPv4Address], bool]], ...] = (
    ("down", lambda node, ip: node.state is not NodeState.UP),
    ("not ready", lambda node, ip: not node.ready),
    ("deaf on the segment", lambda node, ip: not is_on_segment(node, ip)),
    ("not selected by spec.nodeSelector", lambda node, ip: not node.selected),
    ("drained", lambda node, ip: node.drained),
    ("cordoned or draining", lambda node, ip: not node.schedulable),
)
"""What keeps a node on the subnet from being given an IP, in the order in which it is asked."""
_NOBODY = Pool(())
