"""One key as its holder or claimant sees it: the token it goes under, who has granted it, and until when.

The deadline is that of the majority-th longest grant (rule T4): until then a majority of electors has promised the key
to us, whatever became of the rest. Grants are counted per elector, each from the sending of the renewal that it answers
(rules T2, P5).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.lease.message import ClaimRole, Detail, Verdict
from service.model.lease import LEADER_KEY, Electorate, Stamp, Token

SAFE_TENTHS = 9
"""A holder counts nine tenths of a lease, an elector all of it: clock daemons slew by up to 8.3 % (rule T2)."""


def counted_until(sent_ns: int, lease_ns: int) -> int:
    """Until when a holder counts a grant that answers a renewal sent at `sent_ns` (rules T2, P5)."""
    return sent_ns + lease_ns * SAFE_TENTHS // 10


def quorum_deadline(grants: Mapping[str, "Grant"], electorate: Electorate) -> int | None:
    """Until when those who decide are bound (rules T4, M3): the latest time to which a quorum of the grants lasts."""
    voters: dict[str, bool] = {}
    # The longest-lived first: the one whose coming makes a quorum is the first of that quorum to let us go.
    for name, grant in sorted(grants.items(), key=lambda item: item[1].until_ns, reverse=True):
        voters[name] = grant.settled
        if electorate.has_quorum(voters):
            return grant.until_ns
    return None


@dataclass(frozen=True, slots=True)
class Grant:
    """What one elector has promised us."""

    token: Token
    until_ns: int
    """By our clock, with the margin taken off."""
    settled: bool = True
    """Whether the elector knew, when it granted, what was promised before its epoch (M3)."""


@dataclass(slots=True)
class Tenure:
    """State of one key in the holder. `held` says whether the fence is open under `held_token`."""

    key: str
    token: Token
    """What is proposed: equal to `held_token` but while the tenure moves to a higher token."""
    role: ClaimRole
    stamp: Stamp
    """Of the newest assignment that names us; the token's own stamp stays that of the acquisition."""
    held_token: Token | None = None
    """Under which the fence is open; None while the key is only claimed."""
    deadline_ns: int = 0
    """Until when the fence is open (CLOCK_BOOTTIME); only grows."""
    grants: dict[str, Grant] = field(default_factory=dict)
    """What each elector of this epoch has promised last, also what is over by now."""
    verdicts: dict[str, Detail] = field(default_factory=dict)
    """The last detail of each elector that had more to say than `granted`."""
    minority_since_ns: int | None = None
    """Since when some electors, but no majority, have granted what is not held."""

    @property
    def held(self) -> bool:
        """The fence is open. To be asked after the holder let time pass, which ends what is over."""
        return self.held_token is not None

    def count(self, elector: str, token: Token, until_ns: int, *, settled: bool = True) -> None:
        """Note a grant under `token`, unless it belongs to an earlier tenure of ours."""
        if self.held_token is not None:
            # While held, a promise is a promise under whichever of this tenure's tokens it was made.
            if token < self.held_token:
                return
        elif token != self.token:
            return
        known = self.grants.get(elector)
        if known is not None:
            # Reordered answers: neither a promise nor the token it was made under ever goes back (P1).
            token, until_ns = max(token, known.token), max(until_ns, known.until_ns)
        self.grants[elector] = Grant(token, until_ns, settled)

    def deadline(self, electorate: Electorate) -> int | None:
        """Until when a majority has promised. For what is not held yet, all must have promised the same token (K1)."""
        # Else electors that promised under different tokens could make a tenure of a token that only one of them knows,
        # and the next claimant, by a majority without that one, could propose a token that is no higher.
        counted = {name: grant for name, grant in self.grants.items() if self.held or grant.token == self.token}
        return quorum_deadline(counted, electorate)

    def moved_token(self, electorate: Electorate) -> bool:
        """Whether a majority knows the proposed token, so that the tenure may go under it."""
        return electorate.has_quorum(
            {name: grant.settled for name, grant in self.grants.items() if grant.token == self.token}
        )

    def enter_epoch(self) -> None:
        """What electors of another epoch granted and said is not counted with what those of the new one will (M4)."""
        self.grants.clear()
        self.verdicts.clear()
        self.minority_since_ns = None

    def granting(self, now_ns: int) -> list[str]:
        """Electors that have promised us the key, under whichever token."""
        return [name for name, grant in self.grants.items() if grant.until_ns > now_ns]

    def is_superseded(self, electorate: Electorate, settled: Mapping[str, bool]) -> bool:
        """P4: a majority of electors knows a holder by a newer assignment than ours.

        A majority, not one: the other must be able to take what is given up. Only an assigned holder displaces us: the
        newcomer to the role of successor also has a newer stamp. And where our own assignment is as new and names
        us holder, it is the other's news that are old.
        """
        if self.key == LEADER_KEY or self.held_token is None:
            return False
        # The tenure's own stamp counts, not that of our claim: a successor that took over keeps what it has against
        # the returning holder of the same assignment (S7).
        newest = self.held_token.stamp
        if self.role is ClaimRole.HOLDER:
            newest = max(newest, self.stamp)
        voters = {
            name: settled.get(name, False)
            for name, detail in self.verdicts.items()
            if Verdict.RIVAL_IS_HOLDER in detail.verdict and detail.rival > newest
        }
        return electorate.has_quorum(voters)
