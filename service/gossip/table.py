"""Small replicated tables: rows of which the highest version wins. They survive their writer.

The version is the writer's affair (a fencing token, a leader's stamp); equal versions are taken to carry equal values,
so who writes a row must own the right to that version.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from service.gossip.message import VALUE_BYTES_MAX, TableRow
from service.model.errors import OperatorError

VersionTuple = tuple[int, int, int]
"""Compared from the left; (leader term, version, 0), a token, or Unix seconds: its table's affair."""


class Row(NamedTuple):
    """One row's newest version."""

    version: VersionTuple
    value: bytes


def checked_row(table: str, key: str, version: VersionTuple, value: bytes) -> TableRow:
    """Put a row into the words of the wire. Raises OperatorError where other members could not read it."""
    if len(value) > VALUE_BYTES_MAX:
        raise OperatorError(f"row {table}/{key}: value of {len(value)} bytes, at most {VALUE_BYTES_MAX} are possible")
    if not (1 <= len(table) <= 32 and 1 <= len(key) <= 64 and all(0 <= part < 2**63 for part in version)):
        raise OperatorError(f"row {table}/{key}: table of 1-32, key of 1-64 characters, version parts from 0 to 2^63-1")
    first, second, third = version
    return TableRow(table, key, (first, second, third), value)


_EMPTY: Mapping[str, Row] = MappingProxyType({})


class Tables:
    """All tables of one member."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._tables: dict[str, dict[str, Row]] = {}
        self._count = 0
        """Rows of all tables together. It never falls: a row is superseded, by a tombstone if need be, not deleted."""
        self.refused = 0
        """Rows refused because the tables are full."""

    def accept(self, table: str, key: str, row: Row) -> bool:
        """Take a row if it is newer than ours. False, with nothing changed, where it is not or the tables are full."""
        current = self.get(table, key)
        if current is not None and row.version <= current.version:
            return False
        if current is None:
            # A bound with a loud counter: a runaway writer must not take every member's memory.
            if self._count >= self._rows_max:
                self.refused += 1
                return False
            self._count += 1
        self._tables.setdefault(table, {})[key] = row
        return True

    def get(self, table: str, key: str) -> Row | None:
        """One row; None where nobody has written it, as far as it has come here."""
        return self._tables.get(table, {}).get(key)

    def rows(self, table: str) -> Mapping[str, Row]:
        """A read-only live view."""
        rows = self._tables.get(table)
        return MappingProxyType(rows) if rows is not None else _EMPTY
