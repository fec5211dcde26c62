"""Rows of the maps from what is known (rules W1, W2, W12, G2, G4)."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from service.datapath import desired, layout
from service.datapath.desired import LocalUplink
from service.datapath.layout import ClusterFlag, WayKind
from service.model.assignment import Location
from service.model.gateway_node import Segment
from service.model.lease import Token

FLOATING_IP = IPv4Address("192.168.1.100")
ELSEWHERE = IPv4Address("10.9.9.9")
OWN_MAC, STORAGE_MAC, THEIR_MAC = bytes(5) + b"\1", bytes(5) + b"\2", bytes(5) + b"\3"
ETH0 = LocalUplink(2, "eth0", OWN_MAC, IPv4Interface("192.168.1.21/24"), True)
ETH1 = LocalUplink(3, "eth1", STORAGE_MAC, IPv4Interface("172.30.1.21/24"), True)
THEIRS = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.22"), THEIR_MAC)
TOKEN = Token(3, 2, 1)


def test_the_way_to_another_nodes_address_goes_by_the_shared_segment() -> None:
    rows = desired.way_rows(
        {FLOATING_IP: Location(FLOATING_IP, "worker2", TOKEN)}, {"worker2": [THEIRS]}, (ETH1, ETH0), node="worker1"
    )
    assert rows == {FLOATING_IP.packed: layout.way_value(TOKEN.packed(), WayKind.L2, 2, OWN_MAC, THEIR_MAC)}


def test_without_a_shared_segment_there_is_no_way_and_so_packets_are_dropped() -> None:
    locations = {FLOATING_IP: Location(FLOATING_IP, "worker2", TOKEN)}
    assert desired.way_rows(locations, {"worker2": [THEIRS]}, (ETH1,), node="worker1") == {}
    assert desired.way_rows(locations, {}, (ETH0,), node="worker1") == {}


def test_the_own_address_is_reached_on_the_node_itself() -> None:
    rows = desired.way_rows({FLOATING_IP: Location(FLOATING_IP, "worker1", TOKEN)}, {}, (ETH0,), node="worker1")
    assert rows[FLOATING_IP.packed][8] == WayKind.LOCAL


def test_the_fence_knows_addresses_of_other_segments_too() -> None:
    rows = desired.floating_ip_rows([FLOATING_IP, ELSEWHERE], (ETH0,))
    assert rows[FLOATING_IP.packed] == layout.floating_ip_value(2, OWN_MAC)
    assert rows[ELSEWHERE.packed] == layout.floating_ip_value(0, layout.NO_MAC)


def test_destinations_beyond_the_cluster_are_told_from_those_inside() -> None:
    pods, services = IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/16")
    rows = desired.cluster_rows([pods], [services], [IPv4Network("192.168.1.21/32"), pods])
    assert rows[layout.cluster_key(pods)] == layout.cluster_value(ClusterFlag.POD)
    assert rows[layout.cluster_key(services)] == layout.cluster_value(ClusterFlag.SERVICE)
    assert rows[layout.cluster_key(IPv4Network("192.168.1.21/32"))] == layout.cluster_value(ClusterFlag.NODE)


def test_gratuitous_arp_is_believed_of_members_only_and_not_of_oneself() -> None:
    own = Segment(THEIRS.network, IPv4Address("192.168.1.21"), OWN_MAC)
    members = {"worker1": [own], "worker2": [THEIRS]}
    rows = desired.member_rows(members, (ETH0, ETH1), desired.member_numbers(members), node="worker1")
    assert list(rows) == [layout.member_key(2, THEIR_MAC)]
