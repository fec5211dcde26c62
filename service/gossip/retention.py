"""How long the tombstone of a row is kept, and who has been away for longer than that.

A row that ended is forgotten by all, or the tables only grow. But a member that was away meanwhile still has the living
row, and nothing would tell it from a new one. Time does not help: in a partition it passes on both sides. So the age of
tombstones is counted in ticks, and only a leader makes one, each hour that it leads: where there is no majority there
are no ticks. Every datagram carries its sender's tick, and the highest one wins.

- A tombstone is forgotten `tombstone_ticks` after the tick in which the row ended: by all at the same tick.
- A member whose tick is more than `away_ticks_max` below another's was away. Its word cannot bring a row that the other
  lacks; and it drops such rows itself, until both hold the same. Only then it takes over the tick, and is in step.

`away_ticks_max` is half of `tombstone_ticks`: who is in step has been in contact while the tombstone was still there.
"""

from service.gossip.config import GossipConfig
from service.gossip.message import TICK_MAX

NEVER = 0
"""The tick of a member that has heard of none: it has just begun, or no leader has ever been."""

AHEAD_NS = 60_000_000_000
"""So long a tick that is far ahead is believed to be somebody's; it may be one datagram's of a member out of order."""


class Retention:
    """The ticks as one member knows them."""

    def __init__(self, config: GossipConfig) -> None:
        self._config = config
        self.tick = NEVER
        """What goes out with each datagram."""
        self._ahead = NEVER
        self._ahead_ns = 0
        """The highest tick heard from those that we were away from, and when."""

    def advance(self) -> None:
        """Make a tick: for a leader that has led for another hour."""
        self.tick = min(self.tick + 1, TICK_MAX)

    def hear(self, tick: int, *, agrees: bool, now_ns: int) -> bool:
        """Take a sender's tick. True where ours has risen to it. `agrees`: it holds just what we do."""
        if tick <= self.tick:
            return False
        if self.tick == NEVER or agrees or not self._is_far(tick, self.tick):
            self.tick = tick
            return True
        if tick >= self._ahead or now_ns - self._ahead_ns >= AHEAD_NS:
            self._ahead, self._ahead_ns = tick, now_ns
        return False

    def is_behind(self, tick: int) -> bool:
        """Whether we were away from a sender of this tick: what it lacks has ended."""
        return self.tick != NEVER and self._is_far(tick, self.tick)

    def is_outdated(self, tick: int, *, now_ns: int) -> bool:
        """Whether a sender of this tick was away: what it has and we lack may have ended."""
        newest = self._ahead if now_ns - self._ahead_ns < AHEAD_NS else NEVER
        return tick != NEVER and self._is_far(max(newest, self.tick), tick)

    def has_expired(self, ended: int) -> bool:
        """Whether a row that ended in this tick is forgotten; a living one (0) is not."""
        return ended != 0 and self.tick - ended >= self._config.tombstone_ticks

    @property
    def ending(self) -> int:
        """The tick to write on a row that ends now: never that of a living one."""
        return max(1, self.tick)

    def _is_far(self, tick: int, other: int) -> bool:
        return tick - other > self._config.away_ticks_max
