"""Floating IPs whose packets have lately been dropped for one reason: what people are told while it lasts. Pure.

Who reads the counters alone would have to know which of them should stand still.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from service.model.drop import DropReason

_SHOWN_NS = 60_000_000_000
"""For so long after the last such packet it is told."""


class RecentDrops:
    """When the count of such packets last grew, by floating IP."""

    def __init__(self, reason: DropReason, whose: Callable[[IPv4Address], str] = lambda floating_ip: "") -> None:
        """`whose`: the policy that has an address now, where a drop is told of a policy: the next one that has the
        address has not dropped anything."""
        self._reason = reason.name.lower()
        self._whose = whose
        self._counts: dict[str, int] | None = None
        self._grown: dict[IPv4Address, tuple[int, str]] = {}

    def note(self, drops: Mapping[tuple[str, str], int], *, now_ns: int) -> None:
        """Take the counts by (reason, floating IP) as they are now. What was dropped before the first call is old."""
        counts = {address: count for (reason, address), count in drops.items() if reason == self._reason and address}
        if self._counts is not None:
            for address, count in counts.items():
                if count > self._counts.get(address, 0):
                    floating_ip = IPv4Address(address)
                    self._grown[floating_ip] = now_ns, self._whose(floating_ip)
        self._counts = counts
        self._grown = {key: one for key, one in self._grown.items() if now_ns - one[0] < _SHOWN_NS}

    def addresses(self, *, now_ns: int) -> tuple[IPv4Address, ...]:
        """Those that have lost packets for it within a minute, in order."""
        return tuple(
            sorted(
                floating_ip
                for floating_ip, (grown_ns, policy) in self._grown.items()
                if now_ns - grown_ns < _SHOWN_NS and self._whose(floating_ip) == policy
            )
        )
