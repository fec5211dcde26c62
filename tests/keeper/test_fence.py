"""The pinned map of deadlines as the keeper sees it."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from service.datapath.bpf_map import create_map, open_pinned
from service.keeper.fence import FenceEntry, PinnedFence
from service.model.keeper_message import Claim
from service.model.lease import Token
from service.network.bpf_call import pin
from tests.keeper.node import Node, claims_of, free_port, settings_of, troubles, until, with_memory

pytestmark = pytest.mark.bpf

IP = IPv4Address("192.0.2.100")
TOKEN = Token(7, 3, 1)
_HASH = 1


@pytest.fixture
def bpf_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "bpf"
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "egwt", str(folder)], check=True, timeout=10)
    (folder / "v1").mkdir()
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


def pin_map(bpf_dir: Path, *, value_size: int = 16, entries: int = 64) -> Path:
    path = bpf_dir / "v1" / "lease_deadlines"
    path.unlink(missing_ok=True)
    fd = create_map(_HASH, 4, value_size, entries)
    pin(fd, str(path))
    os.close(fd)
    return path


def rows(path: Path) -> dict[bytes, bytes]:
    opened = open_pinned(str(path))
    found = opened.items()
    opened.close()
    return found


def kernel_value(path: Path) -> tuple[int, int]:
    opened = open_pinned(str(path))
    value = opened.lookup(IP.packed)
    opened.close()
    assert value is not None
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")


def test_there_is_no_fence_until_the_agent_has_pinned_one(bpf_dir: Path) -> None:
    fence = PinnedFence(str(bpf_dir))
    assert not fence.refresh()
    assert fence.entries() == {}
    assert "lease_deadlines" in fence.trouble
    pin_map(bpf_dir)
    assert fence.refresh()
    fence.close()


def test_a_deadline_is_written_for_the_address_in_network_order_and_comes_back(bpf_dir: Path) -> None:
    path = pin_map(bpf_dir)
    fence = PinnedFence(str(bpf_dir))
    fence.refresh()
    fence.write(IP, TOKEN, 12345)
    assert kernel_value(path) == (12345, TOKEN.packed())
    assert fence.entries() == {IP: FenceEntry(TOKEN, 12345)}
    fence.write(IP, TOKEN, 0)
    assert rows(path) == {}
    fence.close()


def test_what_a_full_map_refused_is_not_opened_in_a_datapath_made_anew(bpf_dir: Path) -> None:
    pin_map(bpf_dir)
    fence = PinnedFence(str(bpf_dir))
    fence.refresh()
    for number in range(64):
        fence.write(IPv4Address("198.51.100.0") + number, TOKEN, 12345)
    with pytest.raises(OSError):
        fence.write(IP, TOKEN, 12345)
    pin_map(bpf_dir)
    assert fence.refresh()
    assert (len(fence.entries()), fence.trouble) == (64, "")
    assert IP not in fence.entries()
    fence.close()


def test_a_datapath_made_anew_learns_what_is_held_and_not_what_is_closed(bpf_dir: Path) -> None:
    pin_map(bpf_dir)
    fence = PinnedFence(str(bpf_dir))
    fence.refresh()
    other = IPv4Address("192.0.2.101")
    fence.write(IP, TOKEN, 12345)
    fence.write(other, TOKEN, 12345)
    fence.write(other, TOKEN, 0)
    path = pin_map(bpf_dir)
    assert fence.refresh()
    assert kernel_value(path) == (12345, TOKEN.packed())
    assert other not in fence.entries()
    fence.close()


def test_a_fence_that_was_taken_away_takes_nothing_new(bpf_dir: Path) -> None:
    path = pin_map(bpf_dir)
    fence = PinnedFence(str(bpf_dir))
    assert fence.refresh()
    path.unlink()
    assert not fence.refresh()
    assert fence.trouble == f"the fence: nothing is pinned at {path} (No such file or directory)"
    fence.write(IP, TOKEN, 0)
    fence.close()


def test_a_map_of_another_shape_is_not_used(bpf_dir: Path) -> None:
    pin_map(bpf_dir, value_size=8)
    fence = PinnedFence(str(bpf_dir))
    assert not fence.refresh()
    assert fence.entries() == {}
    assert "lease_deadlines" in fence.trouble


def test_a_map_of_another_shape_in_the_place_of_ours_takes_nothing_new_is_told_once_and_then_gone_by(
    bpf_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pin_map(bpf_dir)
    fence = PinnedFence(str(bpf_dir))
    fence.refresh()
    fence.write(IP, TOKEN, 12345)
    path = pin_map(bpf_dir, value_size=8)
    assert [fence.refresh() for _ in range(3)] == [False, False, False]
    assert fence.trouble == f"the fence: {path} is not the map of this version"
    assert len(caplog.records) == 1
    pin_map(bpf_dir)
    assert fence.refresh()
    assert fence.trouble == ""
    assert kernel_value(path) == (12345, TOKEN.packed())
    fence.close()


def test_what_is_closed_is_closed_for_the_programs_of_the_datapath_before_too(bpf_dir: Path) -> None:
    former = open_pinned(str(pin_map(bpf_dir)))
    fence = PinnedFence(str(bpf_dir))
    fence.refresh()
    fence.write(IP, TOKEN, 12345)
    pin_map(bpf_dir)
    fence.refresh()
    fence.write(IP, TOKEN, 0)
    assert former.items() == {}
    former.close()
    fence.close()


def test_what_was_left_in_a_map_that_is_found_late_is_closed(bpf_dir: Path) -> None:
    fence = PinnedFence(str(bpf_dir))
    fence.refresh()
    assert fence.entries() == {}
    path = pin_map(bpf_dir)
    left = open_pinned(str(path))
    left.update(IP.packed, bytes(16))
    left.close()
    assert fence.refresh()
    assert rows(path) == {}
    fence.close()


def test_what_was_adopted_is_in_a_datapath_made_anew(bpf_dir: Path) -> None:
    path = pin_map(bpf_dir)
    first = PinnedFence(str(bpf_dir))
    first.refresh()
    first.write(IP, TOKEN, 12345)
    first.close()
    second = PinnedFence(str(bpf_dir))
    second.refresh()
    assert second.entries() == {IP: FenceEntry(TOKEN, 12345)}
    path = pin_map(bpf_dir)
    second.refresh()
    assert kernel_value(path) == (12345, TOKEN.packed())
    second.close()


async def test_of_more_addresses_than_the_map_takes_the_rest_is_held_by_another_node(
    bpf_dir: Path, tmp_path: Path
) -> None:
    path = pin_map(bpf_dir, entries=4)
    addresses = [f"198.51.100.{number}" for number in range(1, 7)]
    port = free_port()
    nodes = [Node(with_memory(settings_of(tmp_path, index, port))) for index in range(3)]
    nodes[0].fence = PinnedFence(str(bpf_dir))
    nodes[0].heartbeat = nodes[1].heartbeat = claims_of(*addresses)
    nodes[1].heartbeat = msgspec.structs.replace(
        nodes[1].heartbeat, claims=tuple(Claim(address, "successor", 1, 1) for address in addresses)
    )
    async with nodes[0].running(), nodes[1].running(), nodes[2].running():
        await until(lambda: len(rows(path)) == 4 and sum(map(nodes[1].fence.is_open, addresses)) == 2)
        # What the agent lists no more makes room, and others get it once they are tried again.
        here = {str(IPv4Address(key)) for key in rows(path)}
        assert {address for address in addresses if nodes[1].fence.is_open(address)} == {*addresses} - here
        await until(lambda: bool(troubles(nodes[0])))
        assert "2 addresses are not claimed, since its fence cannot be opened" in troubles(nodes[0])[0]
        nodes[0].heartbeat = claims_of(*sorted(here)[1:])
        await until(lambda: len(rows(path)) == 3)


async def test_a_map_that_vanishes_or_changes_its_shape_under_a_keeper_costs_nothing_that_is_held(
    bpf_dir: Path, tmp_path: Path
) -> None:
    path = pin_map(bpf_dir)
    other = "192.0.2.101"
    node = Node(with_memory(settings_of(tmp_path, 0, free_port(), electors=1)))
    node.fence = PinnedFence(str(bpf_dir))
    node.heartbeat = claims_of(str(IP))
    async with node.running():
        await until(lambda: IP.packed in rows(path))
        for spoil in (path.unlink, partial(pin_map, bpf_dir, value_size=8)):
            spoil()
            await until(lambda: bool(troubles(node)))
            node.heartbeat = claims_of(str(IP), other)
            await asyncio.sleep(0.5)
            assert [held.floating_ip for held in node.reports[-1].held] == [str(IP)]
            pin_map(bpf_dir)
            await until(lambda: len(rows(path)) == 2)
            node.heartbeat = claims_of(str(IP))
            await until(lambda: len(rows(path)) == 1 and not troubles(node))
