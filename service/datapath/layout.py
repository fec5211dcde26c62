"""Keys and values of the BPF maps as bytes: the Python side of bpf/layout.h, whose sizes a test compares.

Addresses are in network byte order (as `IPv4Address.packed`), everything else in the host's.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from service.datapath.bpf_map import MapInfo
from service.model.lease import Stamp, Token
from service.model.objects import FlowTimeouts
from service.port_block.block import Row

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
    FLOW_SETTINGS = "flow_settings"
    LIMITS = "limits"
    SELECTED = "selected"
    RULES = "rules"
    CLUSTER = "cluster"
    DIRECT_DEVICES = "direct_devices"
    WAYS = "ways"
    WAY_HINTS = "way_hints"
    AGENT_BEAT = "agent_beat"
    FLOATING_IPS = "floating_ips"
    LEASE_DEADLINES = "lease_deadlines"
    HANDOVERS = "handovers"
    HANDOVER_DEVICE = "handover_device"
    MEMBERS = "members"
    OWN_BLOCKS = "own_blocks"
    BLOCKS = "blocks"
    TRUSTS = "trusts"
    TUNNEL_MEMBERS = "tunnel_members"
    GATEWAY_ROWS = "gateway_rows"
    OWNER_ROWS = "owner_rows"
    BLOCK_MEMORY = "block_memory"
    NEXT_HOPS = "next_hops"
    TUNNEL_HOPS = "tunnel_hops"
    REFUSED_BLOCKS = "refused_blocks"
    FLOWS_OPEN = "flows_open"
    FLOWS_YOUNG = "flows_young"
    FLOWS_DATAGRAM = "flows_datagram"
    MIRRORS_OPEN = "mirrors_open"
    MIRRORS_YOUNG = "mirrors_young"
    MIRRORS_DATAGRAM = "mirrors_datagram"
    PORT_HINTS = "port_hints"
    POD_LOADS = "pod_loads"
    POD_SPARES = "pod_spares"
    DEPARTED_FLOWS = "departed_flows"
    POLICY_TRAFFIC = "policy_traffic"
    FRAGMENTS = "fragments"
    UPLINK_ADDRESSES = "uplink_addresses"
    ERROR_TIMES = "error_times"
    PROBE_TARGET = "probe_target"
    GENERATIONS = "generations"
    DROPS = "drops"
    COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a pinned map must look like before it is reused (libraries.md: pins are not validated by BCC)."""

    type: int
    key_size: int
    value_size: int

    def is_of(self, info: MapInfo) -> bool:
        """Whether a map of the kernel looks like this; how many rows it has does not matter."""
        return (info.type, info.key_size, info.value_size) == (self.type, self.key_size, self.value_size)


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LRU_PERCPU_HASH, _LPM_TRIE = 1, 2, 6, 9, 10, 11
MAP_SHAPES = {
    MapName.CONFIG: MapShape(_ARRAY, 4, 16),
    MapName.FLOW_SETTINGS: MapShape(_ARRAY, 4, 16),
    MapName.LIMITS: MapShape(_HASH, 8, 32),
    MapName.SELECTED: MapShape(_HASH, 8, 16),
    MapName.RULES: MapShape(_LPM_TRIE, 16, 8),
    MapName.CLUSTER: MapShape(_LPM_TRIE, 8, 4),
    MapName.DIRECT_DEVICES: MapShape(_HASH, 4, 4),
    MapName.WAYS: MapShape(_HASH, 4, 32),
    MapName.WAY_HINTS: MapShape(_LRU_HASH, 4, 40),
    MapName.AGENT_BEAT: MapShape(_ARRAY, 4, 8),
    MapName.FLOATING_IPS: MapShape(_HASH, 4, 12),
    MapName.LEASE_DEADLINES: MapShape(_HASH, 4, 16),
    MapName.HANDOVERS: MapShape(_LRU_HASH, 4, 16),
    MapName.HANDOVER_DEVICE: MapShape(_ARRAY, 4, 12),
    MapName.MEMBERS: MapShape(_HASH, 12, 4),
    MapName.OWN_BLOCKS: MapShape(_HASH, 4, 128),
    MapName.BLOCKS: MapShape(_HASH, 8, 32),
    MapName.TRUSTS: MapShape(_HASH, 4, 8),
    MapName.TUNNEL_MEMBERS: MapShape(_HASH, 4, 4),
    MapName.GATEWAY_ROWS: MapShape(_HASH, 8, 272),
    MapName.OWNER_ROWS: MapShape(_HASH, 8, 16),
    MapName.BLOCK_MEMORY: MapShape(_ARRAY, 4, 8),
    MapName.NEXT_HOPS: MapShape(_LRU_HASH, 8, 24),
    MapName.TUNNEL_HOPS: MapShape(_LRU_HASH, 4, 40),
    MapName.REFUSED_BLOCKS: MapShape(_LRU_HASH, 12, 8),
    MapName.FLOWS_OPEN: MapShape(_HASH, 16, 96),
    MapName.FLOWS_YOUNG: MapShape(_LRU_HASH, 16, 96),
    MapName.FLOWS_DATAGRAM: MapShape(_LRU_HASH, 16, 96),
    MapName.MIRRORS_OPEN: MapShape(_HASH, 16, 16),
    MapName.MIRRORS_YOUNG: MapShape(_LRU_HASH, 16, 16),
    MapName.MIRRORS_DATAGRAM: MapShape(_LRU_HASH, 16, 16),
    MapName.PORT_HINTS: MapShape(_LRU_HASH, 16, 8),
    MapName.POD_LOADS: MapShape(_HASH, 8, 16),
    MapName.POD_SPARES: MapShape(_HASH, 8, 8),
    MapName.DEPARTED_FLOWS: MapShape(_LRU_HASH, 16, 96),
    MapName.POLICY_TRAFFIC: MapShape(_HASH, 16, 80),
    MapName.FRAGMENTS: MapShape(_LRU_HASH, 12, 16),
    MapName.UPLINK_ADDRESSES: MapShape(_HASH, 4, 4),
    MapName.PROBE_TARGET: MapShape(_ARRAY, 4, 8),
    MapName.GENERATIONS: MapShape(_ARRAY, 4, 8),
    MapName.ERROR_TIMES: MapShape(_LRU_HASH, 8, 8),
    MapName.DROPS: MapShape(_LRU_PERCPU_HASH, 8, 16),
    MapName.COUNTS: MapShape(_PERCPU_ARRAY, 4, 8),
}

FIRST_PORT, PORTS_PER_BLOCK, BLOCKS = 1024, 64, 1008
"""Ports, and ICMP ids, in blocks (rule Q1)."""


class SelectedState(IntEnum):
    """What is done with packets of a classified pod."""

    STEER = 1
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
    TUNNEL = 3


class BlockKind(IntEnum):
    """How the holder reaches the member that a block of ports belongs to."""

    L2 = 1
    LOCAL = 2
    TUNNEL = 3


COUNTER_NAMES = (
    "marked",
    "steered",
    "forwarded",
    "returned",
    "reversed",
    "arp_answered",
    "echo_answered",
    "way_learned",
    "flows_made",
    "flows_ended",
    "open_flows_full",
    "direct_out",
    "direct_back",
    "errors_made",
    "waited",
)
"""In the order of `enum counter`."""

NO_MAC = bytes(6)


def device_key(ifindex: int) -> bytes:
    """Of `direct_devices`."""
    return struct.pack("=I", ifindex)


def config_value(mark: int, egw_ifindex: int, egw_mac: bytes, tunnel_port: int) -> bytes:
    """The node's one row: mark bit, the steering device, and the UDP port of the tunnel."""
    return struct.pack("=II6s2s", mark, egw_ifindex, egw_mac, tunnel_port.to_bytes(2, "big"))


def selected_key(pod_ip: IPv4Address, ifindex: int) -> bytes:
    """`ifindex` 0: the row for where the device is not known, behind a bridge and on `egw0`."""
    return struct.pack("=4sI", pod_ip.packed, ifindex)


def pod_of(key: bytes) -> IPv4Address:
    """The pod of a key of `selected`."""
    return IPv4Address(key[:4])


def selected_value(rule_set: int, state: SelectedState, pod: int = 0) -> bytes:
    """Its rules, what is done with it now, and its number: another one for another UID or device (B2)."""
    return struct.pack("=QII", rule_set, state, pod)


def pod_number(uid: str, ifindex: int) -> int:
    """What tells a pod from another one that has its address later, or its address behind another device (B2)."""
    return int.from_bytes(hashlib.blake2b(f"{uid}/{ifindex}".encode(), digest_size=4).digest(), "big") or 1


def rule_key(rule_set: int, destination: IPv4Network) -> bytes:
    """Longest prefix match on {rule set, destination}; the rule set always matches whole, hence 64 bits more."""
    length, address = 64 + destination.prefixlen, destination.network_address.packed
    return struct.pack("=III4s", length, rule_set >> 32, rule_set & 0xFFFFFFFF, address)


_RULE_SET = struct.Struct("=II")


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


def tunnel_way_value(token: int, node: IPv4Address) -> bytes:
    """The same through the tunnel, to the holder's own address (rule X2)."""
    return struct.pack("=QI16x4s", token, WayKind.TUNNEL, node.packed)


def segment_ways(ways: Mapping[bytes, bytes]) -> tuple[IPv4Address, ...]:
    """The floating IPs to whose holder packets go over a segment."""
    kind = struct.Struct("=8xI")
    return tuple(IPv4Address(key) for key, value in ways.items() if kind.unpack_from(value) == (WayKind.L2,))


def way_under_hint(way: bytes | None, hint: bytes, beat: bytes | None) -> bytes | None:
    """The way that a hint stands in for, or the hint's own where it is under the same token, and had not ended yet when
    an agent last lived (`beat`): one that had is refuted (rule W2)."""
    token = way[:8] if way is not None else bytes(8)
    (until_ns,) = struct.unpack_from("=Q", hint, 32)
    return hint[:32] if hint[:8] == token and until_ns > int.from_bytes(beat or b"", "little") else way


def beat_rows(at_ns: int) -> dict[bytes, bytes]:
    """CLOCK_BOOTTIME at which the agent lived: the only row of its map."""
    return {bytes(4): struct.pack("=Q", at_ns)}


def floating_ip_value(ifindex: int, mac: bytes) -> bytes:
    """This node's own uplink on the address's segment; ifindex 0 and NO_MAC where it has none."""
    return struct.pack("=I6s2x", ifindex, mac)


def uplink_address_row(ifindex: int, address: IPv4Address) -> tuple[bytes, bytes]:
    """In whose name this node tells by that uplink that a packet's hops are used up (rule X3)."""
    return struct.pack("=I", ifindex), address.packed


def probe_target_value(address: IPv4Address, port: int) -> bytes:
    """Where questions over the data path go up to (rule X1)."""
    return struct.pack("=4s2s2x", address.packed, port.to_bytes(2, "big"))


def lease_value(deadline_ns: int, token: int) -> bytes:
    """`deadline_ns` is CLOCK_BOOTTIME; 0 is closed."""
    return struct.pack("=QQ", deadline_ns, token)


def parse_lease(value: bytes) -> tuple[int, int]:
    """(deadline, packed token)."""
    deadline_ns, token = struct.unpack("=QQ", value)
    return deadline_ns, token


def member_key(ifindex: int, mac: bytes) -> bytes:
    """A member's MAC as it is seen on one of our interfaces."""
    return struct.pack("=I6s2x", ifindex, mac)


def member_value(number: int) -> bytes:
    """The member's number on this node, never 0."""
    return struct.pack("=I", number)


def own_blocks_value(blocks: Sequence[int]) -> bytes:
    """The blocks of a floating IP from which this node may take ports for new flows (rule Q3); each once."""
    words = [0] * 16
    for block in blocks:
        words[block // 64] |= 1 << block % 64
    return struct.pack("=16Q", *words)


def parse_own_blocks(value: bytes) -> list[int]:
    """The blocks, in order."""
    words = struct.unpack("=16Q", value)
    return [number for number in range(64 * len(words)) if words[number // 64] >> number % 64 & 1]


def block_key(floating_ip: IPv4Address, block: int) -> bytes:
    """One block of one floating IP."""
    return struct.pack("=4sI", floating_ip.packed, block)


def block_value(kind: BlockKind, member: int, ifindex: int, own_mac: bytes, mac: bytes, *, seen_ns: int) -> bytes:
    """Whose a block is, and how that member is reached. `seen_ns`: CLOCK_MONOTONIC, and the kernel writes it (rule Q5),
    so a row that replaces another one keeps its value, or says now."""
    return struct.pack("=QII6s6sI", seen_ns, member, ifindex, own_mac, mac, kind)


def tunnelled_block_value(member: int, node: IPv4Address, *, seen_ns: int) -> bytes:
    """The same of a member that is reached through the tunnel, by its own address (rule X2)."""
    return struct.pack("=QI4s12xI", seen_ns, member, node.packed, BlockKind.TUNNEL)


def seen_ns_of(block: bytes) -> int:
    """When the kernel last saw a packet of the block (CLOCK_MONOTONIC), of its row."""
    return int.from_bytes(block[:8], "little")


def parse_block_key(key: bytes) -> tuple[IPv4Address, int]:
    """(floating IP, block)."""
    address, block = struct.unpack("=4sI", key)
    return IPv4Address(address), block


def parse_refused_key(key: bytes) -> tuple[IPv4Address, int, int]:
    """(floating IP, block, number of the member)."""
    address, block, member = struct.unpack("=4sII", key)
    return IPv4Address(address), block, member


def gateway_row_value(row: Row) -> bytes:
    """Whose a block is by which word, for the next agent."""
    owner = (row.owner or "").encode()
    return struct.pack("=QQ256s", _packed_stamp(row.stamp), row.is_resting, owner)


def parse_gateway_row(value: bytes) -> Row:
    """The row."""
    stamp, is_resting, owner = struct.unpack("=QQ256s", value)
    return Row(owner.rstrip(b"\0").decode() or None, _stamp_of(stamp), bool(is_resting))


def owner_row_value(stamp: Stamp, contact_ns: int | None) -> bytes:
    """A block of this node's own, by which word, and when a holder last confirmed it (CLOCK_BOOTTIME)."""
    return struct.pack("=QQ", _packed_stamp(stamp), contact_ns or 0)


def parse_owner_row(value: bytes) -> tuple[Stamp, int | None]:
    """(stamp, last contact)."""
    stamp, contact_ns = struct.unpack("=QQ", value)
    return _stamp_of(stamp), contact_ns or None


def _packed_stamp(stamp: Stamp) -> int:
    return Token(*stamp, 0).packed()


def _stamp_of(packed: int) -> Stamp:
    return Token.unpacked(packed).stamp


def flow_settings_value(seed: int, ephemeral: range, *, is_direct: bool) -> bytes:
    """What is asked where a flow is made (rules Q4, D4), and whether there is a direct path (F2)."""
    return struct.pack("=QHHI", seed, ephemeral.start, ephemeral.stop - 1, is_direct)


_LIMITS = struct.Struct("=7I4x")


@dataclass(frozen=True, slots=True)
class Limits:
    """Lifetimes, in seconds, and flows per pod (rules B3, B4); 0 is the default of bpf/life.h."""

    tcp_open_s: int = 0
    tcp_new_s: int = 0
    tcp_closing_s: int = 0
    udp_s: int = 0
    udp_new_s: int = 0
    icmp_s: int = 0
    flows_per_pod: int = 0

    def packed(self) -> bytes:
        """The row of a rule set; that of rule set 0 is for those that have none."""
        lives = (self.tcp_open_s, self.tcp_new_s, self.tcp_closing_s, self.udp_s, self.udp_new_s, self.icmp_s)
        return _LIMITS.pack(*lives, self.flows_per_pod)

    @property
    def timeouts(self) -> FlowTimeouts:
        """Its lifetimes."""
        return FlowTimeouts(
            self.tcp_open_s, self.tcp_new_s, self.tcp_closing_s, self.udp_s, self.udp_new_s, self.icmp_s
        )

    def under(self, timeouts: FlowTimeouts) -> "Limits":
        """These, where the timeouts of a rule set say nothing else."""
        return replace(self, **asdict(timeouts.over(self.timeouts)))


def parse_limits(value: bytes) -> Limits:
    """The reverse of `Limits.packed`."""
    return Limits(*_LIMITS.unpack(value))


def limits_key(rule_set: int) -> bytes:
    """0: of all rule sets that have no row of their own."""
    return struct.pack("=Q", rule_set)


def parse_rule_key(key: bytes) -> tuple[int, IPv4Network]:
    """(rule set, destination)."""
    length, high, low, address = struct.unpack("=III4s", key)
    return high << 32 | low, IPv4Network((address, length - 64))


def rule_set_of(key: bytes) -> int:
    """The rule set alone: asked of many keys."""
    high, low = _RULE_SET.unpack_from(key, 4)
    return int(high << 32 | low)


def parse_rule_value(value: bytes) -> IPv4Address | None:
    """The floating IP; None where the destination is excluded."""
    address, action = struct.unpack("=4sI", value)
    return IPv4Address(address) if action == RuleAction.STEER else None


def parse_selected(key: bytes, value: bytes) -> tuple[IPv4Address, int, int, int]:
    """(pod IP, ifindex, rule set, state)."""
    address, ifindex = struct.unpack("=4sI", key)
    rule_set, state, _pod = struct.unpack("=QII", value)
    return IPv4Address(address), ifindex, rule_set, state


def parse_drop(key: bytes, value: bytes) -> tuple[IPv4Address, int, int, int]:
    """(floating IP or 0.0.0.0, reason, packets, bytes), summed over CPUs."""
    address, reason = struct.unpack("=4sI", key)
    fields = struct.unpack(f"={len(value) // 8}Q", value)
    return IPv4Address(address), reason, sum(fields[0::2]), sum(fields[1::2])


def parse_counter(value: bytes) -> int:
    """Sum over CPUs."""
    return sum(struct.unpack(f"={len(value) // 8}Q", value))
