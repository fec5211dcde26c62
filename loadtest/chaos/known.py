"""Faults of the datapath that chaos shows and that are known: told, and no reason to fail, until somebody mends them.

Each has the command that shows it, and CI plays it: one that no longer happens is to be taken out of the list. What no
fault may ever excuse is a second speaker, a process that ended, and a status that lies.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.schedule import Round

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
        return (
            f"python -m loadtest chaos --seed {self.seed} --events {','.join(sorted(self.events))} "
            f"--rounds {self.rounds} --strict"
        )

    def explains(self, finding: Finding, played: Round) -> bool:
        """Whether the finding is this one again."""
        is_there = any(act.event in self.events for act in played.acts)
        return is_there and finding.promise is self.promise and re.search(self.detail, finding.detail) is not None


def known_fault(finding: Finding, played: Round, faults: Iterable[Known]) -> Known | None:
    """The first of them that explains the finding."""
    return next((fault for fault in faults if fault.explains(finding, played)), None)


KNOWN: tuple[Known, ...] = ()
