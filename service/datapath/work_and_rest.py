"""As much rest as work, but for a little work at once (rule I3). Pure."""


class WorkAndRest:
    """An account of work: rest pays for it, and `burst_s` of it may be owed."""

    def __init__(self, *, burst_s: float) -> None:
        self._burst_s = burst_s
        self._owed_s = 0.0

    def work(self, seconds: float) -> float:
        """So much was done; returns how long to rest before anything more."""
        self._owed_s += seconds
        return max(0.0, self._owed_s - self._burst_s)

    def rest(self, seconds: float) -> None:
        """Nothing was done for so long."""
        self._owed_s = max(0.0, self._owed_s - seconds)
