"""Two agents ask each other over a segment that the test makes swallow frames (rule X1)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from service.agent.transport_watch import TransportWatch
from service.datapath.desired import LocalUplink
from service.datapath.layout import MapName, WayKind
from service.datapath.reconciler import Reconciler
from service.gateway.transport import Proven
from service.model.assignment import Location
from service.model.errors import PeerError
from service.model.keeper_message import HeldLease
from service.model.lease import Token
from service.model.machine import Address
from service.network.path_probe import PROBE_OUTSIDE
from service.policy.index import PolicyIndex
from service.settings import DatapathSettings, Settings
from tests.agent.site import FLOATING_IP, node
from tests.datapath.packet import Frame, read
from tests.datapath.stand_in import StandInPool
from tests.datapath.test_reconciler import objects
from tests.virtual_time import in_virtual_time, now_ns

KEY = "11" * 32
OTHER_IP = FLOATING_IP + 1


@dataclass
class Agent:
    """One node's watch, with a reconciler that knows both nodes. Its frames go where the test says."""

    name: str
    last: int
    deliver: Callable[["Agent", bytes], None]
    transport: str = "auto"

    def __post_init__(self) -> None:
        mac = bytes((2, 0, 0, 0, 0, self.last))
        self.uplink = LocalUplink(2, "eth0", mac, IPv4Interface(f"192.168.1.{self.last}/24"), True)
        settings = Settings(
            node=self.name,
            bind_address=f"192.168.1.{self.last}",
            keyring=(KEY,),
            datapath=DatapathSettings(transport=self.transport, pod_cidrs=("10.244.0.0/16",)),
        )
        index = PolicyIndex(pod_cidrs_known=True)
        self.reconciler = Reconciler(settings, index)
        index.apply(objects(FLOATING_IP, OTHER_IP))
        self.reconciler.learn_uplinks((self.uplink,))
        self.reconciler.learn_members(
            (node("worker1", 21), replace(node("worker2", 22), address=NODE_2, tunnels=True)), {}
        )
        self.reconciler.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 1)))
        self.changes = 0
        self.living = {"worker1", "worker2"}
        self.held: dict[IPv4Address, HeldLease] = {}
        self.watch = TransportWatch(
            settings,
            self.reconciler,
            start_id=self.last,
            clock=now_ns,
            answering=lambda: frozenset(self.living),
            held=lambda: self.held,
            heard=self.reconciler.learn_location,
            changed=self._change,
            sender=self,
        )

    def _change(self) -> None:
        self.changes += 1

    def send(self, interface: str | int, frame: bytes) -> None:
        assert interface == "eth0"
        self.deliver(self, frame)

    def close(self) -> None: ...

    def hear(self, datagram: bytes, source: IPv4Address = FLOATING_IP) -> None:
        """As the programs hand it up: from the floating IP."""
        self.watch.socket._receive(Address(str(source), 40000), datagram)

    def way_kind(self) -> int | None:
        row = self.reconciler.wish(StandInPool()).whole[MapName.WAYS].get(FLOATING_IP.packed)
        return row[8] if row else None


NODE_2 = IPv4Address("192.168.1.22")


class Site:
    """worker1 has the pod, worker2 holds the address."""

    def __init__(self, *, transport: str = "auto") -> None:
        self.one = Agent("worker1", 21, self._carry, transport)
        self.two = Agent("worker2", 22, self._carry, transport)
        self.frames: list[tuple[str, Frame]] = []
        self.swallows: Callable[[str, Frame], bool] = lambda sender, frame: False
        self.changed: Callable[[bytes], bytes] = lambda datagram: datagram

    def _carry(self, sender: Agent, frame: bytes) -> None:
        seen = read(frame)
        self.frames.append((sender.name, seen))
        if self.swallows(sender.name, seen):
            return
        receiver = self.two if sender is self.one else self.one
        assert (seen.destination, seen.source) == (receiver.uplink.mac, sender.uplink.mac)
        asyncio.get_running_loop().call_later(0.001, self._arrive, receiver, self.changed(seen.ip.l4[8:]))

    def _arrive(self, receiver: Agent, datagram: bytes) -> None:
        try:
            receiver.hear(datagram)
        except PeerError as error:
            self.refused = str(error)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = []
        for agent in (self.one, self.two):
            agent.watch.update()
            tasks.append(asyncio.create_task(agent.watch.run()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@in_virtual_time
async def test_x1_questions_go_from_the_floating_ip_and_come_back_from_outside() -> None:
    site = Site()
    async with site.running():
        await asyncio.sleep(0.1)
    (asker, question), (answerer, reply) = site.frames[:2]
    assert (asker, question.ip.source, question.ip.destination) == ("worker1", FLOATING_IP, PROBE_OUTSIDE)
    assert (answerer, reply.ip.source, reply.ip.destination) == ("worker2", PROBE_OUTSIDE, FLOATING_IP)
    assert question.ip.is_sound()
    assert question.ip.ports[1] == reply.ip.ports[1] == 9645


@in_virtual_time
async def test_x1_both_use_the_segment_once_it_is_proven() -> None:
    site = Site()
    async with site.running():
        assert site.one.way_kind() == WayKind.TUNNEL
        await asyncio.sleep(5)
        assert site.one.way_kind() == WayKind.L2
        assert site.one.watch.status() == {str(FLOATING_IP): {"worker2": "l2"}}
        assert ("worker1", FLOATING_IP) in site.two.reconciler.topology().proven.back
        assert site.one.changes == site.two.changes == 1


@pytest.mark.parametrize("swallowed", ["worker1", "worker2"])
@in_virtual_time
async def test_x1_a_segment_that_swallows_frames_of_the_floating_ip_either_way_is_not_used(swallowed: str) -> None:
    site = Site()
    site.swallows = lambda sender, frame: sender == swallowed
    async with site.running():
        await asyncio.sleep(30)
        assert site.one.way_kind() == WayKind.TUNNEL
        assert site.two.reconciler.topology().proven == Proven()
        assert site.one.watch.status() == {str(FLOATING_IP): {"worker2": "vxlan"}}


@in_virtual_time
async def test_x1_when_the_segment_begins_to_swallow_frames_both_leave_it() -> None:
    site = Site()
    async with site.running():
        await asyncio.sleep(5)
        site.swallows = lambda sender, frame: True
        await asyncio.sleep(6)
        assert site.one.way_kind() == WayKind.TUNNEL
        assert site.two.reconciler.topology().proven == Proven()


@in_virtual_time
async def test_x1_what_is_not_sealed_under_the_ring_key_proves_nothing() -> None:
    site = Site()
    site.changed = lambda datagram: datagram[:-1] + bytes((datagram[-1] ^ 1,))
    async with site.running():
        await asyncio.sleep(10)
        assert site.one.way_kind() == WayKind.TUNNEL
    assert site.refused


@in_virtual_time
async def test_x1_an_answer_by_another_way_than_the_data_path_proves_nothing() -> None:
    """It has the sender's own address as its source, and not the floating IP."""
    site = Site()
    refused = []

    def arrive(receiver: Agent, datagram: bytes) -> None:
        try:
            receiver.hear(datagram, IPv4Address("192.168.1.22"))
        except PeerError as error:
            refused.append(str(error))

    site._arrive = arrive  # type: ignore[method-assign]
    async with site.running():
        await asyncio.sleep(10)
        assert site.one.way_kind() == WayKind.TUNNEL
    assert set(refused) == {"not-by-the-data-path"}


def holding(counter: int, *, until_s: float = 3600) -> dict[IPv4Address, HeldLease]:
    return {FLOATING_IP: HeldLease(str(FLOATING_IP), 1, 1, counter, round(until_s * 1e9))}


@in_virtual_time
async def test_r2_an_answer_is_the_holders_word_and_a_question_follows_an_announcement_at_once() -> None:
    """A failover needs neither gossip nor a leader."""
    site = Site()
    async with site.running():
        await asyncio.sleep(5.3)
        before = len(site.frames)
        site.two.held = holding(9)
        site.one.watch.hear_announcement(FLOATING_IP, site.two.uplink.mac)
        await asyncio.sleep(0.01)
        assert len(site.frames) == before + 2
        assert site.one.reconciler.locations[FLOATING_IP] == Location(FLOATING_IP, "worker2", Token(1, 1, 9))


@in_virtual_time
async def test_r2_a_member_that_does_not_hold_the_address_says_nothing_of_it() -> None:
    """Whoever forged its announcement."""
    site = Site()
    async with site.running():
        await asyncio.sleep(5.3)
        site.two.held = holding(9, until_s=1)
        site.one.watch.hear_announcement(FLOATING_IP, site.two.uplink.mac)
        site.one.watch.hear_announcement(FLOATING_IP, b"strang")
        await asyncio.sleep(2)
        assert site.one.reconciler.locations[FLOATING_IP].token == Token(1, 1, 1)


@in_virtual_time
async def test_r2_over_the_segment_alone_only_who_has_announced_is_asked_and_its_answer_is_the_holders_word() -> None:
    site = Site(transport="l2")
    async with site.running():
        await asyncio.sleep(10)
        assert site.frames == []
        site.two.held = holding(9)
        site.one.watch.hear_announcement(FLOATING_IP, site.two.uplink.mac)
        await asyncio.sleep(10)
        assert len(site.frames) == 2
        assert site.one.reconciler.locations[FLOATING_IP] == Location(FLOATING_IP, "worker2", Token(1, 1, 9))
        assert site.one.way_kind() == WayKind.L2
    assert site.one.watch.status() == {}


@in_virtual_time
async def test_r2_over_the_segment_alone_who_does_not_answer_is_asked_three_times_and_then_no_more() -> None:
    site = Site(transport="l2")
    site.swallows = lambda sender, frame: True
    async with site.running():
        site.one.watch.hear_announcement(FLOATING_IP, site.two.uplink.mac)
        await asyncio.sleep(30)
    assert len(site.frames) == 3


@in_virtual_time
async def test_x1_where_everything_goes_through_the_tunnel_nobody_asks() -> None:
    site = Site(transport="vxlan")
    async with site.running():
        await asyncio.sleep(10)
        assert site.one.way_kind() == WayKind.TUNNEL
    assert (site.frames, site.one.watch.sockets) == ([], ())


@in_virtual_time
async def test_x1_only_addresses_that_pods_of_the_node_use_are_asked_about() -> None:
    site = Site()
    site.one.reconciler.learn_location(Location(OTHER_IP, "worker2", Token(1, 1, 1)))
    async with site.running():
        await asyncio.sleep(5)
    assert {frame.ip.source for name, frame in site.frames if name == "worker1"} == {FLOATING_IP}
    assert "worker2" not in {name for name, frame in site.frames if frame.ip.source == FLOATING_IP}
