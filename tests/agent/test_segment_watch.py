"""What is said on the segments concerns what this node holds there, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from service.agent.segment_watch import SegmentWatch
from service.datapath.reconciler import Reconciler
from service.model.gateway_node import GatewayNode, Hearing, NodeState
from service.network.arp import BROADCAST_MAC, REPLY, REQUEST, ArpPacket, parse_arp
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
        settings = Settings(node="worker1")
        self.suspected: set[str] = set()
        self.gateways: tuple[IPv4Address, ...] = ()
        self.reconciler = Reconciler(settings, PolicyIndex(pod_cidrs_known=True))
        self.reconciler.learn_uplinks((UPLINK, SECOND_UPLINK, ELSEWHERE, replace(UPLINK, name="tun0", mac=b"")))
        self.reconciler.learn_members((node("worker1", 1), node("worker2", 22)), {})
        self.watch = SegmentWatch(
            settings,
            self.reconciler,
            clock=now_ns,
            held=lambda: self.held,
            gateways=lambda: self.gateways,
            is_answering=lambda name: name not in self.suspected,
            changed=self._change,
            sender=self.wire,
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
        before = site.changes
        site.hear(STRANGER)
        await asyncio.sleep(3)
        assert site.said() == ([(0, "eth0", REQUEST), (0, "eth1", REQUEST), (2.1, "eth0", REPLY), (2.1, "eth1", REPLY)])
        assert site.watch.conflicts() == {FLOATING_IP: STRANGER}
        assert site.changes > before
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
        before = site.changes
        site.hear(SECOND_UPLINK.mac)
        site.hear(STRANGER, IPv4Address("192.168.1.101"))
        site.hear(STRANGER, IPv4Address("192.168.1.50"), FLOATING_IP)
        await asyncio.sleep(3)
        assert site.said() == []
        assert site.changes == before


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


# ---- who hears this node ----


GATEWAY = IPv4Address("192.168.1.1")
GATEWAY_MAC = b"\2\0\0\0\0\x0f"
OWN = IPv4Address("192.168.1.21")


def peer(name: str, last: int, hearing: Hearing, *, state: NodeState = NodeState.UP) -> GatewayNode:
    known = node(name, last, state=state)
    return replace(known, segments=(replace(known.segments[0], hearing=hearing),))


def answer(site: Site, sender: IPv4Address, mac: bytes, ifname: str = "eth0") -> None:
    uplink = {"eth0": UPLINK, "eth1": SECOND_UPLINK}[ifname]
    site.watch.hear(ifname, ArpPacket(REPLY, mac, sender, uplink.mac, OWN))


def asked(site: Site, ifname: str = "eth0") -> list[tuple[bytes, IPv4Address]]:
    """(Ethernet destination, address asked for) of each question after peers and gateways."""
    packets = [(frame[:6], parse_arp(frame)) for _, name, frame in site.wire.sent if name == ifname]
    return [(to, one.target) for to, one in packets if one and one.sender == OWN]


async def keep(site: Site, seconds: float, *ifnames: str, hearing: Hearing = Hearing.HEARS) -> None:
    """Turns are taken, and by these uplinks a peer answers."""
    for _ in range(round(seconds / 0.25)):
        for ifname in ifnames:
            answer(site, IPv4Address("192.168.1.22"), MEMBER, ifname)
        site.reconciler.learn_members((node("worker1", 1), peer("worker2", 22, hearing)), {})
        site.watch.update()
        await asyncio.sleep(0.25)


def carriers(site: Site) -> dict[str, bool]:
    return {uplink.name: uplink.carrier for uplink in site.watch.useful_uplinks()}


@in_virtual_time
async def test_s5_a_deaf_uplink_counts_as_one_without_carrier_and_the_other_does_not(site: Site) -> None:
    async with site.running():
        await keep(site, 2, "eth0", "eth1")
        assert [segment.hearing for segment in site.watch.segments()][:2] == [Hearing.HEARS] * 2
        await keep(site, 2.25, "eth1")
        assert site.watch.segments()[0].hearing is Hearing.SILENT
        assert carriers(site)["eth0"], "it might be the segment's fault"
        await keep(site, 1.5, "eth1")
        assert site.watch.segments()[0].hearing is Hearing.DEAF
        assert (carriers(site)["eth0"], carriers(site)["eth1"]) == (False, True)
        assert site.watch.deaf_uplinks() == ("eth0",)
        await keep(site, 1, "eth0", "eth1")
        assert not carriers(site)["eth0"], "one answer does not make a link"
        await keep(site, 2, "eth0", "eth1")
        assert carriers(site)["eth0"]
        assert site.watch.deaf_uplinks() == ()


@in_virtual_time
async def test_s5_on_a_lonely_segment_nobody_gives_anything_up(site: Site) -> None:
    async with site.running():
        await keep(site, 2, "eth0", "eth1")
        await keep(site, 10, hearing=Hearing.SILENT)
        assert site.watch.segments()[0].hearing is Hearing.SILENT
        assert carriers(site)["eth0"]


@in_virtual_time
async def test_s5_the_last_word_of_a_peer_that_may_be_dead_counts_for_nothing(site: Site) -> None:
    """It said that it was answered, and died: nobody is left to take over."""
    async with site.running():
        await keep(site, 2, "eth0", "eth1")
        site.suspected = {"worker2"}
        await keep(site, 10)
        assert carriers(site)["eth0"]


@in_virtual_time
async def test_s5_the_gateway_is_asked_at_its_mac_while_it_answers_and_elsewhere_when_it_does_not(site: Site) -> None:
    site.gateways = (GATEWAY, IPv4Address("10.9.9.9"))
    async with site.running():
        site.watch.update()
        await asyncio.sleep(0.6)
        assert (BROADCAST_MAC, GATEWAY) in asked(site)
        assert (MEMBER, IPv4Address("192.168.1.22")) in asked(site)
        assert IPv4Address("10.9.9.9") not in [address for _, address in asked(site)]
        answer(site, GATEWAY, GATEWAY_MAC)
        site.watch.update()
        site.wire.sent.clear()
        await asyncio.sleep(0.6)
        assert (GATEWAY_MAC, GATEWAY) in asked(site)
        assert (BROADCAST_MAC, GATEWAY) not in asked(site)
        await asyncio.sleep(3)
        site.watch.update()
        site.wire.sent.clear()
        await asyncio.sleep(0.6)
        assert (BROADCAST_MAC, GATEWAY) in asked(site)
