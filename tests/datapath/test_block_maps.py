"""Blocks of ports in the kernel: whose each is, how its node is reached, what the next agent finds (Q1, Q3, R3)."""

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from service.datapath import layout
from service.datapath.block_maps import BlockMaps
from service.datapath.desired import LocalUplink, member_numbers
from service.datapath.layout import BlockKind, MapName
from service.datapath.loader import LoadedDatapath
from service.datapath.topology import Topology
from service.model.drop import DropReason
from service.model.gateway_node import Segment
from service.model.lease import Stamp, Token
from service.port_block.block import NEVER_GIVEN, TIMES, Row
from service.port_block.gateway import GatewayBlocks, SetOwner, Trust
from service.port_block.message import Ack, Entry, Grant, HeldRow, Message, Push, Read, Receiver, Table, cut
from tests.datapath import program
from tests.datapath.node import HOLDER, HOLDER_MAC, NODE_A, NODE_A_MAC, OWN_BLOCKS, TCP_FLOW, Node, boot_ns
from tests.datapath.program import REDIRECT, SHOT
from tests.datapath.stand_in import StandInMap
from tests.port_block.site import HOSTS, of, say, told

FLOATING_IP = IPv4Address("192.168.1.100")
OTHER_IP = IPv4Address("192.168.1.101")
UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
THEIRS = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.22"), b"\2\0\0\0\0\2", "eth0")
SEGMENTS = {"worker1": (UPLINK.segment,), "worker2": (THEIRS,)}
TOPOLOGY = Topology("worker1", (UPLINK,), SEGMENTS, member_numbers(SEGMENTS))
ROW = Row("worker2", Stamp(7, 12))
SECOND = 1_000_000_000


class Kernel:
    def __init__(self) -> None:
        self.maps = {name: StandInMap() for name in layout.MAP_SHAPES}
        self.now_ns = 100 * SECOND
        self.blocks = self.begin()
        self.blocks.learn(TOPOLOGY)

    def begin(self) -> BlockMaps:
        """As the next agent does it. The programs' clock began 40 s after that of the machines."""
        return BlockMaps(self.maps, "worker1", clock=lambda: self.now_ns, monotonic=lambda: self.now_ns - 40 * SECOND)

    def row(self, block: int = 3) -> bytes | None:
        return self.maps[MapName.BLOCKS].lookup(layout.block_key(FLOATING_IP, block))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def l2(seen_ns: int, mac: bytes = THEIRS.mac) -> bytes:
    number = member_numbers(SEGMENTS)["worker2"]
    return layout.block_value(BlockKind.L2, number, 2, UPLINK.mac, mac, seen_ns=seen_ns)


def test_a_block_is_taken_from_its_owner_over_the_segment_of_the_address(kernel: Kernel) -> None:
    kernel.blocks.set_owner(FLOATING_IP, 3, ROW)
    assert kernel.row() == l2(60 * SECOND)
    kernel.blocks.set_owner(FLOATING_IP, 3, Row("worker1", Stamp(7, 13)))
    assert kernel.row() == layout.block_value(BlockKind.LOCAL, 0, 0, layout.NO_MAC, layout.NO_MAC, seen_ns=60 * SECOND)


@pytest.mark.parametrize("row", [Row(None, Stamp(7, 13)), Row(None, Stamp(7, 13), True), Row("far", Stamp(7, 13))])
def test_what_is_nobodys_or_of_a_node_that_cannot_be_reached_is_taken_from_nobody(kernel: Kernel, row: Row) -> None:
    kernel.blocks.set_owner(FLOATING_IP, 3, ROW)
    kernel.blocks.set_owner(FLOATING_IP, 3, row)
    assert kernel.row() is None
    assert dict(kernel.begin().known()[FLOATING_IP][0]) == {3: row}, "but it is not forgotten"


def test_q5_a_block_that_has_come_to_another_owner_counts_as_just_used(kernel: Kernel) -> None:
    kernel.blocks.set_owner(FLOATING_IP, 3, ROW)
    assert kernel.blocks.last_packet_ns(FLOATING_IP, 3) == 100 * SECOND
    assert kernel.blocks.last_packet_ns(FLOATING_IP, 4) is None
    kernel.now_ns += 50 * SECOND
    assert kernel.blocks.last_packet_ns(FLOATING_IP, 3) == 100 * SECOND
    kernel.blocks.set_owner(FLOATING_IP, 3, replace_owner(ROW, "worker1"))
    assert kernel.blocks.last_packet_ns(FLOATING_IP, 3) == 150 * SECOND


def replace_owner(row: Row, owner: str) -> Row:
    return Row(owner, Stamp(row.stamp.term, row.stamp.version + 1))


def test_a_member_with_another_mac_keeps_its_blocks_and_when_they_were_used(kernel: Kernel) -> None:
    kernel.blocks.set_owner(FLOATING_IP, 3, ROW)
    kernel.now_ns += 50 * SECOND
    moved = {**SEGMENTS, "worker2": (replace(THEIRS, mac=b"\2\0\0\0\0\7"),)}
    kernel.blocks.learn(replace(TOPOLOGY, segments=moved))
    assert kernel.row() == l2(60 * SECOND, b"\2\0\0\0\0\7")
    kernel.blocks.learn(replace(TOPOLOGY, segments={}))
    assert kernel.row() is None
    kernel.blocks.learn(TOPOLOGY)
    assert kernel.row() == l2(110 * SECOND), "its way was away: it may have been used until now"


def test_r3_rows_count_under_the_tenure_that_was_vouched_for_and_the_next_agent_knows_it(kernel: Kernel) -> None:
    tenure = Token(7, 3, 1)
    kernel.blocks.set_owner(FLOATING_IP, 3, ROW)
    kernel.blocks.trust(FLOATING_IP, tenure)
    assert kernel.begin().known() == {FLOATING_IP: ([(3, ROW)], tenure)}
    kernel.blocks.set_owner(FLOATING_IP, 3, NEVER_GIVEN)
    kernel.blocks.forget(FLOATING_IP)
    assert (kernel.row(), kernel.begin().known()) == (None, {})


@pytest.mark.parametrize(("left_ns", "tenure"), [(1, Token(7, 3, 1)), (0, None), (-1, None)])
def test_a_tenure_is_what_the_fence_says_now(kernel: Kernel, left_ns: int, tenure: Token | None) -> None:
    assert kernel.blocks.tenure(FLOATING_IP) is None
    lease = layout.lease_value(kernel.now_ns + left_ns, Token(7, 3, 1).packed())
    kernel.maps[MapName.LEASE_DEADLINES].update(FLOATING_IP.packed, lease)
    assert kernel.blocks.tenure(FLOATING_IP) == tenure


def test_own_blocks_are_remembered_with_their_last_contact_until_they_are_let_go(kernel: Kernel) -> None:
    kernel.blocks.store(FLOATING_IP, 3, Stamp(7, 12), None)
    kernel.blocks.store(FLOATING_IP, 4, Stamp(7, 13), 5)
    assert kernel.begin().owned() == {FLOATING_IP: [(3, Stamp(7, 12), None), (4, Stamp(7, 13), 5)]}
    kernel.blocks.store(FLOATING_IP, 3, None, None)
    assert kernel.begin().owned() == {FLOATING_IP: [(4, Stamp(7, 13), 5)]}


def test_new_flows_take_ports_of_the_usable_blocks_alone(kernel: Kernel) -> None:
    own = kernel.maps[MapName.OWN_BLOCKS]
    kernel.blocks.use(FLOATING_IP, (3, 1007))
    assert own.lookup(FLOATING_IP.packed) == layout.own_blocks_value([3, 1007])
    kernel.blocks.use(FLOATING_IP, ())
    assert own.lookup(FLOATING_IP.packed) is None


def test_q3_an_agent_that_ended_between_losing_a_block_and_saying_so_leaves_none_of_it_to_new_flows(
    kernel: Kernel,
) -> None:
    kernel.blocks.store(FLOATING_IP, 3, Stamp(7, 12), None)
    kernel.blocks.use(FLOATING_IP, [3, 1007])
    kernel.blocks.use(OTHER_IP, [5])
    kernel.begin().owned()
    used = kernel.maps[MapName.OWN_BLOCKS].items()
    assert {IPv4Address(key): layout.parse_own_blocks(value) for key, value in used.items()} == {FLOATING_IP: [3]}


def test_the_memory_is_as_old_as_its_maps(kernel: Kernel) -> None:
    assert kernel.blocks.remembers_since_ns(is_first=False) == 100 * SECOND
    kernel.now_ns += SECOND
    assert kernel.begin().remembers_since_ns(is_first=False) == 100 * SECOND


def test_q7_where_there_never_was_an_agent_nothing_was_forgotten(kernel: Kernel) -> None:
    since_ns = kernel.blocks.remembers_since_ns(is_first=True)
    assert kernel.now_ns - since_ns > TIMES.down_ns + TIMES.rest_ns
    assert kernel.begin().remembers_since_ns(is_first=False) == since_ns


def test_q3_whoever_used_a_block_that_is_not_its_own_is_told_once(kernel: Kernel) -> None:
    number = member_numbers(SEGMENTS)["worker2"]
    refused = kernel.maps[MapName.REFUSED_BLOCKS]
    for member in (number, 99):
        refused.update(FLOATING_IP.packed + (3).to_bytes(4, "little") + member.to_bytes(4, "little"), bytes(8))
    assert list(kernel.blocks.refused({number: "worker2"})) == [(FLOATING_IP, 3, "worker2")]
    assert list(kernel.blocks.refused({number: "worker2"})) == []


# ---- what a gateway is told, in a real kernel ----


class Gateway:
    """Holds FLOATING_IP; its machine of blocks writes the maps that its programs go by."""

    def __init__(self, loaded: LoadedDatapath, node: Node) -> None:
        near = IPv4Network("192.168.1.0/24")
        macs = {"node1": NODE_A_MAC, "node2": HOLDER_MAC}
        segments = {name: (Segment(near, IPv4Address("192.168.1.9"), mac, "eth0"),) for name, mac in macs.items()}
        device = program.UPLINK
        own = LocalUplink(device.ifindex, device.name, device.mac, IPv4Interface("192.168.1.2/24"), True)
        self.node = node
        node.hold()
        node.map(MapName.TRUSTS).delete(FLOATING_IP.packed)
        self.blocks = BlockMaps(loaded.maps, "node3", clock=boot_ns, monotonic=time.monotonic_ns)
        self.blocks.learn(Topology("node3", (own,), segments, {"node1": NODE_A, "node2": HOLDER}))
        self.machine = GatewayBlocks(self.blocks, now_ns=boot_ns())
        self.machine.set_members(HOSTS, now_ns=boot_ns())

    def observe(self) -> None:
        """It hears of its lease."""
        self.machine.observe(FLOATING_IP, now_ns=boot_ns())
        self._do(told(self.machine))

    def hear(self, sender: str, message: Message) -> list[object]:
        outputs = say(self.machine, Receiver.GATEWAY, sender, message, now_ns=boot_ns())
        self._do(outputs)
        return outputs

    def _do(self, outputs: list[object]) -> None:
        for output in outputs:
            match output:
                case SetOwner(floating_ip, block, row):
                    self.blocks.set_owner(floating_ip, block, row)
                case Trust(floating_ip, tenure):
                    self.blocks.trust(floating_ip, tenure)

    def grant(self, entry: Entry) -> bool:
        """The leader's word; whether it is taken."""
        (table,) = of(Table, self.hear("controller", Read(5, 1, int(FLOATING_IP), 0, 0)))
        (ack,) = of(Ack, self.hear("controller", Grant(5, 9, table.session, int(FLOATING_IP), "", *cut([entry])[0])))
        return ack.taken == (True,)

    def passes(self) -> list[str]:
        """Whose packets of the block it takes."""
        macs = {"node1": NODE_A_MAC, "node2": HOLDER_MAC}
        verdicts = {name: self.node.forward(TCP_FLOW, source_mac=mac).verdict for name, mac in macs.items()}
        assert set(verdicts.values()) <= {REDIRECT, SHOT}
        return [name for name, verdict in verdicts.items() if verdict == REDIRECT]


@pytest.fixture
def a_gateway(loaded: LoadedDatapath, node: Node) -> Gateway:
    return Gateway(loaded, node)


@pytest.mark.bpf
def test_q2_flows_that_found_no_port_are_told_by_address_whatever_the_reason(kernel: Kernel) -> None:
    other = IPv4Address("192.168.1.101")
    rows = (
        (FLOATING_IP, DropReason.NO_PORTS, 2),
        (FLOATING_IP, DropReason.PORTS_EXHAUSTED, 3),
        (FLOATING_IP, DropReason.QUOTA, 5),
        (other, DropReason.PORTS_EXHAUSTED, 7),
    )
    for address, reason, packets in rows:
        key = address.packed + int(reason).to_bytes(4, "little")
        kernel.maps[MapName.DROPS].update(key, packets.to_bytes(8, "little") + bytes(8))
    assert kernel.blocks.refused_flows() == {FLOATING_IP: 5, other: 7}


def test_q1_whose_packets_pass_is_said_by_the_row_with_the_highest_stamp(a_gateway: Gateway) -> None:
    block = OWN_BLOCKS[0]
    a_gateway.observe()
    assert a_gateway.grant(Entry(block, Row("node1", Stamp(5, 2))))
    assert a_gateway.passes() == ["node1"]
    assert not a_gateway.grant(Entry(block, Row("node2", Stamp(5, 1))))
    assert not a_gateway.grant(Entry(block, Row("node2", Stamp(5, 3)))), "of one that does not know what is there"
    assert a_gateway.passes() == ["node1"]
    assert a_gateway.grant(Entry(block, Row("node2", Stamp(5, 3)), after=Stamp(5, 2)))
    assert a_gateway.passes() == ["node2"]


@pytest.mark.bpf
def test_q5_a_block_that_rests_is_nobodys(a_gateway: Gateway) -> None:
    block = OWN_BLOCKS[0]
    a_gateway.observe()
    assert a_gateway.grant(Entry(block, Row("node1", Stamp(5, 2))))
    taking = Entry(block, Row(None, Stamp(5, 3), True), after=Stamp(5, 2), if_idle=True)
    assert not a_gateway.grant(taking), "it has come to its node just now"
    assert a_gateway.passes() == ["node1"]
    assert a_gateway.grant(replace_if_idle(taking))
    assert a_gateway.passes() == []


def replace_if_idle(entry: Entry) -> Entry:
    """The same by the owner's own word."""
    return Entry(entry.block, entry.row, entry.after)


@pytest.mark.bpf
def test_q9_what_no_holder_has_confirmed_is_taken_from_no_owner(a_gateway: Gateway) -> None:
    a_gateway.observe()
    a_gateway.hear("node1", Push(7, (HeldRow(int(FLOATING_IP), OWN_BLOCKS[0], 5, 1, False),)))
    assert a_gateway.passes() == []


@pytest.mark.bpf
def test_r3_a_holder_that_never_stood_by_takes_packets_as_soon_as_an_owner_has_told_it(a_gateway: Gateway) -> None:
    """And none by what it knew before it heard of its lease."""
    a_gateway.blocks.set_owner(FLOATING_IP, OWN_BLOCKS[0], Row("node2", Stamp(4, 1)))
    assert a_gateway.passes() == []
    a_gateway.blocks.set_owner(FLOATING_IP, OWN_BLOCKS[0], NEVER_GIVEN)
    a_gateway.observe()
    assert a_gateway.passes() == []
    a_gateway.hear("node1", Push(7, (HeldRow(int(FLOATING_IP), OWN_BLOCKS[0], 5, 1, True),)))
    assert a_gateway.passes() == ["node1"]
    assert a_gateway.node.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 5}
