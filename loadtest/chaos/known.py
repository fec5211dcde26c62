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


_TCP = r" proto 6 |^and \d+ more$"
"""What is left of connections that were open: no datagram, no ping."""
_NO_FLOW = frozenset(("unrelated-cidr", "many-cidrs"))
KNOWN: tuple[Known, ...] = (
    Known(
        "a connection in which only the server speaks ends when connection tracking has forgotten it",
        Promise.BROKEN,
        frozenset(("conntrack-flush",)),
        r" tcp-push of ",
        seed=1,
        rounds="1",
    ),
    Known(
        "what is left of connections when a policy in force is removed leaves bare: its row is gone when the other "
        "side speaks (python -m loadtest chaos --seed 1 --events policy-removed --rounds 2 --strict)",
        Promise.LEAK,
        frozenset(("policy-removed",)),
        _TCP,
    ),
    Known(
        "a connection in which only the server speaks leaves bare where its node's agent begins anew and hears nobody "
        "(python -m loadtest chaos --seed 61 --rounds 282,283,284,285 --strict)",
        Promise.LEAK,
        frozenset(("wrong-key",)),
        r" proto 6 .*:8092\b|^and \d+ more$",
    ),
    Known(
        "a connection in which only the server speaks leaves bare where its node's address or MAC was another one for "
        "a while (seen twice in an hour: python -m loadtest chaos --seed 63 --rounds 133 --strict, and --rounds 198)",
        Promise.LEAK,
        frozenset(("address-lost", "mac")),
        r" proto 6 .*:8092\b|^and \d+ more$",
    ),
    Known(
        "a reply that is under way when connection tracking forgets its flow is lost (W4)",
        Promise.LOST,
        frozenset(("conntrack-flush",)),
        r"^[1-3] in \d flows: \d udp(-stream)? of p\d+(, \d udp(-stream)? of p\d+)*$",
    ),
    Known(
        "an edit of a policy that concerns no flow stops all of its pods for a moment",
        Promise.LOST,
        _NO_FLOW,
        r"",
        seed=1,
        rounds="1,2",
    ),
    Known("an edit of a policy that concerns no flow ends its connections", Promise.BROKEN, _NO_FLOW, r""),
    Known(
        "a flow that somebody has given our mark stays without masquerade when the mark is gone",
        Promise.SOURCE,
        frozenset(("mark-set",)),
        r"^carol/|^and \d+ more$",
    ),
    Known("the same flow is never answered again", Promise.CALM, frozenset(("mark-set",)), r" flows are dead: "),
)
"""All of connections on the pod's node, which decision 0005 puts elsewhere."""
