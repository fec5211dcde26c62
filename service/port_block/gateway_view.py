"""What the leader knows of one gateway of one floating IP: its session, what it has, and what it has yet to hear."""

from collections.abc import Callable

from service.model.lease import Stamp
from service.model.machine import Address
from service.port_block.block import NEVER_GIVEN, Row, Times
from service.port_block.message import Entry, Table, entries_of
from service.port_block.parts import Parts


class GatewayView:
    """One (floating IP, gateway) of one leader's term. Until it is read, nothing is sent to it but that it be read."""

    def __init__(self, name: str, address: Address, times: Times, *, now_ns: int) -> None:
        self.name = name
        self.address = address
        self._times = times
        self.edition = (0, 0)
        """Session and edition of the table that was heard last."""
        self.asked_ns = self.checked_ns = now_ns
        self.holds = False
        """It had the lease when it opened the session; it opens another when that changes."""
        self.is_whole = False
        self.opened_ns = now_ns
        """When it was first read in this session."""
        self.rows: dict[int, Row] = {}
        """As it was read."""
        self.known: dict[int, Stamp] = {}
        """What it has by now, as it acknowledged."""
        self.pending: dict[int, None] = {}
        """Blocks whose row it does not have."""
        self.releases: dict[int, Row] = {}
        """What it is asked to take from a node that is Down, if it has seen nothing of it (Q5)."""
        self.due_ns = now_ns
        self._wait_ns = times.resend_ns
        self._parts: Parts[Entry] = Parts()

    def take_table(self, table: Table, now_ns: int) -> bool:
        """Take a part of its answer. The last one opens the session; says whether it was that."""
        edition = (table.session, table.edition)
        if table.parts == 0 and edition == self.edition:
            self.checked_ns = self.asked_ns
            return False
        rows = tuple(entries_of(table.names, table.rows))
        whole = self._parts.add(edition, table.part, table.parts, rows)
        if whole is None:
            return False
        if table.session != self.edition[0]:
            self.pending, self.releases = {}, {}
            self.opened_ns = now_ns
        self.edition, self.checked_ns = edition, self.asked_ns
        self.holds, self.is_whole = table.holds, table.is_whole
        self.rows = {entry.block: entry.row for entry in whole}
        self.known = {block: row.stamp for block, row in self.rows.items()}
        return True

    @property
    def session(self) -> int | None:
        """None until the whole table was heard."""
        return self.edition[0] or None

    def close(self, now_ns: int) -> None:
        """Its session is over, or it is another process: it has to be read again.

        Nothing is kept: sessions of two processes are not to be compared, as a reboot sets the clock back.
        """
        self.edition, self.holds = (0, 0), False
        self.pending, self.releases = {}, {}
        self.due_ns, self._wait_ns = now_ns, self._times.resend_ns
        self._parts = Parts()

    def want(self, block: int, row: Row, now_ns: int) -> None:
        """The leader's row of a block: to be sent, unless it is there."""
        self.releases.pop(block, None)
        if self.known.get(block, NEVER_GIVEN.stamp) == row.stamp:
            self.pending.pop(block, None)
        elif self.session is not None:
            self.pending[block] = None
            self.wake(now_ns)

    def wake(self, now_ns: int) -> None:
        """Something is new: send at once, and patience begins anew."""
        self.due_ns, self._wait_ns = now_ns, self._times.resend_ns

    def is_due(self, now_ns: int) -> bool:
        """Whether there is something to say to it now."""
        return now_ns >= self.due_ns and not (self._is_checked(now_ns) and not self.pending and not self.releases)

    def asks(self, now_ns: int) -> bool:
        """It is spoken to now. Whether it is to be read, too: it was not, or not for long."""
        self.again(now_ns)
        if self._is_checked(now_ns):
            return False
        self.asked_ns = now_ns
        return True

    def _is_checked(self, now_ns: int) -> bool:
        return self.session is not None and now_ns - self.checked_ns < self._times.confirm_ns

    def entries(self, row_of: Callable[[int], Row], count: int) -> list[Entry]:
        """What to send: rows that it lacks, then what it is asked to take."""
        rows = [(block, row_of(block)) for block in self.pending] + list(self.releases.items())
        return [self.entry(block, row) for block, row in rows[:count]]

    def again(self, now_ns: int) -> None:
        """It was sent to; when it does not answer, once more."""
        self.due_ns = now_ns + self._wait_ns
        self._wait_ns = min(2 * self._wait_ns, self._times.resend_ns_max)

    def entry(self, block: int, row: Row) -> Entry:
        """The row as it is sent: in place of what the gateway has, and by a holder only where nothing moves (Q5)."""
        after = self.known.get(block, NEVER_GIVEN.stamp)
        return Entry(block, row, after, if_idle=row.is_resting and self.holds)
