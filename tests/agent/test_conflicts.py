"""Addresses that may be another host's are asked about before their first use."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.agent.conflicts import OWN_LINGER_NS, Conflicts
from service.agent.segment_watch import SegmentWatch
from service.audit.outbox import Origin, Outbox
from service.audit.recorder import AgentRecorder
from service.datapath.reconciler import Reconciler
from service.model.assignment import Location
from service.model.lease import Token
from service.network import arp
from service.network.arp import REQUEST, ArpPacket
from service.policy.index import PolicyIndex
from tests.agent.site import FLOATING_IP, SECOND, StandInCluster, node, settings_of
from tests.datapath.stand_in import UPLINK
from tests.network.test_announcer import Wire
from tests.sources.kubernetes.fake_api_server import until

MEMBER = bytes((2, 0, 0, 0, 0, 22))
STRANGER = bytes.fromhex("0a0b0c0d0e0f")
FOREIGN = IPv4Address("10.9.9.9")


class Site:
    """One node that asks; who answers is set by the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = settings_of(folder)
        self.answers: dict[IPv4Address, bytes] = {}
        self.asked: list[tuple[str, IPv4Address]] = []
        self.now_ns = 1
        monkeypatch.setattr(arp, "probe", self._probe)
        outbox = Outbox(folder / "outbox", Origin("worker1", "boot", component="agent"), clock=lambda: (1, 1))
        self.cluster = StandInCluster(settings, node("worker1", 21), node("worker2", 22))
        self.reconciler = Reconciler(settings, PolicyIndex(pod_cidrs_known=True))
        self.reconciler.learn_uplinks((UPLINK,))
        self.reconciler.learn_members(self.cluster.nodes, {})
        self.held: tuple[IPv4Address, ...] = ()
        self.segment_watch = SegmentWatch(
            settings,
            self.reconciler,
            clock=lambda: self.now_ns,
            held=lambda: self.held,
            gateways=tuple,
            is_answering=lambda name: True,
            changed=lambda: None,
            sender=Wire(),
        )
        self.conflicts = Conflicts(
            self.reconciler,
            self.cluster,
            AgentRecorder(outbox, node="worker1"),
            self.segment_watch,
            clock=lambda: self.now_ns,
            wall_clock=lambda: 1_790_000_000_000_000_000,
            changed=lambda: None,
        )

    async def _probe(self, ifname: str, mac: bytes, address: IPv4Address, *, timeout: float) -> bytes | None:
        self.asked.append((ifname, address))
        return self.answers.get(address)

    async def ask(self, *addresses: IPv4Address) -> None:
        """Update, let the probes be answered, and update again as the next turn does."""
        self.conflicts.update(addresses)
        watching = asyncio.create_task(self.conflicts.watch.run())
        await until(lambda: bool(self.asked) or not addresses)
        await asyncio.sleep(0)
        watching.cancel()
        self.conflicts.update(addresses)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


async def test_an_address_is_claimable_once_nobody_answered_for_it(site: Site) -> None:
    assert not site.conflicts.is_claimable(FLOATING_IP)
    await site.ask(FLOATING_IP)
    assert site.conflicts.is_claimable(FLOATING_IP)
    assert site.asked == [("eth0", FLOATING_IP)]


async def test_a_strangers_address_is_not_claimed_and_told_to_all(site: Site) -> None:
    site.answers[FLOATING_IP] = STRANGER
    await site.ask(FLOATING_IP)
    assert not site.conflicts.is_claimable(FLOATING_IP)
    assert site.cluster.strangers == {FLOATING_IP: STRANGER}


async def test_a_member_that_answers_and_does_not_say_that_it_holds_the_address_is_a_stranger(site: Site) -> None:
    """Seen with kube-vip's virtual IP on a member: its API server went dark."""
    site.answers[FLOATING_IP] = MEMBER
    await site.ask(FLOATING_IP)
    assert not site.conflicts.is_claimable(FLOATING_IP)
    assert site.cluster.strangers == {FLOATING_IP: MEMBER}


async def test_a_holder_that_answered_before_its_word_came_is_a_stranger_no_more(site: Site) -> None:
    site.answers[FLOATING_IP] = MEMBER
    await site.ask(FLOATING_IP)
    site.reconciler.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 1)))
    site.conflicts.update((FLOATING_IP,))
    assert site.cluster.strangers == {}
    assert site.conflicts.is_claimable(FLOATING_IP)


async def test_an_address_of_an_interface_here_is_never_claimed_also_one_that_was_held(site: Site) -> None:
    site.reconciler.learn_location(Location(FLOATING_IP, "worker1", Token(1, 1, 1)))
    site.reconciler.learn_held(frozenset((FLOATING_IP,)))
    site.conflicts.update((FLOATING_IP,))
    assert site.conflicts.is_claimable(FLOATING_IP)
    site.reconciler.learn_addresses(frozenset((FLOATING_IP, IPv4Address("192.168.1.21"))))
    site.conflicts.update((FLOATING_IP,))
    assert not site.conflicts.is_claimable(FLOATING_IP)
    assert site.conflicts.own_addresses() == (FLOATING_IP,)
    assert "192.168.1.100 is an address of an interface of this node" in site.conflicts.troubles()[0]


async def test_an_address_of_a_members_interface_is_never_claimed(site: Site) -> None:
    site.reconciler.learn_location(Location(FLOATING_IP, "worker1", Token(1, 1, 1)))
    owner = replace(node("worker2", 22), own_addresses=(FLOATING_IP,))
    site.reconciler.learn_members((node("worker1", 21), owner), {})
    site.conflicts.update((FLOATING_IP,))
    assert not site.conflicts.is_claimable(FLOATING_IP)
    assert site.conflicts.refused == {FLOATING_IP}
    assert site.conflicts.own_addresses() == ()


async def test_an_address_that_left_an_interface_is_given_time_to_come_up_on_another(site: Site) -> None:
    site.reconciler.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 1)))
    site.reconciler.learn_held(frozenset((FLOATING_IP,)))
    site.reconciler.learn_addresses(frozenset((FLOATING_IP,)))
    assert site.conflicts.own_addresses() == (FLOATING_IP,)
    site.reconciler.learn_addresses(frozenset())
    site.now_ns += OWN_LINGER_NS - 1
    assert site.conflicts.own_addresses() == (FLOATING_IP,)
    site.now_ns += 1
    assert site.conflicts.own_addresses() == ()
    assert site.conflicts.troubles() == []


async def test_an_address_that_a_member_has_held_is_not_asked_about(site: Site) -> None:
    site.reconciler.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 1)))
    site.conflicts.update((FLOATING_IP,))
    assert site.conflicts.is_claimable(FLOATING_IP)
    assert site.conflicts.watch.conflicts() == {}
    assert site.asked == []


async def test_an_address_of_no_segment_here_is_neither_asked_about_nor_claimed(site: Site) -> None:
    site.conflicts.update((FOREIGN,))
    assert not site.conflicts.is_claimable(FOREIGN)


async def test_a2_who_else_uses_a_held_address_is_told_while_it_does_and_nothing_is_given_up(site: Site) -> None:
    site.reconciler.learn_location(Location(FLOATING_IP, "worker1", Token(1, 1, 1)))
    site.held = (FLOATING_IP,)
    site.conflicts.update((FLOATING_IP,))
    site.now_ns += 60 * SECOND
    site.segment_watch.hear("eth0", ArpPacket(REQUEST, STRANGER, FLOATING_IP, bytes(6), FLOATING_IP))
    site.conflicts.update((FLOATING_IP,))
    assert site.cluster.strangers == {FLOATING_IP: STRANGER}
    assert site.conflicts.is_claimable(FLOATING_IP)
    assert "FloatingIPConflict: 192.168.1.100, which this node holds" in site.conflicts.troubles()[0]
    assert STRANGER.hex(":") in site.conflicts.troubles()[0]
    site.now_ns += 60 * SECOND
    watching = asyncio.create_task(site.segment_watch.run())
    await until(lambda: not site.conflicts.troubles())
    watching.cancel()
    site.conflicts.update((FLOATING_IP,))
    assert site.cluster.strangers == {}


async def test_a2_a_new_holder_takes_back_what_the_one_before_said_once_it_has_asked(site: Site) -> None:
    site.cluster.strangers[FLOATING_IP] = STRANGER
    site.reconciler.learn_location(Location(FLOATING_IP, "worker1", Token(1, 1, 1)))
    site.held = (FLOATING_IP,)
    site.conflicts.update((FLOATING_IP,))
    assert site.cluster.strangers == {FLOATING_IP: STRANGER}
    watching = asyncio.create_task(site.segment_watch.run())
    site.now_ns += 3 * SECOND
    await until(lambda: site.segment_watch.is_clear(FLOATING_IP) or site.conflicts.update((FLOATING_IP,)))
    watching.cancel()
    site.conflicts.update((FLOATING_IP,))
    assert site.cluster.strangers == {}


async def test_a_conflict_that_is_over_is_taken_back(site: Site) -> None:
    site.cluster.strangers[FLOATING_IP] = STRANGER
    await site.ask(FLOATING_IP)
    assert site.cluster.strangers == {}
