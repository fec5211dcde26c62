"""How members are reached: over the floating IP's segment, or through the tunnel (rules W1, W2, X1, X2)."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from service.datapath import layout
from service.datapath.desired import LocalUplink
from service.datapath.layout import BlockKind, WayKind
from service.datapath.topology import Topology, TransportChoice, tunnel_member_rows, way_rows
from service.gateway.transport import Proven
from service.model.assignment import Location
from service.model.gateway_node import Segment
from service.model.lease import Token

FLOATING_IP = IPv4Address("192.168.1.100")
OWN_MAC, STORAGE_MAC, THEIR_MAC = bytes(5) + b"\1", bytes(5) + b"\2", bytes(5) + b"\3"
ETH0 = LocalUplink(2, "eth0", OWN_MAC, IPv4Interface("192.168.1.21/24"), True)
ETH1 = LocalUplink(3, "eth1", STORAGE_MAC, IPv4Interface("172.30.1.21/24"), True)
THEIRS = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.22"), THEIR_MAC)
THEIR_ADDRESS = IPv4Address("10.0.2.22")
TOKEN = Token(3, 2, 1)
KNOWN = Topology(
    "worker1", (ETH1, ETH0), {"worker2": [THEIRS]}, {"worker1": 1, "worker2": 2}, {"worker2": THEIR_ADDRESS}
)
BY_SEGMENT = layout.way_value(TOKEN.packed(), WayKind.L2, 2, OWN_MAC, THEIR_MAC)
BY_TUNNEL = layout.tunnel_way_value(TOKEN.packed(), THEIR_ADDRESS)


def ways(topology: Topology, holder: str = "worker2") -> bytes | None:
    return way_rows({FLOATING_IP: Location(FLOATING_IP, holder, TOKEN)}, topology).get(FLOATING_IP.packed)


def test_the_way_to_another_nodes_address_goes_by_the_shared_segment() -> None:
    assert ways(KNOWN) == BY_SEGMENT


def test_without_a_shared_segment_there_is_no_way_and_so_packets_are_dropped() -> None:
    assert ways(replace(KNOWN, uplinks=(ETH1,))) is None
    assert ways(replace(KNOWN, segments={})) is None


@pytest.mark.parametrize("transport", ["l2", "vxlan", "auto"])
def test_the_own_address_is_reached_on_the_node_itself(transport: TransportChoice) -> None:
    way = ways(replace(KNOWN, transport=transport), "worker1")
    assert way is not None
    assert way[8] == WayKind.LOCAL


def test_x2_through_the_tunnel_the_way_is_the_holders_own_address_with_a_shared_segment_and_without() -> None:
    tunnelled = replace(KNOWN, transport="vxlan")
    assert ways(tunnelled) == ways(replace(tunnelled, uplinks=(), segments={})) == BY_TUNNEL
    assert ways(replace(tunnelled, uplinks=(), addresses={})) is None


def test_x2_a_member_that_takes_nothing_out_of_a_tunnel_is_reached_over_the_segment() -> None:
    """While the setting changes node by node."""
    assert ways(replace(KNOWN, transport="vxlan", addresses={})) == BY_SEGMENT
    assert ways(replace(KNOWN, transport="auto", addresses={})) == BY_SEGMENT


def test_x1_of_itself_a_segment_is_used_only_where_it_was_proven_for_that_address() -> None:
    auto = replace(KNOWN, transport="auto")
    assert ways(auto) == BY_TUNNEL
    assert ways(replace(auto, proven=Proven(out=frozenset({("worker2", FLOATING_IP)})))) == BY_SEGMENT
    assert (
        ways(replace(auto, proven=Proven(out=frozenset({("worker2", FLOATING_IP + 1), ("worker3", FLOATING_IP)}))))
        == BY_TUNNEL
    )
    assert ways(replace(auto, proven=Proven(out=frozenset({("worker2", FLOATING_IP)})), uplinks=(ETH1,))) == BY_TUNNEL


def test_x1_a_way_out_and_a_way_back_are_proven_each_for_itself() -> None:
    """A filter at one port swallows what its node sends from the floating IP, and nothing that the others do."""
    by_segment = layout.block_value(BlockKind.L2, 2, 2, OWN_MAC, THEIR_MAC, seen_ns=7)
    by_tunnel = layout.tunnelled_block_value(2, THEIR_ADDRESS, seen_ns=7)
    auto, pairs = replace(KNOWN, transport="auto"), frozenset({("worker2", FLOATING_IP)})
    out, back = replace(auto, proven=Proven(out=pairs)), replace(auto, proven=Proven(back=pairs))
    assert (ways(out), out.reach("worker2", FLOATING_IP, 7)) == (BY_SEGMENT, by_tunnel)
    assert (ways(back), back.reach("worker2", FLOATING_IP, 7)) == (BY_TUNNEL, by_segment)
    assert all("worker2" not in one.unchanged(auto) for one in (out, back))


def test_a_block_is_reached_as_its_member_is() -> None:
    by_segment = layout.block_value(BlockKind.L2, 2, 2, OWN_MAC, THEIR_MAC, seen_ns=7)
    assert KNOWN.reach("worker2", FLOATING_IP, 7) == by_segment
    tunnelled = replace(KNOWN, transport="vxlan")
    assert tunnelled.reach("worker2", FLOATING_IP, 7) == layout.tunnelled_block_value(2, THEIR_ADDRESS, seen_ns=7)
    assert tunnelled.reach("stranger", FLOATING_IP, 7) is None


def test_x2_packets_are_taken_out_of_the_tunnel_from_every_address_that_a_member_has_told_of_and_no_other() -> None:
    rows = tunnel_member_rows(replace(KNOWN, transport="vxlan", segments=KNOWN.segments | {"worker1": [ETH0.segment]}))
    assert rows == {address.packed: layout.member_value(2) for address in (THEIRS.address, THEIR_ADDRESS)}


def test_x2_where_nothing_is_tunnelled_nothing_is_taken_out_of_a_tunnel() -> None:
    assert tunnel_member_rows(KNOWN) == {}


def test_a_members_rows_depend_on_what_is_known_of_it_alone() -> None:
    auto = replace(KNOWN, transport="auto")
    others = replace(
        auto,
        proven=Proven(out=frozenset({("worker3", FLOATING_IP)})),
        addresses=auto.addresses | {"worker3": FLOATING_IP},
    )
    assert "worker2" in others.unchanged(auto)
    assert "worker2" not in replace(auto, proven=Proven(out=frozenset({("worker2", FLOATING_IP)}))).unchanged(auto)
    assert "worker2" not in replace(auto, addresses={}).unchanged(auto)
    assert "worker2" not in auto.unchanged(KNOWN), "another setting"
