"""What the leader knows of one member as an owner: what it has, since when it is Down, and what it has yet to hear."""

from collections import deque
from ipaddress import IPv4Address

from service.model.lease import Stamp
from service.model.machine import Address
from service.port_block.block import Row, Times
from service.port_block.message import HeldRow, Holdings
from service.port_block.parts import Parts

RETIRED_MAX = 16
"""Former processes of one member whose late words are known for what they are."""
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
        self._retired: deque[int] = deque(maxlen=RETIRED_MAX)
        self.edition = 0
        self.asked_ns = self.checked_ns = now_ns
        self.known: dict[Key, Stamp] = {}
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

    def retired(self, start_id: int) -> bool:
        """Whether this is a process that another has followed: what it said, and comes late, is not true any more."""
        return start_id in self._retired

    def begin(self, start_id: int, now_ns: int) -> None:
        """Another process speaks than before. It may have forgotten what that one knew."""
        if self.start_id is not None:
            self._retired.append(self.start_id)
        self.is_read, self.edition, self._parts = False, 0, Parts()
        self.wake(now_ns)
        self.start_id = start_id

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
            self.known = {(IPv4Address(one.floating_ip), one.block): Stamp(one.term, one.version) for one in rows}
        return rows is not None

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
        if self.known.get(key) == row.stamp or (row.owner != self.name and key not in self.known):
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
