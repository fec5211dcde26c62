"""A member as this one sees it, and the order in which news about a member supersedes older news.

News is ordered by (incarnation, rank): only the owner raises its incarnation, so within one incarnation the others can
only take away from alive to dead or left (SWIM 4.2). Merging by a total order is commutative, associative and
idempotent: loss, duplication and reordering change when members agree, never on what.
"""

from dataclasses import dataclass
from enum import StrEnum

from service.gossip.message import ALIVE, DEAD, LEFT, Record, WireState
from service.model.machine import Address

_SECOND_NS = 1_000_000_000


class MemberState(StrEnum):
    """What this member takes another to be. Suspect is a view of our own; the other three are also on the wire."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    """Accused, and it has not yet refuted; it still counts as up."""
    DEAD = "dead"
    """It did not refute in time, here or at another; it is still tried, and its next word brings it back."""
    LEFT = "left"
    """It said good-bye. Above dead at the same incarnation: who left on purpose has not failed."""


LIVE_STATES = (MemberState.ALIVE, MemberState.SUSPECT)

# Suspicion has the rank of alive: it is not news about the member but a clock that runs against it.
RANKS: dict[MemberState, WireState] = {
    MemberState.ALIVE: ALIVE,
    MemberState.SUSPECT: ALIVE,
    MemberState.DEAD: DEAD,
    MemberState.LEFT: LEFT,
}
_STATES = {ALIVE: MemberState.ALIVE, DEAD: MemberState.DEAD, LEFT: MemberState.LEFT}


@dataclass(frozen=True, slots=True)
class Member:
    """One member; `metadata` and `address` are its own words as of `incarnation`."""

    name: str
    address: Address
    state: MemberState
    metadata: bytes
    incarnation: int
    """Number of its word, raised by itself alone (SWIM 4.2). It starts where its process was told to start."""

    @property
    def is_live(self) -> bool:
        """Whether it counts as up: a suspect does, until its time is over."""
        return self.state in LIVE_STATES

    @property
    def version(self) -> tuple[int, int, int]:
        """Order of news, in the form that table rows use, so that anti-entropy knows one kind of item."""
        return (self.incarnation, RANKS[self.state], 0)


def record_version(record: Record) -> tuple[int, int, int]:
    """The order of news for a record; equal to the version of the member made of it."""
    return (record.incarnation, record.state, 0)


def member_of(record: Record) -> Member:
    """Believe a record as it stands; the age is left out, because it is counted on from now by each reader."""
    return Member(
        name=record.name,
        address=record.address,
        state=_STATES[record.state],
        metadata=record.metadata,
        incarnation=record.incarnation,
    )


def record_of(member: Member, *, age_ns: int = 0) -> Record:
    """Put a member into words; `age_ns` is the time since it became dead or left."""
    return Record(
        name=member.name,
        host=member.address.host,
        port=member.address.port,
        incarnation=member.incarnation,
        state=RANKS[member.state],
        age_s=0 if member.is_live else min(age_ns // _SECOND_NS, 2**32 - 1),
        metadata=member.metadata,
    )
