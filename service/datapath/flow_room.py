"""How many flows a node's tables have room for: as it is set, or in proportion to the node's memory.

The tables are made when the node has none, which is after a boot, and keep their size until then: the flows in them are
worth more than the size.
"""

import os
from dataclasses import dataclass, field
from typing import Self

FLOWS_MIN, FLOWS_MAX = 16_384, 1_048_576
_TOLD_FROM = 1.25
"""Memory changes a little with every kernel, and all the time under a balloon."""
_MEMORY_PER_FLOW = 65_536
"""Of the whole node. The tables take about 600 bytes for each, under a hundredth: 540 (memlock of all, measured: 70.8
MB for 131,072), and since then 24 bytes of counters in each of two rows and a half."""


@dataclass(frozen=True, slots=True)
class FlowRoom:
    """Rows of the tables of flows, and of their mirrors (rule B5)."""

    open: int = 131_072
    """Answered TCP: nothing is evicted."""
    young: int = 65_536
    """Unanswered and closing TCP: the longest unused is evicted."""
    datagram: int = 131_072
    """UDP and ICMP, the same."""
    is_set: bool = field(default=True, compare=False)
    """By a setting, and not by the node's memory."""

    @classmethod
    def of(cls, flows: int, *, memory_bytes: int) -> Self:
        """`flows` is the room for open TCP, and for datagrams; 0: by memory, within FLOWS_MIN and FLOWS_MAX."""
        count = flows or min(max(memory_bytes // _MEMORY_PER_FLOW, FLOWS_MIN), FLOWS_MAX)
        return cls(count, max(count // 2, 1), count, is_set=flows > 0)

    @classmethod
    def here(cls, flows: int) -> Self:
        """The same, with the memory of this node."""
        return cls.of(flows, memory_bytes=physical_memory_bytes())

    def is_other(self, rows: int, wanted: int) -> bool:
        """Whether a table with that many rows is not what is wanted here: by memory, not nearly so."""
        return rows != wanted and (self.is_set or max(rows, wanted) >= _TOLD_FROM * min(rows, wanted))


def physical_memory_bytes() -> int:
    """Of the node, whatever a container may use of it: maps are the kernel's."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
