"""How far this member may trust its own observations (Lifeguard, local health multiplier).

The score rises on signs that *we* are the slow one (nacks that never came, having to refute, standing still) and
falls on each probe that works. A member in ill health probes more slowly and waits longer, so it accuses less.
"""


class Awareness:
    """Local health: 0 is good, `worst` the worst."""

    def __init__(self, worst: int) -> None:
        self._worst = worst
        self.score = 0

    def worsen(self, points: int = 1) -> None:
        self.score = min(self._worst, self.score + points)

    def improve(self) -> None:
        self.score = max(0, self.score - 1)

    def scale(self, span_ns: int) -> int:
        """Stretch a period or timeout by the score (Lifeguard, LHA-Probe: both, not the period alone)."""
        return span_ns * (self.score + 1)
