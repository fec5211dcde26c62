"""How late the event loop of a process comes to its timers: what stands still for long is late for everything."""

import asyncio
from bisect import bisect_left
from collections import deque
from typing import NamedTuple

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
TICK_S = 0.1
"""Often enough to meet a stall of 20 ms one time in five, and 20 microseconds each."""
RECENT_TICKS = 50


class Lags(NamedTuple):
    """Of a process's life so far."""

    counts: tuple[int, ...]
    """How many were not above each of BOUNDS_S and above the one before; the last: how many were above all."""
    sum_s: float


NO_LAGS = Lags((0,) * (len(BOUNDS_S) + 1), 0.0)


class LoopLag:
    """Looks ten times a second, from `start` to `stop`, on the loop that `start` is called on."""

    def __init__(self) -> None:
        self._counts = list(NO_LAGS.counts)
        self._sum_s = 0.0
        self._recent: deque[float] = deque([0.0], maxlen=RECENT_TICKS)
        self._tick: asyncio.TimerHandle | None = None

    @property
    def lags(self) -> Lags:
        """All so far."""
        return Lags(tuple(self._counts), self._sum_s)

    @property
    def recent_s(self) -> float:
        """The longest of the last five seconds."""
        return max(self._recent)

    def start(self) -> None:
        """Begin to look."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + TICK_S
        self._tick = loop.call_at(due_s, self._on_tick, due_s)

    def stop(self) -> None:
        """Look no more. Fine where it does not."""
        if self._tick is not None:
            self._tick.cancel()

    def note(self, lag_s: float) -> None:
        """One look found the loop so late, in seconds."""
        self._counts[bisect_left(BOUNDS_S, lag_s)] += 1
        self._sum_s += lag_s
        self._recent.append(lag_s)

    def _on_tick(self, due_s: float) -> None:
        self.note(max(0.0, asyncio.get_running_loop().time() - due_s))
        self.start()
