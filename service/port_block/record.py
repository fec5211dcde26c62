"""What a leader of port blocks tells for the record: what it has read, and each change after that."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from service.model.lease import Stamp
from service.port_block.block import Row


class Cause(StrEnum):
    """Why a block is another node's, or nobody's; the text is for people."""

    GIVEN = "given"
    RETURNED = "given back: the node has no selected pod of it"
    RECALLED = "called back for others, and given back"
    RECLAIMED = "taken: the node is down, and the holder has seen no packet of it"
    FOUND = "found to be so at the holder or the node"
    """Nobody who leads had it on record: a former leader's word arrived after this one had read."""


@dataclass(frozen=True, slots=True)
class BlockMoved:
    """From now on this is true of the block. `former` had it until now."""

    floating_ip: IPv4Address
    block: int
    former: str | None
    row: Row
    cause: Cause


@dataclass(frozen=True, slots=True)
class TableRead:
    """All blocks of an address that nodes have now; the others are nobody's. Of an address it comes first in a term,
    and again once in a while."""

    floating_ip: IPv4Address
    rows: tuple[tuple[int, str, Stamp], ...]
    """(block, node, stamp), by block."""
