"""Rows of the maps from what is known (rules W1, W2, W12, G2, G4)."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from service.datapath import desired, layout
from service.datapath.desired import LocalUplink
from service.datapath.layout import ClusterFlag
from service.model.gateway_node import Segment

FLOATING_IP = IPv4Address("192.168.1.100")
ELSEWHERE = IPv4Address("10.9.9.9")
OWN_MAC, STORAGE_MAC, THEIR_MAC = bytes(5) + b"\1", bytes(5) + b"\2", bytes(5) + b"\3"
ETH0 = LocalUplink(2, "eth0", OWN_MAC, IPv4Interface("192.168.1.21/24"), True)
ETH1 = LocalUplink(3, "eth1", STORAGE_MAC, IPv4Interface("172.30.1.21/24"), True)
THEIRS = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.22"), THEIR_MAC)


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
