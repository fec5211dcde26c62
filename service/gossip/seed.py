"""Addresses to join by, whoever lives there: configuration, or what the cluster says of its nodes."""

from collections.abc import Sequence

from service.gossip.config import GossipConfig
from service.gossip.randomness import Random
from service.gossip.reconnect import Reconnect
from service.model.machine import Address

PER_PERIOD_MAX = 32
"""Of a large cluster every node may be a seed."""


class Seeds:
    """Which of them are due for another attempt; tried for ever, as long as they are seeds."""

    def __init__(self, config: GossipConfig, random: Random, *, own: Address) -> None:
        self._reconnect: Reconnect[Address] = Reconnect(
            random, interval_ns_min=config.reconnect_interval_ns_min, interval_ns_max=config.reconnect_interval_ns_max
        )
        self._own = own
        self._addresses: dict[Address, None] = {}
        """The seeds of now, in the order given."""

    def replace(self, addresses: Sequence[Address], *, now_ns: int) -> None:
        """New ones are due at once; a process is no seed of itself."""
        wanted = dict.fromkeys(address for address in addresses if address != self._own)
        for address in self._addresses:
            if address not in wanted:
                self._reconnect.forget(address)
        for address in wanted:
            self._reconnect.watch(address, now_ns=now_ns, at_once=True)
        self._addresses = wanted

    def due(self, now_ns: int, *, wait_ns_max: int | None) -> list[Address]:
        """Seeds to be tried now; each is then put back, for at most `wait_ns_max` if that is the shorter wait."""
        return self._reconnect.due(now_ns, limit=PER_PERIOD_MAX, wait_ns_max=wait_ns_max)
