"""Moves of floating IPs that have been seen and not yet told. Every controller keeps them: any may have to tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from service.model.assignment import Assignment
from service.model.lease import Token
from service.model.object_event import ObjectEvent
from service.report.objects import move_event

if TYPE_CHECKING:
    from service.controller.controller import Controller

RECENT_NS = 5_000_000_000
"""A new leader also tells of moves this old: the last one may have died with the node."""
_MOVES_MAX = 256


@dataclass(frozen=True, slots=True)
class _Sighting:
    """Who was last seen to hold an address, when it had renewed last, and the leader's row of that time."""

    node: str
    renewed_ns: int
    row: Assignment | None

    def names_successor(self, node: str, token: Token) -> bool:
        """Whether this token was granted to a standing claim that the row had provided for."""
        row = self.row
        return row is not None and row.successor == node and row.stamp == (token.term, token.version)


class MoveLog:
    """What was seen; `take` hands it on, `tell` ends it, and `recall` takes back what was not told."""

    def __init__(self, controller: "Controller") -> None:
        self._controller = controller
        self._seen: dict[IPv4Address, _Sighting] = {}
        self._moves: dict[ObjectEvent, int] = {}
        """When each was seen."""
        self._taken: dict[ObjectEvent, int] = {}
        self._unheard_ns = 0
        """When the source was last known not to answer: nobody could tell of anything then."""

    def observe(self, now_ns: int, *, is_source_heard: bool) -> None:
        """Compare the holders with those seen last. A time without a holder is part of a move."""
        for event in self._find(now_ns):
            self._moves[event] = now_ns
        if not is_source_heard:
            self._unheard_ns = now_ns
        for event, at_ns in list(self._moves.items()):
            # Whoever leads has told of it by then.
            if now_ns - max(at_ns, self._unheard_ns) > RECENT_NS or len(self._moves) > _MOVES_MAX:
                del self._moves[event]

    def take(self) -> tuple[ObjectEvent, ...]:
        """Hand on what has not been told."""
        taken, self._moves = self._moves, {}
        self._taken |= taken
        while len(self._taken) > _MOVES_MAX:
            del self._taken[next(iter(self._taken))]
        return tuple(taken)

    def tell(self, event: ObjectEvent) -> None:
        """It has been posted, and stands for all moves of that address before it."""
        told = (event.reason, event.subject)
        for taken in [taken for taken in self._taken if (taken.reason, taken.subject) == told]:
            del self._taken[taken]

    def recall(self) -> None:
        """This controller no longer leads, or not now."""
        self._moves = self._taken | self._moves
        self._taken = {}

    def _find(self, now_ns: int) -> Iterator[ObjectEvent]:
        table = self._controller.cluster.assignments()
        for floating_ip, (node, token) in self._controller.holders().items():
            before = self._seen.get(floating_ip)
            renewed_ns = self._controller.renewed_ns(floating_ip)
            self._seen[floating_ip] = _Sighting(node, renewed_ns, table.get(floating_ip))
            if before is not None and before.node != node:
                yield move_event(
                    floating_ip,
                    before.node,
                    node,
                    self._controller.nodes(),
                    is_succession=before.names_successor(node, token),
                    gap_ns=now_ns - before.renewed_ns,
                )
