"""Sliding anti-replay window over a sender's datagram counter (RFC 4303, section 3.4.3)."""


class ReplayWindow:
    """Remembers which of the last `width` counters were taken; anything older counts as taken."""

    __slots__ = ("_mask", "_taken", "_width", "highest")

    def __init__(self, width: int = 1024) -> None:
        self.highest = 0
        self._width = width
        self._mask = (1 << width) - 1
        self._taken = 0
        """Bit n set: counter `highest - n` was taken."""

    def is_fresh(self, counter: int) -> bool:
        """Whether this counter was never taken and is not older than the window. Counters start at 1."""
        if counter > self.highest:
            return True
        age = self.highest - counter
        return counter > 0 and age < self._width and not (self._taken >> age) & 1

    def take(self, counter: int) -> None:
        """Mark a fresh counter as taken. Call it only for an authenticated datagram."""
        ahead = counter - self.highest
        if ahead <= 0:
            self._taken |= 1 << -ahead
            return
        # A jump past the whole window forgets everything; the shift is capped because a counter may leap by 2^63.
        self._taken = ((self._taken << ahead) & self._mask) | 1 if ahead < self._width else 1
        self.highest = counter
