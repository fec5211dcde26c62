"""Rules W8, W11: a pod is behind a veth of its own or a bridge port."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from service.network.netlink import Netlink
from tests.network.namespace import Namespace, namespaces

pytestmark = pytest.mark.root
BARE, BRIDGED, SILENT = IPv4Address("10.244.2.5"), IPv4Address("10.244.1.10"), IPv4Address("10.244.1.99")
REMOTE, OUTSIDE = IPv4Address("10.244.9.9"), IPv4Address("192.168.7.2")


@dataclass(frozen=True)
class Site:
    node: Namespace
    pods: tuple[Namespace, ...]

    def index(self, device: str) -> int:
        return int(self.node.ip(f"-o link show {device}").split(":")[0])


@pytest.fixture
def site() -> Iterator[Site]:
    with namespaces("n", "a", "b", "c", "o") as (node, bare, first, second, outside):
        node.link("up0", outside, "eth0")
        node.ip("addr add 192.168.7.1/24 dev up0")
        node.ip("route add 10.244.0.0/16 via 192.168.7.2")
        node.link("ptp0", bare, "eth0")
        node.ip(f"route add {BARE}/32 dev ptp0")
        node.ip("link add br0 type bridge")
        node.ip("addr add 10.244.1.1/24 dev br0")
        node.ip("link set br0 up")
        for device, pod in (("port1", first), ("port2", second)):
            node.link(device, pod, "eth0")
            node.ip(f"link set {device} master br0")
        first.ip(f"addr add {BRIDGED}/24 dev eth0")
        with node.entered():
            yield Site(node, (bare, first, second))


async def found(netlink: Netlink, pods: list[IPv4Address], uplinks: list[str]) -> dict[IPv4Address, int]:
    """All that one look finds in the end."""
    devices: dict[IPv4Address, int] = {}
    async for some in netlink.pod_devices(pods, uplinks):
        devices |= some
    return devices


async def test_w8_each_pod_is_found_behind_its_device_or_its_port_of_a_bridge(site: Site) -> None:
    async with Netlink() as netlink:
        devices = await found(netlink, [BARE, BRIDGED, REMOTE, OUTSIDE], ["up0"])
    assert devices == {BARE: site.index("ptp0"), BRIDGED: site.index("port1")}


async def test_a_silent_address_is_absent_and_does_not_hold_up_the_others(site: Site) -> None:
    async with Netlink() as netlink:
        devices = await found(netlink, [SILENT, BRIDGED], ["up0"])
    assert devices == {BRIDGED: site.index("port1")}


async def test_an_address_that_went_to_another_pod_is_found_behind_the_new_port(site: Site) -> None:
    async with Netlink() as netlink:
        await found(netlink, [BRIDGED], ["up0"])
        _, first, second = site.pods
        first.ip(f"addr del {BRIDGED}/24 dev eth0")
        site.node.ip("link del port1")
        second.ip(f"addr add {BRIDGED}/24 dev eth0")
        assert await found(netlink, [BRIDGED], ["up0"]) == {BRIDGED: site.index("port2")}


async def test_an_uplink_that_is_a_bridge_port_is_nobodys_device(site: Site) -> None:
    async with Netlink() as netlink:
        assert await found(netlink, [BRIDGED], ["up0", "port1"]) == {}


async def test_veths_are_candidates_but_the_excluded_ones(site: Site) -> None:
    async with Netlink() as netlink:
        candidates = await netlink.veth_devices(exclude=["up0"])
    assert [interface.name for interface in candidates] == ["ptp0", "port1", "port2"]
