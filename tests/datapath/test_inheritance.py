"""What a new agent finds of the one before it, in the kernel's own maps."""

from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import cast

import pytest

from service.datapath import layout
from service.datapath.inheritance import read_inheritance
from service.datapath.layout import ClusterFlag, MapName, WayKind
from service.datapath.loader import LoadedDatapath
from tests.datapath.node import NEIGHBOUR_NODE, OWN_ADDRESS, POD, POD_DEVICE, RULE_SET, Node


@pytest.mark.bpf
def test_pods_that_are_steered_are_found_with_rules_and_device_and_single_nodes_with_them(
    pod_node: Node, loaded: LoadedDatapath
) -> None:
    found = read_inheritance(loaded)
    assert found.steered[POD].id == RULE_SET
    assert found.devices == {POD: POD_DEVICE.ifindex}
    # Networks of pods and services are none of them.
    assert set(found.exempt) == {OWN_ADDRESS, NEIGHBOUR_NODE}
    assert len(found.ways) == 1


def left(content: dict[str, dict[bytes, bytes]]) -> LoadedDatapath:
    """What a former agent had in its maps."""

    class Left:
        def __init__(self, name: str) -> None:
            self.name = name

        def items(self) -> dict[bytes, bytes]:
            return content.get(self.name, {})

        def lookup(self, key: bytes) -> bytes | None:
            return self.items().get(key)

    return cast(LoadedDatapath, SimpleNamespace(map=Left))


def test_w2_a_restarted_agent_goes_on_with_where_an_address_went_while_there_was_none() -> None:
    told, heard = (layout.way_value(7, WayKind.L2, 2, bytes(6), bytes((2, 0, 0, 0, 0, one))) for one in (1, 2))
    old = layout.way_value(6, WayKind.L2, 2, bytes(6), bytes(6))
    first, second, third, fourth = (bytes((192, 168, 1, one)) for one in (100, 101, 102, 103))
    content: dict[str, dict[bytes, bytes]] = {
        MapName.WAYS: dict.fromkeys((first, second, third), told),
        MapName.WAY_HINTS: {
            first: heard + (1).to_bytes(8, "little"),
            second: heard + bytes(8),
            third: old + (1).to_bytes(8, "little"),
            fourth: bytes(8) + heard[8:] + (1).to_bytes(8, "little"),
        },
    }
    assert read_inheritance(left(content)).ways == {
        first: heard,
        second: told,
        third: told,
        fourth: bytes(8) + heard[8:],
    }
    content |= {MapName.WAYS: dict.fromkeys((first, second, third), told), MapName.AGENT_BEAT: layout.beat_rows(1)}
    assert read_inheritance(left(content)).ways == dict.fromkeys((first, second, third), told), (
        "the hints had ended before"
    )


def test_what_a_former_agent_excluded_and_never_steered_is_known_again() -> None:
    wide, hole, node, pods = map(IPv4Network, ("8.8.8.0/24", "8.8.8.8/32", "192.168.1.22/32", "10.244.0.0/16"))
    address = IPv4Address("192.168.1.100")
    content: dict[str, dict[bytes, bytes]] = {
        MapName.RULES: {
            layout.rule_key(5, wide): layout.rule_value(address),
            layout.rule_key(5, hole): layout.rule_value(None),
        },
        MapName.CLUSTER: {
            layout.cluster_key(node): layout.cluster_value(ClusterFlag.NODE),
            layout.cluster_key(pods): layout.cluster_value(ClusterFlag.POD),
            layout.cluster_key(IPv4Network("192.168.1.0/24")): layout.cluster_value(ClusterFlag.NODE),
        },
    }
    found = read_inheritance(left(content))
    assert [rule_set.entries for rule_set in found.rule_sets] == [((wide, address), (hole, None))]
    assert found.exempt == (node[0],), "ranges are of the objects, and a subnet is of an earlier release"
