"""Small replicated tables: rows of which the highest version wins. They survive their writer.

The version is the writer's affair (a fencing token, a leader's stamp); equal versions are taken to carry equal values,
so who writes a row must own the right to that version.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from service.gossip.config import GossipConfig
from service.gossip.message import VALUE_BYTES_MAX, TableRow
from service.model.errors import OperatorError

VersionTuple = tuple[int, int, int]
"""Compared from the left; (leader term, version, 0), a token, or Unix seconds: its table's affair."""


class Row(NamedTuple):
    """One row's newest version."""

    version: VersionTuple
    value: bytes
    ended: int = 0
    """The tick in which it became a tombstone (retention.py); 0 while it lives."""


def checked_row(table: str, key: str, version: VersionTuple, value: bytes, *, ended: int = 0) -> TableRow:
    """Put a row into the words of the wire. Raises OperatorError where other members could not read it."""
    if len(value) > VALUE_BYTES_MAX:
        raise OperatorError(f"row {table}/{key}: value of {len(value)} bytes, at most {VALUE_BYTES_MAX} are possible")
    if not (1 <= len(table) <= 32 and 1 <= len(key) <= 64 and all(0 <= part < 2**63 for part in version)):
        raise OperatorError(f"row {table}/{key}: table of 1-32, key of 1-64 characters, version parts from 0 to 2^63-1")
    first, second, third = version
    return TableRow(table, key, (first, second, third), value, ended)


_EMPTY: Mapping[str, Row] = MappingProxyType({})


class Tables:
    """All tables of one member."""

    def __init__(self, config: GossipConfig, *, names: Collection[str] = ()) -> None:
        """`names`: tables that have their place whatever else others write."""
        self._config = config
        self._tables: dict[str, dict[str, Row]] = {name: {} for name in names}
        self._revisions: Counter[str] = Counter()
        """Changes of each table."""

    def has_room(self, table: str, key: str) -> bool:
        """Whether a row of this key can be taken: it is there already, or neither it nor its table is one too many."""
        rows = self._tables.get(table)
        if rows is None:
            return len(self._tables) < self._config.tables_max
        return key in rows or len(rows) < self._config.table_rows_max

    def accept(self, table: str, key: str, row: Row) -> bool:
        """Take a row if it is newer than ours. False, with nothing changed, where it is not, or there is no room."""
        current = self.get(table, key)
        if current is not None and row.version <= current.version:
            return False
        if not self.has_room(table, key):
            return False
        self._tables.setdefault(table, {})[key] = row
        self._revisions[table] += 1
        return True

    def get(self, table: str, key: str) -> Row | None:
        """One row; None where nobody has written it, as far as it has come here."""
        return self._tables.get(table, {}).get(key)

    def remove(self, table: str, key: str) -> None:
        """Forget one row; nothing where it is not there."""
        self._tables.get(table, {}).pop(key, None)
        self._revisions[table] += 1

    def revision(self, table: str) -> int:
        """A number that differs from an earlier one of the table where it has changed since."""
        return self._revisions[table]

    def expired(self, has_expired: Callable[[int], bool]) -> list[tuple[str, str]]:
        """(table, key) of each tombstone whose time is over; `has_expired` judges by the tick in which it ended."""
        return [
            (name, key) for name, rows in self._tables.items() for key, row in rows.items() if has_expired(row.ended)
        ]

    def rows(self, table: str) -> Mapping[str, Row]:
        """A read-only live view, tombstones included."""
        rows = self._tables.get(table)
        return MappingProxyType(rows) if rows is not None else _EMPTY
