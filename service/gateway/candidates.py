"""Which nodes an address can be given to, and the best of them, without a look at every node for every address. Pure.

Addresses of one segment have the same candidates, and there are few segments: the nodes are sorted into them once. The
best by what grows while the table is being filled (how many addresses a node holds, or stands by for) is on top of a
heap, whose entries are renewed when they come up and are too low by then.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Address, IPv4Network
from itertools import count

from service.model.gateway_node import GatewayNode, Hearing, NodeRole, NodeState

Rank = Callable[[GatewayNode], tuple[int | str, ...]]
"""The lower, the rather. Of no two nodes alike, and never lower than it was."""


def is_available(node: GatewayNode) -> bool:
    """Whether the node may be given a floating IP it does not hold. A controller never: it has no datapath."""
    is_wanted = node.schedulable and node.selected
    return node.role is not NodeRole.CONTROLLER and node.state is NodeState.UP and node.ready and is_wanted


def is_on_segment(node: GatewayNode, ip: IPv4Address) -> bool:
    """With a link there by which it can be reached (rule S5)."""
    return any(ip in segment.network and segment.hearing is not Hearing.DEAF for segment in node.segments)


class Pool:
    """The candidates of addresses that have the same ones."""

    def __init__(self, nodes: Iterable[GatewayNode]) -> None:
        self._by_name = {node.name: node for node in nodes}
        self._queues: dict[Rank, Queue] = {}

    def __iter__(self) -> Iterator[GatewayNode]:
        """By name in order."""
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def best(self, rank: Rank, without: Collection[str] = ()) -> GatewayNode | None:
        """The one that comes first; None where there is no other. `rank` is the same object at each call."""
        queue = self._queues.get(rank)
        if queue is None:
            queue = self._queues[rank] = Queue(self, rank)
        return queue.first(without)


class Queue:
    """Nodes by a rank that grows."""

    def __init__(self, nodes: Iterable[GatewayNode], rank: Rank) -> None:
        self._rank = rank
        numbers = count()
        # No two ranks are equal, and if they were, nodes could not be compared.
        self._heap = [(rank(node), next(numbers), node) for node in nodes]
        heapify(self._heap)

    def first(self, without: Collection[str]) -> GatewayNode | None:
        """The first one that is not among those."""
        passed = []
        found = None
        while self._heap and found is None:
            was, number, node = heappop(self._heap)
            now = self._rank(node)
            if now != was:
                heappush(self._heap, (now, number, node))
                continue
            passed.append((was, number, node))
            if node.name not in without:
                found = node
        for entry in passed:
            heappush(self._heap, entry)
        return found


class Candidates:
    """Nodes that can be given an address now (rule 1 of the design)."""

    def __init__(self, nodes: Iterable[GatewayNode]) -> None:
        """`nodes` by name in order."""
        self._available = [node for node in nodes if is_available(node)]
        heard = (s.network for node in self._available for s in node.segments if s.hearing is not Hearing.DEAF)
        self._networks = tuple(dict.fromkeys(heard))
        self._pools: dict[tuple[IPv4Network, ...], Pool] = {}

    def of(self, ip: IPv4Address) -> Pool:
        """By the segments that the address is of, which may be none."""
        networks = tuple(network for network in self._networks if ip in network)
        if networks not in self._pools:
            self._pools[networks] = Pool(node for node in self._available if is_on_segment(node, ip))
        return self._pools[networks]
