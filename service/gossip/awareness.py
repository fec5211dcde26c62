"""How far this member may trust its own observations (Lifeguard, local health multiplier).

The score rises on signs that *we* are the slow one (nacks that never came, having to refute, standing still) and
falls on each probe that works. A member in ill health probes more slowly and waits longer, so it accuses less.
"""


class Awareness:
    """Local health: 0 is good, `worst` the worst.

    One score for all targets: what makes us slow (a busy node, a lossy link) makes us slow for everybody.
    """

    def __init__(self, worst: int) -> None:
        self._worst = worst
        self.score = 0
        """The multiplier less one; shown as the metric `health_score`."""

    def worsen(self, points: int = 1) -> None:
        """Count a sign that we are the slow one. Bounded, so that we are never so careful that we see nothing."""
        self.score = min(self._worst, self.score + points)

    def improve(self) -> None:
        """Count a probe that worked: always one point, however many were lost at once."""
        self.score = max(0, self.score - 1)

    def scale(self, span_ns: int) -> int:
        """Stretch a period or timeout by the score (Lifeguard, LHA-Probe: both, not the period alone)."""
        return span_ns * (self.score + 1)
