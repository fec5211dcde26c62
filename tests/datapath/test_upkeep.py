"""What happens on the node itself is noticed, brought in step and tried again; in virtual time, without a kernel."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.datapath.desired import LocalUplink
from service.datapath.reconciler import Reconciler
from service.datapath.upkeep import Upkeep
from service.model.objects import Delete, Upsert
from service.policy.index import PolicyIndex
from tests.agent.site import UPLINK, StandInDatapath, settings_of
from tests.policy.objects import gateway, namespace, pod, pod_key, policy
from tests.virtual_time import in_virtual_time, now_ns

POD = IPv4Address("10.0.0.1")


class Datapath(StandInDatapath):
    """Fails as often as it is told, and says what it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(settings_of(folder), UPLINK)
        self.found: dict[IPv4Address, int] = {}
        self.asked = 0
        self.cleared: list[IPv4Address] = []
        self.seen_uplinks: tuple[LocalUplink, ...] = (UPLINK,)
        self.attached = 0
        self.repairs: list[bool] = []
        self.forgotten: list[list[IPv4Address]] = []
        self.conntrack = self  # type: ignore[assignment]

    async def pod_devices(self, pod_ips: object) -> dict[IPv4Address, int]:
        self.asked += 1
        self._fail_if_told()
        return dict(self.found)

    async def clear_connections(self, pod_ips: Iterable[IPv4Address], cluster: object) -> None:  # type: ignore[override]
        self._fail_if_told()
        self.cleared += pod_ips

    async def refresh_uplinks(self) -> bool:
        self._fail_if_told()
        changed, self._uplinks = self.seen_uplinks != self._uplinks, self.seen_uplinks
        return changed

    async def attach_uplinks(self) -> None:
        self.attached += 1

    async def repair(self) -> bool:
        self._fail_if_told()
        return self.repairs.pop(0) if self.repairs else False

    async def forget(self, pods: list[IPv4Address], cluster: Iterable[IPv4Network]) -> None:
        self.forgotten.append(pods)


class Site:
    """One selected pod of this node, and what upkeep reports."""

    def __init__(self, folder: Path) -> None:
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.index.apply(
            [Upsert(item) for item in (gateway("192.168.1.100"), namespace(), pod("web", str(POD)), policy())]
        )
        self.datapath = Datapath(folder)
        self.reconciler = Reconciler(settings_of(folder), self.index)
        self.changes = 0
        self.uplink_changes = 0
        self.upkeep = Upkeep(
            self.datapath, self.reconciler, clock=now_ns, changed=self._change, uplinks_changed=self._change_uplinks
        )
        self.upkeep.is_synced = True

    def _change(self) -> None:
        self.changes += 1

    def _change_uplinks(self) -> None:
        self.uplink_changes += 1

    @asynccontextmanager
    async def running(self, task: Callable[[], object]) -> AsyncIterator[None]:
        running = asyncio.ensure_future(task())  # type: ignore[arg-type]
        yield
        assert not running.done(), "the task has ended by itself"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@in_virtual_time
async def test_a_pods_device_is_looked_for_soon_while_it_is_missing_and_seldom_afterwards(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(2)
        looked = site.datapath.asked
        assert looked > 3
        site.datapath.found = {POD: 7}
        await asyncio.sleep(1)
        assert site.reconciler.devices == {POD: 7}
        assert site.changes == 1
        looked = site.datapath.asked
        await asyncio.sleep(20)
        assert site.datapath.asked - looked <= 5


@in_virtual_time
async def test_a_wish_for_devices_is_answered_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.found = {POD: 7}
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        looked = site.datapath.asked
        site.upkeep.devices_wanted.set()
        await asyncio.sleep(0.01)
        assert site.datapath.asked == looked + 1


@in_virtual_time
async def test_a_silent_pod_keeps_its_device_and_one_that_is_gone_loses_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.reconciler.learn_devices({POD: 7, IPv4Address("10.0.0.9"): 8})
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        assert site.reconciler.devices == {POD: 7}
        site.index.apply([Delete(pod_key("web"))])
        site.upkeep.devices_wanted.set()
        await asyncio.sleep(1)
        assert site.reconciler.devices == {}


@in_virtual_time
async def test_before_objects_are_known_no_device_is_forgotten(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.upkeep.is_synced = False
    site.reconciler.learn_devices({IPv4Address("10.0.0.9"): 8})
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        assert site.reconciler.devices == {IPv4Address("10.0.0.9"): 8}


@in_virtual_time
async def test_w10_connections_are_cleared_until_it_has_worked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    site.reconciler.steering.select(site.reconciler.local_selections(), now_ns=now_ns())
    site.datapath.fails = 2
    site.upkeep.clearing_wanted.set()
    with caplog.at_level(logging.WARNING):
        async with site.running(site.upkeep.clear_connections):
            await asyncio.sleep(1)
    assert site.datapath.cleared == [POD]
    assert len(caplog.records) == 2
    assert site.reconciler.steering.to_clear() == ()
    assert site.changes == 1


class Links:
    """A monitor whose reports the test makes."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[None] = asyncio.Queue()

    async def __aenter__(self) -> "Links":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def __aiter__(self) -> "Links":
        return self

    async def __anext__(self) -> None:
        await self.reports.get()


@in_virtual_time
async def test_a_changed_uplink_is_attached_and_told_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    site, links = Site(tmp_path), Links()
    site.datapath.link_monitor = lambda: links  # type: ignore[assignment, method-assign, return-value]
    async with site.running(site.upkeep.follow_links):
        links.reports.put_nowait(None)
        await asyncio.sleep(0.1)
        assert (site.datapath.attached, site.uplink_changes) == (0, 0)
        site.datapath.seen_uplinks = ()
        links.reports.put_nowait(None)
        await asyncio.sleep(0.1)
        assert (site.datapath.attached, site.uplink_changes) == (1, 1)
        assert site.reconciler.uplinks == ()


@in_virtual_time
async def test_addresses_of_interfaces_are_learned_as_they_come_and_go(tmp_path: Path) -> None:
    site, links = Site(tmp_path), Links()
    site.datapath.link_monitor = lambda: links  # type: ignore[assignment, method-assign, return-value]
    floating_ip = IPv4Address("192.168.1.100")
    async with site.running(site.upkeep.follow_links):
        for addresses in (frozenset((floating_ip,)), frozenset[IPv4Address]()):
            site.datapath._addresses = addresses
            links.reports.put_nowait(None)
            await asyncio.sleep(0.1)
            assert site.reconciler.own_addresses() == tuple(addresses)
    assert (site.changes, site.uplink_changes) == (2, 0)


@in_virtual_time
async def test_links_that_cannot_be_read_now_are_read_at_the_next_report(tmp_path: Path) -> None:
    site, links = Site(tmp_path), Links()
    site.datapath.link_monitor = lambda: links  # type: ignore[assignment, method-assign, return-value]
    site.datapath.fails, site.datapath.seen_uplinks = 1, ()
    async with site.running(site.upkeep.follow_links):
        links.reports.put_nowait(None)
        await asyncio.sleep(0.1)
        assert site.uplink_changes == 0
        assert site.upkeep.devices_wanted.is_set(), "pods may have come all the same"
        links.reports.put_nowait(None)
        await asyncio.sleep(0.1)
        assert site.uplink_changes == 1


@in_virtual_time
async def test_after_a_repair_everything_is_written_anew_and_flows_of_the_gap_are_forgotten(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.repairs = [False, True]
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(3)
        assert site.uplink_changes == 0
        await asyncio.sleep(1.5)
        assert (site.uplink_changes, site.datapath.forgotten) == (1, [])
        await asyncio.sleep(2)
        assert site.datapath.forgotten == [[POD]]


@in_virtual_time
async def test_a_repair_that_fails_is_tried_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.fails, site.datapath.repairs = 2, [True]
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(7)
        assert site.uplink_changes == 1
