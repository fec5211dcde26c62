"""What a node's datapath does with uplinks, pod devices and what others removed; the kernel's part stands in."""

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from service.datapath import layout
from service.datapath.layout import MapName
from service.datapath.node_datapath import STEERING_DEVICE, NodeDatapath, uninstall
from service.model.errors import OperatorError, TransientError
from service.network.connection_life import DEFAULT
from service.network.destinations import NOTHING
from service.network.handover_device import HANDOVER_DEVICE
from service.network.hook import Attachment, Direction, HookKind
from service.network.link import Interface
from service.network.nftables import NftConfig
from service.network.tcx import read_links
from service.network.traffic_control import FILTER_HANDLE
from service.settings import DatapathSettings, Settings
from tests.agent.site import settings_of
from tests.datapath.stand_in import StandInMap
from tests.network.namespace import Namespace, namespaces

ETH0 = Interface(2, "eth0", b"\2\0\0\0\0\1", True, True, None, (IPv4Interface("192.168.1.21/24"),))
ETH1 = Interface(3, "eth1", b"\2\0\0\0\0\2", True, True, None, (IPv4Interface("172.30.1.21/24"),))
BARE = Interface(4, "eth2", b"\2\0\0\0\0\3", True, True, None, ())
VETH = Interface(10, "pod0", b"\2\0\0\0\0\4", True, True, "veth", ())
OTHER_VETH = Interface(11, "pod1", b"\2\0\0\0\0\5", True, True, "veth", ())


class Netlink:
    """Interfaces as the test says; attachments are kept."""

    def __init__(self) -> None:
        self.links: tuple[Interface, ...] = (ETH0, ETH1, BARE)
        self.veths: tuple[Interface, ...] = ()
        self.defaults: tuple[str, ...] = ("eth0",)
        self.programs: dict[int, dict[str, int]] = {}
        self.attaches: list[tuple[int, str]] = []
        self.refused: set[int] = set()
        self.refused_ways: set[str] = set()
        self.shaped: set[int] = set()
        self.steering_index = 9
        self.has_tcx = True
        self.overtaken_by = 0
        self.is_slow = False
        self.sweeps = 0

    async def interfaces(self) -> tuple[Interface, ...]:
        return self.links + self.veths

    async def default_route_interfaces(self) -> tuple[str, ...]:
        return self.defaults

    async def default_gateways(self) -> tuple[IPv4Address, ...]:
        return (IPv4Address("192.168.1.1"),)

    async def veth_devices(self, exclude: Iterable[str] = ()) -> tuple[Interface, ...]:
        return tuple(veth for veth in self.veths if veth.name not in exclude)

    @property
    def kind(self) -> HookKind:
        return HookKind.TCX if self.has_tcx else HookKind.CLSACT

    async def attach(self, ifindex: int, direction: str, program_fd: int, name: str) -> HookKind:
        if self.is_slow:
            await asyncio.sleep(0.001)
        if ifindex in self.refused or direction in self.refused_ways:
            raise TransientError("no such device")
        self.programs.setdefault(ifindex, {})[direction] = program_fd
        self.attaches.append((ifindex, name))
        return self.kind

    async def attached(self, ifindex: int) -> tuple[Attachment, ...]:
        found: Any = self.programs.get(ifindex, {})
        return tuple(Attachment(direction, self.kind, self.overtaken_by) for direction in found)

    async def plain_devices(self, ifindexes: Iterable[int]) -> frozenset[int]:
        return frozenset(ifindexes) - self.shaped

    async def sweep_attachments(self) -> None:
        self.sweeps += 1

    async def ensure_handover_device(self) -> Interface:
        return Interface(8, HANDOVER_DEVICE, b"\2\0\0\0\0\x08", True, True, "veth", ())

    async def ensure_steering_device(self, **_: object) -> Interface:
        return Interface(self.steering_index, STEERING_DEVICE, b"\2\0\0\0\0\x09", True, True, "vxlan", ())


class Nftables:
    """A table that somebody may flush."""

    def __init__(self) -> None:
        self.whole: list[NftConfig] = []
        self.sets: list[NftConfig] = []
        self.is_there = False
        self.dropped = {"unclassified": 3}

    async def apply(self, config: NftConfig) -> None:
        self.whole.append(config)
        self.is_there = True

    async def update_sets(self, config: NftConfig) -> None:
        self.sets.append(config)

    async def replace_steer(self, wanted: object) -> None: ...

    async def present(self) -> bool:
        return self.is_there

    async def is_intact(self) -> bool:
        return self.is_there


PROGRAMS = (
    "uplink_egress",
    "uplink_ingress",
    "pod_ingress",
    "pod_egress",
    "steer_egress",
    "steer_ingress",
    "handover_egress",
)


class _Loaded:
    programs: ClassVar = {name: number for number, name in enumerate(PROGRAMS, start=1)}

    def __init__(self) -> None:
        self.maps: dict[str, StandInMap] = {}

    def map(self, name: str) -> StandInMap:
        return self.maps.setdefault(name, StandInMap())


class Site:
    """A datapath whose kernel is the test's."""

    def __init__(self, folder: Path, *, uplinks: tuple[str, ...] = (), direct: bool = True) -> None:
        wanted = DatapathSettings(uplinks=uplinks, direct=direct)
        settings = msgspec.structs.replace(settings_of(folder), datapath=wanted)
        self.datapath = NodeDatapath(settings)
        self.netlink, self.nftables = Netlink(), Nftables()
        self.datapath.netlink = self.netlink  # type: ignore[assignment]
        self.datapath.nftables = self.nftables  # type: ignore[assignment]
        self.datapath._loaded = _Loaded()  # type: ignore[assignment]

    @property
    def uplinks(self) -> list[str]:
        return [uplink.name for uplink in self.datapath.uplinks]


async def test_uplinks_are_those_named_or_else_those_with_a_default_route(tmp_path: Path) -> None:
    named = Site(tmp_path, uplinks=("eth1", "eth0"))
    assert await named.datapath.refresh_uplinks()
    assert named.uplinks == ["eth0", "eth1"]
    found = Site(tmp_path)
    assert await found.datapath.refresh_uplinks()
    assert found.uplinks == ["eth0"]


async def test_an_interface_without_an_address_is_no_uplink_and_one_that_loses_it_is_none_any_more(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, uplinks=("eth0", "eth2"))
    await site.datapath.refresh_uplinks()
    assert site.uplinks == ["eth0"]
    site.netlink.links = (replace(ETH0, addresses=()),)
    assert await site.datapath.refresh_uplinks()
    assert site.uplinks == []


async def test_only_what_concerns_an_uplink_is_a_change(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    before = site.datapath.uplinks
    site.netlink.links = (ETH0, VETH)
    await site.datapath.refresh_uplinks()
    assert site.datapath.uplinks == before
    site.netlink.links = (replace(ETH0, carrier=False),)
    await site.datapath.refresh_uplinks()
    assert [uplink.carrier for uplink in site.datapath.uplinks] == [False]
    assert len(site.netlink.attaches) == 2, "the programs stay with the device"


async def test_the_fence_is_attached_to_an_uplink_before_what_answers_on_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    assert site.netlink.attaches == [(2, "uplink_egress"), (2, "uplink_ingress")]


async def test_g2_i2_what_cannot_be_attached_to_is_no_uplink_yet_and_costs_no_other_one(tmp_path: Path) -> None:
    site = Site(tmp_path, uplinks=("eth0", "eth1"))
    site.netlink.refused = {2}
    assert not await site.datapath.refresh_uplinks()
    assert site.uplinks == ["eth1"]
    site.netlink.refused = set()
    assert await site.datapath.refresh_uplinks()
    assert site.uplinks == ["eth0", "eth1"]


async def test_an_uplink_that_is_back_under_another_index_is_attached_to_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    site.netlink.links = ()
    await site.datapath.refresh_uplinks()
    assert site.uplinks == []
    site.netlink.links = (replace(ETH0, index=22),)
    site.netlink.attaches.clear()
    await site.datapath.refresh_uplinks()
    assert site.netlink.attaches == [(22, "uplink_egress"), (22, "uplink_ingress")]


UNADDRESSED = replace(ETH0, kind="veth", addresses=())
"""An uplink of a node in a container, which has lost its address."""


async def test_an_uplink_that_lost_its_address_keeps_the_fence_and_gets_no_pods_programs(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    fence = site.netlink.programs[ETH0.index]["egress"]
    site.netlink.links, site.netlink.veths = (), (UNADDRESSED,)
    await site.datapath.refresh_uplinks()
    await site.datapath.attach_pod_devices()
    assert site.netlink.programs[ETH0.index]["egress"] == fence
    assert (ETH0.index, "pod_ingress") not in site.netlink.attaches


async def test_two_tasks_never_give_one_device_the_programs_of_both_kinds(tmp_path: Path) -> None:
    """Seen in chaos (seed 301, round 66): the fence came before a pod's program, which was attached in its place."""
    site = Site(tmp_path)
    site.netlink.is_slow = True
    site.netlink.links, site.netlink.veths = (), (UNADDRESSED,)
    await site.datapath.refresh_uplinks()
    finding = asyncio.create_task(site.datapath.attach_pod_devices())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    site.netlink.links, site.netlink.veths = (ETH0,), ()
    await asyncio.gather(finding, site.datapath.refresh_uplinks())
    last = {(index, name.split("_")[1]): name for index, name in site.netlink.attaches}
    assert last == {(ETH0.index, "egress"): "uplink_egress", (ETH0.index, "ingress"): "uplink_ingress"}


async def test_each_pod_device_is_attached_once_and_again_under_a_new_index(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths = (VETH, OTHER_VETH)
    await site.datapath.attach_pod_devices()
    await site.datapath.attach_pod_devices()
    both = [(index, name) for index in (10, 11) for name in ("pod_ingress", "pod_egress")]
    assert site.netlink.attaches == both
    site.netlink.veths = (replace(VETH, index=12),)
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches[4:] == [(12, "pod_ingress"), (12, "pod_egress")]


def direct_devices(site: Site) -> set[int]:
    return {int.from_bytes(key, "little") for key in site.datapath._loaded.map(MapName.DIRECT_DEVICES).items()}


async def test_f2_only_devices_that_nobody_shapes_have_a_direct_path(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths, site.netlink.shaped = (VETH, OTHER_VETH), {11}
    await site.datapath.attach_pod_devices()
    assert direct_devices(site) - {site.datapath.egw_ifindex} == {10}
    site.netlink.shaped = {10}
    await site.datapath.attach_pod_devices()
    assert direct_devices(site) - {site.datapath.egw_ifindex} == {11}
    site.netlink.veths = ()
    await site.datapath.attach_pod_devices()
    assert direct_devices(site) - {site.datapath.egw_ifindex} == set()


async def test_x4_the_tunnel_goes_past_the_stack_where_nobody_shapes_the_steering_device(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath._ensure_devices()
    await site.datapath.attach_pod_devices()
    assert direct_devices(site) == {site.netlink.steering_index}
    site.netlink.shaped = {site.netlink.steering_index}
    await site.datapath.attach_pod_devices()
    assert direct_devices(site) == set()


async def test_f2_the_direct_path_can_be_turned_off(tmp_path: Path) -> None:
    site = Site(tmp_path, direct=False)
    site.datapath._loaded.map(MapName.DIRECT_DEVICES).update(layout.device_key(10), bytes(4))
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    assert direct_devices(site) == set(), "what a former agent has left there too"


async def test_a_device_without_a_hook_for_replies_serves_its_pod_all_the_same(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths, site.netlink.refused_ways = (VETH,), {"egress"}
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches == [(10, "pod_ingress")]
    assert site.datapath.unattached == frozenset()


async def test_a_device_that_vanished_meanwhile_keeps_no_other_pod_waiting(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths, site.netlink.refused = (VETH, OTHER_VETH), {10}
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches == [(11, "pod_ingress"), (11, "pod_egress")]
    assert site.datapath.unattached == {10}
    site.netlink.refused = set()
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches[2:] == [(10, "pod_ingress"), (10, "pod_egress")]
    assert site.datapath.unattached == frozenset()


async def test_every_device_shows_its_hook_and_a_refused_one_why_it_has_none(tmp_path: Path) -> None:
    site = Site(tmp_path, uplinks=("eth0", "eth1"))
    site.netlink.veths, site.netlink.refused = (VETH, OTHER_VETH), {3, 10}
    await site.datapath.refresh_uplinks()
    await site.datapath.repair()
    await site.datapath.attach_pod_devices()
    assert site.datapath.hooks.kinds() == {"eth0": "tcx", "egw0": "tcx", "egw1": "tcx", "pod1": "tcx"}
    assert site.datapath.hooks.troubles() == [
        "cannot attach to eth1: no such device",
        "cannot attach to pod0: no such device",
    ]
    site.netlink.veths = ()
    await site.datapath.refresh_uplinks()
    assert site.datapath.hooks.troubles() == ["cannot attach to eth1: no such device"]
    assert "pod1" not in site.datapath.hooks.kinds()


async def test_w13_whoever_put_a_program_before_ours_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths = (VETH,)
    await site.datapath.refresh_uplinks()
    await site.datapath.attach_pod_devices()
    site.netlink.overtaken_by = 1
    await site.datapath.repair()
    await site.datapath.repair()
    assert site.datapath.hooks.troubles() == [
        "egw0: programs of others run before ours (egress by 1, ingress by 1)",
        "eth0: programs of others run before ours (egress by 1, ingress by 1)",
        "pod0: programs of others run before ours (ingress by 1, egress by 1)",
    ]


async def test_w13_without_tcx_a_new_pods_device_is_left_to_its_cni_until_its_pod_is_known(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.has_tcx = False
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches[:1] == [(10, "pod_ingress")], "it was there before us"
    site.netlink.veths = (VETH, OTHER_VETH)
    await site.datapath.attach_pod_devices()
    assert len(site.netlink.attaches) == 2
    assert site.datapath.unattached == {11}, "looked at again soon"
    await site.datapath.attach_pod_devices({11})
    assert site.netlink.attaches[2:3] == [(11, "pod_ingress")]
    assert site.datapath.unattached == frozenset()


async def test_with_tcx_a_new_pods_device_is_attached_to_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.attach_pod_devices()
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches[0] == (10, "pod_ingress")


async def test_what_gone_devices_leave_is_swept_with_every_repair(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.repair()
    assert site.netlink.sweeps == 1


async def test_a_device_that_vanishes_for_good_is_waited_for_no_more(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths, site.netlink.refused = (VETH,), {10}
    await site.datapath.attach_pod_devices()
    site.netlink.veths = ()
    await site.datapath.attach_pod_devices()
    assert site.datapath.unattached == frozenset()


async def test_w11_a_pods_device_that_lost_its_program_has_it_again_with_the_next_repair(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    del site.netlink.programs[10]
    await site.datapath.repair()
    assert "ingress" in site.netlink.programs[10]


async def test_a_device_that_goes_while_repair_looks_at_it_ends_nothing_and_is_forgotten_after_that(
    tmp_path: Path,
) -> None:
    """A KeyError across an await, once: the other task waits now until the look is over."""
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    attached = site.netlink.attached

    async def look(ifindex: int) -> tuple[Attachment, ...]:
        if ifindex != VETH.index:
            return await attached(ifindex)
        site.netlink.veths = ()
        tasks.append(asyncio.create_task(site.datapath.attach_pod_devices()))
        await asyncio.sleep(0)
        return ()

    tasks: list[asyncio.Task[None]] = []
    site.netlink.attached = look  # type: ignore[method-assign]
    assert not await site.datapath.repair()
    await tasks[0]
    assert site.datapath._attached == {}


async def test_i2_what_is_gone_or_refuses_keeps_nothing_else_from_being_repaired(tmp_path: Path) -> None:
    site = Site(tmp_path, uplinks=("eth0", "eth1"))
    await site.datapath.refresh_uplinks()
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    await site.datapath.set_netfilter((), (), ["eth0"], False, DEFAULT, steer=NOTHING)
    attached = site.netlink.attached

    async def look(ifindex: int) -> tuple[Attachment, ...]:
        if ifindex in (2, 9, 10):
            raise TransientError("no such device")
        return await attached(ifindex)

    site.netlink.attached = look  # type: ignore[method-assign]
    del site.netlink.programs[3]["egress"]
    site.nftables.is_there = False
    assert await site.datapath.repair()
    assert "egress" in site.netlink.programs[3]


async def test_g2_an_uplink_that_lost_the_fence_and_does_not_get_it_back_is_none(tmp_path: Path) -> None:
    site = Site(tmp_path, uplinks=("eth0", "eth1"))
    await site.datapath.refresh_uplinks()
    del site.netlink.programs[2]["egress"]
    site.netlink.refused = {2}
    await site.datapath.repair()
    assert site.uplinks == ["eth1"]


async def test_programs_that_somebody_removed_are_put_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    await site.datapath.repair()
    site.netlink.attaches.clear()
    assert not await site.datapath.repair()
    assert site.netlink.attaches == []
    del site.netlink.programs[2]["ingress"]
    assert not await site.datapath.repair()
    assert (2, "uplink_ingress") in site.netlink.attaches


async def test_a_pods_device_gets_its_program_back_with_the_same_repair(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    site.netlink.programs.clear()
    await site.datapath.repair()
    assert site.netlink.programs[10] == {"ingress": 3, "egress": 4}
    site.netlink.programs.clear()
    site.netlink.refused = {10}
    await site.datapath.repair()
    await site.datapath.attach_pod_devices()
    assert site.datapath.unattached == {10}


async def test_another_steering_device_gets_its_programs_and_everything_is_written_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    await site.datapath.repair()
    site.netlink.steering_index = 19
    await site.datapath.repair()
    assert site.datapath.egw_ifindex == 19
    assert [name for index, name in site.netlink.attaches if index == 19] == ["steer_egress", "steer_ingress"]


async def test_a_flushed_table_is_told_and_then_written_whole(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    await site.datapath.repair()
    pods = (IPv4Network("10.244.0.0/16"),)
    await site.datapath.set_netfilter(pods, pods, ["eth0"], False, DEFAULT, steer=NOTHING)
    await site.datapath.set_netfilter(pods, pods, ["eth0", "eth1"], False, DEFAULT, steer=NOTHING)
    assert (len(site.nftables.whole), len(site.nftables.sets)) == (1, 1)
    assert site.nftables.whole[0].steering_device == STEERING_DEVICE
    site.nftables.is_there = False
    assert await site.datapath.repair()
    assert await site.datapath.repair(), "until it is written"
    await site.datapath.set_netfilter(pods, pods, ["eth0"], False, DEFAULT, steer=NOTHING)
    assert len(site.nftables.whole) == 2
    assert not await site.datapath.repair()
    await site.datapath.set_netfilter(pods, pods, ["eth0"], True, DEFAULT, steer=NOTHING)
    assert [config.keeps_out_pods for config in site.nftables.whole] == [False, False, True], "that is a rule"


def test_w11_what_netfilter_drops_is_told_beside_what_the_programs_drop(tmp_path: Path) -> None:
    assert Site(tmp_path).datapath.drops() == {("unclassified", ""): 3}


async def test_a_node_without_any_uplink_starts_all_the_same_and_says_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have one in a moment."""

    def go_on(*_: object, **_named: object) -> None:
        raise TransientError("it went on")

    site = Site(tmp_path, uplinks=("nosuch",))
    monkeypatch.setattr("service.datapath.node_datapath.check_node", list)
    monkeypatch.setattr("service.datapath.node_datapath.loader.load_datapath", go_on)
    site.datapath.netlink = _Entered(site.netlink)  # type: ignore[assignment]
    with pytest.raises(TransientError, match="it went on"):
        async with site.datapath:
            pass
    assert "datapath.uplinks" in caplog.text
    assert "name them" in caplog.text


class _Entered:
    """Netlink as a context manager."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def __getattr__(self, name: str) -> object:
        return getattr(self._netlink, name)

    async def __aenter__(self) -> "_Entered":
        return self

    async def __aexit__(self, *_: object) -> None: ...


async def test_without_any_uplink_the_steering_device_is_kept_and_nothing_ends(tmp_path: Path) -> None:
    """Seen under chaos: `max()` of nothing ended the agent while both uplinks had lost their addresses."""
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    await site.datapath.repair()
    site.netlink.links = ()
    assert await site.datapath.refresh_uplinks()
    assert not await site.datapath.repair()
    assert site.datapath.egw_ifindex == site.netlink.steering_index


async def test_a1_every_address_of_every_interface_is_known(tmp_path: Path) -> None:
    site = Site(tmp_path)
    virtual = IPv4Interface("192.168.1.100/32")
    site.netlink.links = (ETH0, replace(VETH, addresses=(virtual,)))
    await site.datapath.refresh_uplinks()
    assert site.datapath.addresses == {ETH0.addresses[0].ip, virtual.ip}


async def test_s5_the_default_gateways_are_known(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    assert site.datapath.gateways == (IPv4Address("192.168.1.1"),)


def settings_with(folder: Path, datapath: DatapathSettings) -> Settings:
    settings = msgspec.structs.replace(settings_of(folder), datapath=datapath)
    Path(settings.state_dir).mkdir(exist_ok=True)
    return settings


def ours_on(node: Namespace, device: str, direction: Direction) -> int:
    """How many programs of ours a packet meets there, in the namespace of the calling thread."""
    filters = node.run(f"tc filter show dev {device} {direction}").count(f"handle {FILTER_HANDLE:#x}")
    return filters + len(read_links(socket.if_nametoindex(device), direction))


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.parametrize(("former", "later"), [(True, True), (False, True), (True, False), (False, False)])
async def test_w13_the_next_agent_replaces_every_program_and_an_uninstalled_node_has_none(
    bpffs: Path, tmp_path: Path, former: bool, later: bool
) -> None:
    """Each with its own kernel, as it were: an upgrade to tcx, the way back, and plain restarts."""
    hooks = [("eth0", "egress"), ("eth0", "ingress"), ("egw0", "egress"), ("egw0", "ingress"), ("pod0", "ingress")]
    pins = bpffs / "w13"
    with namespaces("n", "o") as (node, outside):
        node.link("eth0", outside, "eth0")
        node.link("pod0", outside, "eth1")
        node.ip("addr add 192.168.1.21/24 dev eth0")
        node.ip("route add default via 192.168.1.1")
        with node.entered():
            for tcx in (former, later):
                settings = settings_with(tmp_path, DatapathSettings(bpf_dir=str(pins), tcx=tcx, uplinks=("eth0",)))
                async with NodeDatapath(settings) as datapath:
                    names = ("egw0", "egw1", "eth0", "pod0")
                    assert datapath.hooks.kinds() == dict.fromkeys(names, "tcx" if tcx else "clsact")
                assert [ours_on(node, *hook) for hook in hooks] == [1] * len(hooks), "they outlive the agent"
            left = [hook for hook in hooks if hook[0] != "egw0"]
            await uninstall(settings)
            assert [ours_on(node, *hook) for hook in left] == [0] * len(left)
    assert not pins.exists()


@pytest.mark.root
@pytest.mark.bpf
async def test_b5_tables_of_flows_keep_their_size_over_a_restart_and_status_and_metrics_say_which(
    bpffs: Path, tmp_path: Path
) -> None:
    pins = bpffs / "b5"
    with namespaces("n", "o") as (node, outside):
        node.link("eth0", outside, "eth0")
        node.ip("addr add 192.168.1.21/24 dev eth0")
        told, sizes = [], []
        with node.entered():
            for flows in (300, 300, 600):
                settings = settings_with(tmp_path, DatapathSettings(bpf_dir=str(pins), uplinks=("eth0",), flows=flows))
                async with NodeDatapath(settings) as datapath:
                    told.append(datapath.troubles())
                    sizes.append((await datapath.flows.sweep(None)).tables["open"])
            await uninstall(settings)
            async with NodeDatapath(settings) as datapath:
                told.append(datapath.troubles())
                sizes.append((await datapath.flows.sweep(None)).tables["open"])
            await uninstall(settings)
    assert sizes == [(0, 300)] * 3 + [(0, 600)]
    (trouble,) = told.pop(2)
    assert "flows_open has 300 and not 600" in trouble
    assert "rebooted" in trouble
    assert told == [[]] * 3


class _Leaving(_Entered):
    """Netlink, and nftables, of whoever uninstalls: what is taken away, in order."""

    def __init__(self, netlink: Netlink) -> None:
        super().__init__(netlink)
        self.done: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> object:
        async def take_away(*what: object, **_: object) -> None:
            self.done.append((name, *what))

        return self._netlink.interfaces if name == "interfaces" else take_away


async def test_g8_uninstalling_stops_steering_first_and_takes_the_fence_away_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netlink, module = Netlink(), "service.datapath.node_datapath"
    netlink.links, netlink.veths = (ETH0,), (VETH,)
    site = _Leaving(netlink)
    monkeypatch.setattr(f"{module}.check_node", list)
    monkeypatch.setattr(f"{module}.Netlink", lambda **_: site)
    monkeypatch.setattr(f"{module}.Nftables", lambda: site)
    monkeypatch.setattr(f"{module}.loader.unpin", lambda folder: site.done.append(("unpin",)))
    await uninstall(settings_of(tmp_path))
    steps = ("detach", 10, "ingress"), ("remove_steering_device",), ("remove",), ("detach", 2, "egress"), ("unpin",)
    assert sorted(steps, key=site.done.index) == list(steps)


@pytest.mark.root
@pytest.mark.bpf
async def test_f3_g7_w6_x1_a_node_begins_with_its_sysctls_its_address_for_questions_and_marks_of_its_own(
    bpffs: Path, tmp_path: Path
) -> None:
    with namespaces("n", "o") as (node, outside):
        node.link("eth0", outside, "eth0")
        node.ip("addr add 192.168.1.21/24 dev eth0")
        node.run("nft -f -", "table ip t { chain c { type filter hook forward priority 0; ct state new accept; }; }")
        settings = settings_with(tmp_path, DatapathSettings(bpf_dir=str(bpffs / "begun"), uplinks=("eth0",)))
        with node.entered():
            async with NodeDatapath(settings) as datapath:
                target = datapath._loaded.map(MapName.PROBE_TARGET).lookup(bytes(4))
                assert node.sysctl("netfilter/nf_conntrack_tcp_be_liberal") == "1"
                assert node.sysctl("ipv4/conf/eth0/send_redirects") == "0"
                for came, went in (
                    ("ip rule add priority 50 fwmark 0x1000 lookup 100", "ip rule del priority 50"),
                    ("nft add rule ip t c meta mark 0x1000 drop", "nft delete table ip t"),
                ):
                    node.run(came)
                    with pytest.raises(OperatorError, match="0x1000 is in use"):
                        await datapath._set_up_steering()
                    node.run(went)
            await uninstall(settings)
    assert target == layout.probe_target_value(IPv4Address(settings.bind_address), settings.ports.probe)
