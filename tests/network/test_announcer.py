"""Gratuitous ARP goes out when it is due, on the interfaces of the moment, and a dead link stops nothing."""

import asyncio
from ipaddress import IPv4Address

import pytest

from service.model.errors import TransientError
from service.network import announcer as module
from service.network.announcer import Announcer, Outlet
from service.network.arp import parse_arp

ADDRESS = IPv4Address("192.168.1.100")
MAC = b"\2\0\0\0\0\1"
SECOND_NS = 1_000_000_000


class Wire:
    """Stands for the packet socket."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.is_down = False

    def send(self, interface: str | int, frame: bytes) -> None:
        if self.is_down:
            raise TransientError("down")
        self.sent.append((str(interface), frame))

    def close(self) -> None:
        pass


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(module, "ArpSender", lambda: wire)
    return wire


async def run_briefly(announcer: Announcer) -> None:
    task = asyncio.create_task(announcer.run())
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_new_address_is_announced_at_once_in_request_and_reply_form(wire: Wire) -> None:
    announcer = Announcer(clock=lambda: SECOND_NS, outlets=lambda _: [Outlet("eth0", MAC)])
    announcer.start(ADDRESS)
    await run_briefly(announcer)
    packets = [parse_arp(frame) for _, frame in wire.sent]
    assert [packet and packet.operation for packet in packets] == [1, 2]
    assert {packet and packet.sender for packet in packets} == {ADDRESS}


async def test_a_stopped_address_is_never_announced_again(wire: Wire) -> None:
    announcer = Announcer(clock=lambda: SECOND_NS, outlets=lambda _: [Outlet("eth0", MAC)])
    announcer.start(ADDRESS)
    announcer.stop(ADDRESS)
    announcer.restart([ADDRESS])
    await run_briefly(announcer)
    assert wire.sent == []


async def test_a_link_that_is_down_does_not_end_the_schedule(wire: Wire) -> None:
    now = [SECOND_NS]
    announcer = Announcer(clock=lambda: now[0], outlets=lambda _: [Outlet("eth0", MAC)])
    wire.is_down = True
    announcer.start(ADDRESS)
    await run_briefly(announcer)
    wire.is_down = False
    now[0] += 10 * SECOND_NS
    await run_briefly(announcer)
    assert wire.sent
