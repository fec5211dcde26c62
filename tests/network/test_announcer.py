"""Gratuitous ARP goes out when it is due, on the interfaces of the moment, and a dead link stops nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest

from service.model.errors import TransientError
from service.network.announcer import Announcer, Outlet
from service.network.arp import parse_arp
from tests.virtual_time import in_virtual_time, now_ns

ADDRESS, OTHER = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
OUTLET = Outlet("eth0", b"\2\0\0\0\0\1")
BURST_S = [0.0, 0.2, 1.3, 2.4, 3.5, 4.6, 5.7]
"""When an address is announced that was acquired at 0, before the pace is one a minute."""


class Wire:
    """Stands for the packet sockets, and notes when each frame came."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, str, bytes]] = []
        self.down: set[str] = set()
        self.is_closed = False

    def send(self, interface: str | int, frame: bytes) -> None:
        if interface in self.down:
            raise TransientError("down")
        self.sent.append((now_ns() / 1e9, str(interface), frame))

    def close(self) -> None:
        self.is_closed = True

    def times(self, address: IPv4Address, ifname: str = "eth0") -> list[float]:
        """Of each announcement, which is two frames: request and reply form."""
        found = []
        for time_s, interface, frame in self.sent:
            packet = parse_arp(frame)
            assert packet is not None
            if (packet.sender, interface) == (address, ifname):
                found.append((time_s, packet.operation))
        assert [operation for _, operation in found] == [1, 2] * (len(found) // 2)
        return [time_s for time_s, _ in found[::2]]


@asynccontextmanager
async def running(wire: Wire, *outlets: Outlet) -> AsyncIterator[Announcer]:
    with Announcer(clock=now_ns, outlets=lambda _: outlets or [OUTLET], sender=wire) as announcer:
        task = asyncio.create_task(announcer.run())
        yield announcer
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@in_virtual_time
async def test_a_new_address_is_announced_at_once_then_in_a_burst_then_each_minute() -> None:
    wire = Wire()
    async with running(wire) as announcer:
        announcer.start(ADDRESS)
        await asyncio.sleep(130)
    assert wire.times(ADDRESS) == pytest.approx([*BURST_S, 65.7, 125.7])


@in_virtual_time
async def test_one_that_is_acquired_while_nothing_is_due_does_not_wait() -> None:
    wire = Wire()
    async with running(wire) as announcer:
        await asyncio.sleep(17)
        announcer.start(ADDRESS)
        await asyncio.sleep(0.1)
    assert wire.times(ADDRESS) == [17]


@in_virtual_time
async def test_a_stopped_address_is_never_announced_again() -> None:
    wire = Wire()
    async with running(wire) as announcer:
        announcer.start(ADDRESS)
        announcer.start(OTHER)
        await asyncio.sleep(1)
        announcer.stop(ADDRESS)
        announcer.restart([ADDRESS])
        await asyncio.sleep(300)
    assert wire.times(ADDRESS) == BURST_S[:2]
    assert len(wire.times(OTHER)) > 10, "the other one goes on"


@in_virtual_time
async def test_what_is_due_already_is_not_sent_when_the_lease_is_lost_first() -> None:
    wire = Wire()
    async with running(wire) as announcer:
        announcer.start(ADDRESS)
        announcer.start(OTHER)
        announcer.stop(ADDRESS)
        await asyncio.sleep(1)
    assert wire.times(ADDRESS) == []
    assert wire.times(OTHER) == BURST_S[:2]


@in_virtual_time
async def test_a_link_that_comes_up_begins_the_burst_anew() -> None:
    wire = Wire()
    async with running(wire) as announcer:
        announcer.start(ADDRESS)
        await asyncio.sleep(20)
        announcer.restart([ADDRESS])
        await asyncio.sleep(2)
    assert wire.times(ADDRESS)[len(BURST_S) :] == pytest.approx([20, 20.2, 21.3])


@in_virtual_time
async def test_a_link_that_is_down_ends_neither_the_schedule_nor_what_goes_out_elsewhere() -> None:
    wire = Wire()
    wire.down = {"eth0"}
    async with running(wire, OUTLET, Outlet("eth1", b"\2\0\0\0\0\2")) as announcer:
        announcer.start(ADDRESS)
        await asyncio.sleep(1)
        wire.down = set()
        await asyncio.sleep(1)
    assert wire.times(ADDRESS, "eth1") == BURST_S[:3]
    assert wire.times(ADDRESS, "eth0") == BURST_S[2:3]


@in_virtual_time
async def test_the_sockets_are_closed_at_the_end() -> None:
    wire = Wire()
    async with running(wire):
        assert not wire.is_closed
    assert wire.is_closed
