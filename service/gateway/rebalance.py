"""Which moves make the load even, as few as there can be. Pure.

Floating IPs lie on nodes that can hold them; even is what cannot be improved: as few IPs on control-plane nodes as
possible, and then the smallest sum of the squares of what each node has. Of all even placements the one is chosen that
needs the fewest moves from the present one.

That is a flow of least cost, and it is found by taking negative cycles out of the present placement until there is none
(Klein 1967): a cycle is a chain of IPs, each of which goes to the node that the next one leaves, and the first node has
one less, the last one more. A placement without such a cycle is the best, since the cost of a node is convex.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from service.gateway.assignment import candidates, role_rank
from service.model.gateway_node import GatewayNode
from service.model.order import Relocation


class _Cost(NamedTuple):
    """Compared from the left."""

    control_plane: int
    squares: int
    moves: int

    def plus(self, other: "_Cost") -> "_Cost":
        return _Cost(self.control_plane + other.control_plane, self.squares + other.squares, self.moves + other.moves)


_NOTHING = _Cost(0, 0, 0)


def rebalance(
    floating_ips: Sequence[IPv4Address], nodes: Sequence[GatewayNode], holders: Mapping[IPv4Address, str]
) -> tuple[Relocation, ...]:
    """The moves, in the order of the spec; none where the load is even. IPs that nobody holds are left alone.

    So are those whose holder could not be given them now: they are to move, or to stay, for other reasons.
    """
    fit = {ip: {node.name: role_rank(node) for node in candidates(ip, nodes)} for ip in dict.fromkeys(floating_ips)}
    origin = {ip: holders[ip] for ip, names in fit.items() if holders.get(ip) in names}
    placement = _Placement(origin, fit)
    while placement.improve():
        pass
    return tuple(Relocation(ip, origin[ip], name) for ip, name in placement.on.items() if name != origin[ip])


class _Placement:
    """Which node each IP is on, while it is being improved."""

    def __init__(self, origin: Mapping[IPv4Address, str], fit: Mapping[IPv4Address, Mapping[str, int]]) -> None:
        self._origin = origin
        self._fit = fit
        self.on = dict(origin)
        self._ranks = {name: rank for ip in origin for name, rank in fit[ip].items()}
        self._names = sorted(self._ranks)
        self._load = dict.fromkeys(self._names, 0)
        for name in origin.values():
            self._load[name] += 1

    def improve(self) -> bool:
        """Take one negative cycle out; False where there is none, and the placement is the best."""
        steps = self._steps()
        # From nowhere to each node: one more there. Back from each node to nowhere: one less there.
        best = {name: self._cost_of_more(name) for name in self._names}
        via: dict[str, tuple[str, IPv4Address]] = {}
        # An IP that leaves a node for `name` makes room for the one more; chains are as long as there are nodes.
        for _ in self._names:
            is_shorter = False
            for (source, target), (cost, ip) in steps.items():
                found = best[target].plus(cost)
                if found < best[source]:
                    best[source], via[source], is_shorter = found, (target, ip), True
            if not is_shorter:
                break
            if (cycle := _cycle(via)) is not None:
                # IPs that change places around a ring of nodes, for fewer moves from where they were.
                return self._follow(via, cycle, is_ring=True)
        totals = {name: best[name].plus(self._cost_of_less(name)) for name in via}
        first = min(totals, key=lambda name: (totals[name], name), default=None)
        if first is None or totals[first] >= _NOTHING:
            return False
        return self._follow(via, first, is_ring=False)

    def _follow(self, via: Mapping[str, tuple[str, IPv4Address]], first: str, *, is_ring: bool) -> bool:
        name = first
        while name in via:
            target, ip = via[name]
            self.on[ip] = target
            self._load[name] -= 1
            self._load[target] += 1
            name = target
            if is_ring and name == first:
                break
        return True

    def _steps(self) -> dict[tuple[str, str], tuple[_Cost, IPv4Address]]:
        """The cheapest IP that can go from one node to another, and what that costs in moves."""
        steps: dict[tuple[str, str], tuple[_Cost, IPv4Address]] = {}
        for ip, source in self.on.items():
            for target in self._fit[ip]:
                if target == source:
                    continue
                cost = _Cost(0, 0, (target != self._origin[ip]) - (source != self._origin[ip]))
                known = steps.get((source, target))
                if known is None or cost < known[0]:
                    steps[source, target] = (cost, ip)
        return steps

    def _cost_of_more(self, name: str) -> _Cost:
        return _Cost(self._ranks[name], 2 * self._load[name] + 1, 0)

    def _cost_of_less(self, name: str) -> _Cost:
        return _Cost(-self._ranks[name], 1 - 2 * self._load[name], 0)


def _cycle(via: Mapping[str, tuple[str, IPv4Address]]) -> str | None:
    """A node on a ring that `via` goes around; None where every chain has an end."""
    ended: set[str] = set()
    for start in via:
        seen: dict[str, None] = {}
        name = start
        while name in via and name not in seen and name not in ended:
            seen[name] = None
            name = via[name][0]
        if name in seen:
            return name
        ended.update(seen)
    return None
