"""What an elector keeps of those who ask: a session per holder process, and what each wants of a key (rules S1, P4).

None of it is written anywhere. An elector that restarts hears it all again within one renew interval.
"""

from dataclasses import dataclass, field

from service.lease.message import ClaimRole, Entry
from service.lease.promise import Identity, Instant
from service.model.lease import Stamp, Token
from service.model.machine import Address

STANDING_INTERVALS = 3
"""A claim is void after this many renew intervals without a refresh (rule S1)."""


@dataclass(slots=True)
class ClaimedGroup:
    """The part of a session that one datagram renews."""

    sequence: int = -1
    """The highest that was taken; what is not above it is an echo (P1)."""
    list_number: int = -1
    """Which list `entries` is; -1 where none has come yet, and the holder is asked for it."""
    entries: tuple[Entry, ...] = ()


@dataclass(slots=True)
class HolderSession:
    """One holder process as this elector knows it."""

    identity: Identity
    start_id: int
    address: Address
    """Where it was last heard from: grants that it did not just ask for go there, too."""
    lease_ns: int
    """As its last renewal asked. A grant of the elector's own accord is for so long."""
    renew_ns: int
    heard: Instant
    order: tuple[int, ...]
    """Rank among equals: by name. Negated letter by letter, so that here too the greater goes first."""
    groups: dict[int, ClaimedGroup] = field(default_factory=dict)


@dataclass(slots=True)
class StandingClaim:
    """What a session wants of one key; alive while refreshed."""

    session: HolderSession
    group: int
    role: ClaimRole
    token: Token
    """What it proposes; granted only above the highest that the elector knows (K1)."""
    refreshed_ns: int
    patient_until_ns: int = 0
    """Not granted before. A standing claim on a key that nobody holds gives the assigned holder time to claim it."""

    def is_alive(self, now: Instant) -> bool:
        """Whether its claimant can be taken to be there still."""
        # Void at *three* intervals, not after: a claimant that died must not be granted anything for long (S1).
        return now.boot_ns - self.refreshed_ns < STANDING_INTERVALS * self.session.renew_ns

    @property
    def rank(self) -> tuple[Stamp, ClaimRole, tuple[int, ...]]:
        """To be compared; the greatest goes first."""
        # P4: the newest assignment goes first; within one, the assigned holder before the successor; between equals
        # (controllers that compete for leadership) any order will do if all electors use the same one.
        return self.token.stamp, self.role, self.session.order
