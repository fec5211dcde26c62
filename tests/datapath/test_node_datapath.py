"""What a node's datapath does with uplinks, pod devices and what others removed; the kernel's part stands in."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from service.datapath import layout
from service.datapath.layout import MapName, WayKind
from service.datapath.node_datapath import STEERING_DEVICE, NodeDatapath
from service.model.errors import TransientError
from service.network.destinations import NOTHING
from service.network.link import Interface
from service.network.nftables import NftConfig
from service.network.traffic_control import Attachment
from service.settings import DatapathSettings
from tests.agent.site import settings_of

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
        self.steering_index = 9

    async def interfaces(self) -> tuple[Interface, ...]:
        return self.links

    async def default_route_interfaces(self) -> tuple[str, ...]:
        return self.defaults

    async def default_gateways(self) -> tuple[IPv4Address, ...]:
        return (IPv4Address("192.168.1.1"),)

    async def veth_devices(self, exclude: Iterable[str] = ()) -> tuple[Interface, ...]:
        return tuple(veth for veth in self.veths if veth.name not in exclude)

    async def attach(self, ifindex: int, direction: str, program_fd: int, name: str) -> None:
        if ifindex in self.refused:
            raise TransientError("no such device")
        self.programs.setdefault(ifindex, {})[direction] = program_fd
        self.attaches.append((ifindex, name))

    async def attached(self, ifindex: int) -> tuple[Attachment, ...]:
        found: Any = self.programs.get(ifindex, {})
        return tuple(Attachment(direction, "x") for direction in found)

    async def ensure_steering_device(self, **_: object) -> Interface:
        return Interface(self.steering_index, STEERING_DEVICE, b"\2\0\0\0\0\x09", True, True, "vxlan", ())


class Nftables:
    """A table that somebody may flush."""

    def __init__(self) -> None:
        self.whole: list[NftConfig] = []
        self.sets: list[NftConfig] = []
        self.is_there = False

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


PROGRAMS = ("uplink_egress", "uplink_ingress", "pod_ingress", "steer_egress", "steer_ingress")


class _Map:
    def update(self, key: bytes, value: bytes) -> None: ...


class _Loaded:
    programs: ClassVar = {name: number for number, name in enumerate(PROGRAMS, start=1)}

    def map(self, name: str) -> _Map:
        return _Map()


class Site:
    """A datapath whose kernel is the test's."""

    def __init__(self, folder: Path, *, uplinks: tuple[str, ...] = ()) -> None:
        settings = msgspec.structs.replace(settings_of(folder), datapath=DatapathSettings(uplinks=uplinks))
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


async def test_g2_c2_what_cannot_be_attached_to_is_no_uplink_yet_and_costs_no_other_one(tmp_path: Path) -> None:
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


async def test_each_pod_device_is_attached_once_and_again_under_a_new_index(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths = (VETH, OTHER_VETH)
    await site.datapath.attach_pod_devices()
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches == [(10, "pod_ingress"), (11, "pod_ingress")]
    site.netlink.veths = (replace(VETH, index=12),)
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches[2:] == [(12, "pod_ingress")]


async def test_a_device_that_vanished_meanwhile_keeps_no_other_pod_waiting(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths, site.netlink.refused = (VETH, OTHER_VETH), {10}
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches == [(11, "pod_ingress")]
    assert site.datapath.unattached == {10}
    site.netlink.refused = set()
    await site.datapath.attach_pod_devices()
    assert site.netlink.attaches[1:] == [(10, "pod_ingress")]
    assert site.datapath.unattached == frozenset()


async def test_a_device_that_vanishes_for_good_is_waited_for_no_more(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.netlink.veths, site.netlink.refused = (VETH,), {10}
    await site.datapath.attach_pod_devices()
    site.netlink.veths = ()
    await site.datapath.attach_pod_devices()
    assert site.datapath.unattached == frozenset()


async def test_a_device_that_is_forgotten_while_repair_looks_at_it_ends_nothing(tmp_path: Path) -> None:
    """A KeyError across an await: the other task had seen the device go."""
    site = Site(tmp_path)
    await site.datapath.refresh_uplinks()
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    attached = site.netlink.attached

    async def look(ifindex: int) -> tuple[Attachment, ...]:
        if ifindex != VETH.index:
            return await attached(ifindex)
        site.netlink.veths = ()
        await site.datapath.attach_pod_devices()
        return ()

    site.netlink.attached = look  # type: ignore[method-assign]
    assert not await site.datapath.repair()


async def test_c2_what_is_gone_or_refuses_keeps_nothing_else_from_being_repaired(tmp_path: Path) -> None:
    site = Site(tmp_path, uplinks=("eth0", "eth1"))
    await site.datapath.refresh_uplinks()
    site.netlink.veths = (VETH,)
    await site.datapath.attach_pod_devices()
    await site.datapath.set_netfilter((), (), ["eth0"], steer=NOTHING)
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
    await site.datapath.set_netfilter(pods, pods, ["eth0"], steer=NOTHING)
    await site.datapath.set_netfilter(pods, pods, ["eth0", "eth1"], steer=NOTHING)
    assert (len(site.nftables.whole), len(site.nftables.sets)) == (1, 1)
    assert site.nftables.whole[0].steering_device == STEERING_DEVICE
    site.nftables.is_there = False
    assert await site.datapath.repair()
    assert await site.datapath.repair(), "until it is written"
    await site.datapath.set_netfilter(pods, pods, ["eth0"], steer=NOTHING)
    assert len(site.nftables.whole) == 2
    assert not await site.datapath.repair()


async def test_a_node_without_any_uplink_starts_all_the_same_and_says_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have one in a moment."""

    def go_on(*_: object) -> None:
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


async def test_w2_a_restarted_agent_goes_on_with_where_an_address_went_while_there_was_none(tmp_path: Path) -> None:
    site = Site(tmp_path)
    told, heard = (layout.way_value(7, WayKind.L2, 2, bytes(6), bytes((2, 0, 0, 0, 0, one))) for one in (1, 2))
    old = layout.way_value(6, WayKind.L2, 2, bytes(6), bytes(6))
    first, second, third, fourth = (bytes((192, 168, 1, one)) for one in (100, 101, 102, 103))
    content: dict[str, dict[bytes, bytes]] = {
        MapName.WAYS: dict.fromkeys((first, second, third), told),
        MapName.WAY_HINTS: {
            first: heard + (1).to_bytes(8, "little"),
            second: heard + bytes(8),
            third: old + (1).to_bytes(8, "little"),
            fourth: bytes(8) + heard[8:] + (1).to_bytes(8, "little"),
        },
    }

    class Left:
        def __init__(self, name: str) -> None:
            self.name = name

        def items(self) -> dict[bytes, bytes]:
            return content.get(self.name, {})

    site.datapath._loaded.map = Left  # type: ignore[assignment, method-assign]
    assert site.datapath.inherited().ways == {
        first: heard,
        second: told,
        third: told,
        fourth: bytes(8) + heard[8:],
    }


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
