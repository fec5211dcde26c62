"""An address that is listed no more is let go of last by its holder (rule S9). Pure.

Its successor stands for it still when the row goes: the news reaches one of the two first. Were that the holder, the
electors would grant what it releases at once, and the successor would announce an address that is a floating IP no
more, and that an operator may be giving to another machine.
"""

from collections.abc import Container, Mapping
from ipaddress import IPv4Address

from service.model.keeper_message import Claim
from service.model.lease import Token

WITHDRAWAL_NS = 300_000_000
"""The news is everywhere by then, but where gossip is cut; what was under way to the holder goes on meanwhile."""


class Withdrawals:
    """What is held and in no row any more. Time is CLOCK_BOOTTIME, passed in.

    Only what was in one before: an agent that has just started knows none yet, and must not seem to list and unlist it.
    """

    def __init__(self) -> None:
        self._listed: set[IPv4Address] = set()
        """Of what is held, what has been in a row."""
        self._since_ns: dict[IPv4Address, int] = {}

    def claims(
        self, held: Mapping[IPv4Address, Token], assigned: Container[IPv4Address], *, now_ns: int
    ) -> tuple[Claim, ...]:
        """What is claimed for so long although nobody is assigned it; as it is held, so that nothing else changes."""
        self._listed = {floating_ip for floating_ip in held if floating_ip in self._listed or floating_ip in assigned}
        gone = [floating_ip for floating_ip in self._listed if floating_ip not in assigned]
        self._since_ns = {floating_ip: self._since_ns.get(floating_ip, now_ns) for floating_ip in gone}
        return tuple(
            Claim(str(floating_ip), "holder", held[floating_ip].term, held[floating_ip].version)
            for floating_ip, since_ns in self._since_ns.items()
            if now_ns - since_ns < WITHDRAWAL_NS
        )
