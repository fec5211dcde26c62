"""Keys and values of the BPF maps as bytes: the Python side of bpf/layout.h, whose sizes a test compares.

Addresses are in network byte order (as `IPv4Address.packed`), everything else in the host's.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

LAYOUT_VERSION = 1
"""In the path of every pin: maps of another layout are never reused."""


def pin_folder(bpf_dir: str) -> Path:
    """Where the maps of this layout are pinned: by the agent, which makes them; the keeper opens the fence there."""
    return Path(bpf_dir) / f"v{LAYOUT_VERSION}"


def link_folder(bpf_dir: str) -> Path:
    """Where links of programs are pinned: the same in every layout, so that each version replaces the former's."""
    return Path(bpf_dir) / "links"


class MapName:
    """Names of the pinned maps."""

    CONFIG = "config"
    SELECTED = "selected"
    RULES = "rules"
    CLUSTER = "cluster"
    WAYS = "ways"
    WAY_HINTS = "way_hints"
    AGENT_BEAT = "agent_beat"
    FLOATING_IPS = "floating_ips"
    LEASE_DEADLINES = "lease_deadlines"
    ENDPOINTS = "endpoints"
    MEMBERS = "members"
    BINDINGS = "bindings"
    REVERSE_BINDINGS = "reverse_bindings"
    DROPS = "drops"
    COUNTERS = "counters"


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a pinned map must look like before it is reused (libraries.md: pins are not validated by BCC)."""

    type: int
    key_size: int
    value_size: int


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LRU_PERCPU_HASH, _LPM_TRIE = 1, 2, 6, 9, 10, 11
MAP_SHAPES = {
    MapName.CONFIG: MapShape(_ARRAY, 4, 16),
    MapName.SELECTED: MapShape(_HASH, 8, 16),
    MapName.RULES: MapShape(_LPM_TRIE, 16, 8),
    MapName.CLUSTER: MapShape(_LPM_TRIE, 8, 4),
    MapName.WAYS: MapShape(_HASH, 4, 32),
    MapName.WAY_HINTS: MapShape(_LRU_HASH, 4, 40),
    MapName.AGENT_BEAT: MapShape(_ARRAY, 4, 8),
    MapName.FLOATING_IPS: MapShape(_HASH, 4, 12),
    MapName.LEASE_DEADLINES: MapShape(_HASH, 4, 16),
    MapName.ENDPOINTS: MapShape(_HASH, 8, 16),
    MapName.MEMBERS: MapShape(_HASH, 12, 4),
    MapName.BINDINGS: MapShape(_LRU_HASH, 16, 8),
    MapName.REVERSE_BINDINGS: MapShape(_LRU_HASH, 16, 24),
    MapName.DROPS: MapShape(_LRU_PERCPU_HASH, 8, 16),
    MapName.COUNTERS: MapShape(_PERCPU_ARRAY, 4, 8),
}


class SelectedState(IntEnum):
    """What is done with packets of a classified pod."""

    STEER = 1
    PENDING = 2
    """Holder and successor have not acknowledged the pod: marked, then dropped at the steering device."""
    CHANGING = 3
    """Its selection is changing: dropped before netfilter, so that no connection-tracking entry is made (W10)."""
    NOT = 4
    """No policy selects it: classified, and left alone (W11)."""


class RuleAction(IntEnum):
    """What is done with packets to a destination."""

    STEER = 1
    EXCLUDED = 2
    """Left alone, within a wider destination that is steered."""


class ClusterFlag(IntEnum):
    """Why a destination is never steered; a service's may be, after DNAT."""

    POD = 1
    SERVICE = 2
    NODE = 4


class WayKind(IntEnum):
    """How a packet reaches the holder of its floating IP."""

    L2 = 1
    LOCAL = 2


COUNTER_NAMES = (
    "marked",
    "steered",
    "translated",
    "reversed",
    "arp_answered",
    "echo_answered",
    "way_learned",
    "bindings_created",
)
"""In the order of `enum counter`."""

NO_MAC = bytes(6)


def config_value(mark: int, egw_ifindex: int, egw_mac: bytes) -> bytes:
    """The node's one row: mark bit, and the steering device."""
    return struct.pack("=II6s2x", mark, egw_ifindex, egw_mac)


def selected_key(pod_ip: IPv4Address, ifindex: int) -> bytes:
    """`ifindex` 0: the row for where the device is not known, behind a bridge and on `egw0`."""
    return struct.pack("=4sI", pod_ip.packed, ifindex)


def selected_value(rule_set: int, state: SelectedState) -> bytes:
    """Under which rules the pod is, and what is done with it now."""
    return struct.pack("=QI4x", rule_set, state)


def rule_key(rule_set: int, destination: IPv4Network) -> bytes:
    """Longest prefix match on {rule set, destination}; the rule set always matches whole, hence 64 bits more."""
    return struct.pack(
        "=III4s",
        64 + destination.prefixlen,
        rule_set >> 32,
        rule_set & 0xFFFFFFFF,
        destination.network_address.packed,
    )


def rule_value(floating_ip: IPv4Address | None) -> bytes:
    """Which address packets to that destination get; None: they are left alone (rule W14)."""
    if floating_ip is None:
        return struct.pack("=4sI", bytes(4), RuleAction.EXCLUDED)
    return struct.pack("=4sI", floating_ip.packed, RuleAction.STEER)


def cluster_key(network: IPv4Network) -> bytes:
    """Longest prefix match on the destination alone."""
    return struct.pack("=I4s", network.prefixlen, network.network_address.packed)


def cluster_value(flag: ClusterFlag) -> bytes:
    """Why it is in the cluster."""
    return struct.pack("=I", flag)


def parse_cluster(key: bytes, value: bytes) -> tuple[IPv4Network, int]:
    """(network, flag)."""
    length, address = struct.unpack("=I4s", key)
    (flag,) = struct.unpack("=I", value)
    return IPv4Network((address, length)), flag


def way_value(token: int, kind: WayKind, ifindex: int, own_mac: bytes, gateway_mac: bytes) -> bytes:
    """`token` as `Token.packed`: the kernel keeps the higher one (rule W2). MACs are NO_MAC for WayKind.LOCAL."""
    return struct.pack("=QII6s6s4x", token, kind, ifindex, own_mac, gateway_mac)


def way_under_hint(way: bytes | None, hint: bytes) -> bytes | None:
    """The way that a hint stands in for, or the hint's own where it is in force under the same token."""
    token = way[:8] if way is not None else bytes(8)
    return hint[:32] if hint[:8] == token and any(hint[32:40]) else way


def beat_rows(at_ns: int) -> dict[bytes, bytes]:
    """CLOCK_BOOTTIME at which the agent lived: the only row of its map."""
    return {bytes(4): struct.pack("=Q", at_ns)}


def floating_ip_value(ifindex: int, mac: bytes) -> bytes:
    """This node's own uplink on the address's segment; ifindex 0 and NO_MAC where it has none."""
    return struct.pack("=I6s2x", ifindex, mac)


def lease_value(deadline_ns: int, token: int) -> bytes:
    """`deadline_ns` is CLOCK_BOOTTIME; 0 is closed."""
    return struct.pack("=QQ", deadline_ns, token)


def endpoint_key(pod_ip: IPv4Address, ifindex: int) -> bytes:
    """`ifindex`: by which interface the pod's packets come here."""
    return struct.pack("=4sI", pod_ip.packed, ifindex)


def parse_endpoint_key(key: bytes) -> tuple[IPv4Address, int]:
    """(pod IP, ifindex)."""
    address, ifindex = struct.unpack("=4sI", key)
    return IPv4Address(address), ifindex


def endpoint_value(rule_set: int, node_mac: bytes) -> bytes:
    """Under which rules the pod is judged here, and from which MAC its packets must come (rule G4)."""
    return struct.pack("=Q6s2x", rule_set, node_mac)


def member_key(ifindex: int, mac: bytes) -> bytes:
    """A member's MAC as it is seen on one of our interfaces."""
    return struct.pack("=I6s2x", ifindex, mac)


MEMBER_VALUE = struct.pack("=I", 1)


def parse_rule_key(key: bytes) -> tuple[int, IPv4Network]:
    """(rule set, destination)."""
    length, high, low, address = struct.unpack("=III4s", key)
    return high << 32 | low, IPv4Network((address, length - 64))


def parse_rule_value(value: bytes) -> IPv4Address | None:
    """The floating IP; None where the destination is excluded."""
    address, action = struct.unpack("=4sI", value)
    return IPv4Address(address) if action == RuleAction.STEER else None


def parse_selected(key: bytes, value: bytes) -> tuple[IPv4Address, int, int, int]:
    """(pod IP, ifindex, rule set, state)."""
    address, ifindex = struct.unpack("=4sI", key)
    rule_set, state = struct.unpack("=QI4x", value)
    return IPv4Address(address), ifindex, rule_set, state


def parse_drop(key: bytes, value: bytes) -> tuple[IPv4Address, int, int, int]:
    """(floating IP or 0.0.0.0, reason, packets, bytes), summed over CPUs."""
    address, reason = struct.unpack("=4sI", key)
    fields = struct.unpack(f"={len(value) // 8}Q", value)
    return IPv4Address(address), reason, sum(fields[0::2]), sum(fields[1::2])


def parse_counter(value: bytes) -> int:
    """Sum over CPUs."""
    return sum(struct.unpack(f"={len(value) // 8}Q", value))
