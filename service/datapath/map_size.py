"""What becomes of a pinned map whose size is another than this start's: by settings, memory or version (rule U1).

Rows that the agent alone writes are copied: nobody else may write while a new agent starts. What the programs or the
keeper write goes on being written in the old map, so a copy would be two maps that are both half true; it keeps its
size, and that size is told.
"""

from collections.abc import Collection
from dataclasses import dataclass

from service.datapath.bpf_map import BpfMap
from service.datapath.flow_room import FlowRoom
from service.datapath.layout import MapName

_COPIED = frozenset(
    {
        MapName.LIMITS,
        MapName.SELECTED,
        MapName.RULES,
        MapName.CLUSTER,
        MapName.DIRECT_DEVICES,
        MapName.WAYS,
        MapName.FLOATING_IPS,
        MapName.MEMBERS,
        MapName.TUNNEL_MEMBERS,
        MapName.OWN_BLOCKS,
        MapName.BLOCKS,
        MapName.TRUSTS,
        MapName.GATEWAY_ROWS,
        MapName.OWNER_ROWS,
        MapName.POD_SPARES,
        MapName.POLICY_TRAFFIC,
        MapName.UPLINK_ADDRESSES,
        MapName.COUNTS,
    }
)
"""Of `blocks` the kernel writes when it last saw each, of `counts` all: what is lost is that of the moment between the
copy and the attaching of the new programs. A new counter would have no place in the old map."""


BY_MEMORY = frozenset(
    {
        MapName.FLOWS_OPEN,
        MapName.FLOWS_YOUNG,
        MapName.FLOWS_DATAGRAM,
        MapName.MIRRORS_OPEN,
        MapName.MIRRORS_YOUNG,
        MapName.MIRRORS_DATAGRAM,
    }
)
"""Tables of flows: their size may come from the node's memory, which is never twice the same."""


@dataclass(frozen=True, slots=True)
class RowRoom:
    """Of what is wanted, and not seen."""

    pods: int = 8192
    """Selected pods of this node, with two rows each; one that is left alone takes one of what they leave."""
    rules: int = 262_144
    """Destinations of all sets of rules that pods of this node go by."""
    floating_ips: int = 4096
    """In every map that has a row for each."""


def sizes(flows: FlowRoom, rows: RowRoom) -> dict[str, int]:
    """Rows of every map that bpf/maps.h leaves to settings and memory."""
    by_address = (
        MapName.WAYS,
        MapName.WAY_HINTS,
        MapName.FLOATING_IPS,
        MapName.LEASE_DEADLINES,
        MapName.HANDOVERS,
        MapName.OWN_BLOCKS,
        MapName.TRUSTS,
    )
    return dict.fromkeys(by_address, rows.floating_ips) | {
        MapName.SELECTED: 2 * rows.pods,
        MapName.RULES: rows.rules,
        MapName.FLOWS_OPEN: flows.open,
        MapName.MIRRORS_OPEN: flows.open,
        MapName.FLOWS_YOUNG: flows.young,
        MapName.MIRRORS_YOUNG: flows.young,
        MapName.FLOWS_DATAGRAM: flows.datagram,
        MapName.MIRRORS_DATAGRAM: flows.datagram,
    }


@dataclass(frozen=True, slots=True)
class KeptSize:
    """A pinned map that is as large as it was, and not as it should be."""

    map: str
    rows: int
    wanted: int


def copy_rows(name: str, former: BpfMap, new: BpfMap) -> bool:
    """Make `new`, which is empty, what `former` is. False where that is not done: the former one stays in use."""
    if name not in _COPIED:
        return False
    rows = list(former.items().items())
    return new.update_many(rows) == len(rows)


def trouble(kept: Collection[KeptSize]) -> str:
    """For status; empty where every map has the size that it should have."""
    if not kept:
        return ""
    sizes = ", ".join(f"{one.map} has {one.rows} and not {one.wanted}" for one in kept)
    return (
        f"maps have the room of before: {sizes}; a restart keeps what is in them, so the new size counts once this "
        "node was rebooted, or egressgw uninstalled on it, which ends its pods' connections"
    )
