"""Trying the unreachable again, for ever: dead members and seeds, each with a back-off that stops growing.

A protocol that forgets its dead never joins the halves of a partition that outlasted its memory. Here one live pair
across the cut is enough: the first ping that gets through carries the sender's view of the receiver, the receiver
refutes, and anti-entropy does the rest. Seeds are configuration, so they stay even where the dead were forgotten.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.gossip.randomness import Random

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Attempt:
    due_ns: int
    wait_ns: int
    """Before jitter, the wait that the next attempt is followed by."""


class Reconnect(Generic[K]):
    """Who is due for another attempt. Keys are member names, or addresses of seeds."""

    def __init__(self, random: Random, *, interval_ns_min: int, interval_ns_max: int) -> None:
        self._random = random
        self._interval_ns_min = interval_ns_min
        self._interval_ns_max = interval_ns_max
        self._attempts: dict[K, _Attempt] = {}

    def watch(self, key: K, *, now_ns: int, at_once: bool = False) -> None:
        """Start trying, unless it is being tried already."""
        if key not in self._attempts:
            wait_ns = self._interval_ns_min
            self._attempts[key] = _Attempt(now_ns if at_once else now_ns + wait_ns, wait_ns)

    def forget(self, key: K) -> None:
        """Stop trying; if it is watched again, the wait begins short again."""
        self._attempts.pop(key, None)

    def due(self, now_ns: int, *, limit: int, wait_ns_max: int | None = None) -> list[K]:
        """At most `limit` keys that are due, longest overdue first; each is put back with a doubled wait.

        The limit keeps a thousand dead from costing more than one ping per period; together the living still try all.
        """
        ceiling_ns = self._interval_ns_max if wait_ns_max is None else min(wait_ns_max, self._interval_ns_max)
        waiting = [(attempt.due_ns, key) for key, attempt in self._attempts.items() if attempt.due_ns <= now_ns]
        chosen = [key for _, key in sorted(waiting, key=lambda pair: pair[0])[:limit]]
        for key in chosen:
            attempt = self._attempts[key]
            # Jitter below the wait: the halves of a partition do not try in step, and the ceiling stays a ceiling.
            attempt.due_ns = now_ns + int(min(attempt.wait_ns, ceiling_ns) * (0.75 + 0.25 * self._random.random()))
            attempt.wait_ns = min(2 * attempt.wait_ns, self._interval_ns_max)
        return chosen
