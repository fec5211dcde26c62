"""Every network that some policy in force names: where no pod may send that nobody has classified (rule W11)."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from ipaddress import IPv4Network

from service.model.objects import ObjectKey
from service.model.span import number_of

_FEW = 64
"""So many that come or go are put in their places; of more, everything is sorted anew."""


class NamedNetworks:
    """Counted, so that a change costs what it changes: many policies name the same network. All by their numbers."""

    def __init__(self) -> None:
        self._by_policy: dict[ObjectKey, tuple[int, ...]] = {}
        self._counts: dict[int, int] = {}
        self._numbers: tuple[int, ...] | None = None
        """As they were asked for last; None: nobody has asked."""
        self._moved: dict[int, None] = {}
        """Came or went since."""

    def put(self, policy: ObjectKey, networks: Sequence[IPv4Network]) -> None:
        """What this policy names from now on; nothing where it is gone or refused."""
        before, after = self._by_policy.pop(policy, ()), tuple(map(number_of, networks))
        if after:
            self._by_policy[policy] = after
        if before == after:
            return
        # Come before gone: a network that stays is never at zero.
        for number in after:
            self._add(number, 1)
        for number in before:
            self._add(number, -1)

    def _add(self, number: int, count: int) -> None:
        former = self._counts.get(number, 0)
        if former + count:
            self._counts[number] = former + count
        else:
            del self._counts[number]
        # Where nobody asks, as in a controller, nothing has to be remembered for the answer.
        if self._numbers is not None and 0 in (former, former + count):
            self._moved[number] = None

    def numbers(self) -> tuple[int, ...]:
        """All of them, sorted, each once; the same tuple until one comes that nobody named, or one goes."""
        moved, self._moved = self._moved, {}
        if self._numbers is None or len(moved) > _FEW:
            found = sorted(self._counts)
        else:
            # A copy of a hundred thousand numbers is made ten times as fast as they are sorted.
            found = list(self._numbers) if moved else []
            for number in moved:
                place = bisect_left(found, number)
                # It may have come and gone, or the reverse, since the last call.
                is_there = place < len(found) and found[place] == number
                if is_there and number not in self._counts:
                    del found[place]
                elif not is_there and number in self._counts:
                    insort(found, number)
        if self._numbers is None or (moved and tuple(found) != self._numbers):
            self._numbers = tuple(found)
        return self._numbers
