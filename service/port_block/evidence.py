"""What a leader makes of a row that somebody has, beside the one that it takes for true (Q7).

A stamp orders the rows of one block, but a row that is newer than another need not be true: it may be of a gateway that
stood by long ago, while the block was given back since under a stamp that nobody who lives has heard of. So who has a
row counts as well. An *owner* says what it has itself. A *holder* goes by its rows in its kernel, and has had each from
a leader or an owner since it holds (R3). What any other *gateway* has proves nothing.
"""

from enum import Enum, auto
from typing import Protocol

from service.port_block.block import NEVER_GIVEN, Row
from service.port_block.leader_table import LeaderRow


class Witness(Enum):
    """Who has the row."""

    OWNER = auto()
    HOLDER = auto()
    GATEWAY = auto()

    @classmethod
    def of_gateway(cls, *, holds: bool) -> "Witness":
        """Who a gateway is as a witness."""
        return cls.HOLDER if holds else cls.GATEWAY


class Judgement(Enum):
    """What to do with the leader's own row."""

    KEEP = auto()
    """It stands; the other learns of it in due course."""
    TAKE = auto()
    """The other row is true."""
    RESTAMP = auto()
    """It stands, and has to be told under a stamp that is newer than the other's."""
    YIELD = auto()
    """The other row's owner uses the block, and keeps it, under a new stamp."""


class Judge(Protocol):
    """`judge` and `merge`."""

    def __call__(self, one: LeaderRow | None, other: Row, witness: Witness, *, term: int) -> Judgement:
        """What to make of `other`, which the witness has, in this leader's term."""


def judge(one: LeaderRow | None, other: Row, witness: Witness, *, term: int) -> Judgement:
    """Of a complete table. Nothing changes where the rows are the same."""
    own = NEVER_GIVEN if one is None else one.row
    if other.stamp == own.stamp:
        return Judgement.KEEP
    if other.stamp.term == term and other.stamp > own.stamp:
        # The holder took the block as it was asked to (Q5), and its acknowledgement was lost. Where it holds no more,
        # another may have taken packets of the block since.
        return Judgement.TAKE if witness is Witness.HOLDER else Judgement.RESTAMP
    if witness is Witness.HOLDER and other.owner is not None:
        return _of_holder(one, other)
    if other.stamp < own.stamp:
        return Judgement.KEEP
    if own.owner is None and not own.is_resting:
        # A former leader gave it, and it was never used, or never came to be. As nobody has it, it may be so.
        return Judgement.TAKE if witness is Witness.OWNER else Judgement.KEEP
    return Judgement.RESTAMP


def _of_holder(one: LeaderRow | None, other: Row) -> Judgement:
    if one is None:
        return Judgement.TAKE
    if other.owner == one.row.owner or other.stamp <= one.superseded or one.is_confirmed:
        return Judgement.RESTAMP if other.stamp > one.row.stamp else Judgement.KEEP
    return Judgement.YIELD


def merge(one: LeaderRow | None, other: Row, witness: Witness, *, term: int) -> Judgement:
    """Of a table that is being made of what was read: the highest stamp is true, whoever has the row (Q1)."""
    own = NEVER_GIVEN if one is None else one.row
    return Judgement.TAKE if other.stamp > own.stamp else Judgement.KEEP
