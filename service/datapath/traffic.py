"""What passed by each policy and floating IP, added up from the rows of flows (rule B6). Pure.

A row counts since its flow was made. A sweep sees every row, and what a row has more than in the sweep before is added
to the total of its label. Of a total so much is *closed* as is of flows that are no more in the table: total = closed +
what the rows say. So the next agent, which knows neither rows nor sweeps of before, makes the same totals of what was
closed and the rows that it finds.

A row that is missing is closed one sweep later: it may have been on its way from one table to another. What a program
removed comes with its last state; of what was evicted is lost what passed since the last sweep.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.datapath.attribution import Attribution, Label

_AT, _END = 28, 64
"""Where in a row stands what is kept of it here: floating IP, port, state, and the four numbers."""
_ROW = struct.Struct("=4s8xIIQQ")
_WRAP = 1 << 32
"""Packets of a row."""

Row = bytes
"""The end of a flow's value."""


class Numbers(NamedTuple):
    """Of the pods, and back to them."""

    out_packets: int = 0
    out_bytes: int = 0
    in_packets: int = 0
    in_bytes: int = 0
    flows: int = 0

    def plus(self, other: "Numbers", sign: int = 1) -> "Numbers":
        """Each number added, or taken away."""
        return Numbers(
            self.out_packets + sign * other.out_packets,
            self.out_bytes + sign * other.out_bytes,
            self.in_packets + sign * other.in_packets,
            self.in_bytes + sign * other.in_bytes,
            self.flows + sign * other.flows,
        )

    def at_least(self, other: "Numbers") -> "Numbers":
        """The higher of each."""
        return Numbers(*map(max, self, other))


NONE = Numbers()


@dataclass(slots=True)
class Account:
    """Of one label."""

    total: Numbers = NONE
    closed: Numbers = NONE

    @property
    def flows(self) -> int:
        """In the table now."""
        return max(0, self.total.flows - self.closed.flows)


@dataclass(slots=True)
class Changes:
    """What the next agent has to know."""

    stored: dict[Label, Account] = field(default_factory=dict)
    gone: list[Label] = field(default_factory=list)


class Traffic:
    """Between `begin` and `finish` every row is taken once, or twice where it moves."""

    def __init__(self, kept: Mapping[Label, Account]) -> None:
        """`kept`: of the agent before."""
        self._accounts = {label: Account(account.closed, account.closed) for label, account in kept.items()}
        self._said = {label: account.total for label, account in kept.items()}
        """What the agent before has said; a total never falls below it."""
        self._attribution: Attribution | None = None
        self._present: dict[bytes, Row] = {}
        self._former: dict[bytes, Row] = {}
        """Of the sweep before; those that were seen again are in `present`."""
        self._missing: dict[bytes, Row] = {}
        """Seen two sweeps before, and not since."""
        self._replaced: dict[bytes, Row] = {}
        """In this sweep, by another flow of the same key."""
        self._changed: dict[Label, None] = {}
        self.totals: dict[Label, Account] = {}
        """As of the last sweep; replaced and not changed. Nothing before the first is done."""

    def begin(self, attribution: Attribution) -> None:
        """A sweep begins, and flows go by these policies from now on."""
        # Of a sweep that failed.
        self._former |= self._present
        self._present = {}
        former = self._attribution
        if former is not None:
            changed = attribution.differing(former)
            rows = [row for rows in (self._former, self._missing) for row in rows.values()] if changed else ()
            for row in rows:
                if row[:4] in changed:
                    self._move(row, former, attribution)
        self._attribution = attribution

    def _move(self, row: Row, former: Attribution, attribution: Attribution) -> None:
        """The flow is another policy's from now on; what it had counts where it was counted."""
        for label, sign in ((former.label_of(row[:4]), 1), (attribution.label_of(row[:4]), -1)):
            account = self._account(label)
            account.closed = account.closed.plus(_numbers(row), sign)

    def depart(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Flows that a program has removed, each in its last state."""
        for key, value in entries:
            row = value[_AT:_END]
            now = _ROW.unpack(row)
            for rows in (self._missing, self._former):
                before = rows.get(key)
                # One that had more is a flow that came after it.
                if before is not None and _octets(now) >= _octets(was := _ROW.unpack(before)):
                    del rows[key]
                    self._add(row, _growth(was, now))
                    break
            else:
                self._add(row, _numbers(row))
            self._close(row)

    def take(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Rows as they are now."""
        present, former, missing = self._present, self._former, self._missing
        for key, value in entries:
            row = value[_AT:_END]
            before = present.get(key) or former.pop(key, None) or missing.pop(key, None)
            present[key] = row
            if before is None:
                self._add(row, _numbers(row))
            elif row != before:
                self._compare(key, before, row)

    def _compare(self, key: bytes, before: Row, row: Row) -> None:
        was, now = _ROW.unpack(before), _ROW.unpack(row)
        passed, passed_before = _octets(now), _octets(was)
        if 2 * passed < passed_before or now[0] != was[0]:
            # Another flow of the same key. The one before was removed by a program, and may come yet.
            self._replaced[key] = before
            self._add(row, _numbers(row))
        elif passed < passed_before:
            # It may fall back a little: where it moves, or two CPUs count at once. Nothing is taken away for that.
            self._present[key] = before
        else:
            self._add(row, _growth(was, now))

    def end(self, key: bytes, value: bytes) -> None:
        """The agent takes this flow away, in that state."""
        self.take(((key, value),))
        self._close(self._present.pop(key))

    def finish(self) -> Changes:
        """Every row was taken. What is of no policy or floating IP that exists is forgotten."""
        assert self._attribution is not None
        for row in self._missing.values():
            self._close(row)
        self._missing = self._former | self._replaced
        self._former, self._present, self._replaced = self._present, {}, {}
        for label, said in self._said.items():
            account = self._account(label)
            lost = said.at_least(account.total).plus(account.total, -1)
            account.total, account.closed = account.total.plus(lost), account.closed.plus(lost)
        self._said = {}
        gone = [label for label in self._accounts if not self._attribution.exists(label)]
        for label in gone:
            del self._accounts[label]
            self._changed.pop(label, None)
        self.totals = {label: Account(one.total, one.closed) for label, one in self._accounts.items()}
        stored = {label: self.totals[label] for label in self._changed}
        self._changed = {}
        return Changes(stored, gone)

    # -- inside --

    def _account(self, label: Label) -> Account:
        self._changed[label] = None
        account = self._accounts.get(label)
        if account is None:
            account = self._accounts[label] = Account()
        return account

    def _of(self, row: Row) -> Account:
        assert self._attribution is not None
        return self._account(self._attribution.label_of(row[:4]))

    def _add(self, row: Row, numbers: Numbers) -> None:
        if any(numbers):
            account = self._of(row)
            account.total = account.total.plus(numbers)

    def _close(self, row: Row) -> None:
        account = self._of(row)
        account.closed = account.closed.plus(_numbers(row))


def _numbers(row: Row) -> Numbers:
    """All that a flow had."""
    _, out_packets, in_packets, out_bytes, in_bytes = _ROW.unpack(row)
    return Numbers(out_packets, out_bytes, in_packets, in_bytes, 1)


def _octets(unpacked: tuple[Any, ...]) -> int:
    """Both ways: they never wrap."""
    return int(unpacked[3] + unpacked[4])


def _growth(was: tuple[Any, ...], now: tuple[Any, ...]) -> Numbers:
    """What a flow had since."""
    out_packets, in_packets = (now[1] - was[1]) % _WRAP, (now[2] - was[2]) % _WRAP
    return Numbers(
        out_packets if out_packets < _WRAP // 2 else 0,
        max(0, now[3] - was[3]),
        in_packets if in_packets < _WRAP // 2 else 0,
        max(0, now[4] - was[4]),
    )
