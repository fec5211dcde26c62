"""Where operators' orders are written down and read: two tables of gossip, so any member will do, whoever leads."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Protocol

from service.gateway.order import DRAIN_TABLE, MOVE_TABLE, Version, encode_drain, encode_move, ended_order
from service.gateway.row import conflict_version
from service.gossip.table import Row
from service.model.order import Drain, MoveOrder, MoveState, OrderId


class RowWriter(Protocol):
    """Writes one row of gossip; False where a newer version is known."""

    def __call__(self, table: str, key: str, version: Version, value: bytes, *, ended: bool = False) -> bool:
        """As `Membership.put`."""


class OrderBoard:
    """Reads and writes orders. `writer` is this member's name; `rows` gives the rows of a table as gossip has them."""

    def __init__(
        self,
        writer: str,
        *,
        put: RowWriter,
        rows: Callable[[str], Mapping[str, Row]],
        read_drains: Callable[[], Mapping[str, Drain]],
        read_moves: Callable[[], Mapping[str, MoveOrder]],
    ) -> None:
        self._writer = writer
        self._put = put
        self._rows = rows
        self._read_drains = read_drains
        self._read_moves = read_moves

    def drains(self) -> Mapping[str, Drain]:
        """The last word on each node that was ever drained."""
        return self._read_drains()

    def moves(self) -> Mapping[IPv4Address, MoveOrder]:
        """The last order for each floating IP that ever had one."""
        return {order.floating_ip: order for order in self._read_moves().values()}

    def drain(self, node: str, *, is_drained: bool, at_s: int) -> Drain:
        """Write down that a node is drained, or is not any more. `at_s`: Unix time."""
        drain = Drain(node, is_drained, self._next_id(DRAIN_TABLE, node, at_s))
        self.remember(drain)
        return drain

    def remember(self, drain: Drain) -> bool:
        """Write down again what was said before; False where something newer is known."""
        version, value = encode_drain(drain)
        return self._put(DRAIN_TABLE, drain.node, version, value)

    def move(self, floating_ip: IPv4Address, target: str, *, at_s: int) -> MoveOrder:
        """Order a move; it takes the place of an earlier one for that address."""
        order = MoveOrder(floating_ip, self._next_id(MOVE_TABLE, str(floating_ip), at_s), target)
        version, value = encode_move(order)
        self._put(MOVE_TABLE, str(floating_ip), version, value)
        return order

    def withdraw(self, order: MoveOrder, reason: str) -> None:
        """Whoever asked asks no more. Nothing where the order is over, or another one has taken its place."""
        known = self.moves().get(order.floating_ip)
        if known is None or known.id != order.id or known.state.is_over:
            return
        progress = self._rows(MOVE_TABLE)[str(order.floating_ip)].version[2]
        failed = replace(known, state=MoveState.FAILED, reason=reason)
        version, value = encode_move(failed, is_withdrawn=True, progress=progress)
        self._put(MOVE_TABLE, str(order.floating_ip), version, value)

    def report(self, order: MoveOrder, *, term: int) -> None:
        """The leader's part: how far an order is."""
        version, value = encode_move(order, term=term)
        self._put(MOVE_TABLE, str(order.floating_ip), version, value)

    def end(self, table: str, key: str, row: Row) -> None:
        """The leader's part: the node is no member any more, or the address no floating IP."""
        self._put(table, key, ended_order(row.version), b"", ended=True)

    def _next_id(self, table: str, key: str, at_s: int) -> OrderId:
        known = self._rows(table).get(key)
        number, writer, _ = conflict_version(known.version if known else None, self._writer, at_s=at_s)
        return number, writer
