"""Addresses that were floating IPs until a moment ago, and whose fence stays for a while. Pure."""

from collections.abc import Mapping
from ipaddress import IPv4Address

STAYS_NS = 30_000_000_000
"""For so long at least nobody hears of a list that is another one now: other nodes may steer here by the old one, and
without a fence this node's stack would send on what they steer, beside whoever has the address by then (rule G2)."""


class FormerlyListed:
    """Remembers what left the list, and when."""

    def __init__(self) -> None:
        self._listed: Mapping[IPv4Address, None] = {}
        self._left_ns: dict[IPv4Address, int] = {}
        self.addresses: dict[IPv4Address, None] = {}
        """Of them those that are fenced still; the same object until that changes."""

    def note(self, listed: Mapping[IPv4Address, None], *, now_ns: int) -> None:
        """Take the list as it is now. Goes through it only where it is another object than the last time."""
        if listed is not self._listed:
            left = [address for address in self._listed if address not in listed]
            stays = {address: left_ns for address, left_ns in self._left_ns.items() if address not in listed}
            self._left_ns = stays | dict.fromkeys(left, now_ns)
            self._listed = listed
        staying = [address for address, left_ns in self._left_ns.items() if now_ns - left_ns < STAYS_NS]
        if len(staying) < len(self._left_ns):
            self._left_ns = {address: self._left_ns[address] for address in staying}
        if staying != list(self.addresses):
            self.addresses = dict.fromkeys(staying)
