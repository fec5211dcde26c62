"""Rows of gossip that are everywhere at once, and boards of members that read and write them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from service.gateway.order import DRAIN_TABLE, MOVE_TABLE, Version, decode_drain, decode_move
from service.gossip.table import Row
from service.wire.order_board import OrderBoard

T = TypeVar("T")


class Rows:
    """As the tables of gossip: of one key the highest version counts."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Row]] = {}

    def put(self, table: str, key: str, version: Version, value: bytes, *, ended: bool = False) -> bool:
        known = self.tables.setdefault(table, {}).get(key)
        if known is not None and known.version >= version:
            return False
        self.tables[table][key] = Row(version, value, int(ended))
        return True

    def forget(self) -> None:
        """Every member has stopped at once."""
        self.tables.clear()

    def board(self, writer: str) -> OrderBoard:
        return OrderBoard(
            writer,
            put=self.put,
            rows=lambda table: self.tables.get(table, {}),
            read_drains=lambda: self._living(DRAIN_TABLE, decode_drain),
            read_moves=lambda: self._living(MOVE_TABLE, decode_move),
        )

    def _living(self, table: str, decode: Callable[[str, Version, bytes], T | None]) -> Mapping[str, T]:
        found = {}
        for key, row in self.tables.get(table, {}).items():
            said = None if row.ended else decode(key, row.version, row.value)
            if said is not None:
                found[key] = said
        return found
