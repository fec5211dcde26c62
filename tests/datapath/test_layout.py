"""The two sides of every map agree: bpf/layout.h and bpf/drop.h with their Python counterparts, byte for byte."""

import re
import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.datapath import flow_row, layout, map_size
from service.datapath.bpf_map import MapInfo, map_info
from service.datapath.flow_room import FlowRoom
from service.datapath.layout import MAP_SHAPES, BlockKind, ClusterFlag, MapName, MapShape, SelectedState, WayKind
from service.datapath.loader import LoadedDatapath
from service.datapath.map_size import RowRoom
from service.keeper.handover import HANDOVER_NS
from service.model.drop import DropReason
from service.model.lease import Stamp
from service.network.handover_device import HANDOVER_DEVICE, handover_sysctls
from service.network.priority import CANDIDATE_PRIORITY, CLASSIFIED_PRIORITY, FLOW_PRIORITY
from service.port_block.block import Row

BPF = Path(__file__).parents[2] / "bpf"
LAYOUT_H = (BPF / "layout.h").read_text(encoding="ascii")
DROP_H = (BPF / "drop.h").read_text(encoding="ascii")
SOURCE = (BPF / "maps.h").read_text(encoding="ascii")

TABLES = {
    words[3]: words[4]
    for words in (found.split(", ") for found in re.findall(r"^BPF_(?:F_)?TABLE\((.*)\);$", SOURCE, re.MULTILINE))
}
"""How many rows the source gives to each map."""

ADDRESS = IPv4Address("10.0.0.1")
NETWORK = IPv4Network("10.0.0.0/8")
MAC = b"\x02\0\0\0\0\x01"

SIZES = {name: int(size) for name, size in re.findall(r"_Static_assert\(sizeof\(struct (\w+)\) == (\d+)", LAYOUT_H)}
"""Of each struct, as the compiler has checked it."""

PACKED = {
    "config": layout.config_value(0x1000, 2, MAC, 9643),
    "selected_key": layout.selected_key(ADDRESS, 2),
    "selected_value": layout.selected_value(1, SelectedState.STEER),
    "rule_key": layout.rule_key(1, NETWORK),
    "rule_value": layout.rule_value(ADDRESS),
    "cluster_key": layout.cluster_key(NETWORK),
    "way": layout.way_value(1, WayKind.L2, 2, MAC, MAC),
    "floating_ip": layout.floating_ip_value(2, MAC),
    "lease": layout.lease_value(1, 2),
    "own_blocks": layout.own_blocks_value([0, 1007]),
    "block_key": layout.block_key(ADDRESS, 1007),
    "block": layout.block_value(BlockKind.L2, 1, 2, MAC, MAC, seen_ns=3),
    "gateway_row": layout.gateway_row_value(Row("worker1", Stamp(1, 2))),
    "owner_row": layout.owner_row_value(Stamp(1, 2), None),
    "refused_key": struct.pack("=4sII", ADDRESS.packed, 1, 2),
    "flow_settings": layout.flow_settings_value(1, range(32768, 61000), is_direct=True),
    "limits": layout.Limits(tcp_open_s=7440).packed(),
    "probe_target": layout.probe_target_value(ADDRESS, 9645),
    "error_key": struct.pack("=II", 1, 2),
    "member_key": layout.member_key(2, MAC),
}
MAP_STRUCTS: dict[str, tuple[str | int, str | int]] = {
    MapName.CONFIG: (4, "config"),
    MapName.SELECTED: ("selected_key", "selected_value"),
    MapName.RULES: ("rule_key", "rule_value"),
    MapName.CLUSTER: ("cluster_key", 4),
    MapName.DIRECT_DEVICES: (4, 4),
    MapName.WAYS: (4, "way"),
    MapName.WAY_HINTS: (4, "way_hint"),
    MapName.AGENT_BEAT: (4, 8),
    MapName.FLOATING_IPS: (4, "floating_ip"),
    MapName.LEASE_DEADLINES: (4, "lease"),
    MapName.HANDOVERS: (4, "handover"),
    MapName.HANDOVER_DEVICE: (4, "handover_device"),
    MapName.MEMBERS: ("member_key", 4),
    MapName.FLOW_SETTINGS: (4, "flow_settings"),
    MapName.LIMITS: (8, "limits"),
    MapName.OWN_BLOCKS: (4, "own_blocks"),
    MapName.BLOCKS: ("block_key", "block"),
    MapName.TRUSTS: (4, 8),
    MapName.TUNNEL_MEMBERS: (4, 4),
    MapName.GATEWAY_ROWS: ("block_key", "gateway_row"),
    MapName.OWNER_ROWS: ("block_key", "owner_row"),
    MapName.BLOCK_MEMORY: (4, 8),
    MapName.NEXT_HOPS: ("next_hop_key", "next_hop"),
    MapName.TUNNEL_HOPS: (4, "tunnel_hop"),
    MapName.REFUSED_BLOCKS: ("refused_key", 8),
    MapName.FLOWS_OPEN: ("flow_key", "flow"),
    MapName.FLOWS_YOUNG: ("flow_key", "flow"),
    MapName.FLOWS_DATAGRAM: ("flow_key", "flow"),
    MapName.MIRRORS_OPEN: ("mirror_key", "mirror"),
    MapName.MIRRORS_YOUNG: ("mirror_key", "mirror"),
    MapName.MIRRORS_DATAGRAM: ("mirror_key", "mirror"),
    MapName.PORT_HINTS: ("hint_key", 8),
    MapName.POD_LOADS: ("pod_key", "pod_load"),
    MapName.POD_SPARES: ("pod_key", 8),
    MapName.DEPARTED_FLOWS: ("flow_key", "flow"),
    MapName.POLICY_TRAFFIC: ("traffic_key", "traffic"),
    MapName.FRAGMENTS: ("fragment_key", "fragment"),
    MapName.UPLINK_ADDRESSES: (4, 4),
    MapName.ERROR_TIMES: ("error_key", 8),
    MapName.PROBE_TARGET: (4, "probe_target"),
    MapName.GENERATIONS: (4, 8),
    MapName.DROPS: ("drop_key", "tally"),
    MapName.COUNTS: (4, 8),
}
"""Key and value: a struct of bpf/layout.h, or the bytes of a plain integer or address."""


def defines(prefix: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(rf"#define {prefix}_(\w+) (\d+)\b", LAYOUT_H)}


def members(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: int(member) for member in enum}


def test_every_struct_has_its_size_asserted() -> None:
    assert sorted(SIZES) == sorted(re.findall(r"^struct (\w+) \{", LAYOUT_H, re.MULTILINE))


@pytest.mark.parametrize("name", PACKED)
def test_packed_sizes_are_the_compilers(name: str) -> None:
    assert len(PACKED[name]) == SIZES[name]


@pytest.mark.parametrize("name", MAP_SHAPES)
def test_map_shapes_are_those_of_their_structs(name: str) -> None:
    key, value = (SIZES[part] if isinstance(part, str) else part for part in MAP_STRUCTS[name])
    assert (MAP_SHAPES[name].key_size, MAP_SHAPES[name].value_size) == (key, value)


def test_every_map_of_the_program_has_a_name_and_a_shape() -> None:
    names = [value for key, value in vars(MapName).items() if not key.startswith("_")]
    assert sorted(TABLES) == sorted(names) == sorted(MAP_SHAPES)


def test_maps_without_a_size_of_their_own_have_one_by_settings() -> None:
    sized = [
        found.split(", ")[3] for found in re.findall(r"^BPF_(?:F_)?TABLE\((.*\bSIZED\b.*)\);$", SOURCE, re.MULTILINE)
    ]
    assert sorted(sized) == sorted(map_size.sizes(FlowRoom(), RowRoom()))


@pytest.mark.bpf
@pytest.mark.parametrize("name", MAP_SHAPES)
def test_map_shapes_are_those_of_the_loaded_maps(loaded: LoadedDatapath, name: str) -> None:
    info: MapInfo = map_info(loaded.map(name).fd)
    assert MapShape(info.type, info.key_size, info.value_size) == MAP_SHAPES[name]


def test_drop_reasons_have_the_same_names_and_numbers() -> None:
    assert {name: int(value) for name, value in re.findall(r"DROP_(\w+) = (\d+)", DROP_H)} == members(DropReason)


def test_counter_names_are_in_the_order_of_the_enum() -> None:
    names = re.findall(r"^    COUNT_(\w+),", LAYOUT_H, re.MULTILINE)
    assert tuple(name.lower() for name in names) == layout.COUNTER_NAMES


@pytest.mark.parametrize(
    ("prefix", "enum"), [("SELECTED", SelectedState), ("CLUSTER", ClusterFlag), ("WAY", WayKind), ("BLOCK", BlockKind)]
)
def test_states_and_kinds_have_the_same_numbers(prefix: str, enum: type[IntEnum]) -> None:
    assert defines(prefix) == members(enum)


def test_netfilter_knows_a_classified_pods_packet_by_the_priority_that_the_program_gives_it() -> None:
    assert int(re.findall(r"#define CLASSIFIED_PRIORITY (\w+)", LAYOUT_H)[0], 16) == CLASSIFIED_PRIORITY


def test_a_rule_steers() -> None:
    address, action = struct.unpack("=4sI", layout.rule_value(ADDRESS))
    assert (address, action) == (ADDRESS.packed, defines("RULE")["STEER"])


def test_w14_an_exclusion_is_told_from_an_address() -> None:
    value = layout.rule_value(None)
    assert struct.unpack("=4sI", value) == (bytes(4), defines("RULE")["EXCLUDED"])
    assert layout.parse_rule_value(value) is None
    assert layout.parse_rule_value(layout.rule_value(ADDRESS)) == ADDRESS


def test_the_rule_set_counts_as_64_bits_of_every_prefix() -> None:
    prefixlen, high, low, network = struct.unpack("=III4s", layout.rule_key(0x1122334455667788, NETWORK))
    assert (prefixlen, high, low) == (64 + 8, 0x11223344, 0x55667788)
    assert network == NETWORK.network_address.packed


def test_a_rule_key_is_read_as_it_was_written() -> None:
    assert layout.parse_rule_key(layout.rule_key(0x1122334455667788, NETWORK)) == (0x1122334455667788, NETWORK)


def test_a_selected_row_is_read_as_it_was_written() -> None:
    key, value = layout.selected_key(ADDRESS, 7), layout.selected_value(2**64 - 1, SelectedState.CHANGING)
    assert layout.parse_selected(key, value) == (ADDRESS, 7, 2**64 - 1, SelectedState.CHANGING)


def test_own_blocks_have_a_bit_each() -> None:
    words = struct.unpack("=16Q", layout.own_blocks_value([0, 65, 1007]))
    assert [index * 64 + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1] == [
        0,
        65,
        1007,
    ]


def test_a_flow_is_read_as_the_kernel_writes_it() -> None:
    key = ADDRESS.packed + IPv4Address("203.0.113.7").packed + struct.pack(">HHB3x", 40000, 443, 6)
    port, macs = (1024).to_bytes(2, "big"), (b"\2pod\0\1", b"\2node\1")
    value = struct.pack("=QQIII4sI2sBB", 9, 8, 7, 6, 5, ADDRESS.packed, 4, port, 1, 1)
    value += struct.pack("=IIQQQQI6s6s", 21, 22, 23, 24, 12, 13, 14, *macs)
    row = flow_row.parse_flow(key, value)
    assert row.value() == value
    assert (row.out_packets, row.in_packets, row.out_bytes, row.in_bytes) == (21, 22, 23, 24)
    assert (row.out_until_ns, row.back_until_ns, row.back_ifindex, row.pod_mac, row.node_mac) == (12, 13, 14, *macs)
    assert (row.pod, row.pod_port, row.remote_port, row.protocol) == (ADDRESS, 40000, 443, 6)
    assert (row.rule_set, row.last_ns, row.life_s, row.pod_number, row.ifindex) == (9, 8, 7, 6, 5)
    assert (row.nat_port, row.acked, row.state, row.is_ended) == (1024, 4, 1, True)


def test_the_numbers_of_blocks_and_priority_are_the_kernels() -> None:
    numbers = [
        int(re.findall(rf"#define {name} (\w+)", LAYOUT_H)[0], 0)
        for name in ("FIRST_PORT", "PORTS_PER_BLOCK", "BLOCKS")
    ]
    assert numbers == [layout.FIRST_PORT, layout.PORTS_PER_BLOCK, layout.BLOCKS]
    assert int(re.findall(r"#define FLOW_PRIORITY (\w+)", LAYOUT_H)[0], 0) == FLOW_PRIORITY
    assert int(re.findall(r"#define CANDIDATE_PRIORITY (\w+)", LAYOUT_H)[0], 0) == CANDIDATE_PRIORITY


def test_the_keeper_and_the_kernel_wait_for_a_successor_for_as_long() -> None:
    assert re.findall(r"#define HANDOVER_NS (\d+)ULL", LAYOUT_H) == [str(HANDOVER_NS)]
    sysctls = handover_sysctls()
    key = f"ipv4/neigh/{HANDOVER_DEVICE}"
    asked_ms = int(sysctls[f"{key}/retrans_time_ms"]) * int(sysctls[f"{key}/mcast_solicit"])
    assert asked_ms * 1_000_000 >= HANDOVER_NS, "the kernel gives up before anybody else does"


def test_tallies_are_summed_over_cpus() -> None:
    key = struct.pack("=4sI", ADDRESS.packed, DropReason.NO_FLOW)
    value = struct.pack("=QQQQ", 1, 60, 2, 120)
    assert layout.parse_drop(key, value) == (ADDRESS, DropReason.NO_FLOW, 3, 180)
    assert layout.parse_counter(struct.pack("=QQQ", 1, 2, 3)) == 6
