"""How long an accused member has to refute before it counts as dead (SWIM 4.2; Lifeguard, LHA-Suspicion).

The timeout starts long and shrinks with every *independent* accuser: one slow accuser alone needs long, and several
that agree need little. All members count for themselves; nobody's verdict is needed by another.
"""

from dataclasses import dataclass, field
from math import log, log10

from service.gossip.config import GossipConfig


@dataclass(slots=True)
class Suspicion:
    """One member's case. `accusers` is ordered by arrival; the first opened the case."""

    started_ns: int
    """When we first heard of it, later by what we lagged since."""
    timeout_ns_min: int
    """With all confirmations in."""
    timeout_ns_max: int
    """With none in."""
    confirmations_max: int
    """Lifeguard's K, or fewer where there are not as many to confirm; 0 between two members."""
    accusers: dict[str, None] = field(default_factory=dict)

    @property
    def confirmations(self) -> int:
        """Accusers beside the first."""
        return max(0, len(self.accusers) - 1)

    @property
    def deadline_ns(self) -> int:
        """When the accused is dead if it has not refuted. It comes nearer with each confirmation, at once perhaps."""
        return self.started_ns + self.timeout_ns()

    def timeout_ns(self) -> int:
        """max - (max - min) * log(c + 1) / log(k + 1) (Lifeguard): the first confirmations count most."""
        # Nobody could confirm (two members): time has to stand in for a witness.
        if self.confirmations_max == 0:
            return self.timeout_ns_max
        share = log(self.confirmations + 1) / log(self.confirmations_max + 1)
        span_ns = self.timeout_ns_max - self.timeout_ns_min
        return max(self.timeout_ns_min, self.timeout_ns_max - int(span_ns * share))

    def confirm(self, accuser: str) -> bool:
        """Count an accuser. False where it adds nothing: it accused before, or enough have."""
        # Enough is enough: more accusers could not shorten the timeout, and passing them on would cost traffic.
        if accuser in self.accusers or len(self.accusers) > self.confirmations_max:
            return False
        self.accusers[accuser] = None
        return True

    def postpone(self, span_ns: int) -> None:
        """Do not count time in which this process could not have heard a refutation."""
        self.started_ns += span_ns


def open_suspicion(config: GossipConfig, *, accuser: str, live_members: int, now_ns: int) -> Suspicion:
    """Open a case; `live_members` includes ourselves and the accused."""
    confirmations_max = max(0, min(config.suspicion_confirmations, live_members - 2))
    timeout_ns_min = int(config.suspicion_multiplier * max(1.0, log10(live_members)) * config.probe_interval_ns)
    # With few possible witnesses the long end comes down too, or a pair of crashes among three (where each is the only
    # witness of the other) would take the longest of all. From 2 x with none to the configured factor with all.
    share = confirmations_max / max(1, config.suspicion_confirmations)
    factor = 2 + (config.suspicion_multiplier_max - 2) * share
    return Suspicion(
        started_ns=now_ns,
        timeout_ns_min=timeout_ns_min,
        timeout_ns_max=int(timeout_ns_min * factor),
        confirmations_max=confirmations_max,
        accusers={accuser: None},
    )
