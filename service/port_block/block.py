"""What a port block is, how many a node has by right, and how long things take (docs/port-blocks.md).

A block is 64 neighbouring ports (and ICMP ids) of one floating IP. The ports below 1024 are in none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from service.model.lease import Stamp
from service.model.machine import Address

FIRST_PORT = 1024
BLOCK_PORTS = 64
BLOCKS = 1008
"""1024 to 65535 in blocks of 64. A block that is beyond is refused wherever it comes from."""
BASE_BLOCKS_MAX = 64

Members = Mapping[str, Address]
"""Where the members' sockets for these datagrams are, by node name."""

_MS = 1_000_000
_SECOND = 1000 * _MS


def block_of(port: int) -> int | None:
    """The block that a port, or an ICMP id, is in; None below 1024."""
    return (port - FIRST_PORT) // BLOCK_PORTS if port >= FIRST_PORT else None


def ports_of(block: int) -> range:
    """The ports of a block."""
    first = FIRST_PORT + block * BLOCK_PORTS
    return range(first, first + BLOCK_PORTS)


def base_blocks(members: int, blocks: int = BLOCKS) -> int:
    """How many blocks a node with selected pods has by right (Q2): half of all are for this, the rest is on demand."""
    return max(1, min(BASE_BLOCKS_MAX, blocks // 2 // max(1, members)))


class Row(NamedTuple):
    """Whose a block is, as of a stamp. Of two rows of a block the one with the higher stamp is true (Q1)."""

    owner: str | None
    """Node name (Q5): a renamed node is another owner. None: nobody's."""
    stamp: Stamp
    is_resting: bool = False
    """Taken from an owner that did not say that it let go (Q5): nobody's for a while yet."""


NEVER_GIVEN = Row(None, Stamp(0, 0))
"""What is known of a block of which nothing was heard."""


@dataclass(frozen=True, slots=True)
class Times:
    """All durations in ns. Each machine counts them on its own clock, and clocks may differ by a twelfth."""

    down_ns: int = 240 * _SECOND
    """How long an owner is Down, and a block without a packet, before the block is taken from it (Q5)."""
    rest_ns: int = 240 * _SECOND
    """How long it is nobody's after that."""
    contact_ns: int = 200 * _SECOND
    """An owner whose block no holder has confirmed for so long tells no new gateway of it (Q9). Shorter than the rest,
    by more than clocks differ."""
    confirm_ns: int = 50 * _SECOND
    """How often an owner has its blocks confirmed; several may be lost within `contact_ns`."""
    settle_ns: int = 500 * _MS
    """How long an owner waits for a successor that does not acknowledge (Q3)."""
    whole_ns: int = 400 * _MS
    """How long a successor counts on the leader's word that it has every row (Q8). Shorter than `settle_ns`, by more
    than clocks differ."""
    poll_ns: int = 100 * _MS
    """How often a successor asks for that word."""
    resend_ns: int = 100 * _MS
    """When to send again what was not acknowledged; each time it takes twice as long."""
    push_ns: int = 5 * _MS
    """As `resend_ns`, of an owner: its word may be ahead of the leader's at a gateway by less than this."""
    resend_ns_max: int = 2 * _SECOND
    ask_ns: int = 200 * _MS
    """How often an owner that is short asks."""
    recall_ns: int = _SECOND
    """How often a leader that is short calls blocks back."""
    release_ns: int = 10 * _SECOND
    """How often the holder is asked to take the blocks of a node that is Down."""
    state_ns: int = 86_400 * _SECOND
    """How often a leader tells all of a table for the record: then no answer needs records that are older."""
    grace_ns: int = 2 * _SECOND
    """From a block's last new reservation to the scan that may find it unused."""


TIMES = Times()
