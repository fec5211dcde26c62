"""Changes of the node's network arrive as batches, and lost ones as a call to read again."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
import uvloop

from service.network import link_monitor
from service.network.link_monitor import (
    AddressChange,
    LinkChange,
    LinkMonitor,
    NeighbourChange,
    NetworkChange,
    Resync,
    RouteChange,
)
from tests.network.namespace import Namespace, namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespaces("n", "p") as (node, pod):
        node.link("pod0", pod, "eth0")
        node.ip("link add br0 type bridge")
        node.ip("link set br0 up")
        with node.entered():
            yield node


async def next_change(monitor: LinkMonitor, wanted: Callable[[NetworkChange], bool]) -> NetworkChange:
    async with asyncio.timeout(5):
        async for batch in monitor:
            assert batch
            for change in batch:
                if wanted(change):
                    return change
    raise AssertionError("the monitor ended")


async def test_links_addresses_routes_and_neighbours_are_told(node: Namespace) -> None:
    index = int(node.ip("-o link show pod0").split(":")[0])
    async with LinkMonitor() as monitor:
        node.ip("addr add 10.1.1.1/24 dev pod0")
        address = IPv4Interface("10.1.1.1/24")
        assert await next_change(monitor, lambda change: isinstance(change, AddressChange)) == AddressChange(
            index, address, gone=False
        )
        node.ip("route add 10.9.9.9/32 dev pod0")
        pod = IPv4Interface("10.9.9.9/32")
        assert await next_change(
            monitor, lambda change: isinstance(change, RouteChange) and change.destination == pod
        ) == RouteChange(pod, (index,), gone=False)
        node.ip("neigh add 10.1.1.7 lladdr 02:00:00:00:00:07 dev pod0")
        neighbour = NeighbourChange(index, IPv4Address("10.1.1.7"), bytes.fromhex("020000000007"), gone=False)
        assert await next_change(monitor, lambda change: change == neighbour)
        node.ip("link set pod0 down")
        assert await next_change(monitor, lambda change: isinstance(change, LinkChange) and not change.up)


async def test_a_port_that_leaves_its_bridge_is_not_gone_and_a_deleted_one_is(node: Namespace) -> None:
    def about_pod0(change: NetworkChange) -> bool:
        return isinstance(change, LinkChange) and change.name == "pod0"

    node.ip("link set pod0 master br0")
    async with LinkMonitor() as monitor:
        node.ip("link set pod0 nomaster")
        left = await next_change(monitor, about_pod0)
        assert isinstance(left, LinkChange)
        assert not left.gone
        node.ip("link del pod0")
        assert await next_change(monitor, lambda change: about_pod0(change) and change.gone)  # type: ignore[union-attr]


async def test_a_learned_bridge_address_is_told_with_its_port(node: Namespace) -> None:
    node.ip("link set pod0 master br0")
    index = int(node.ip("-o link show pod0").split(":")[0])
    async with LinkMonitor() as monitor:
        node.run("bridge fdb add 02:00:00:00:00:09 dev pod0 master static")
        learned = NeighbourChange(index, None, bytes.fromhex("020000000009"), gone=False)
        assert await next_change(monitor, lambda change: change == learned)


async def test_more_changes_than_the_buffer_holds_become_one_resync(node: Namespace) -> None:
    async with LinkMonitor(pending_max=5) as monitor:
        for number in range(20):
            node.ip(f"addr add 10.2.0.{number + 1}/32 dev pod0")
        assert await next_change(monitor, lambda change: isinstance(change, Resync)) == Resync()


async def test_events_the_kernel_dropped_become_a_resync(node: Namespace) -> None:
    async with LinkMonitor(receive_buffer_bytes=2048) as monitor:
        # The loop does not run meanwhile, so nobody reads.
        for number in range(20):
            node.ip(f"addr add 10.2.0.{number + 1}/32 dev pod0")
        assert await next_change(monitor, lambda change: isinstance(change, Resync)) == Resync()


async def test_i2_a_message_that_cannot_be_read_becomes_a_resync_and_the_next_ones_are_told(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(marshal: object, data: bytes) -> list[NetworkChange]:
        monkeypatch.undo()
        raise KeyError("an attribute that nobody has thought of")

    async with LinkMonitor() as monitor:
        monkeypatch.setattr(link_monitor, "parse_changes", fail_once)
        node.ip("addr add 10.1.1.1/24 dev pod0")
        assert await next_change(monitor, lambda change: isinstance(change, Resync)) == Resync()
        node.ip("addr add 10.1.1.2/24 dev pod0")
        second = IPv4Interface("10.1.1.2/24")
        assert await next_change(monitor, lambda change: isinstance(change, AddressChange) and change.address == second)


async def test_i2_a_socket_that_fails_is_told_to_whoever_waits(node: Namespace) -> None:
    async with LinkMonitor() as monitor:
        monitor._fail(OSError(9, "gone"))
        with pytest.raises(OSError, match="gone"):
            await next_change(monitor, lambda change: True)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_after_a_burst_that_was_lost_changes_are_told_on_every_loop(
    node: Namespace, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """A loop may watch a socket no more that has told of an error."""
    run(follow_a_burst(node))


async def follow_a_burst(node: Namespace) -> None:
    async with LinkMonitor(receive_buffer_bytes=2048) as monitor:
        for number in range(20):
            node.ip(f"addr add 10.2.0.{number + 1}/32 dev pod0")
        assert await next_change(monitor, lambda change: isinstance(change, Resync)) == Resync()
        await asyncio.sleep(0.2)  # until what still was in the buffer is read
        node.ip("addr add 10.3.0.1/32 dev pod0")
        last = IPv4Interface("10.3.0.1/32")
        await next_change(monitor, lambda change: isinstance(change, AddressChange) and change.address == last)
