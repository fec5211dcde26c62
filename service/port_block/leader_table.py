"""Which node has which block of one floating IP, as one leader has it: what it has read, and what it has changed.

The table merges what is read: of two rows of one block the higher stamp counts. It is *complete* when no block can be
in use that it does not know of (Q7); only then does it give any away.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.lease import Stamp
from service.port_block.block import NEVER_GIVEN, Row
from service.port_block.gateway_view import GatewayView
from service.port_block.record import TableRead

WISH_ASKS = 4
"""A wish is over when its node has not asked again for so many intervals."""


@dataclass(slots=True)
class LeaderRow:
    """A row, and what the leader knows of it besides."""

    row: Row
    superseded: Stamp = NEVER_GIVEN.stamp
    """The newest row of the block that was true before, or was given back: whoever has that one is merely late."""
    is_confirmed: bool = False
    """A gateway that holds has it: it may be in use from then on."""
    rests_until_ns: int = 0


@dataclass(slots=True)
class Wish:
    """A node asked for more; it asks again while it does."""

    wanted: int
    until_ns: int


class LeaderTable:
    """Of one floating IP."""

    def __init__(self, *, blocks: int, rest_ns: int, quiet_until_ns: int) -> None:
        self._blocks = blocks
        self._rest_ns = rest_ns
        self.rows: dict[int, LeaderRow] = {}
        self.by_owner: dict[str, dict[int, None]] = {}
        self.gateways: dict[str, GatewayView] = {}
        self.successor = ""
        self.is_new = False
        self.is_complete = False
        self.quiet_until_ns = quiet_until_ns
        """No block is given before: a gateway that counts on the word of the leader before this one, or that was the
        successor until now, would not know of it (Q8)."""
        self.release_due_ns = self.recall_ns = 0
        self.stated_ns: int | None = None
        """When all of it was told for the record."""
        self.demand: tuple[str, ...] = ()
        self.wishes: dict[str, Wish] = {}
        self.short: dict[str, int] = {}
        """Blocks that nodes lack of their base, where there are none."""

    # Rows

    def row(self, block: int) -> Row:
        """What is true of a block now."""
        one = self.rows.get(block)
        return NEVER_GIVEN if one is None else one.row

    def set(self, block: int, row: Row, now_ns: int) -> str | None:
        """Write a row that is newer than the one before. Returns whose the block was."""
        former = self.row(block).owner
        if former is not None:
            self.by_owner[former].pop(block, None)
        if row.owner is not None:
            self.by_owner.setdefault(row.owner, {})[block] = None
        rests_until_ns = now_ns + self._rest_ns if row.is_resting else 0
        before = self.rows.get(block)
        superseded = NEVER_GIVEN.stamp if before is None else max(before.superseded, before.row.stamp)
        self.rows[block] = LeaderRow(row, superseded, rests_until_ns=rests_until_ns)
        for view in self.gateways.values():
            view.want(block, row, now_ns)
        return former

    def count(self, owner: str) -> int:
        """How many blocks a node has."""
        return len(self.by_owner.get(owner, ()))

    def counts(self) -> dict[str, int]:
        """How many blocks each node has that has any, in order of name."""
        return {owner: len(blocks) for owner, blocks in sorted(self.by_owner.items()) if blocks}

    def has_use(self, owner: str) -> bool:
        """Whether a node needs blocks now."""
        return owner in self.demand or owner in self.wishes

    def wish(self, owner: str, wanted: int, until_ns: int) -> bool:
        """A node asks for so many blocks in all. Says whether that is more than it asked for before."""
        known = self.wishes.get(owner)
        self.wishes[owner] = Wish(wanted, until_ns)
        return known is None or known.wanted < wanted

    def free(self, now_ns: int) -> list[int]:
        """The blocks that may be given: nobody's and rested. Those that lay longest come first."""
        rows = ((self.rows.get(block), block) for block in range(self._blocks))
        free = [
            (Stamp(0, 0) if one is None else one.row.stamp, block)
            for one, block in rows
            if one is None or (one.row.owner is None and now_ns >= one.rests_until_ns)
        ]
        return [block for _, block in sorted(free)]

    def state(self, floating_ip: IPv4Address, now_ns: int) -> TableRead:
        """All of it, for the record."""
        self.stated_ns = now_ns
        rows = ((block, one.row.owner, one.row.stamp) for block, one in sorted(self.rows.items()))
        return TableRead(floating_ip, tuple((block, owner, stamp) for block, owner, stamp in rows if owner is not None))

    # Gateways

    @property
    def holder(self) -> GatewayView | None:
        """The gateway that was read while it had the lease, and has it since."""
        return next((view for view in self.gateways.values() if view.holds and view.session is not None), None)

    def open(self, view: GatewayView, now_ns: int) -> None:
        """A gateway was read and merged: whatever it lacks is to be sent."""
        for block, one in self.rows.items():
            view.want(block, one.row, now_ns)
            if view.holds and view.known.get(block) == one.row.stamp:
                one.is_confirmed = True

    def confirm(self, view: GatewayView, block: int, stamp: Stamp, now_ns: int) -> bool:
        """A gateway has taken a row. Says whether it was the holder, and the block was taken from a node by it."""
        is_news = view.known.get(block) != stamp
        view.known[block] = stamp
        released = view.releases.get(block)
        if released is not None and released.stamp == stamp:
            return view.holds
        one = self.rows.get(block)
        if one is None or one.row.stamp != stamp:
            return False
        view.pending.pop(block, None)
        one.is_confirmed = one.is_confirmed or view.holds
        if one.row.is_resting and view.holds and is_news:
            # This one had it as its owner's until now, and may have said so to the owner a moment ago (Q9).
            one.rests_until_ns = now_ns + self._rest_ns
        return False

    def unreleased(self, names: Collection[str]) -> list[int]:
        """The blocks of these nodes that the holder has as theirs, and was not asked to take yet."""
        holder = self.holder
        if holder is None:
            return []
        blocks = [block for name in names for block in self.by_owner[name]]
        return [block for block in blocks if block not in holder.releases and block not in holder.pending]

    def release(self, blocks: Collection[int], row: Row, now_ns: int) -> None:
        """Ask the holder to take them. They are their owners' until it has."""
        if self.holder is not None:
            self.holder.releases.update(dict.fromkeys(blocks, row))
            self.holder.wake(now_ns)

    def owners(self) -> Iterator[tuple[str, int]]:
        """Who has how many, by name."""
        for name, blocks in sorted(self.by_owner.items()):
            if blocks:
                yield name, len(blocks)
