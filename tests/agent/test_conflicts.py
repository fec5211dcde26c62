"""Addresses that may be another host's are asked about before their first use."""

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.agent.conflicts import Conflicts
from service.audit.outbox import Origin, Outbox
from service.audit.recorder import AgentRecorder
from service.datapath.reconciler import Reconciler
from service.model.assignment import Location
from service.model.lease import Token
from service.network import arp
from service.policy.index import PolicyIndex
from tests.agent.site import FLOATING_IP, StandInCluster, node, settings_of
from tests.datapath.stand_in import UPLINK
from tests.sources.kubernetes.fake_api_server import until

STRANGER = bytes.fromhex("0a0b0c0d0e0f")
FOREIGN = IPv4Address("10.9.9.9")


class Site:
    """One node that asks; who answers is set by the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = settings_of(folder)
        self.answers: dict[IPv4Address, bytes] = {}
        self.asked: list[tuple[str, IPv4Address]] = []
        monkeypatch.setattr(arp, "probe", self._probe)
        outbox = Outbox(folder / "outbox", Origin("worker1", "boot", component="agent"), clock=lambda: (1, 1))
        self.cluster = StandInCluster(settings, node("worker1", 21), node("worker2", 22))
        self.reconciler = Reconciler(settings, PolicyIndex(pod_cidrs_known=True))
        self.reconciler.learn_uplinks((UPLINK,))
        self.reconciler.learn_members(self.cluster.nodes, {})
        self.conflicts = Conflicts(
            self.reconciler,
            self.cluster,
            AgentRecorder(outbox, node="worker1"),
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


async def test_a_member_that_answers_is_no_stranger(site: Site) -> None:
    site.answers[FLOATING_IP] = bytes((2, 0, 0, 0, 0, 22))
    await site.ask(FLOATING_IP)
    assert site.conflicts.is_claimable(FLOATING_IP)
    assert site.cluster.strangers == {}


async def test_an_address_that_a_member_has_held_is_not_asked_about(site: Site) -> None:
    site.reconciler.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 1)))
    site.conflicts.update((FLOATING_IP,))
    assert site.conflicts.is_claimable(FLOATING_IP)
    assert site.conflicts.watch.conflicts() == {}
    assert site.asked == []


async def test_an_address_of_no_segment_here_is_neither_asked_about_nor_claimed(site: Site) -> None:
    site.conflicts.update((FOREIGN,))
    assert not site.conflicts.is_claimable(FOREIGN)


async def test_a_conflict_that_is_over_is_taken_back(site: Site) -> None:
    site.cluster.strangers[FLOATING_IP] = STRANGER
    await site.ask(FLOATING_IP)
    assert site.cluster.strangers == {}
