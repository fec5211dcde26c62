"""Floating IPs whose packets find no route by their own uplink, for status and for the gateway object (rule H1). Pure.

Such a packet is dropped and counted on the holder, never sent by another uplink. Who reads the counters alone would
have to know which of them should stand still.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address

from service.model.drop import DropReason

_SHOWN_NS = 60_000_000_000
"""For so long after the last such packet it is told."""


class Unrouted:
    """When the count of such packets last grew, by floating IP."""

    def __init__(self) -> None:
        self._counts: dict[str, int] | None = None
        self._grown_ns: dict[str, int] = {}

    def note(self, drops: Mapping[tuple[str, str], int], *, now_ns: int) -> None:
        """Take the counts by (reason, floating IP) as they are now. What was dropped before the first call is old."""
        counts = {address: count for (reason, address), count in drops.items() if reason == _NAME}
        if self._counts is not None:
            for address, count in counts.items():
                if count > self._counts.get(address, 0):
                    self._grown_ns[address] = now_ns
        self._counts = counts

    def addresses(self, *, now_ns: int) -> tuple[IPv4Address, ...]:
        """Those that have lost packets for want of a route within a minute, in order."""
        late = (address for address, grown_ns in self._grown_ns.items() if now_ns - grown_ns < _SHOWN_NS)
        return tuple(sorted(map(IPv4Address, late)))

    def troubles(self, *, now_ns: int) -> list[str]:
        """A line for each of them."""
        return [
            f"{address}: packets from it have no route by the uplink on its segment and are dropped (no_route); give "
            f"this node one, as `ip route get DESTINATION from {address} oif UPLINK` would show it"
            for address in self.addresses(now_ns=now_ns)
        ]


_NAME = DropReason.NO_ROUTE.name.lower()
