"""Rule W7: our filters stand beside those of others, and are replaced in place."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from service.model.errors import TransientError
from service.network.hook import Attachment, HookKind
from service.network.netlink import Netlink
from service.network.traffic_control import FILTER_HANDLE
from tests.network import tiny_program
from tests.network.namespace import Namespace, namespaces

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with namespaces("a", "b") as (here, there):
        here.link("v0", there, "eth0")
        here.ip("addr add 10.1.1.1/24 dev v0")
        there.ip("addr add 10.1.1.2/24 dev eth0")
        with here.entered():
            yield here, there


@pytest.fixture
def passing() -> Iterator[int]:
    descriptor = tiny_program.load(tiny_program.TC_ACT_UNSPEC)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def dropping() -> Iterator[int]:
    descriptor = tiny_program.load(tiny_program.TC_ACT_SHOT)
    yield descriptor
    os.close(descriptor)


async def index_of(netlink: Netlink, name: str) -> int:
    return next(found.index for found in await netlink.interfaces() if found.name == name)


def arrives(pair: tuple[Namespace, Namespace]) -> bool:
    here, there = pair
    with here.udp(port=7000) as server, there.udp() as client:
        server.settimeout(0.3)
        client.sendto(b"x", ("10.1.1.1", 7000))
        try:
            return server.recv(10) == b"x"
        except TimeoutError:
            return False


async def test_attach_is_idempotent_and_listed(pair: tuple[Namespace, Namespace], passing: int) -> None:
    async with Netlink() as netlink:
        index = await index_of(netlink, "v0")
        assert await netlink.attached(index) == ()
        for _ in range(2):
            await netlink.attach(index, "ingress", passing, "pod_in")
            await netlink.attach(index, "egress", passing, "fence")
        assert await netlink.attached(index) == (
            Attachment("ingress", HookKind.CLSACT),
            Attachment("egress", HookKind.CLSACT),
        )
    shown = pair[0].run("tc filter show dev v0 ingress")
    assert shown.count("direct-action") == shown.count(f"handle {FILTER_HANDLE:#x} pod_in") == 1
    assert arrives(pair)


async def test_a_restart_replaces_the_program_in_place(
    pair: tuple[Namespace, Namespace], passing: int, dropping: int
) -> None:
    async with Netlink() as netlink:
        index = await index_of(netlink, "v0")
        await netlink.attach(index, "ingress", passing, "old")
        assert arrives(pair)
        await netlink.attach(index, "ingress", dropping, "new")
        assert await netlink.attached(index) == (Attachment("ingress", HookKind.CLSACT),)
        shown = pair[0].run("tc filter show dev v0 ingress")
        assert ("new" in shown, "old" in shown) == (True, False)
        assert not arrives(pair)


@pytest.mark.parametrize("priority", [1, 5])
async def test_the_program_of_another_still_runs_and_stays(
    pair: tuple[Namespace, Namespace], passing: int, dropping: int, priority: int
) -> None:
    async with Netlink() as netlink:
        index = await index_of(netlink, "v0")

        def attach_other() -> None:
            with IPRoute() as ipr:
                ipr.tc("add", "clsact", index)
                arguments = {"parent": 0xFFFFFFF2, "prio": priority, "protocol": 3, "direct_action": True}
                ipr.tc("add-filter", "bpf", index, 1, fd=dropping, name="cni", **arguments)

        assert arrives(pair)
        await asyncio.to_thread(attach_other)
        await netlink.attach(index, "ingress", passing, "ours")
        assert not arrives(pair), "ours returned TC_ACT_UNSPEC, so the other one decides"
        assert await netlink.detach(index, "ingress")
        assert await netlink.attached(index) == ()
        assert "cni" in pair[0].run("tc filter show dev v0 ingress")


async def test_detach_where_nothing_is_attached_is_no_error(pair: tuple[Namespace, Namespace], passing: int) -> None:
    async with Netlink() as netlink:
        index = await index_of(netlink, "v0")
        assert not await netlink.detach(index, "egress")
        await netlink.attach(index, "egress", passing, "fence")
        assert await netlink.detach(index, "egress")
        assert not await netlink.detach(99999, "egress")


async def test_attaching_to_a_device_that_is_gone_is_transient(pair: tuple[Namespace, Namespace], passing: int) -> None:
    async with Netlink() as netlink:
        with pytest.raises(TransientError):
            await netlink.attach(99999, "ingress", passing, "pod_in")
