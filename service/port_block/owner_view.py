"""What the leader knows of one member as an owner: what it has, since when it is Down, and what it has yet to hear."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from service.model.lease import Stamp
from service.model.machine import Address
from service.port_block.block import Row, Times
from service.port_block.message import Entry, HeldRow, Holdings
from service.port_block.parts import Parts

Key = tuple[IPv4Address, int]


class OwnerView:
    """One member of one leader's term."""

    def __init__(self, name: str, address: Address, times: Times, *, now_ns: int) -> None:
        self.name = name
        self.address = address
        self._times = times
        self.down_ns: int | None = now_ns
        """Since when this leader sees it Down; None while it is up."""
        self.since_ns = now_ns
        self.is_read = False
        """It has said, in this term, all that it has."""
        self._remembers_from_ns = now_ns
        """From when on that is all that it may have had within the times of Q5."""
        self.start_id: int | None = None
        self._answered = 0
        """The highest number of a Read that was answered."""
        self.edition = 0
        self.asked_ns = self.checked_ns = now_ns
        self.known: dict[IPv4Address, dict[int, Stamp]] = {}
        """What it has, by block, as it said or acknowledged."""
        self.pending: dict[Key, None] = {}
        self.due_ns = now_ns
        self._wait_ns = times.resend_ns
        self._parts: Parts[HeldRow] = Parts()

    def see(self, address: Address, *, is_up: bool, now_ns: int) -> None:
        """What gossip says of it."""
        self.address = address
        if is_up and self.down_ns is not None:
            self.down_ns = None
            self.wake(now_ns)
        elif not is_up and self.down_ns is None:
            self.down_ns = now_ns

    def is_followed_by(self, start_id: int, sequence: int) -> bool:
        """Whether an answer to a Read of this number shows that another process runs now than the one that is known.

        Start ids have no order, and words of a process that is dead may come late; but it answers no later Read.
        """
        is_later = sequence > self._answered
        self._answered = max(self._answered, sequence)
        return is_later and start_id != self.start_id

    def begin(self, start_id: int, now_ns: int) -> None:
        """Another process runs than before. It may have forgotten what that one knew."""
        self.is_read, self.edition, self._parts = False, 0, Parts()
        self.start_id = start_id
        self.wake(now_ns)

    def is_current(self, start_id: int) -> bool:
        """Whether this is the process that runs, as far as is known. What another says is not taken (Q5)."""
        return start_id == self.start_id

    def hear(self, floating_ip: IPv4Address, entries: Iterable[Entry], row_of: Callable[[int], Row]) -> None:
        """It has heard these rows; those that are still true need not be sent again."""
        for entry in entries:
            known = self.known.setdefault(floating_ip, {})
            if entry.row.owner == self.name:
                known[entry.block] = entry.row.stamp
            else:
                known.pop(entry.block, None)
            if row_of(entry.block).stamp == entry.row.stamp:
                self.pending.pop((floating_ip, entry.block), None)

    def waits_for(self, floating_ip: IPv4Address) -> bool:
        """Whether it has yet to hear, or to acknowledge, rows of this address."""
        return any(key[0] == floating_ip for key in self.pending)

    def doubt(self, now_ns: int) -> None:
        """A process speaks that is not the one that is known, or has less than is known: read again, to see."""
        if self._is_checked(now_ns):
            self.checked_ns = now_ns - self._times.confirm_ns
            self.wake(now_ns)

    def take_holdings(self, holdings: Holdings, now_ns: int) -> bool:
        """Take a part of its answer; says whether it was the last one."""
        if holdings.parts == 0 and holdings.edition == self.edition:
            self.checked_ns = self.asked_ns
            return False
        rows = self._parts.add((holdings.edition,), holdings.part, holdings.parts, holdings.rows)
        if rows is not None:
            self.is_read, self.edition, self.checked_ns = True, holdings.edition, self.asked_ns
            forgotten_ns = self._times.down_ns + self._times.rest_ns - holdings.age_ns
            self._remembers_from_ns = now_ns + forgotten_ns
            self.known = {}
            for one in rows:
                known = self.known.setdefault(IPv4Address(one.floating_ip), {})
                known[one.block] = Stamp(one.term, one.version)
        return rows is not None

    def forget(self, floating_ip: IPv4Address) -> None:
        """It is no floating IP any more, and it has forgotten what it had of it, or will: if it is one again, all that
        it is to know is said to it."""
        self.known.pop(floating_ip, None)
        self.pending = {key: None for key in self.pending if key[0] != floating_ip}

    def is_settled(self, held_ns: int, now_ns: int) -> bool:
        """Whether it has no block unheard of: it said so, and did not forget; or its time is over (Q5).

        That is counted from when the present holder was read: an earlier one may have taken its packets, unheard of.
        """
        if self.is_read and now_ns >= self._remembers_from_ns:
            return True
        since_ns = max(held_ns, self.down_ns or 0)
        return self.down_ns is not None and now_ns - since_ns >= self._times.down_ns + self._times.rest_ns

    def want(self, key: Key, row: Row, now_ns: int) -> None:
        """A row that concerns it: to be sent, unless it knows."""
        known = self.known.get(key[0], {}).get(key[1])
        if known == row.stamp or (row.owner != self.name and known is None):
            self.pending.pop(key, None)
        else:
            self.pending[key] = None
            self.wake(now_ns)

    def wake(self, now_ns: int) -> None:
        """Something is new: send at once, and patience begins anew."""
        self.due_ns, self._wait_ns = now_ns, self._times.resend_ns

    def is_due(self, now_ns: int) -> bool:
        """Whether there is something to say to it now."""
        return now_ns >= self.due_ns and not (self._is_checked(now_ns) and not self.pending)

    def asks(self, now_ns: int) -> bool:
        """It is spoken to now. Whether it is to be read, too: it was not, or not for long."""
        self.again(now_ns)
        if self._is_checked(now_ns):
            return False
        self.asked_ns = now_ns
        return True

    def _is_checked(self, now_ns: int) -> bool:
        return self.is_read and now_ns - self.checked_ns < self._times.confirm_ns

    def again(self, now_ns: int) -> None:
        """It was sent to; when it does not answer, once more."""
        self.due_ns = now_ns + self._wait_ns
        self._wait_ns = min(2 * self._wait_ns, self._times.resend_ns_max)
