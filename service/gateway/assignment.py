"""Where each floating IP belongs: its holder, and the successor that keeps the standing claim (design, section 6).

A pure function of what the leader knows. It is sticky: a holder that still qualifies stays, and so does a successor as
long as the spread over nodes does not suffer, because a change of either costs a full resync of NAT state. Called again
with its own result it changes nothing.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from service.gateway.validation import AddressFaults
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, Hearing, NodeRole, NodeState
from service.model.lease import Stamp


def assign(
    floating_ips: Sequence[IPv4Address],
    nodes: Sequence[GatewayNode],
    holders: Mapping[IPv4Address, str],
    previous: Mapping[IPv4Address, Assignment],
    *,
    term: int,
    version: int,
) -> tuple[Assignment, ...]:
    """Return one row per floating IP, in spec order.

    `holders` says who really holds each IP now, as far as known; `previous` is the table of last time. Rows whose
    content did not change keep their stamp; the others carry (term, version), which the caller has made higher than any
    before.
    """
    table = _Placement(nodes)
    # Each once: an address listed twice is one address.
    order = tuple(dict.fromkeys(floating_ips))
    table.fill(order, holders, previous)
    return tuple(_row(ip, table, previous.get(ip), Stamp(term, version)) for ip in order)


def _row(ip: IPv4Address, table: "_Placement", previous: Assignment | None, stamp: Stamp) -> Assignment:
    holder, successor = table.holder.get(ip), table.successor.get(ip)
    reason = "" if holder is not None else table.why_unassigned(ip)
    row = Assignment(ip, holder, successor, stamp, reason)
    if previous is None:
        return row
    # An unchanged row keeps its stamp, even one of an earlier leader: electors and holders compare stamps, and a new
    # one would make them do the work of a move.
    unchanged = (previous.holder, previous.successor, previous.reason) == (holder, successor, reason)
    return previous if unchanged else row


class _Placement:
    """The table while it is being filled."""

    def __init__(self, nodes: Sequence[GatewayNode]) -> None:
        self._nodes = tuple(sorted(nodes, key=lambda node: node.name))
        self.holder: dict[IPv4Address, str] = {}
        """Without the floating IPs that nobody can hold."""
        self.successor: dict[IPv4Address, str] = {}
        """Without those that only one node can hold."""
        self._faults = AddressFaults(self._nodes)
        self._qualified: dict[IPv4Address, list[GatewayNode]] = {}
        """Cache of `_candidates`."""
        self._held = {node.name: 0 for node in self._nodes}
        """How many floating IPs each node holds, by the table so far."""
        self._inherits: dict[tuple[str, str], int] = {}
        """(holder, successor) -> how many floating IPs would go that way if the holder died."""
        self._standby = {node.name: 0 for node in self._nodes}
        """How many standing claims each node keeps, whoever the holder is."""

    def fill(
        self,
        order: Sequence[IPv4Address],
        holders: Mapping[IPv4Address, str],
        previous: Mapping[IPv4Address, Assignment],
    ) -> None:
        """Place holders and successors of all, in spec order."""
        # All that stay first, so that the load a newcomer is measured by is the load there is.
        kept = {ip: self.keep_holder(ip, holders.get(ip), previous.get(ip)) for ip in order}
        for ip in order:
            if kept[ip] is None:
                self.place_holder(ip)
        # Then successors: who takes over depends on what every node holds by then.
        for ip in order:
            row = previous.get(ip)
            self.place_successor(ip, row.successor if row else None)

    def _candidates(self, ip: IPv4Address) -> list[GatewayNode]:
        """Rule 1: nodes that can hold the IP now, in name order."""
        if ip not in self._qualified:
            fit = [node for node in self._nodes if _is_available(node) and _is_on_segment(node, ip)]
            # Never an address that is a node's own, a network or a broadcast address, whoever is up.
            self._qualified[ip] = fit if ip not in self._faults else []
        return self._qualified[ip]

    def keep_holder(self, ip: IPv4Address, present: str | None, previous: Assignment | None) -> str | None:
        """Rule 2: the present holder stays if it qualifies; else whoever the last table lets expect it."""
        qualified = [node.name for node in self._candidates(ip)]
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
        return None

    def _may_keep(self, name: str, ip: IPv4Address) -> bool:
        """Whether a holder that is down or not ready may go on: all of rule 1 but those two.

        A cordoned or draining node may not: somebody decided that it shall hand over.
        """
        return ip not in self._faults and any(
            node.name == name and node.role is not NodeRole.CONTROLLER and node.schedulable and _is_on_segment(node, ip)
            for node in self._nodes
        )

    def place_holder(self, ip: IPv4Address) -> None:
        """Rules 3 to 5: workers before control-plane nodes, fewest floating IPs, name."""
        # None qualifies: the row says why, and stays without a holder until one does.
        candidates = self._candidates(ip)
        if candidates:
            best = min(candidates, key=lambda node: (_role_rank(node), self._held[node.name], node.name))
            self._set_holder(ip, best.name)

    def _set_holder(self, ip: IPv4Address, name: str) -> None:
        self.holder[ip] = name
        self._held[name] += 1

    def place_successor(self, ip: IPv4Address, present: str | None) -> None:
        """Choose the next best other node, so that what one dead node held spreads over all that are left."""
        # Nobody to succeed: with no holder there is no promise whose end a standing claim could wait for.
        holder = self.holder.get(ip)
        others = [node for node in self._candidates(ip) if node.name != holder]
        if holder is None or not others:
            return
        best = min(others, key=lambda node: self._succession_rank(holder, node))
        chosen = best.name
        for node in others:
            # The present successor has the NAT state already. One IP more than the best is no reason to resync.
            if node.name == present and _role_rank(node) == _role_rank(best):
                spare = self._load_after(holder, best.name) + 1 - self._load_after(holder, node.name)
                chosen = node.name if spare >= 0 else best.name
        self.successor[ip] = chosen
        self._standby[chosen] += 1
        self._inherits[holder, chosen] = self._inherits.get((holder, chosen), 0) + 1

    def _load_after(self, dead: str, heir: str) -> int:
        """How many floating IPs the heir has once the dead node's are gone where they go so far."""
        return self._held[heir] + self._inherits.get((dead, heir), 0)

    def _succession_rank(self, holder: str, node: GatewayNode) -> tuple[int, int, int, str]:
        # The same rules as for holders, applied to the world in which the holder is dead; all standing claims of the
        # node break the tie, so that NAT state to keep is spread too.
        return (_role_rank(node), self._load_after(holder, node.name), self._standby[node.name], node.name)

    def why_unassigned(self, ip: IPv4Address) -> str:
        """Give the reason as one sentence for the condition; the same facts give the same words."""
        fault = self._faults.of(ip)
        if fault is not None:
            return fault
        near = [node for node in self._nodes if node.role is not NodeRole.CONTROLLER and _has_segment(node, ip)]
        if not near:
            return f"no node has an interface in a subnet that contains {ip}"
        # Counted, not named: a row whose words change gets a new stamp.
        down = sum(node.state is not NodeState.UP for node in near)
        unready = sum(node.state is NodeState.UP and not node.ready for node in near)
        deaf = sum(node.state is NodeState.UP and node.ready and not _is_on_segment(node, ip) for node in near)
        unschedulable = len(near) - down - unready - deaf
        causes = (
            (down, "down"),
            (unready, "not ready"),
            (deaf, "deaf on the segment"),
            (unschedulable, "cordoned or draining"),
        )
        counts = ", ".join(f"{count} {cause}" for count, cause in causes if count)
        return f"none of the nodes on the subnet of {ip} can hold it: {counts}"


def _is_available(node: GatewayNode) -> bool:
    """Whether the node may be given a floating IP it does not hold. A controller never: it has no datapath."""
    return node.role is not NodeRole.CONTROLLER and node.state is NodeState.UP and node.ready and node.schedulable


def _has_segment(node: GatewayNode, ip: IPv4Address) -> bool:
    return any(ip in segment.network for segment in node.segments)


def _is_on_segment(node: GatewayNode, ip: IPv4Address) -> bool:
    """With a link there by which it can be reached (rule S5)."""
    return any(ip in segment.network and segment.hearing is not Hearing.DEAF for segment in node.segments)


def _role_rank(node: GatewayNode) -> int:
    # Between workers and control-plane nodes only: controllers are no candidates.
    return 0 if node.role is NodeRole.WORKER else 1
