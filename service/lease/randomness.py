"""Where a holder's random pauses come from; handed in, so that the simulator can seed it."""

from typing import Protocol


class Random(Protocol):
    """`random.Random`, seeded or not."""

    def random(self) -> float:
        """At least 0 and below 1."""
