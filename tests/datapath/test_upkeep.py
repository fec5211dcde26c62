"""What happens on the node itself is noticed, brought in step and tried again; in virtual time, without a kernel."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.datapath import layout
from service.datapath.flow_row import ended_flow, flow_key
from service.datapath.layout import MapName, SelectedState
from service.datapath.reconciler import Reconciler
from service.datapath.steering import Phase
from service.datapath.upkeep import Upkeep
from service.model.cluster_range import ClusterRanges
from service.model.errors import TransientError
from service.model.objects import Delete, Upsert
from service.network.conntrack import Flow as Tracked
from service.network.conntrack import Networks
from service.policy.index import PolicyIndex
from tests.agent.site import settings_of
from tests.datapath import packet
from tests.datapath.node import POD_NUMBER, RULE_SET, Flow
from tests.datapath.stand_in import StandInDatapath, grant
from tests.datapath.test_flow_table import tracked
from tests.policy.objects import gateway, namespace, pod, pod_key, policy, policy_key
from tests.virtual_time import in_virtual_time, now_ns

POD = IPv4Address("10.0.0.1")


class Site:
    """One selected pod of this node, and what upkeep reports."""

    def __init__(self, folder: Path) -> None:
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.index.apply(
            [Upsert(item) for item in (gateway("192.168.1.100"), namespace(), pod("web", str(POD)), policy())]
        )
        self.datapath = StandInDatapath(settings_of(folder))
        self.reconciler = Reconciler(settings_of(folder), self.index)
        self.changes = 0
        self.uplink_changes = 0
        self.held = {IPv4Address("192.168.1.100")}
        self.upkeep = Upkeep(
            self.datapath,
            self.reconciler,
            clock=now_ns,
            changed=self._change,
            uplinks_changed=self._change_uplinks,
            held=lambda: self.held,
        )
        self.upkeep.is_synced = True
        self.reconciler.learn_uplinks(self.datapath.uplinks)
        self.reconciler.learn_steering_device(9)

    def select(self) -> None:
        """Take the selections as they are, and write."""
        self.reconciler.select()
        self.write()

    def write(self) -> None:
        """As a turn does it, twice: what depends on rows that the first has written comes with the second."""
        for _ in range(2):
            grant(self.reconciler, self.datapath.pool)

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
        looked = len(site.datapath.named("pod_devices"))
        assert looked > 3
        site.datapath.devices = {POD: 7}
        await asyncio.sleep(1)
        assert site.reconciler.devices == {POD: 7}
        assert site.changes == 1
        looked = len(site.datapath.named("pod_devices"))
        await asyncio.sleep(20)
        assert len(site.datapath.named("pod_devices")) - looked <= 5


@in_virtual_time
async def test_w13_a_new_device_is_attached_to_as_soon_as_its_pod_is_found_there(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.waiting = {7, 8}
    site.datapath.devices = {POD: 7}
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(0.01)
        assert site.datapath.named("attach_pod_devices") == [(), (7,)]
        site.datapath.waiting = {8}
        site.upkeep.devices_wanted.set()
        await asyncio.sleep(0.2)
        assert site.datapath.named("attach_pod_devices")[2:] == [(7,)]


@in_virtual_time
async def test_a_wish_for_devices_is_answered_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.devices = {POD: 7}
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        looked = len(site.datapath.named("pod_devices"))
        site.upkeep.devices_wanted.set()
        await asyncio.sleep(0.01)
        assert len(site.datapath.named("pod_devices")) == looked + 1


@in_virtual_time
async def test_w11_a_pod_that_comes_while_a_silent_one_is_waited_for_is_looked_for_within_milliseconds(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.datapath.devices = {POD: 7, IPv4Address("10.0.0.2"): 8}
    site.datapath.silent_looks = 5
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(0.01)
        assert len(site.datapath.named("pod_devices")) == 1, "it waits for answers"
        site.index.apply([Upsert(pod("new", "10.0.0.2"))])
        site.upkeep.ask_for_devices()
        await asyncio.sleep(0.005)
        assert site.reconciler.devices == site.datapath.devices
        assert len(site.datapath.named("look_again")) == 1, "without a pause they would be work"


@in_virtual_time
async def test_i3_waiting_for_answers_is_no_work_to_rest_from(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.devices = {POD: 7, IPv4Address("10.0.0.2"): 8}
    site.datapath.silent_looks = 50
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1.05)
        site.index.apply([Upsert(pod("new", "10.0.0.2"))])
        site.upkeep.ask_for_devices()
        await asyncio.sleep(0.005)
        assert site.reconciler.devices == site.datapath.devices


@in_virtual_time
async def test_w11_a_pod_that_comes_while_links_come_and_go_is_looked_for_within_milliseconds(tmp_path: Path) -> None:
    """A look follows each event, and after each look there is a pause."""
    site = Site(tmp_path)
    site.datapath.devices = {POD: 7, IPv4Address("10.0.0.2"): 8}
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        site.upkeep.devices_wanted.set()
        await asyncio.sleep(0.001)
        site.index.apply([Upsert(pod("new", "10.0.0.2"))])
        site.upkeep.ask_for_devices()
        await asyncio.sleep(0.005)
        assert site.reconciler.devices == site.datapath.devices


@in_virtual_time
async def test_i3_pods_that_come_by_the_hundred_wait_as_long_as_a_look_takes(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def look(occupied: Collection[int] = ()) -> None:
        looks.append(now_ns())
        await asyncio.sleep(0.2)

    looks: list[int] = []
    site.datapath.attach_pod_devices = look  # type: ignore[method-assign]
    async with site.running(site.upkeep.find_devices):
        for index in range(100):
            site.index.apply([Upsert(pod(f"web{index}", f"10.0.1.{index}"))])
            site.upkeep.ask_for_devices()
            await asyncio.sleep(0.02)
    assert 5 <= len(looks) <= 6


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
async def test_w11_an_unselected_pod_whose_device_is_of_no_known_kind_is_not_looked_for_all_the_time(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.index.apply([Upsert(pod("elsewhere", "10.0.0.3", namespace="unknown")), Delete(policy_key("egress"))])
    site.datapath.devices = {POD: 7}
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(2)
        assert site.reconciler.devices == {POD: 7}
        assert len(site.datapath.named("pod_devices")) > 5, "it may have come just now"
        await asyncio.sleep(2)
        looked = len(site.datapath.named("pod_devices"))
        await asyncio.sleep(20)
        assert len(site.datapath.named("pod_devices")) - looked <= 5


@in_virtual_time
async def test_w11_a_pod_that_is_cut_off_for_want_of_a_device_is_told_once_it_is_no_passing_thing(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.reconciler.learn_ranges(ClusterRanges(pods=(IPv4Network("10.0.0.0/16"),)))
    site.index.apply([Upsert(pod("elsewhere", "10.9.0.1"))])
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        assert site.upkeep.troubles() == []
        await asyncio.sleep(3)
        assert [line.split(";")[0] for line in site.upkeep.troubles()] == ["pods 10.0.0.1: their device is not found"]
        site.datapath.devices = {POD: 7}
        await asyncio.sleep(1)
        assert site.upkeep.troubles() == []
        site.datapath.waiting = {7}
        (trouble,) = site.upkeep.troubles()
        assert trouble.startswith("pods 10.0.0.1: our program cannot be attached")


@in_virtual_time
async def test_w11_pods_count_as_looked_for_once_a_look_has_succeeded_that_knew_them(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.upkeep.is_synced = False
    async with site.running(site.upkeep.find_devices):
        await asyncio.sleep(1)
        assert not site.upkeep.has_looked
        site.upkeep.is_synced = True
        site.datapath.failing["pod_devices"] = 2
        site.upkeep.devices_wanted.set()
        await asyncio.sleep(0.15)
        assert not site.upkeep.has_looked
        await asyncio.sleep(1)
        assert site.upkeep.has_looked


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
    site.select()
    site.datapath.failing["find"] = 2
    site.upkeep.clearing_wanted.set()
    with caplog.at_level(logging.WARNING):
        async with site.running(site.upkeep.clear_connections):
            await asyncio.sleep(1)
    assert site.datapath.named("find") == [(POD,)] * 3
    assert len(caplog.records) == 2
    assert site.reconciler.steering.to_clear() == ()
    assert site.changes == 1


@in_virtual_time
async def test_w10_nothing_is_cleared_before_the_rows_that_precede_it_are_in_the_kernel(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.pool.stuck = {MapName.SELECTED}
    site.select()
    async with site.running(site.upkeep.clear_connections):
        site.upkeep.clearing_wanted.set()
        await asyncio.sleep(1)
        assert site.datapath.named("find") == []
        site.datapath.pool.release(MapName.SELECTED)
        site.upkeep.clearing_wanted.set()
        await asyncio.sleep(1)
        assert site.datapath.named("find") == [(POD,)]


@in_virtual_time
async def test_i1_pods_whose_rows_find_no_room_hold_up_no_other(tmp_path: Path) -> None:
    site = Site(tmp_path)
    other = IPv4Address("10.0.0.2")
    site.index.apply([Upsert(pod("other", str(other)))])
    site.datapath.pool.rooms[MapName.SELECTED] = 2
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(1)
        assert site.datapath.named("find") == [(POD,)]
        assert [clearing.pod_ip for clearing in site.reconciler.steering.to_clear()] == [other]
        site.datapath.pool.rooms[MapName.SELECTED] = 4
        site.write()
        site.upkeep.clearing_wanted.set()
        await asyncio.sleep(1)
        assert site.datapath.named("find")[1:] == [(other,)]


@in_virtual_time
async def test_i1_a_pod_for_which_there_was_never_room_can_still_leave(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.pool.rooms[MapName.SELECTED] = 0
    site.select()
    site.index.apply([Delete(pod_key("web"))])
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(1)
        assert site.reconciler.steering.phases() == {}


@in_virtual_time
async def test_many_pods_are_cleared_in_pieces_and_those_that_are_done_are_not_cleared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.datapath.upkeep._CLEARED_PODS", 8)
    site = Site(tmp_path)
    site.index.apply([Upsert(pod(f"web{index}", f"10.0.1.{index}")) for index in range(19)])
    site.select()

    async def find(pods: Mapping[IPv4Address, Networks], keep: Networks) -> list[Tracked]:
        pieces.append(len(pods))
        if len(pieces) == 3:
            raise TransientError("not now")
        return []

    pieces: list[int] = []
    site.datapath.find = find  # type: ignore[method-assign]
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(1)
    assert pieces == [8, 8, 4, 4]
    assert site.reconciler.steering.to_clear() == ()


@in_virtual_time
async def test_a_full_node_is_cleared_in_few_looks_at_connection_tracking(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.pool.rooms[MapName.SELECTED] = 4000
    site.index.apply([Upsert(pod(f"web{index}", f"10.0.{index >> 8}.{index & 255}")) for index in range(2, 1502)])
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(1)
    assert len(site.datapath.named("find")) == 3
    assert site.reconciler.steering.to_clear() == ()


@in_virtual_time
async def test_e3_connections_are_looked_up_again_until_none_is_left(tmp_path: Path) -> None:
    site = Site(tmp_path)
    one, again = (Tracked(int(POD), int(IPv4Address("8.8.8.8")), identity) for identity in (b"1", b"2"))
    site.datapath.tracked = [[one], [again]]
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(0.1)
    assert site.datapath.named("delete") == [(one,), (again,)]
    assert site.reconciler.steering.phases() == {POD: Phase.STEERING}


@in_virtual_time
async def test_e3_while_connections_come_back_a_pod_waits_and_is_tried_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    one = Tracked(int(POD), int(IPv4Address("8.8.8.8")), b"1")
    site.datapath.tracked = [[one]] * 9
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(0.1)
        assert site.reconciler.steering.phases() == {POD: Phase.SETTING}
        await asyncio.sleep(2)
    assert site.datapath.named("delete") == [(one,)] * 9
    assert site.reconciler.steering.phases() == {POD: Phase.STEERING}


@in_virtual_time
async def test_e3_a_pod_of_which_nothing_is_found_does_not_wait_for_one_whose_connections_come_back(
    tmp_path: Path,
) -> None:
    """A look at connection tracking goes through all its buckets, 11 ms with nothing in it."""
    site, other, looks = Site(tmp_path), IPv4Address("10.0.0.2"), list[tuple[set[IPv4Address], set[IPv4Address]]]()
    site.index.apply([Upsert(pod("api", str(other)))])
    one = Tracked(int(POD), int(IPv4Address("8.8.8.8")), b"1")
    site.datapath.tracked = [[one]] * 2
    find, steering = site.datapath.find, site.reconciler.steering

    async def look(pods: Mapping[IPv4Address, Networks], keep: Networks) -> list[Tracked]:
        steered = {pod_ip for pod_ip, phase in steering.phases().items() if phase is Phase.STEERING}
        looks.append((set(pods), steered))
        return await find(pods, keep)

    site.datapath.find = look  # type: ignore[method-assign]
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(0.1)
    assert looks == [({POD, other}, set()), ({POD}, {other}), ({POD}, {other})]
    assert steering.phases() == {POD: Phase.STEERING, other: Phase.STEERING}


DATAGRAMS = Flow(packet.UDP, pod=POD, server=IPv4Address("8.8.8.8"))


@in_virtual_time
async def test_e3_a_connection_is_an_ended_flow_until_nothing_is_left_of_it(tmp_path: Path) -> None:
    site, while_forgotten = Site(tmp_path), list[int]()
    maps, delete = site.datapath.maps, site.datapath.delete

    async def forget(connections: Sequence[Tracked]) -> int:
        while_forgotten.append(len(maps[MapName.FLOWS_DATAGRAM].rows))
        return await delete(connections)

    site.datapath.delete = forget  # type: ignore[method-assign]
    row = layout.selected_value(RULE_SET, SelectedState.CHANGING, POD_NUMBER)
    maps[MapName.SELECTED].update(layout.selected_key(POD, 0), row)
    rule = layout.rule_key(RULE_SET, IPv4Network(DATAGRAMS.server))
    maps[MapName.RULES].update(rule, layout.rule_value(IPv4Address("192.168.1.100")))
    site.datapath.tracked = [[tracked(DATAGRAMS)]]
    site.select()
    site.upkeep.clearing_wanted.set()
    async with site.running(site.upkeep.clear_connections):
        await asyncio.sleep(0.1)
    assert while_forgotten == [1]
    assert maps[MapName.FLOWS_DATAGRAM].rows == {}, "its next packet takes the present verdict"


@in_virtual_time
async def test_w10_a_pod_that_leaves_loses_its_flows_before_its_connections(tmp_path: Path) -> None:
    site, while_looked_for = Site(tmp_path), list[int]()
    flows, find = site.datapath.maps[MapName.FLOWS_DATAGRAM], site.datapath.find

    async def look(pods: Mapping[IPv4Address, Networks], keep: Networks) -> list[Tracked]:
        while_looked_for.append(len(flows.rows))
        return await find(pods, keep)

    site.datapath.find = look  # type: ignore[method-assign]
    key = flow_key(POD.packed, DATAGRAMS.server.packed, DATAGRAMS.pod_port, DATAGRAMS.server_port, packet.UDP)
    flows.update(key, ended_flow(key, layout.selected_value(RULE_SET, SelectedState.STEER, POD_NUMBER), now_ns=1))
    site.select()
    async with site.running(site.upkeep.clear_connections):
        for change in ((), (Delete(policy_key("egress")),)):
            site.index.apply(change)
            site.select()
            site.upkeep.clearing_wanted.set()
            await asyncio.sleep(0.1)
    assert while_looked_for == [1, 0]


NODES, SERVER = (IPv4Network("192.168.1.21/32"),), IPv4Network("192.168.1.50/32")


@in_virtual_time
async def test_w12_connections_to_what_comes_into_the_cluster_or_leaves_it_are_forgotten_and_no_others(
    tmp_path: Path,
) -> None:
    """Those to a host that is steered from now on would go on with the node's address in connection tracking."""
    site = Site(tmp_path)
    site.datapath.failing["find"] = 1
    async with site.running(site.upkeep.clear_connections):
        site.upkeep.note_exempt((*NODES, SERVER))
        assert not site.upkeep.is_clearing_due
        site.upkeep.note_exempt(NODES)
        assert site.upkeep.is_clearing_due
        site.upkeep.clearing_wanted.set()
        await asyncio.sleep(1)
    assert site.datapath.named("find") == [(POD,)] * 2
    kept = site.datapath.kept[POD]
    server = int(SERVER.network_address)
    assert [address in kept for address in (server - 1, server, server + 1)] == [True, False, True]
    assert not site.upkeep.is_clearing_due


@in_virtual_time
async def test_w12_they_are_forgotten_once_the_rows_are_in_the_kernel(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.pool.stuck = {MapName.CLUSTER}
    async with site.running(site.upkeep.clear_connections):
        site.upkeep.note_exempt(NODES)
        site.upkeep.note_exempt((*NODES, SERVER))
        site.upkeep.clearing_wanted.set()
        await asyncio.sleep(1)
        assert (site.datapath.named("find"), site.upkeep.is_clearing_due) == ([], True)
        site.datapath.pool.release(MapName.CLUSTER)
        site.upkeep.clearing_wanted.set()
        await asyncio.sleep(1)
        assert (site.datapath.named("find"), site.upkeep.is_clearing_due) == ([(POD,)], False)


@in_virtual_time
async def test_i1_whoever_waits_for_rows_is_looked_at_when_some_are_written(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.follow_rows):
        await asyncio.sleep(1)
        assert site.changes == 0
        site.write()
        await asyncio.sleep(0.01)
        assert site.changes == 1
        site.write()
        await asyncio.sleep(1)
        assert site.changes == 1, "nothing was written"


@in_virtual_time
async def test_a_changed_uplink_is_told_once_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.follow_links):
        site.datapath.links.reports.put_nowait(None)
        await asyncio.sleep(1)
        assert site.uplink_changes == 0
        site.datapath.next_uplinks = ()
        site.datapath.links.reports.put_nowait(None)
        await asyncio.sleep(0.1)
        assert site.uplink_changes == 1
        assert site.reconciler.uplinks == ()
        await asyncio.sleep(20)
        assert site.uplink_changes == 1


@in_virtual_time
async def test_addresses_of_interfaces_are_learned_as_they_come_and_go(tmp_path: Path) -> None:
    site = Site(tmp_path)
    floating_ip = IPv4Address("192.168.1.100")
    async with site.running(site.upkeep.follow_links):
        for addresses in (frozenset((floating_ip,)), frozenset[IPv4Address]()):
            site.datapath._addresses = addresses
            site.datapath.links.reports.put_nowait(None)
            await asyncio.sleep(1)
            assert site.reconciler.own_addresses() == tuple(addresses)
    assert (site.changes, site.uplink_changes) == (2, 0)


@in_virtual_time
@pytest.mark.parametrize("call", ["refresh_uplinks", "attach_uplinks"])
async def test_i2_links_that_could_not_be_read_or_attached_are_looked_at_again_without_a_report(
    tmp_path: Path, call: str
) -> None:
    """Else an attachment that fails after the reading is the end of it: the next reading sees nothing new."""
    site = Site(tmp_path)
    async with site.running(site.upkeep.follow_links):
        await asyncio.sleep(1)
        site.datapath.failing[call] = 2
        site.datapath.next_uplinks = ()
        site.datapath.links.reports.put_nowait(None)
        await asyncio.sleep(0.05)
        assert site.upkeep.devices_wanted.is_set(), "pods may have come all the same"
        await asyncio.sleep(1)
        assert (site.reconciler.uplinks, site.uplink_changes) == ((), 1)


@in_virtual_time
async def test_i2_a_change_of_links_that_nobody_reported_is_found(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.follow_links):
        await asyncio.sleep(1)
        site.datapath.next_uplinks = ()
        await asyncio.sleep(6)
        assert site.reconciler.uplinks == ()


@in_virtual_time
async def test_hundreds_of_reports_in_a_second_cost_a_few_looks(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.follow_links):
        for _ in range(200):
            site.datapath.links.reports.put_nowait(None)
            await asyncio.sleep(0.005)
    assert len(site.datapath.named("refresh_uplinks")) <= 12


@in_virtual_time
async def test_i3_a_long_look_at_all_links_is_followed_by_as_long_a_pause(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def look() -> bool:
        looks.append(now_ns())
        await asyncio.sleep(1)
        return True

    looks: list[int] = []
    site.datapath.refresh_uplinks = look  # type: ignore[method-assign]
    async with site.running(site.upkeep.follow_links):
        for _ in range(100):
            site.datapath.links.reports.put_nowait(None)
        await asyncio.sleep(10)
    assert len(looks) in (5, 6)


@in_virtual_time
async def test_after_a_repair_everything_is_written_anew_and_flows_of_the_gap_are_forgotten(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(3)
        assert site.uplink_changes == 0
        site.datapath.repairs = [9]
        await asyncio.sleep(1.5)
        assert (site.uplink_changes, site.datapath.named("find")) == (1, [])
        await asyncio.sleep(2)
        assert site.datapath.named("find") == [(POD,)]
        await asyncio.sleep(10)
        assert len(site.datapath.named("find")) == 1


@in_virtual_time
async def test_i2_flows_of_the_gap_are_forgotten_also_where_the_kernel_did_not_answer_at_first(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.repairs, site.datapath.failing["find"] = [9], 2
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(20)
    assert site.datapath.named("find") == [(POD,)] * 3


@in_virtual_time
async def test_i2_another_steering_device_is_told_also_where_the_repair_then_failed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.failing["repair"] = 1
    site.datapath._egw_ifindex = 19
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(3)
        assert site.uplink_changes == 1
        await asyncio.sleep(10)
        assert site.uplink_changes == 1


@in_virtual_time
async def test_a_repair_that_fails_is_tried_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.datapath.failing["repair"], site.datapath.repairs = 2, [9]
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(7)
        assert site.uplink_changes == 1


@in_virtual_time
async def test_h1_a_floating_ip_whose_packets_have_no_route_is_told_in_status(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with site.running(site.upkeep.repair):
        await asyncio.sleep(3)
        site.datapath.dropped = {("no_route", "192.168.1.100"): 5}
        await asyncio.sleep(3)
        assert [line.split(":")[0] for line in site.upkeep.troubles()] == ["192.168.1.100"]
        site.held.clear()
        assert site.upkeep.troubles() == [], "another node's to serve"
        site.held.add(IPv4Address("192.168.1.100"))
        await asyncio.sleep(61)
        assert site.upkeep.troubles() == []
