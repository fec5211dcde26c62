"""What one gateway knows of the blocks of one floating IP: whose each is in its kernel, and whether it knows all.

It changes in two ways. The *leader's word* comes in a session: a leader reads the gateway first, which closes the
session of every leader before it, and so does a new tenure of the lease (Q7). An *owner's word* brings rows that a
holder has confirmed before, to a gateway that does not know them (R3).
"""

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Protocol

from service.model.lease import Token
from service.port_block.block import NEVER_GIVEN, Row, Times
from service.port_block.message import Entry


class Changes(Protocol):
    """What is to be written to the kernel before anybody is told."""

    def set_owner(self, floating_ip: IPv4Address, block: int, row: Row) -> None:
        """The block is this node's, or nobody's."""

    def trust(self, floating_ip: IPv4Address, tenure: Token) -> None:
        """The rows count under this tenure of the lease."""


class Kernel(Protocol):
    """What the machine must read in the moment it answers: the kernel decides, whatever was heard before."""

    def tenure(self, floating_ip: IPv4Address) -> Token | None:
        """The token under which the fence is open now; None where it is closed, or its deadline is over."""

    def last_packet_ns(self, floating_ip: IPv4Address, block: int) -> int | None:
        """When this node last took a packet of the block from its owner, or for it; None for never."""


class GatewayTable:
    """Rows, session and tenure of one floating IP."""

    def __init__(
        self, floating_ip: IPv4Address, kernel: Kernel, times: Times, changes: Changes, *, now_ns: int
    ) -> None:
        self.floating_ip = floating_ip
        self._changes = changes
        self._kernel = kernel
        self._times = times
        self.rows: dict[int, Row] = {}
        self.term = 0
        """Of the leader who read this last: no other is listened to below it (Q7)."""
        self.session = now_ns
        """Grows; drawn from the clock, so that it is never that of an earlier process."""
        self.edition = 0
        self.tenure: Token | None = None
        self._last: Token | None = None
        """The last tenure that was seen here, also while there is none."""
        self._watched_ns = now_ns
        """Since when the kernel would have seen a packet."""
        self._whole_until_ns = 0
        self._is_whole = False
        self._was_whole = False
        """At the end of the last tenure."""

    def observe(self, now_ns: int) -> None:
        """Look whether the lease has come, gone or come anew. Before everything else, at each call."""
        tenure = self._kernel.tenure(self.floating_ip)
        if tenure == self.tenure:
            return
        is_next = _is_next(self._last, tenure)
        if self.tenure is not None:
            self._was_whole = self._is_whole
        # Whoever takes over in time as a successor that had every row has every row as the holder (Q8).
        is_whole = self.tenure is None and tenure is not None and now_ns < self._whole_until_ns
        self._is_whole = self._was_whole if is_next else is_whole
        if self.tenure is not None:
            self._whole_until_ns = 0
        self.tenure = tenure
        self._watched_ns = now_ns
        self._open_session()
        if tenure is not None:
            self._begin(tenure, keeps=is_next)

    def _begin(self, tenure: Token, *, keeps: bool) -> None:
        """A row that was true once may be another's by now. Unless all are here, or nobody held in between, none of
        them counts (R3)."""
        for block in [] if self._is_whole or keeps else sorted(self.rows):
            del self.rows[block]
            self._changes.set_owner(self.floating_ip, block, NEVER_GIVEN)
        self._last = tenure
        self._changes.trust(self.floating_ip, tenure)

    def restore(self, rows: Iterable[tuple[int, Row]], tenure: Token | None) -> None:
        """What an earlier process had in the kernel, and the tenure that it vouched for."""
        self.rows.update(rows)
        self.tenure = self._last = tenure

    @property
    def holds(self) -> bool:
        """Whether the lease lives, as of the last look."""
        return self.tenure is not None

    @property
    def is_whole(self) -> bool:
        """Whether it holds and has every row that any holder ever confirmed."""
        return self.holds and self._is_whole

    def row(self, block: int) -> Row:
        """What is known of a block."""
        return self.rows.get(block, NEVER_GIVEN)

    def read_by(self, term: int) -> None:
        """A leader asks: from now on this one is listened to, and none before it."""
        if term > self.term:
            self.term = term
            self._open_session()

    def take_grant(self, entry: Entry, now_ns: int) -> bool:
        """Take one row of the leader's word, said in the present session. Says whether it is in force here now."""
        own = self.row(entry.block)
        if own.stamp == entry.row.stamp:
            return own == entry.row
        # Compare and swap: what an owner has told meanwhile is not overwritten unseen.
        if own.stamp != entry.after or entry.row.stamp < own.stamp:
            return False
        if entry.if_idle and own.owner is not None and not self._is_idle(entry.block, now_ns):
            return False
        self._set(entry.block, entry.row)
        return True

    def take_push(self, block: int, row: Row, *, is_acknowledged: bool) -> bool:
        """Take an owner's word of one block of its own. Says whether it is so here."""
        own = self.row(block)
        if own.stamp >= row.stamp:
            return own == row
        if not is_acknowledged or self._is_whole:
            # A row that no holder has confirmed is the leader's to bring: it may be one of a leader long gone (Q9).
            return False
        self._set(block, row)
        return True

    def take_whole(self, asked_ns: int, now_ns: int) -> None:
        """The leader says that all its rows were here at some time since `asked_ns`."""
        if self.holds:
            # Every row that is confirmed from here on is confirmed here.
            self._is_whole = self._is_whole or asked_ns > self._watched_ns
        else:
            self._whole_until_ns = max(self._whole_until_ns, asked_ns + self._times.whole_ns)

    def _is_idle(self, block: int, now_ns: int) -> bool:
        last_ns = self._kernel.last_packet_ns(self.floating_ip, block) or 0
        return self.holds and now_ns - max(last_ns, self._watched_ns) >= self._times.down_ns

    def _set(self, block: int, row: Row) -> None:
        self.rows[block] = row
        self.edition += 1
        self._changes.set_owner(self.floating_ip, block, row)

    def _open_session(self) -> None:
        self.session += 1
        self.edition += 1


def _is_next(former: Token | None, tenure: Token | None) -> bool:
    """The lease came back to this node, and no other had it in between: tokens of one assignment are counted (K1)."""
    if former is None or tenure is None:
        return False
    return former.stamp == tenure.stamp and tenure.counter == former.counter + 1
