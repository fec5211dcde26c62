"""Who really holds each floating IP: the last word of a majority of electors, for as long as it is worth anything.

The table that the leader published says who shall hold an address; only electors know who does.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address

from service.lease.observer import Observation
from service.model.lease import LEADER_KEY, HeldBy, Token

AGE_NS_MAX = 1_000_000_000
"""Older than this, what electors said is no longer true of anybody: every lease is over."""


class HolderTable:
    """The table as it was observed last. `now_ns` is the clock that `observe` is told."""

    def __init__(self, *, lease_ns: int) -> None:
        """`lease_ns`: how long a lease is usually asked for."""
        self._lease_ns = lease_ns
        self._table: dict[str, Observation] = {}
        self._observed_ns: int | None = None
        self._seen: dict[IPv4Address, Observation] | None = None
        """What is held, by address; None: not asked for since it was observed."""
        self._holders: dict[IPv4Address, HeldBy] = {}

    def observe(self, table: Mapping[str, Observation], *, now_ns: int) -> bool:
        """Replace the table; whether anybody else holds anything, or under another token, than by the last one.

        How old it is and how long promises last on is another with every answer, and nothing is placed by that.
        """
        former, self._table, self._observed_ns = self._table, dict(table), now_ns
        self._seen = None
        return _tokens(former) != _tokens(self._table)

    def is_fresh(self, *, now_ns: int) -> bool:
        """A majority of electors answered within AGE_NS_MAX."""
        return self._observed_ns is not None and now_ns - self._observed_ns < AGE_NS_MAX

    def holders(self, *, now_ns: int) -> Mapping[IPv4Address, HeldBy]:
        """Who holds each floating IP; nobody while no majority answers. The same object until the next observation."""
        if not self.is_fresh(now_ns=now_ns):
            return {}
        self._held()
        return self._holders

    def _held(self) -> dict[IPv4Address, Observation]:
        if self._seen is None:
            # Most of them are never asked for: electors answer thirty times a second.
            held = ((key, seen) for key, seen in self._table.items() if key != LEADER_KEY and seen.node is not None)
            self._seen = {_address(key): seen for key, seen in held}
            self._holders = {
                floating_ip: HeldBy(seen.node, seen.token)
                for floating_ip, seen in self._seen.items()
                if seen.node is not None
            }
        return self._seen

    def leader(self, *, now_ns: int) -> str | None:
        """Who holds the lease `leader`; nobody while no majority answers."""
        seen = self._table.get(LEADER_KEY) if self.is_fresh(now_ns=now_ns) else None
        return seen.node if seen is not None else None

    def last(self) -> dict[IPv4Address, str]:
        """Who held each floating IP by the last word of a majority, however old."""
        self._held()
        return {floating_ip: held.node for floating_ip, held in self._holders.items()}

    def ends_ns(self, floating_ip: IPv4Address) -> int:
        """When the holder's lease ends unless it is renewed; rather too late. It must have a holder."""
        return (self._observed_ns or 0) + self._table[str(floating_ip)].remaining_ns

    def renewed_ns(self) -> dict[IPv4Address, int]:
        """When each holder renewed last, as far as the last answers of the electors tell; rather too early."""
        asked_ns = self._observed_ns or 0
        return {
            # What is left of a promise says when it was made; of a longer one than usual, only that it lives.
            floating_ip: asked_ns - seen.age_ns - max(0, self._lease_ns - seen.remaining_ns)
            for floating_ip, seen in self._held().items()
        }


@lru_cache(maxsize=65536)
def _address(key: str) -> IPv4Address:
    return IPv4Address(key)


def _tokens(table: Mapping[str, Observation]) -> dict[str, tuple[str | None, Token, Token]]:
    return {key: (seen.node, seen.token, seen.node_token) for key, seen in table.items()}
