"""What this member still has to tell: items that ride on every datagram until they were sent often enough (SWIM 4.1).

An item sent lambda * ceil(ln(n + 1)) times by each member that has it reaches all but about n^-(2 lambda - 2) of n
members, within O(log n) rounds. Newer news of the same key replaces older. Within a datagram urgent items come before
others (a refutation must not wait behind a join storm), and rarely sent ones before often sent ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

# One burst of 3 leaves e^-3 of the members out, two leave e^-6; the slow repeats are for what gets lost.
QUICK_BURSTS = 2

Subject = tuple[str, ...]
"""What an item is about: ("member", name), ("suspect", name, accuser) or ("row", table, key)."""


@dataclass(slots=True)
class _Item:
    message: bytes
    """Encoded once, however often it is sent."""
    urgent: bool
    order: int
    """Grows with each offer: the higher, the fresher."""
    transmissions: int = 0
    """Datagrams it has been put into; not known to have arrived."""


def retransmit_limit(multiplier: int, live_members: int) -> int:
    """How often one member sends one item."""
    return multiplier * ceil(log(live_members + 1))


class Broadcasts:
    """The queue. It is bounded by the number of subjects, which the roster and the tables bound."""

    def __init__(self, multiplier: int) -> None:
        self._multiplier = multiplier
        self._items: dict[Subject, _Item] = {}
        """One item per subject: newer news takes the place of older, with its count of transmissions begun anew."""
        self._order = 0
        self.quick_bursts = 0
        """Bursts due at once rather than at the next interval, because something is fresh."""

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, subject: Subject, message: bytes, *, urgent: bool) -> None:
        """Queue an item, in place of older news about the same subject."""
        self._order += 1
        self._items[subject] = _Item(message, urgent, self._order)
        self.quick_bursts = QUICK_BURSTS

    def retire(self, subject: Subject) -> None:
        """Forget an item that is no longer true."""
        self._items.pop(subject, None)

    def take(self, budget: int, *, live_members: int, skip: Sequence[bytes] = ()) -> list[bytes]:
        """Take messages of at most `budget` bytes together for one datagram, and count them as sent once more.

        `skip` are messages the datagram has already. An item sent often enough is forgotten; anti-entropy brings it to
        whoever it missed.
        """
        if not self._items or budget <= 0:
            return []
        limit = retransmit_limit(self._multiplier, live_members)
        taken: list[bytes] = []
        # Newest first among equals: the newest is the least known.
        ranked = sorted(
            self._items.items(), key=lambda pair: (not pair[1].urgent, pair[1].transmissions, -pair[1].order)
        )
        for subject, item in ranked:
            # One that does not fit makes room for a smaller one, and keeps its place for the next datagram.
            if len(item.message) > budget or item.message in skip:
                continue
            budget -= len(item.message)
            taken.append(item.message)
            item.transmissions += 1
            if item.transmissions >= limit:
                del self._items[subject]
        return taken
