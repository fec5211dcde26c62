"""What an operator may order of this process, and what it answers on how far an order is (rules O3, O4).

Orders go into gossip, where any leader finds them; this process need not be the leader, nor know one.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from service.gateway.rebalance import rebalance
from service.model.errors import OperatorError
from service.model.gateway_node import GatewayNode
from service.model.order import Relocation
from service.sources.intake import Intake
from service.wire.cluster_view import ClusterView


@dataclass(frozen=True, slots=True)
class Orders:
    """What is ordered is checked by what this process knows. `wall_clock` is Unix time in nanoseconds."""

    intake: Intake
    cluster: ClusterView
    holders: Callable[[], Mapping[IPv4Address, str]]
    """Who has each address, as far as is known here."""
    wall_clock: Callable[[], int]

    def drain(self, node: str, *, is_drained: bool) -> dict[str, Any]:
        """Drain a node, or end that. Raises OperatorError for one that nobody knows."""
        known = {found.name for found in self.cluster.gateway_nodes()}
        if node not in known | self.intake.inventory.nodes.keys() | self.cluster.orders.drains().keys():
            raise OperatorError(f"there is no node {node}; known are {', '.join(sorted(known)) or 'none'}")
        self.cluster.orders.drain(node, is_drained=is_drained, at_s=self._now_s())
        return self.emptying(node)

    def emptying(self, node: str) -> dict[str, Any]:
        """What the node has, who is to take it, and why not where nobody can."""
        rows, holders = self.cluster.assignments(), self.holders()
        drain = self.cluster.orders.drains().get(node)
        found = next((found for found in self._nodes() if found.name == node), None)
        held = {}
        for floating_ip, name in sorted(holders.items()):
            row = rows.get(floating_ip)
            if name == node and row is not None:
                heir = row.successor if row.holder == node else row.holder
                held[str(floating_ip)] = {"to": heir, "stays": row.reason if row.holder == node else ""}
        return {
            "node": node,
            "drained": drain is not None and drain.is_drained,
            "schedulable": found is not None and found.schedulable,
            "held": held,
            "holders": {str(floating_ip): name for floating_ip, name in sorted(holders.items())},
            "leader": self._leader(),
        }

    def move(self, floating_ip: str, node: str) -> dict[str, Any]:
        """Order an address to a node, or with none named to any other. Raises OperatorError for one not listed."""
        address = _address(floating_ip)
        if address not in self._floating_ips():
            raise OperatorError(f"{address} is no floating IP of the gateway")
        self.cluster.orders.move(address, node, at_s=self._now_s())
        return self.moving(floating_ip)

    def moving(self, floating_ip: str) -> dict[str, Any]:
        """How far the last order for an address is. Raises OperatorError where there was none."""
        address = _address(floating_ip)
        order = self.cluster.orders.moves().get(address)
        if order is None:
            raise OperatorError(f"nobody has ordered {address} anywhere")
        return {
            "floatingIP": str(address),
            "id": list(order.id),
            "state": order.state.value,
            "from": order.source or None,
            "to": order.target or None,
            "reason": order.reason,
            "holder": self.holders().get(address),
            "leader": self._leader(),
        }

    def withdraw(self, floating_ip: str, number: int, writer: int) -> dict[str, Any]:
        """Ask no more for an order to be carried out; nothing where it is over, or another one came after it."""
        order = self.cluster.orders.moves().get(_address(floating_ip))
        if order is not None and order.id == (number, writer):
            self.cluster.orders.withdraw(order, "withdrawn by who ordered it")
        return self.moving(floating_ip)

    async def plan(self) -> dict[str, Any]:
        """What a rebalance would move now. It changes nothing."""
        floating_ips, nodes, holders = self._floating_ips(), self._nodes(), dict(self.holders())
        # In a thread: for hundreds of addresses it takes longer than anything else here may wait.
        moves = await asyncio.to_thread(rebalance, floating_ips, nodes, holders)
        after = holders | {move.floating_ip: move.target for move in moves}
        return {
            "moves": [_step(move) for move in moves],
            "load": {node.name: _load(node.name, holders) for node in nodes},
            "after": {node.name: _load(node.name, after) for node in nodes},
            "leader": self._leader(),
        }

    def _nodes(self) -> tuple[GatewayNode, ...]:
        return self.intake.gateway_nodes(self.cluster.gateway_nodes(), self.holders().values())

    def _floating_ips(self) -> tuple[IPv4Address, ...]:
        gateway = self.intake.index.gateway()
        return gateway.floating_ips if gateway is not None else ()

    def _leader(self) -> str | None:
        leader = self.cluster.leader()
        return leader[0] if leader is not None else None

    def _now_s(self) -> int:
        return self.wall_clock() // 1_000_000_000


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as error:
        raise OperatorError(f"{text!r} is no IPv4 address") from error


def _step(move: Relocation) -> dict[str, str]:
    return {"floatingIP": str(move.floating_ip), "from": move.source, "to": move.target}


def _load(node: str, holders: Mapping[IPv4Address, str]) -> int:
    return sum(name == node for name in holders.values())
