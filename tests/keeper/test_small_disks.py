"""Keepers whose `run_dir` or `state_dir` is really full or read-only: states, told while they last, never an end."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.audit.promise_log import KEEPER_OUTBOX
from service.keeper.promise_file import ALLOTTED_BYTES, PromiseFile
from tests.keeper.node import IP, OTHER, Node, claims_of, free_port, settings_of, troubles, until, with_memory
from tests.virtual_time import in_virtual_time, now_ns

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("parts_that_know_only_real_time")]

MANY = tuple(str(IPv4Address("198.51.100.0") + number) for number in range(200))
FULL_RUN_DIR = "run_dir: promises cannot be written: No space left on device; this elector is silent"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "egwt-disk", str(folder)], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def take_all_room(folder: Path) -> Path:
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return ballast


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True, timeout=10)


def holds_all(node: Node, *addresses: str) -> bool:
    return all(node.fence.is_open(address) for address in addresses)


@asynccontextmanager
async def one_of_three(folder: Path) -> AsyncIterator[Node]:
    """A node that is to run, and two others that vote already."""
    port = free_port()
    nodes = [Node(settings_of(folder, index, port), boot_clock=now_ns) for index in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes[1:]:
            with_memory(node.settings)
            await stack.enter_async_context(node.running())
        yield nodes[0]


def sole(folder: Path) -> Node:
    return Node(settings_of(folder, 0, free_port(), electors=1), boot_clock=now_ns)


# -- run_dir --


@in_virtual_time
async def test_a_run_dir_that_fills_up_costs_nothing_as_its_pages_were_allotted_before(tmp_path: Path) -> None:
    """Seen: from 3 addresses to 200 the promises grew by a page, and the keeper ended."""
    node = sole(tmp_path)
    run_dir = Path(node.settings.run_dir)
    with small_disk(run_dir, "2m"):
        with_memory(node.settings)
        async with node.running():
            node.heartbeat = claims_of(IP)
            await until(node.holds)
            take_all_room(run_dir)
            node.heartbeat = claims_of(IP, *MANY)
            await until(lambda: holds_all(node, IP, *MANY))
            assert troubles(node) == []


@in_virtual_time
async def test_a_run_dir_that_was_full_at_the_start_costs_the_vote_alone_and_only_while_it_is(tmp_path: Path) -> None:
    async with one_of_three(tmp_path) as node:
        run_dir = Path(node.settings.run_dir)
        with small_disk(run_dir, "64k"):
            ballast = take_all_room(run_dir)
            async with node.running():
                # Its elector is in the silence of P2; then it would vote, and cannot write what it promises.
                node.heartbeat = claims_of(IP)
                await until(node.holds)
                await asyncio.sleep(20)
                assert node.holds()
                assert (troubles(node), node.reports[-1].voting) == ([FULL_RUN_DIR], False)
                ballast.unlink()
                await until(lambda: troubles(node) == [] and node.reports[-1].voting)
                assert node.holds()


def test_what_does_not_fit_leaves_the_record_before_it_whole(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with small_disk(run_dir, "64k"), PromiseFile(run_dir) as promises:
        promises.write(b"record")
        ballast = take_all_room(run_dir)
        with pytest.raises(OSError, match="No space left"):
            promises.write(bytes(range(256)) * 64)
        assert promises.read().startswith(b"record")
        ballast.unlink()
        promises.write(bytes(range(256)) * 64)
        assert promises.read().startswith(bytes(range(256)))


def test_room_that_was_allotted_is_there_when_all_else_is_taken(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with small_disk(run_dir, "2m"), PromiseFile(run_dir) as promises:
        take_all_room(run_dir)
        promises.write(b"x" * ALLOTTED_BYTES)
        with pytest.raises(OSError, match="No space left"):
            promises.write(b"x" * (ALLOTTED_BYTES + 1))


# -- state_dir --


def fill(folder: Path) -> None:
    take_all_room(folder)


def make_read_only(folder: Path) -> None:
    remount(folder, "ro")


def mend(folder: Path) -> None:
    remount(folder, "rw")
    (folder / "ballast").unlink(missing_ok=True)


STATES = [(fill, "No space left on device"), (make_read_only, "Read-only file system")]


@pytest.mark.parametrize(("spoil", "what"), STATES)
@in_virtual_time
async def test_a_state_dir_that_fails_keeps_a_sole_electors_new_grants_waiting_and_nothing_else(
    tmp_path: Path, spoil: object, what: str
) -> None:
    node = sole(tmp_path)
    state_dir = Path(node.settings.state_dir)
    assert callable(spoil)
    # The outbox has files open for writing, under which no disk becomes read-only.
    with small_disk(state_dir, "256k"), small_disk(state_dir / KEEPER_OUTBOX, "256k"):
        with_memory(node.settings)
        async with node.running():
            node.heartbeat = claims_of(IP)
            await until(node.holds)
            spoil(state_dir)
            node.heartbeat = claims_of(IP, OTHER)
            for _ in range(300):
                await asyncio.sleep(0.01)
                assert node.holds()
            assert not node.fence.is_open(OTHER)
            trouble = f"state_dir: the records of this elector cannot be written: {what}"
            assert trouble in troubles(node)
            mend(state_dir)
            await until(lambda: holds_all(node, IP, OTHER))
            await until(lambda: trouble not in troubles(node))


@pytest.mark.parametrize(("spoil", "what"), STATES)
@in_virtual_time
async def test_a_keeper_starts_on_a_state_dir_that_fails_and_holds_and_votes(
    tmp_path: Path, spoil: object, what: str
) -> None:
    async with one_of_three(tmp_path) as node:
        state_dir = Path(node.settings.state_dir)
        assert callable(spoil)
        with small_disk(state_dir, "256k"):
            with_memory(node.settings)
            async with node.running():
                node.heartbeat = claims_of(IP)
                await until(node.holds)
            spoil(state_dir)
            async with node.running():
                node.heartbeat = claims_of(IP, OTHER)
                await until(lambda: holds_all(node, IP, OTHER))
                await until(lambda: any(what in trouble for trouble in troubles(node)))
                assert node.reports[-1].voting
