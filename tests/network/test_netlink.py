"""The netlink thread: what it shows, and that it gets along with uvloop."""

import asyncio
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest
import uvloop

from service.model.errors import InvariantError, TransientError
from service.network.conntrack import Conntrack, Networks
from service.network.link_monitor import LinkChange, LinkMonitor
from service.network.netlink import Netlink
from service.network.nftables import COUNTERS, Nftables, NftConfig
from service.network.sysctl import Sysctl
from tests.network.namespace import Namespace, namespaces


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespaces("n", "o") as (node, outside):
        node.link("up0", outside, "eth0")
        node.link("up1", outside, "eth1")
        node.ip("link set up0 address 02:00:00:00:00:07 mtu 1400")
        node.ip("addr add 192.168.7.1/24 dev up0")
        node.ip("addr add 192.168.8.1/24 dev up1")
        with node.entered():
            yield node


@pytest.mark.root
async def test_interfaces_are_shown_as_they_are(node: Namespace) -> None:
    async with Netlink() as netlink:
        interfaces = {interface.name: interface for interface in await netlink.interfaces()}
        uplink = interfaces["up0"]
        assert (uplink.mac, uplink.mtu, uplink.kind) == (bytes.fromhex("020000000007"), 1400, "veth")
        assert uplink.addresses == (IPv4Interface("192.168.7.1/24"),)
        assert uplink.up
        assert uplink.carrier
        assert interfaces["lo"].kind is None
        node.ip("link set up1 down")
        down = next(interface for interface in await netlink.interfaces() if interface.name == "up1")
        assert (down.up, down.carrier) == (False, False)


@pytest.mark.root
async def test_default_routes_are_given_best_first(node: Namespace) -> None:
    async with Netlink() as netlink:
        assert await netlink.default_route_interfaces() == ()
        assert await netlink.default_gateways() == ()
        node.ip("route add default via 192.168.8.2 metric 200")
        node.ip("route add default via 192.168.7.2 metric 100")
        assert await netlink.default_route_interfaces() == ("up0", "up1")
        node.ip("route flush default")
        node.ip("route add default nexthop via 192.168.7.2 nexthop via 192.168.8.2")
        assert await netlink.default_route_interfaces() == ("up0", "up1")
        assert set(await netlink.default_gateways()) == {IPv4Address("192.168.7.2"), IPv4Address("192.168.8.2")}


@pytest.mark.root
def test_everything_runs_on_uvloop(node: Namespace) -> None:
    async def main() -> None:
        async with LinkMonitor() as monitor, Netlink() as netlink:
            await netlink.ensure_steering_device(vni_port=9643, table=9640, mark=0x1000)
            async with asyncio.timeout(5):
                async for batch in monitor:
                    if any(isinstance(change, LinkChange) and change.name == "egw0" for change in batch):
                        break
            nftables = Nftables()
            assert not await nftables.present()
            await nftables.apply(NftConfig(0x1000, (), (), ("up0",)))
            assert await nftables.counters() == dict.fromkeys(COUNTERS, 0)
            async with Conntrack() as conntrack:
                assert await conntrack.find({IPv4Address("10.0.0.1"): Networks(())}, Networks(())) == []
            await netlink.remove_steering_device(table=9640, mark=0x1000)

    uvloop.run(main())


async def test_use_outside_the_context_is_our_own_mistake() -> None:
    with pytest.raises(InvariantError):
        await Netlink().interfaces()


@pytest.mark.root
async def test_a_kernel_that_does_not_answer_is_transient(node: Namespace) -> None:
    hold = threading.Event()

    class Stuck(Sysctl):
        def restore(self) -> None:
            hold.wait(30)

    async with Netlink(timeout_s=0.5, sysctl=Stuck()) as netlink:
        try:
            with pytest.raises(TransientError, match=r"did not answer within 0\.5 s"):
                await netlink.remove_steering_device(table=9640, mark=0x1000)
        finally:
            hold.set()
        assert await netlink.interfaces(), "and goes on when it answers again"
