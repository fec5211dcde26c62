"""A real node is looked at as an agent would, and nothing of it is changed."""

import socket
from collections.abc import Iterator

import pytest

from service.agent.node_check import look
from service.network.inspection import Finding, Level
from service.settings import Settings
from tests.network.namespace import Namespace, namespaces

pytestmark = [pytest.mark.root, pytest.mark.bpf]

SETTINGS = Settings(node="worker1")


@pytest.fixture
def a_node() -> Iterator[Namespace]:
    """With one uplink and the default route by it."""
    with namespaces("-n", "-r") as (node, router):
        node.link("eth0", router, "port")
        node.ip("addr add 192.168.1.21/24 dev eth0")
        node.ip("route add default via 192.168.1.1")
        node.sysctl("ipv4/ip_forward", "1")
        yield node


async def findings_of(node: Namespace, *, is_fresh: bool = True) -> dict[str, Finding]:
    with node.entered():
        return {finding.topic: finding for finding in await look(SETTINGS, is_fresh=is_fresh)}


def state_of(node: Namespace) -> tuple[str, ...]:
    return node.ip("-j link"), node.ip("-j rule"), node.ip("-j route show table all"), node.run("nft list ruleset")


async def test_on_a_node_with_nothing_in_the_way_nothing_is_grave_and_nothing_is_changed(a_node: Namespace) -> None:
    before = state_of(a_node)
    found = await findings_of(a_node)
    assert {topic for topic, finding in found.items() if finding.level is Level.GRAVE} == set()
    assert {topic for topic, finding in found.items() if finding.level is Level.GOOD} >= {
        "node",
        "cni",
        "uplinks",
        "mtu",
        "rp_filter",
        "marks",
        "hooks",
        "ports",
    }
    assert state_of(a_node) == before


async def test_whatever_is_in_the_way_is_found(a_node: Namespace) -> None:
    a_node.run("nft -f -", text="table ip other { chain c { meta mark & 0x1000 == 0x1000 accept; }; }")
    a_node.ip("link add cilium_host type veth peer name cilium_net")
    with a_node.udp(port=9640):
        found = await findings_of(a_node)
        later = await findings_of(a_node, is_fresh=False)
    assert {topic for topic, finding in found.items() if finding.level is Level.GRAVE} == {"marks", "cni", "ports"}
    assert "0x1000" in found["marks"].said
    assert "9640/udp" in found["ports"].said
    assert "ports" not in later, "where an agent is, it has them"


async def test_a_node_without_a_way_out_is_told_so(a_node: Namespace) -> None:
    a_node.ip("route del default")
    found = await findings_of(a_node)
    assert found["uplinks"].level is Level.GRAVE
    assert "datapath.uplinks" in found["uplinks"].mend


async def test_a_rule_that_looks_at_our_mark_is_named(a_node: Namespace) -> None:
    a_node.ip("rule add fwmark 0x1000/0x1000 table 77")
    found = await findings_of(a_node)
    assert found["marks"].level is Level.GRAVE
    assert "77" in found["marks"].said


async def test_a_port_of_tcp_counts_too(a_node: Namespace) -> None:
    with a_node.entered(), socket.socket() as server:
        server.bind(("0.0.0.0", SETTINGS.ports.http))
        server.listen()
        found = {finding.topic: finding for finding in await look(SETTINGS, is_fresh=True)}
    assert "9642/tcp" in found["ports"].said
