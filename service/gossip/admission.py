"""How many members may become known, and how fast: a bound on what one sender with the key can make everybody keep.

A cluster that starts, or a member that joins one, hears of all others at once: hence the burst. Beyond it new names
come at a rate that leaves people time to see the trouble in status. What is refused is offered again by anti-entropy.
"""

from service.gossip.config import GossipConfig

MEMBERS_FULL = "members-full"
MEMBERS_RATE = "members-rate"
ROWS_FULL = "rows-full"
ROW_MALFORMED = "row-malformed"
"""Reasons for which an item of an authentic, well-formed datagram is not taken over."""

_SECOND = 1_000_000_000


class Admission:
    """A bucket of new names (token bucket). Time is handed in, and never goes backwards."""

    def __init__(self, config: GossipConfig) -> None:
        self._burst = config.joins_burst
        self._per_second = config.joins_per_second
        self._left = float(self._burst)
        self._at_ns: int | None = None

    def admit(self, *, now_ns: int) -> bool:
        """Take one name out of the bucket; False where it is empty."""
        since_ns = 0 if self._at_ns is None else now_ns - self._at_ns
        self._at_ns = now_ns
        self._left = min(self._burst, self._left + since_ns * self._per_second / _SECOND)
        if self._left < 1:
            return False
        self._left -= 1
        return True
