"""The blocks of one floating IP that this node has, gives back, and is short of.

A block leaves in three steps (Q5): it takes no new reservations; after a grace a scan that began later finds no flow in
it, live, ended or in TIME_WAIT; then it is dropped here, and only then the leader is told, until it has answered.
"""

from collections.abc import Collection, Iterator

from service.model.lease import Stamp
from service.port_block.block import Times
from service.port_block.owned_block import OwnedBlock


class Holding:
    """Of one floating IP; knows nothing of datagrams."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self.blocks: dict[int, OwnedBlock] = {}
        self.returned: dict[int, Stamp] = {}
        """Let go of; the leader has not said yet that it knows."""
        self.holder = ""
        self.successor = ""
        self.way_ns = 0
        """Since when these two: a holder that is new is asked anew, also where it had a block as successor (R3)."""
        self.wanted = 0
        """How many blocks it needs in all; not above what it has where it is not short."""
        self.live: Collection[int] = ()
        """The blocks that flows were found in by the last scan."""

    @property
    def gateways(self) -> Iterator[str]:
        """Who has to know of each block."""
        yield from dict.fromkeys(name for name in (self.holder, self.successor) if name)

    def usable(self, now_ns: int) -> list[int]:
        """What new flows may use now."""
        return [b for b, one in sorted(self.blocks.items()) if one.is_usable(self.holder, self._times, now_ns)]

    def grant(self, block: int, stamp: Stamp, successor: str, now_ns: int) -> bool:
        """The leader gives a block. Says whether what flowed in it before has to end."""
        one = self.blocks.get(block)
        if stamp <= self.returned.get(block, Stamp(-1, 0)):
            return False
        self.returned.pop(block, None)
        if one is None:
            one = self.blocks[block] = OwnedBlock(stamp, now_ns=now_ns)
            one.successor = successor
            return False
        if stamp <= one.stamp:
            return False
        # Unless a holder has confirmed it lately, it may have been somebody else's meanwhile.
        is_new = not one.is_acknowledged(self._times, now_ns)
        if is_new:
            one.contact_ns = None
        one.restamp(stamp, successor, now_ns=now_ns)
        return is_new

    def lose(self, block: int, stamp: Stamp) -> bool:
        """It is said to be another's, or nobody's. Says whether it was this node's until now."""
        if block in self.returned and stamp > self.returned[block]:
            del self.returned[block]
        one = self.blocks.get(block)
        if one is None or stamp <= one.stamp:
            return False
        del self.blocks[block]
        return True

    def call_back(self, count: int, now_ns: int) -> list[int]:
        """Begin to give back so many blocks that no flow is in. Returns those that begin now to leave."""
        leaving = sum(one.leaving_ns is not None for one in self.blocks.values())
        spare = [b for b, one in sorted(self.blocks.items()) if one.leaving_ns is None and b not in self.live]
        chosen = spare[::-1][: max(0, count - leaving)]
        for block in chosen:
            self.blocks[block].leaving_ns = now_ns
        return chosen

    def keep(self) -> list[int]:
        """Short: what was about to leave stays. Returns those that take reservations again."""
        kept = [block for block, one in sorted(self.blocks.items()) if one.leaving_ns is not None]
        for block in kept:
            self.blocks[block].leaving_ns = None
        return kept

    def let_go(self, live: Collection[int], begun_ns: int) -> list[int]:
        """A scan that began at `begun_ns` found flows in `live`. Returns the blocks that are this node's no longer."""
        self.live = live
        gone = [
            block
            for block, one in sorted(self.blocks.items())
            if one.leaving_ns is not None and begun_ns - one.leaving_ns >= self._times.grace_ns and block not in live
        ]
        for block in gone:
            self.returned[block] = self.blocks.pop(block).stamp
        return gone
