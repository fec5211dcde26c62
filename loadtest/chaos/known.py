"""Faults of the datapath that chaos shows and that are known: told, and no reason to fail, until somebody mends them.

Each has the command that shows it, and CI plays it: one that no longer happens is to be taken out of the list. What no
fault may ever excuse is a second speaker, a process that ended, and a status that lies.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.schedule import Round

_ROUNDS_SEEN = {Promise.LEAK: 3, Promise.BROKEN: 3, Promise.LOST: 2, Promise.GROWN: 3}
"""What such a fault has begun may end in a later round: of so many in all."""
NEVER = frozenset((Promise.SPEAKERS, Promise.ENDED, Promise.SILENT, Promise.STALE, Promise.HARNESS))


@dataclass(frozen=True, slots=True)
class Known:
    """One fault. Raises ValueError where its promise is one that nothing excuses."""

    why: str
    promise: Promise
    events: frozenset[str]
    """One of them must be in the round."""
    detail: str
    """Regular expression of the finding."""
    seed: int = 0
    rounds: str = ""
    """Of that seed, with `events` as the catalogue: where it can be seen. None: it is too rare to be shown at will."""

    def __post_init__(self) -> None:
        if self.promise in NEVER:
            raise ValueError(f"{self.why}: {self.promise} is never known")

    @property
    def replay(self) -> str:
        """The command that shows it."""
        events = ",".join(sorted(self.events))
        how_long = f"--rounds {self.rounds}" if self.rounds else "--minutes 1"
        return f"python -m loadtest chaos --seed {self.seed} --events {events} {how_long} --strict"

    def explains(self, finding: Finding, played: Sequence[Round]) -> bool:
        """Whether the finding is this one again. `played`: its round, and before it those whose end it may be of."""
        rounds = played[-_ROUNDS_SEEN.get(self.promise, 1) :]
        is_there = any(act.event in self.events for one in rounds for act in one.acts)
        return is_there and finding.promise is self.promise and re.search(self.detail, finding.detail) is not None


def known_fault(finding: Finding, played: Sequence[Round], faults: Iterable[Known]) -> Known | None:
    """The first of them that explains the finding."""
    return next((fault for fault in faults if fault.explains(finding, played)), None)


KNOWN: tuple[Known, ...] = ()
"""None today."""
