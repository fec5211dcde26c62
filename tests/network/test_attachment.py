"""Rules W7 and W13 in the kernel: hooks are shared, and ours are replaced, moved and removed without a gap."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from service.model.errors import TransientError
from service.network.attachment import Attachments
from service.network.hook import DIRECTIONS, Attachment, Direction, HookKind
from service.network.netlink import Netlink
from service.network.tcx import TcxLinks
from tests.network.shared_device import BEFORE, MARK, SharedDevice
from tests.network.tiny_program import TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC, load

pytestmark = [pytest.mark.root, pytest.mark.bpf]

MOVES = 20


@pytest.fixture
def device(bpffs: Path) -> Iterator[SharedDevice]:
    with SharedDevice(bpffs / "links") as shared:
        yield shared


async def test_on_tcx_ours_need_no_qdisc_and_are_there_once_however_often_they_are_attached(
    device: SharedDevice,
) -> None:
    passing = device.program(TC_ACT_UNSPEC)
    async with device.agent(tcx=True) as agent:
        assert await agent.attached(device.ifindex) == ()
        for direction in DIRECTIONS * 2:
            assert await agent.attach(device.ifindex, direction, passing, "ours") is HookKind.TCX
        assert await agent.attached(device.ifindex) == (
            Attachment("ingress", HookKind.TCX),
            Attachment("egress", HookKind.TCX),
        )
    assert (device.on_tcx("ingress"), device.on_tcx("egress")) == (1, 1)
    assert "clsact" not in device.qdiscs()
    assert device.arrives()


# -- beside those of others --


@pytest.mark.parametrize("is_ours_first", [True, False])
async def test_w7_a_later_program_of_somebody_else_on_tcx_still_runs(device: SharedDevice, is_ours_first: bool) -> None:
    ours, theirs = device.program(TC_ACT_UNSPEC, mark=MARK), device.program(TC_ACT_SHOT)
    async with device.agent(tcx=True) as agent:
        if not is_ours_first:
            device.add_tcx("ingress", theirs)
        await agent.attach(device.ifindex, "ingress", ours, "ours")
        assert device.arrives_marked() is is_ours_first
        if is_ours_first:
            device.add_tcx("ingress", theirs)
        assert not device.arrives(), "ours returned TC_ACT_UNSPEC, so the other one decides"
        assert device.on_tcx() == 2
        assert await agent.detach(device.ifindex, "ingress")
        assert device.on_tcx() == 1
        assert not device.arrives(), "theirs stays"


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("is_ours_first", [True, False])
async def test_w13_nobody_who_ends_the_chain_keeps_packets_from_ours(
    device: SharedDevice, direction: Direction, is_ours_first: bool
) -> None:
    """As a CNI's program does that returns TC_ACT_OK: behind it the fence would see nothing."""
    ours, theirs = device.program(TC_ACT_SHOT), device.program(TC_ACT_OK)
    async with device.agent(tcx=True) as agent:
        if not is_ours_first:
            device.add_tcx(direction, theirs)
        await agent.attach(device.ifindex, direction, ours, "ours")
        if is_ours_first:
            device.add_tcx(direction, theirs)
        assert await agent.attached(device.ifindex) == (Attachment(direction, HookKind.TCX, overtaken_by=0),)
        assert not device.arrives(direction)


async def test_w13_whoever_goes_before_ours_is_counted(device: SharedDevice) -> None:
    async with device.agent(tcx=True) as agent:
        await agent.attach(device.ifindex, "egress", device.program(TC_ACT_UNSPEC), "ours")
        device.add_tcx("egress", device.program(TC_ACT_UNSPEC), flags=BEFORE)
        device.add_tcx("egress", device.program(TC_ACT_UNSPEC))
        assert await agent.attached(device.ifindex) == (Attachment("egress", HookKind.TCX, overtaken_by=1),)


@pytest.mark.parametrize("is_ours_first", [True, False])
async def test_somebodys_filter_runs_after_ours_on_tcx_and_each_goes_without_the_other(
    device: SharedDevice, is_ours_first: bool
) -> None:
    ours, theirs = device.program(TC_ACT_UNSPEC, mark=MARK), device.program(TC_ACT_SHOT)
    async with device.agent(tcx=True) as agent:
        if not is_ours_first:
            device.add_filter(theirs)
        await agent.attach(device.ifindex, "ingress", ours, "ours")
        if is_ours_first:
            device.add_filter(theirs)
        assert not device.arrives(), "ours passed it on, so the other one decides"
        device.here.run("tc qdisc del dev v0 clsact")
        assert device.arrives_marked(), "theirs went, ours stay"
        device.add_filter(theirs)
        assert await agent.detach(device.ifindex, "ingress")
        assert not device.arrives(), "ours went, theirs stay"


# -- beside the CNI's bandwidth plugin --


@pytest.mark.parametrize("is_ours_first", [True, False])
async def test_w13_on_tcx_a_pod_with_a_bandwidth_limit_has_both_whoever_was_first(
    device: SharedDevice, is_ours_first: bool
) -> None:
    ours = device.program(TC_ACT_UNSPEC, mark=MARK)
    async with device.agent(tcx=True) as agent:
        if not is_ours_first:
            device.shape()
        assert await agent.attach(device.ifindex, "ingress", ours, "ours") is HookKind.TCX
        if is_ours_first:
            device.shape()
        before = device.shaped()
        assert device.arrives_marked()
        assert device.shaped() > before
        assert await agent.detach(device.ifindex, "ingress")
        assert device.arrives()
        assert not device.arrives_marked()
        assert device.shaped() >= before + 3, "ours went, theirs stay"
        await agent.attach(device.ifindex, "ingress", ours, "ours")
        device.here.run("tc qdisc del dev v0 ingress")
        assert device.arrives_marked(), "theirs went, ours stay"


async def test_w13_without_tcx_a_pod_with_a_bandwidth_limit_is_met_where_its_packets_are_sent(
    device: SharedDevice,
) -> None:
    ours = device.program(TC_ACT_UNSPEC, mark=MARK)
    async with device.agent(tcx=False) as agent:
        device.shape()
        for _ in range(2):
            assert await agent.attach(device.ifindex, "ingress", ours, "ours") is HookKind.IFB
        assert await agent.attached(device.ifindex) == (Attachment("ingress", HookKind.IFB),)
        before = device.shaped()
        assert device.arrives_marked()
        assert device.shaped() > before
        assert await agent.detach(device.ifindex, "ingress")
        assert await agent.attached(device.ifindex) == ()
        assert device.arrives()
        assert not device.arrives_marked()
        assert device.shaped() >= before + 3, "ours went, theirs stay"


async def test_w13_without_tcx_ours_are_put_back_when_the_limit_goes(device: SharedDevice) -> None:
    ours = device.program(TC_ACT_UNSPEC, mark=MARK)
    async with device.agent(tcx=False) as agent:
        device.shape()
        await agent.attach(device.ifindex, "ingress", ours, "ours")
        device.here.run("tc qdisc del dev v0 ingress")
        assert await agent.attached(device.ifindex) == (), "as upkeep sees it"
        assert await agent.attach(device.ifindex, "ingress", ours, "ours") is HookKind.CLSACT
        assert device.arrives_marked()


async def test_w13_without_tcx_the_bandwidth_plugin_fails_where_ours_are_first(device: SharedDevice) -> None:
    """Why a new pod's device is left alone for a while (`Newcomers`)."""
    async with device.agent(tcx=False) as agent:
        await agent.attach(device.ifindex, "ingress", device.program(TC_ACT_UNSPEC), "ours")
        with pytest.raises(AssertionError, match="ingress"):
            device.shape()


async def test_w13_without_tcx_ours_go_into_somebodys_ingress_qdisc(device: SharedDevice) -> None:
    ours = device.program(TC_ACT_UNSPEC, mark=MARK)
    device.here.run("tc qdisc add dev v0 ingress")
    async with device.agent(tcx=False) as agent:
        assert await agent.attach(device.ifindex, "ingress", ours, "ours") is HookKind.INGRESS
        assert await agent.attached(device.ifindex) == (Attachment("ingress", HookKind.INGRESS),)
        assert device.arrives_marked()
        with pytest.raises(TransientError, match="no room for egress"):
            await agent.attach(device.ifindex, "egress", ours, "fence")
        assert await agent.detach(device.ifindex, "ingress")
        assert not await agent.detach(device.ifindex, "egress")
        assert "ingress" in device.qdiscs()


@pytest.mark.parametrize(
    "matching", ["match u32 0 0 flowid 1:1", "match ip dport 9 0xffff action mirred egress redirect dev lo"]
)
async def test_w13_without_tcx_what_lets_packets_past_ours_is_refused_with_the_reason(
    device: SharedDevice, matching: str
) -> None:
    device.here.run("tc qdisc add dev v0 clsact")
    device.here.run(f"tc filter add dev v0 ingress protocol all prio 1 u32 {matching}")
    async with device.agent(tcx=False) as agent:
        with pytest.raises(TransientError, match="u32 filter runs before ours"):
            await agent.attach(device.ifindex, "ingress", device.program(TC_ACT_UNSPEC), "ours")
        assert await agent.attached(device.ifindex) == ()


# -- restarts, upgrades --


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize(("former", "later"), [(True, True), (False, True), (True, False), (False, False)])
async def test_w13_a_restart_or_a_move_never_leaves_a_moment_without_and_never_two(
    device: SharedDevice, former: bool, later: bool, direction: Direction
) -> None:
    assert device.arrives(direction)
    fences = [device.program(TC_ACT_SHOT) for _ in range(2)]

    async def start(fence: int, *, tcx: bool) -> None:
        async with device.agent(tcx=tcx) as agent:
            await agent.attach(device.ifindex, direction, fence, "fence")
        assert device.ours(direction) == 1

    await start(fences[0], tcx=former)
    with device.flooded(direction) as leaked:
        for _ in range(MOVES):
            await start(fences[1], tcx=later)
            await start(fences[0], tcx=former)
    assert leaked == []


@pytest.mark.parametrize("direction", ["ingress", "egress"])
async def test_w13_a_version_that_knows_filters_only_leaves_no_gap_and_the_next_one_ends_what_is_double(
    device: SharedDevice, direction: Direction
) -> None:
    """Going back without `datapath.tcx: false`: it does not find the link, so both stand as long as it is there."""
    fence = device.program(TC_ACT_SHOT)
    assert device.arrives(direction)
    async with device.agent(tcx=True) as newer:
        await newer.attach(device.ifindex, direction, fence, "fence")
    with device.flooded(direction) as leaked:
        async with Netlink() as older:
            await older.attach(device.ifindex, direction, fence, "fence")
        assert device.ours(direction) == 2
        async with device.agent(tcx=True) as newer:
            await newer.attach(device.ifindex, direction, fence, "fence")
        assert device.ours(direction) == 1
    assert leaked == []


async def test_a_restart_puts_its_own_program_in_the_former_ones_place(device: SharedDevice) -> None:
    async with device.agent(tcx=True) as former:
        await former.attach(device.ifindex, "ingress", device.program(TC_ACT_SHOT), "ours")
        device.add_tcx("ingress", device.program(TC_ACT_UNSPEC))
        assert not device.arrives()
    async with device.agent(tcx=True) as restarted:
        await restarted.attach(device.ifindex, "ingress", device.program(TC_ACT_UNSPEC, mark=MARK), "ours")
        assert device.arrives_marked()
        assert device.on_tcx() == 2
        assert await restarted.attached(device.ifindex) == (Attachment("ingress", HookKind.TCX),)


@pytest.mark.parametrize("tcx", [True, False])
async def test_ours_outlive_the_agent(device: SharedDevice, tcx: bool) -> None:
    program = load(TC_ACT_SHOT)
    async with device.agent(tcx=tcx) as agent:
        await agent.attach(device.ifindex, "ingress", program, "ours")
    os.close(program)
    assert not device.arrives()


def test_the_capabilities_of_the_agents_pod_are_enough(device: SharedDevice, bpffs: Path) -> None:
    """As in deploy/agent.yaml: nothing may be looked up by its id, which would need CAP_SYS_ADMIN."""
    links, program = TcxLinks(bpffs / "links"), device.program(TC_ACT_UNSPEC)
    links.attach(device.ifindex, "ingress", device.program(TC_ACT_UNSPEC))
    again = (
        "from pathlib import Path\n"
        "from service.network.tcx import TcxLinks, has_tcx\n"
        f"links = TcxLinks(Path({str(bpffs / 'links')!r}))\n"
        f"for direction in ('ingress', 'egress'): links.attach({device.ifindex}, direction, {program})\n"
        f"print(has_tcx(), links.others_before({device.ifindex}, 'egress'), links.detach({device.ifindex}, 'ingress'))"
    )
    rights = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon"]
    command = [*rights, sys.executable, "-c", again]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, pass_fds=[program])
    assert done.stdout.split() == ["True", "0", "True"], done.stderr


# -- what others remove, and what goes --


@pytest.mark.parametrize("what", ["pin", "clsact"])
async def test_what_somebody_removed_is_seen_and_can_be_put_back(device: SharedDevice, what: str, bpffs: Path) -> None:
    ours = device.program(TC_ACT_UNSPEC, mark=MARK)
    async with device.agent(tcx=what == "pin") as agent:
        await agent.attach(device.ifindex, "ingress", ours, "ours")
        assert device.arrives_marked()
        if what == "pin":
            (bpffs / "links" / f"{device.ifindex}-ingress").unlink()
        else:
            device.here.run("tc qdisc del dev v0 clsact")
        assert await agent.attached(device.ifindex) == ()
        await agent.attach(device.ifindex, "ingress", ours, "ours")
        assert device.arrives_marked()


async def test_a_removed_pin_is_made_anew_though_the_kernel_takes_its_time(device: SharedDevice, bpffs: Path) -> None:
    """It detaches some time after the pin is gone, and takes the same program again only then."""
    ours = device.program(TC_ACT_UNSPEC)
    async with device.agent(tcx=True) as agent:
        for _ in range(50):
            await agent.attach(device.ifindex, "ingress", ours, "ours")
            (bpffs / "links" / f"{device.ifindex}-ingress").unlink()
        await agent.attach(device.ifindex, "ingress", ours, "ours")
    assert device.on_tcx() == 1


async def test_what_gone_devices_leave_is_swept_and_what_is_in_use_stays(device: SharedDevice, bpffs: Path) -> None:
    ours = device.program(TC_ACT_UNSPEC)
    async with device.agent(tcx=True) as agent:
        device.here.link("v1", device.there, "eth1")
        gone = socket.if_nametoindex("v1")
        for index in (device.ifindex, gone):
            await agent.attach(index, "ingress", ours, "ours")
        device.here.ip("link del v1")
        assert await agent.attached(gone) == ()
        await agent.sweep_attachments()
        assert [path.name for path in (bpffs / "links").iterdir()] == [f"{device.ifindex}-ingress"]
        assert device.on_tcx() == 1


async def test_a_device_that_comes_back_under_its_index_is_attached_to_again(device: SharedDevice) -> None:
    ours = device.program(TC_ACT_UNSPEC)
    async with device.agent(tcx=True) as agent:
        device.here.ip("link add v1 index 77 type veth peer name w1")
        await agent.attach(77, "ingress", ours, "ours")
        device.here.ip("link del v1")
        device.here.ip("link add v1 index 77 type veth peer name w1")
        assert await agent.attached(77) == ()
        await agent.attach(77, "ingress", ours, "ours")
        assert await agent.attached(77) == (Attachment("ingress", HookKind.TCX),)


async def test_a_clearing_takes_away_what_is_left_and_its_folder(device: SharedDevice, bpffs: Path) -> None:
    async with device.agent(tcx=True) as agent:
        await agent.attach(device.ifindex, "ingress", device.program(TC_ACT_SHOT), "ours")
        await agent.clear_attachments()
    assert not (bpffs / "links").exists()
    assert device.arrives()


async def test_a_device_that_is_gone_is_transient(device: SharedDevice) -> None:
    async with device.agent(tcx=True) as agent:
        with pytest.raises(TransientError):
            await agent.attach(99999, "ingress", device.program(TC_ACT_UNSPEC), "ours")
        assert not await agent.detach(99999, "egress")
        assert await agent.attached(99999) == ()


def test_without_a_place_for_links_ours_are_filters() -> None:
    attachments = Attachments(None)
    attachments.look_around(None)
    assert not attachments.has_tcx


@pytest.mark.parametrize("wants_tcx", [True, False])
def test_the_setting_decides_where_the_kernel_has_both(tmp_path: Path, wants_tcx: bool) -> None:
    attachments = Attachments(TcxLinks(tmp_path / "links"), wants_tcx=wants_tcx)
    with IPRoute() as ipr:
        attachments.look_around(ipr)
    assert attachments.has_tcx is wants_tcx


# -- what may go past the stack --


async def is_plain(device: SharedDevice, *, tcx: bool) -> bool:
    async with device.agent(tcx=tcx) as agent:
        return device.ifindex in await agent.plain_devices([device.ifindex])


@pytest.mark.parametrize("tcx", [True, False])
async def test_f2_a_device_with_nothing_but_ours_is_plain(device: SharedDevice, tcx: bool) -> None:
    passing = device.program(TC_ACT_UNSPEC)
    async with device.agent(tcx=tcx) as agent:
        for direction in DIRECTIONS:
            await agent.attach(device.ifindex, direction, passing, "ours")
    assert await is_plain(device, tcx=tcx)


ANY = "protocol all prio 5 u32 match u32 0 0 flowid 1:1"
"""Of each packet, by a classifier that small kernels have too, and without an action of its own."""


@pytest.mark.parametrize(
    "commands",
    [
        ["qdisc add dev v0 root tbf rate 10mbit burst 20k latency 50ms"],
        ["qdisc add dev v0 root htb"],
        ["qdisc add dev v0 clsact", f"filter add dev v0 ingress {ANY}"],
        ["qdisc add dev v0 clsact", f"filter add dev v0 egress {ANY}"],
        ["qdisc add dev v0 ingress", f"filter add dev v0 ingress {ANY}"],
    ],
    ids=["tbf", "htb", "ingress filter", "egress filter", "filter of an older qdisc"],
)
@pytest.mark.parametrize("tcx", [True, False])
async def test_f2_a_device_that_somebody_shapes_or_filters_is_not(
    device: SharedDevice, commands: list[str], tcx: bool
) -> None:
    for command in commands:
        device.here.run(f"tc {command}")
    assert not await is_plain(device, tcx=tcx)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("tcx", [True, False])
async def test_f2_one_with_a_program_of_somebody_as_a_filter_is_not(
    device: SharedDevice, direction: Direction, tcx: bool
) -> None:
    device.add_filter(device.program(TC_ACT_OK), direction=direction)
    assert not await is_plain(device, tcx=tcx)


async def test_f2_an_empty_qdisc_of_somebody_shapes_nothing(device: SharedDevice) -> None:
    device.here.run("tc qdisc add dev v0 clsact")
    assert await is_plain(device, tcx=True)
