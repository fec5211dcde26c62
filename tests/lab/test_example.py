"""The objects of the demo are what the service takes for a gateway and a policy, and place as the demo expects."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.gateway.assignment import assign
from service.lab.example import (
    EGRESS_SOURCE_IP,
    EXPECTED_HOLDERS,
    FLOATING_IPS,
    GATEWAY,
    GATEWAY_FILE,
    MATCHING_DESTINATION,
    OTHER_DESTINATION,
    POLICY,
    POLICY_FILE,
    POLICY_NAME,
    SECOND_UPLINK_DESTINATION,
)
from service.lab.plan import SECOND_UPLINK_DESTINATION as SECOND_UPLINK_NETWORK
from service.lab.plan import SEGMENTS, LabOptions, make_plan
from service.model.lease import Stamp
from service.model.objects import EgressPolicy, NetworkGateway
from service.sources.manifests.source import load_folder
from tests.gateway.nodes import node


@pytest.fixture
def objects(tmp_path: Path) -> tuple[NetworkGateway, EgressPolicy]:
    (tmp_path / GATEWAY_FILE).write_text(GATEWAY)
    (tmp_path / POLICY_FILE).write_text(POLICY)
    found, errors = load_folder(tmp_path)
    assert not errors
    gateway = next(item for item in found if isinstance(item, NetworkGateway))
    policy = next(item for item in found if isinstance(item, EgressPolicy))
    return gateway, policy


def test_the_objects_are_what_their_names_say(objects: tuple[NetworkGateway, EgressPolicy]) -> None:
    gateway, policy = objects
    assert tuple(map(str, gateway.floating_ips)) == FLOATING_IPS
    assert (policy.key.name, str(policy.egress_source_ip)) == (POLICY_NAME, EGRESS_SOURCE_IP)


def test_the_destinations_of_the_demo_are_on_the_sides_it_expects(
    objects: tuple[NetworkGateway, EgressPolicy],
) -> None:
    def is_matched(destination: str) -> bool:
        return any(IPv4Address(destination) in network for network in objects[1].destinations)

    assert is_matched(MATCHING_DESTINATION)
    assert not is_matched(OTHER_DESTINATION)
    assert not is_matched(SECOND_UPLINK_DESTINATION)
    assert IPv4Address(SECOND_UPLINK_DESTINATION) in SECOND_UPLINK_NETWORK


def test_a_lab_of_three_nodes_places_the_addresses_as_the_demo_expects() -> None:
    nodes = [
        node(planned.name, f"{planned.ip}/{SEGMENTS[0].prefixlen}", role=planned.role)
        for planned in make_plan(LabOptions()).nodes
    ]
    addresses = [IPv4Address(address) for address in FLOATING_IPS]
    rows = assign(addresses, nodes, {}, {}, stamp=Stamp(1, 1)).rows
    assert {str(row.floating_ip): row.holder for row in rows} == EXPECTED_HOLDERS
