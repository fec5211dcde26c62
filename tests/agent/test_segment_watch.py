"""What is said on the segments concerns what this node holds there, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from service.agent.segment_watch import SegmentWatch
from service.datapath.reconciler import Reconciler
from service.network.arp import REPLY, REQUEST, ArpPacket, parse_arp
from service.network.arp_listener import ArpListener
from service.policy.index import PolicyIndex
from service.settings import Settings
from tests.agent.site import FLOATING_IP, node
from tests.datapath.stand_in import UPLINK
from tests.network.test_announcer import Wire
from tests.virtual_time import in_virtual_time, now_ns

STRANGER, MEMBER = b"\2\0\0\0\0\x63", bytes((2, 0, 0, 0, 0, 22))
SECOND_UPLINK = replace(UPLINK, name="eth1", mac=b"\2\0\0\0\0\4", ifindex=3)
ELSEWHERE = replace(UPLINK, name="eth2", mac=b"\2\0\0\0\0\5", ifindex=4, address=IPv4Interface("10.0.0.1/24"))


class Site:
    """One node that holds an address on two uplinks of its segment, and has a third elsewhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listened: list[tuple[str, int]] = []
        self.changes = 0
        self.wire = Wire()
        self.held: tuple[IPv4Address, ...] = (FLOATING_IP,)
        monkeypatch.setattr(ArpListener, "listen", lambda listener, interfaces: self._listen(list(interfaces)))
        self.reconciler = Reconciler(Settings(node="worker1"), PolicyIndex(pod_cidrs_known=True))
        self.reconciler.learn_uplinks((UPLINK, SECOND_UPLINK, ELSEWHERE, replace(UPLINK, name="tun0", mac=b"")))
        self.reconciler.learn_members((node("worker1", 1), node("worker2", 22)), {})
        self.watch = SegmentWatch(
            self.reconciler, clock=now_ns, held=lambda: self.held, changed=self._change, sender=self.wire
        )

    def _listen(self, interfaces: list[tuple[str, int]]) -> None:
        self.listened = interfaces

    def _change(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From when the address has been held for half a minute."""
        self.watch.update()
        with self.watch:
            task = asyncio.create_task(self.watch.run())
            await asyncio.sleep(30.5)
            self.wire.sent.clear()
            yield
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def hear(self, mac: bytes, sender: IPv4Address = FLOATING_IP, target: IPv4Address = FLOATING_IP) -> None:
        self.watch.hear("eth0", ArpPacket(REQUEST, mac, sender, bytes(6), target))

    def said(self) -> list[tuple[float, str, int]]:
        """(second, interface, operation) of what was said as the holder."""
        packets = [(at, name, parse_arp(frame)) for at, name, frame in self.wire.sent]
        return [
            (round(at - 30.5, 3), name, one.operation) for at, name, one in packets if one and one.sender == FLOATING_IP
        ]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


@in_virtual_time
async def test_a2_a_held_address_is_defended_on_every_uplink_of_its_segment(site: Site) -> None:
    async with site.running():
        assert site.listened == [("eth0", 2), ("eth1", 3), ("eth2", 4)]
        site.hear(STRANGER)
        await asyncio.sleep(3)
        assert site.said() == ([(0, "eth0", REQUEST), (0, "eth1", REQUEST), (2.1, "eth0", REPLY), (2.1, "eth1", REPLY)])
        assert (site.watch.conflicts(), site.changes) == ({FLOATING_IP: STRANGER}, 1)
        assert site.watch.defences == 1
    assert site.wire.is_closed
    assert site.listened == []


@in_virtual_time
async def test_a2_a_forged_word_with_a_members_mac_is_answered_within_a_second(site: Site) -> None:
    async with site.running():
        site.hear(MEMBER)
        await asyncio.sleep(1)
        assert site.said() == ([(0.8, "eth0", REQUEST), (0.8, "eth1", REQUEST)])


@in_virtual_time
async def test_own_words_and_those_for_other_addresses_concern_nobody(site: Site) -> None:
    async with site.running():
        site.hear(SECOND_UPLINK.mac)
        site.hear(STRANGER, IPv4Address("192.168.1.101"))
        site.hear(STRANGER, IPv4Address("192.168.1.50"), FLOATING_IP)
        await asyncio.sleep(3)
        assert site.said() == []
        assert site.changes == 0


@in_virtual_time
async def test_an_address_that_was_lost_is_not_defended_and_a_dead_uplink_stops_nothing(site: Site) -> None:
    async with site.running():
        site.wire.down = {"eth0"}
        site.hear(STRANGER)
        await asyncio.sleep(1)
        assert site.said() == [(0, "eth1", REQUEST)]
        site.held = ()
        site.watch.update()
        await asyncio.sleep(5)
        assert site.said() == [(0, "eth1", REQUEST)]
