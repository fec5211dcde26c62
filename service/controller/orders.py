"""What a leader makes of operators' orders to move an address (rule O4). Pure.

An order is open until its address is where it was to go, or it is known why it does not go there. The row in gossip
says how far it is; what is remembered here is only since when this leader has known the order.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from service.gateway.assignment import candidates, unfit_reason
from service.gateway.validation import address_fault
from service.model.assignment import PlannedMove
from service.model.gateway_node import GatewayNode
from service.model.order import MoveOrder, MoveState, OrderId

PATIENCE_NS = 20_000_000_000
"""An order that a leader could not carry out for so long has failed."""
AGE_S_MAX = 600
"""An order that no leader has seen for so long is carried out no more: nobody waits for it. Far more than clocks of
members differ by."""


class MoveOrders:
    """The open orders of one leader's term. `now_ns` of `decide` must not go back; `now_s` is Unix time."""

    def __init__(self) -> None:
        self._since: dict[OrderId, int] = {}
        """When each open order was first seen."""
        self._open: dict[IPv4Address, MoveOrder] = {}

    def decide(
        self,
        orders: Mapping[IPv4Address, MoveOrder],
        floating_ips: Collection[IPv4Address],
        nodes: Sequence[GatewayNode],
        holders: Mapping[IPv4Address, str],
        *,
        now_ns: int,
        now_s: int,
    ) -> list[MoveOrder]:
        """The orders that end now, with how; `ordered` is what is left."""
        self._open = {ip: order for ip, order in orders.items() if not order.state.is_over}
        ids = {order.id for order in self._open.values()}
        self._since = {number: since_ns for number, since_ns in self._since.items() if number in ids}
        ended = []
        for ip, order in list(self._open.items()):
            since_ns = self._since.setdefault(order.id, now_ns)
            is_late = now_ns - since_ns > PATIENCE_NS
            fault = "" if ip in floating_ips else f"{ip} is no floating IP of the gateway"
            if now_s - order.id[0] > AGE_S_MAX and order.state is MoveState.ASKED:
                fault = "nobody led for so long that nobody may want it any more"
            found = _failed(order, fault) if fault else _end(order, nodes, holders.get(ip), is_late=is_late)
            if found is not None:
                ended.append(found)
                del self._open[ip]
        return ended

    @property
    def ordered(self) -> dict[IPv4Address, str]:
        """Where each address shall be for which an order is open; empty for any other node than the present one."""
        return {ip: order.target for ip, order in self._open.items()}

    def begun(self, moves: Iterable[PlannedMove]) -> list[MoveOrder]:
        """The orders that are under way since this turn: whose target is chosen, or is told for the first time."""
        begun = []
        for move in moves:
            order = self._open.get(move.floating_ip)
            if order is not None and (order.state, order.target) != (MoveState.MOVING, move.heir):
                moving = replace(order, state=MoveState.MOVING, source=move.source, target=move.heir)
                self._open[move.floating_ip] = moving
                begun.append(moving)
        return begun


def _end(order: MoveOrder, nodes: Sequence[GatewayNode], holder: str | None, *, is_late: bool) -> MoveOrder | None:
    """The order with how it ended; None while it is open."""
    if holder is not None and holder == order.target:
        source = order.source
        return replace(order, state=MoveState.DONE, reason="" if source else f"{holder} has it already")
    if reason := _obstacle(order, nodes, holder):
        return _failed(order, reason)
    if not is_late:
        return None
    waited = f"within {PATIENCE_NS // 1_000_000_000} s"
    if holder is None:
        return _failed(order, f"no node was seen to hold it {waited}")
    return _failed(order, f"{order.target or 'no other node'} has not taken it from {holder} {waited}")


def _obstacle(order: MoveOrder, nodes: Sequence[GatewayNode], holder: str | None) -> str:
    """Why it cannot be done; empty where nothing is known to stand in the way."""
    ip, target = order.floating_ip, order.target
    if fault := address_fault(ip, nodes):
        return fault
    if not target:
        others = [node for node in candidates(ip, nodes) if node.name != holder]
        return "" if others or holder is None else "no other node can hold it"
    node = next((node for node in nodes if node.name == target), None)
    if node is None:
        return f"there is no node {target}"
    reason = unfit_reason(node, ip)
    return f"node {target} cannot hold it: {reason}" if reason else ""


def _failed(order: MoveOrder, reason: str) -> MoveOrder:
    return replace(order, state=MoveState.FAILED, reason=reason)
