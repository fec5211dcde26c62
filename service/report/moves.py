"""Moves of floating IPs that have been seen and not yet told. Every controller keeps them: any may have to tell."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import HeldBy
from service.model.object_event import ObjectEvent
from service.report.facts import Sightings
from service.report.objects import GATEWAY

RECENT_NS = 5_000_000_000
"""A new leader also tells of moves this old: the last one may have died with the node."""
_MOVES_MAX = 256


@dataclass(frozen=True, slots=True)
class _Sighting:
    """Who was last seen to hold an address, when it had renewed last, and the leader's row of that time."""

    node: str
    renewed_ns: int
    row: Assignment | None

    def names_successor(self, held: HeldBy) -> bool:
        """Whether this was granted to a standing claim that the row had provided for."""
        row = self.row
        return row is not None and row.successor == held.node and row.stamp == held.token.stamp


class MoveLog:
    """What was seen; `take` hands it on, `tell` ends it, and `recall` takes back what was not told."""

    def __init__(self) -> None:
        self._seen: dict[IPv4Address, _Sighting] = {}
        self._moves: dict[ObjectEvent, int] = {}
        """When each was seen."""
        self._taken: dict[ObjectEvent, int] = {}
        self._unheard_ns = 0
        """When the source was last known not to answer: nobody could tell of anything then."""

    def observe(self, sightings: Sightings, *, now_ns: int, is_source_heard: bool) -> None:
        """Compare the holders with those seen last. A time without a holder is part of a move.

        `is_source_heard`: somebody could tell of a move now. While nobody can, none grows too old to be told.
        """
        for event in self._find(sightings, now_ns):
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

    def _find(self, sightings: Sightings, now_ns: int) -> Iterator[ObjectEvent]:
        for floating_ip, held in sightings.holders.items():
            before = self._seen.get(floating_ip)
            row = sightings.assignments.get(floating_ip)
            self._seen[floating_ip] = _Sighting(held.node, sightings.renewed_ns[floating_ip], row)
            if before is not None and before.node != held.node:
                yield move_event(
                    floating_ip,
                    before.node,
                    held.node,
                    sightings.nodes,
                    is_succession=before.names_successor(held),
                    gap_ns=now_ns - before.renewed_ns,
                )


def move_event(
    floating_ip: IPv4Address,
    before: str,
    after: str,
    nodes: Iterable[GatewayNode],
    *,
    is_succession: bool,
    gap_ns: int,
) -> ObjectEvent:
    """A floating IP has changed its holder; `is_succession`: by the standing claim of the successor, not by a new row.

    `gap_ns` is the time from the last renewal of the old holder that any elector reported to the first report of the
    new one: no less than nobody held the address, but more by up to the interval at which the leader asks.
    """
    found = next((node for node in nodes if node.name == before), None)
    if found is None:
        reason = f"node {before} has left"
    elif found.state is NodeState.DOWN:
        reason = f"node {before} is down"
    elif found.drained:
        reason = f"node {before} is drained"
    elif not found.schedulable:
        reason = f"node {before} is cordoned or draining"
    elif not found.selected:
        reason = f"node {before} is not selected by spec.nodeSelector"
    elif is_succession:
        reason = f"the lease of {before} ended, and its successor took over"
    elif not found.ready:
        reason = f"node {before} is not ready"
    else:
        reason = "reassigned"
    gap = f"gap at most {max(gap_ns, 0) / 1e9:.2f} s, from the last renewal seen there to the first seen here"
    note = f"{floating_ip} moved from {before} to {after}: {reason}; {gap}"
    return ObjectEvent(GATEWAY, "FloatingIPMoved", note, "Move", False, subject=str(floating_ip))
