"""Tokens, assignment stamps and profiles of leases (leases.md, Tokens and terms; Numbers to hold)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

LEADER_KEY = "leader"
"""The lease key of leadership; every other key is a floating IP in dotted-quad form."""


class Stamp(NamedTuple):
    """Age of an assignment: compare as a tuple, higher is newer."""

    term: int
    version: int


class Token(NamedTuple):
    """Fencing token of a grant; successive holders of a key have strictly growing tokens (rule K1)."""

    term: int
    version: int
    counter: int

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.term, self.version)

    def packed(self) -> int:
        """The token as an order-preserving u64 for BPF maps: 24 bits term, 24 bits version, 16 bits counter."""
        return (self.term & 0xFFFFFF) << 40 | (self.version & 0xFFFFFF) << 16 | (self.counter & 0xFFFF)


ZERO_TOKEN = Token(0, 0, 0)


class ProfileName(StrEnum):
    DEFAULT = "default"
    FAST = "fast"
    FASTEST = "fastest"
    RELAXED = "relaxed"


@dataclass(frozen=True, slots=True)
class LeaseProfile:
    """How long a promise lasts and how often it is renewed."""

    lease_ns: int
    renew_ns: int


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


@dataclass(frozen=True, slots=True)
class Electorate:
    """The known set that grants leases. A majority of it is authority; it is never guessed."""

    epoch: int
    members: tuple[Elector, ...]

    @property
    def majority(self) -> int:
        return len(self.members) // 2 + 1
