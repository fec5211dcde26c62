"""Tokens, assignment stamps and profiles of leases (leases.md, Tokens and terms; Numbers)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from service.model.errors import InvariantError

LEADER_KEY = "leader"
"""The lease key of leadership; every other key is a floating IP in dotted-quad form."""


TERM_MAX = (1 << 24) - 1
VERSION_MAX = (1 << 24) - 1
COUNTER_MAX = (1 << 16) - 1
"""What a packed token has room for. What is beyond is refused wherever it comes from: cut, it would be a lower one."""


class Stamp(NamedTuple):
    """Age of an assignment: compare as a tuple, higher is newer."""

    term: int
    """Of the leader who made it. A new leader's is higher than that of every leader before (K1, K2)."""
    version: int
    """Counts the leader's changes to its table."""

    @property
    def fits(self) -> bool:
        """Whether tokens can be granted for it."""
        return 0 <= self.term <= TERM_MAX and 0 <= self.version <= VERSION_MAX


class Token(NamedTuple):
    """Fencing token of a grant; successive holders of a key have strictly growing tokens (rule K1)."""

    term: int
    version: int
    counter: int
    """Tells tenures of one assignment apart: its holder and then its successor, say."""

    @property
    def stamp(self) -> Stamp:
        """Age of the assignment it was granted for."""
        return Stamp(self.term, self.version)

    @classmethod
    def checked(cls, term: int, version: int, counter: int) -> "Token":
        """A token from outside. Raises ValueError where it does not fit the bits that a map has for it."""
        token = cls(term, version, counter)
        if not token.fits:
            raise ValueError(f"token {term}.{version}.{counter} is beyond 24, 24 and 16 bits")
        return token

    @property
    def fits(self) -> bool:
        """Whether it can be packed."""
        return self.stamp.fits and 0 <= self.counter <= COUNTER_MAX

    def packed(self) -> int:
        """The token as an order-preserving u64 for BPF maps: 24 bits term, 24 bits version, 16 bits counter.

        Raises InvariantError where it does not fit: a token from outside is `checked` before it is believed.
        """
        if not self.fits:
            raise InvariantError(f"token {self} does not fit its bits")
        return self.term << 40 | self.version << 16 | self.counter

    @classmethod
    def unpacked(cls, packed: int) -> "Token":
        """The token of a u64 that `packed` gave."""
        return cls(packed >> 40, packed >> 16 & VERSION_MAX, packed & COUNTER_MAX)


ZERO_TOKEN = Token(0, 0, 0)
"""Below every token that is ever granted."""


class HeldBy(NamedTuple):
    """Who holds a key, as known here: the truth is with the electors, and moves with the next, higher token."""

    node: str
    token: Token


class ProfileName(StrEnum):
    """How fast a silent death is noticed, against how much of a delay is borne (leases.md, Numbers)."""

    DEFAULT = "default"
    FAST = "fast"
    FASTEST = "fastest"
    RELAXED = "relaxed"


@dataclass(frozen=True, slots=True)
class LeaseProfile:
    """How long a promise lasts and how often it is renewed."""

    lease_ns: int
    """What an elector promises, from receipt; a holder counts nine tenths of it, from sending (T2)."""
    renew_ns: int
    """Between two renewals; a fifth of the lease, so that several may be lost (T4)."""


_MS = 1_000_000
LEASE_PROFILES = {
    ProfileName.DEFAULT: LeaseProfile(300 * _MS, 60 * _MS),
    ProfileName.FAST: LeaseProfile(100 * _MS, 20 * _MS),
    ProfileName.FASTEST: LeaseProfile(50 * _MS, 10 * _MS),
    ProfileName.RELAXED: LeaseProfile(1000 * _MS, 200 * _MS),
}
LONG_LEASE_NS = 15_000 * _MS
"""The longest lease the protocol allows; only a planned restart asks for it."""


@dataclass(frozen=True, slots=True)
class Elector:
    """One member of the electorate."""

    name: str
    host: str
    """IPv4 address of its lease socket."""
    memory: int = 0
    """Number its disk drew when it was first used: another disk is another elector (rule M7). 0: not checked."""


@dataclass(frozen=True, slots=True)
class Electorate:
    """The known set that grants leases. A majority of it is authority; it is never guessed."""

    epoch: int
    """Grows by one with every change (M1, M2); 0 where none is known."""
    members: tuple[Elector, ...]
    previous: tuple[Elector, ...] = ()
    """Members of the epoch before, whose promises may live on; none for a first electorate, or one begun anew (M6)."""

    @property
    def is_sole(self) -> bool:
        """One member decides alone: what it forgets, nobody knows."""
        return len(self.members) == 1

    @property
    def is_rewrite(self) -> bool:
        """The members of the epoch before, in one written in place of an object that was lost (leases.md, M8)."""
        return bool(self.previous) and self.members == self.previous

    @property
    def contacts(self) -> tuple[Elector, ...]:
        """Every elector that may have a say: the members, and those of the epoch before that are no longer."""
        names = {member.name for member in self.members}
        return self.members + tuple(elector for elector in self.previous if elector.name not in names)

    def member(self, name: str) -> Elector | None:
        """The member of this name; None for who is none, also where it was one in the epoch before."""
        return next((member for member in self.members if member.name == name), None)

    def has_quorum(self, voters: Mapping[str, bool]) -> bool:
        """Whether the voters decide in this epoch; each says whether it is settled in it (rule M3).

        A settled elector knows what was promised before this epoch, so a majority of those decides alone. Others know
        only what they promised themselves: they decide where they are a majority of the epoch before, too.
        """
        settled = [name for name, is_settled in voters.items() if is_settled]
        if _is_majority(self.members, settled):
            return True
        return bool(self.previous) and _is_majority(self.members, voters) and _is_majority(self.previous, voters)

    def is_closed_by(self, names: Collection[str]) -> bool:
        """Whether the epoch before is over once these have left it: the rest of it is no majority."""
        left = sum(1 for elector in self.previous if elector.name in names)
        if self.is_rewrite:
            # M8: another electorate may have followed the epoch before. A majority that did not go over to that one
            # shows that it decided nothing; without a majority two that followed could both decide.
            return left >= len(self.previous) // 2 + 1
        return left >= len(self.previous) - len(self.previous) // 2


ELECTORS_MAX = 8
"""Members of one electorate: seven, and the one that replaces one of them."""
EPOCH_MAX = (1 << 32) - 1
"""What a datagram has room for."""
NO_ELECTORATE = Electorate(0, ())
"""Before any is known: nobody decides anything."""


def _is_majority(members: tuple[Elector, ...], names: Collection[str]) -> bool:
    return sum(1 for member in members if member.name in names) >= len(members) // 2 + 1
