from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from service.gateway.validation import node_address_errors
from service.model.gateway_node import NodeRole
from tests.gateway.nodes import node
from tests.policy.objects import gateway

NODES = [
    node("worker1", "192.168.1.11/24"),
    node("worker2", "10.0.0.0/31", up=False),
    node("controller-a", "192.168.1.5/24", role=NodeRole.CONTROLLER),
]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.168.1.11", "own address of node worker1"),
        ("192.168.1.5", "own address of node controller-a"),
        ("10.0.0.0", "own address of node worker2"),
        ("192.168.1.0", "network address of 192.168.1.0/24"),
        ("192.168.1.255", "broadcast address of 192.168.1.0/24"),
    ],
)
def test_an_address_that_cannot_float_is_named_with_its_field(address: str, words: str) -> None:
    (error,) = node_address_errors(gateway("192.168.1.100", address), NODES, origin="gateway.yaml")
    assert str(error).startswith("gateway.yaml: AnthosNetworkGateway kube-system/default: spec.floatingIPs[1]: ")
    assert words in error.message


def test_free_addresses_and_both_ends_of_a_point_to_point_subnet_are_fine() -> None:
    assert node_address_errors(gateway("192.168.1.100", "10.0.0.1", "172.16.0.0"), NODES) == ()


def test_an_address_of_any_interface_of_a_member_cannot_float_also_of_one_that_is_down() -> None:
    """Such as kube-vip's or keepalived's virtual IP."""
    owner = replace(node("worker3", "192.168.1.13/24", up=False), own_addresses=(IPv4Address("192.168.1.100"),))
    (error,) = node_address_errors(gateway("192.168.1.100"), [*NODES, owner])
    assert "192.168.1.100 is an address of an interface of node worker3" in error.message
