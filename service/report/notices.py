"""What owners of policies are told of planned moves: before, and after (rule O5). Pure but for what was told."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

from service.model.assignment import PlannedMove
from service.model.lease import HeldBy
from service.model.object_event import ObjectEvent
from service.model.objects import ObjectKey
from service.policy.acceptance import PolicyState
from service.report.facts import Facts

_POLICIES_MAX = 256
"""Of one address that are told: more would drive everything else out of the queue of Events."""


class MoveNotices:
    """Remembers what was announced, so that each move is told once before and once after."""

    def __init__(self) -> None:
        self._told: dict[IPv4Address, PlannedMove] = {}

    def due(self, facts: Facts) -> list[ObjectEvent]:
        """What is to be told now."""
        moves = {move.floating_ip: move for move in facts.moves}
        events = list(self._over(moves, facts))
        for floating_ip, move in moves.items():
            known = self._told.get(floating_ip)
            if known is None or (known.source, known.heir) != (move.source, move.heir):
                self._told[floating_ip] = move
                note = f"{floating_ip} is about to move from {move.source} to {move.heir}: {move.reason}"
                events += _on_policies(facts, floating_ip, "FloatingIPMoving", note)
        return events

    def forget(self) -> None:
        """Another one leads."""
        self._told.clear()

    def _over(self, moves: Mapping[IPv4Address, PlannedMove], facts: Facts) -> Iterator[ObjectEvent]:
        for floating_ip, move in list(self._told.items()):
            held = facts.holders.get(floating_ip)
            if floating_ip in moves or held is None:
                continue
            del self._told[floating_ip]
            yield from _on_policies(facts, floating_ip, *_outcome(floating_ip, move, held))


def _outcome(floating_ip: IPv4Address, move: PlannedMove, held: HeldBy) -> tuple[str, str]:
    if held.node == move.source:
        return "FloatingIPStays", f"{floating_ip} stays on {move.source}, and does not move to {move.heir}"
    return "FloatingIPMoved", f"{floating_ip} moved from {move.source} to {held.node}: {move.reason}"


def _on_policies(facts: Facts, floating_ip: IPv4Address, reason: str, note: str) -> list[ObjectEvent]:
    users = [key for key, state in sorted(facts.policies.items()) if _uses(state, floating_ip)]
    return [_event(key, reason, note, floating_ip) for key in users[:_POLICIES_MAX]]


def _uses(state: PolicyState, floating_ip: IPv4Address) -> bool:
    return state.accepted and state.egress_source_ip == floating_ip


def _event(key: ObjectKey, reason: str, note: str, floating_ip: IPv4Address) -> ObjectEvent:
    return ObjectEvent(key, reason, note, "Move", False, subject=str(floating_ip))
