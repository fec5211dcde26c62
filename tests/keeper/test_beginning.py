"""A keeper's first start on disks that do not let it: it waits, says so, does nothing meanwhile, and then begins."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.keeper.beginning import begin
from service.keeper.keeper import run
from service.model.errors import OperatorError, TransientError
from service.model.keeper_message import AGENT_SOCKET, KeeperMessage, LeaseReport, Waiting
from service.settings import DatapathSettings, Settings
from tests.disk import HangingDisk, RefusingDisk
from tests.keeper.node import free_port, settings_of, until


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> RefusingDisk:
    monkeypatch.setattr("service.keeper.keeper.become_punctual", lambda profile: "normal")
    return RefusingDisk(monkeypatch)


@asynccontextmanager
async def starting(settings: Settings, heard: list[KeeperMessage]) -> AsyncIterator["asyncio.Task[None]"]:
    """The process as it is started, and its agent's ear."""
    run_dir = Path(settings.run_dir)
    decoder = msgspec.json.Decoder(KeeperMessage)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as agent:
        agent.bind(str(run_dir / AGENT_SOCKET))
        loop = asyncio.get_running_loop()
        loop.add_reader(agent, lambda: heard.append(decoder.decode(agent.recv(65536))))
        task = asyncio.create_task(run(settings))
        try:
            yield task
        finally:
            loop.remove_reader(agent)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def settings_in(folder: Path, **others: Any) -> Settings:
    settings = settings_of(folder, 0, free_port(), electors=1)
    bpf_dir = str(folder / "no-bpf")
    Path(settings.run_dir).mkdir()
    return msgspec.structs.replace(settings, datapath=DatapathSettings(bpf_dir=bpf_dir), **others)


def records(settings: Settings) -> list[str]:
    return sorted(path.name for path in Path(settings.state_dir).iterdir())


def is_silent(settings: Settings) -> bool:
    """Nobody has the keeper's port: it can neither hear nor answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((settings.bind_address, settings.ports.lease))
        except OSError:
            return False
        return True


CAUSES = [errno.ENOSPC, errno.EROFS, errno.EACCES]


@pytest.mark.parametrize("electors", ["auto", "configured"])
@pytest.mark.parametrize("number", CAUSES, ids=errno.errorcode.get)
async def test_p2_a_first_start_on_a_state_dir_that_fails_waits_votes_for_nothing_and_begins_with_room(
    tmp_path: Path, disk: RefusingDisk, number: int, electors: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_in(tmp_path, **({"electors": "auto"} if electors == "auto" else {}))
    disk.spoil(settings.state_dir, number)
    heard: list[KeeperMessage] = []
    async with starting(settings, heard) as process:
        await until(lambda: len(heard) > 2)
        assert not process.done()
        assert is_silent(settings)
        assert all(isinstance(message, Waiting) for message in heard)
        assert all(os.strerror(number) in message.trouble for message in heard if isinstance(message, Waiting))
        assert sum(record.levelname == "ERROR" for record in caplog.records) == 1
        disk.mend()
        await until(lambda: isinstance(heard[-1], LeaseReport))
        assert not process.done()
        assert not is_silent(settings)
        # It knows no promise of before, and is in the silence of P2.
        assert not any(report.voting or report.held for report in heard if isinstance(report, LeaseReport))


async def test_m7_a_number_that_is_on_no_disk_is_told_to_nobody(tmp_path: Path, disk: RefusingDisk) -> None:
    settings = settings_in(tmp_path, electors="auto")
    disk.spoil(settings.state_dir, errno.ENOSPC)
    heard: list[KeeperMessage] = []
    async with starting(settings, heard):
        await until(lambda: len(heard) > 1)
        assert records(settings) == []
        disk.mend()
        await until(lambda: isinstance(heard[-1], LeaseReport))
        assert "electorate" in records(settings)


async def test_a_disk_that_does_not_answer_at_the_first_start_is_told_and_holds_up_nothing(
    tmp_path: Path, disk: RefusingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    hanging = HangingDisk(monkeypatch)
    heard: list[KeeperMessage] = []
    async with starting(settings, heard):
        await until(lambda: len(heard) > 1)
        assert [str(message) for message in heard[:2]] == [
            f"Waiting(trouble='a disk has not answered for {seconds} s')" for seconds in (1, 2)
        ]
        assert is_silent(settings)
        hanging.answer()
        await until(lambda: isinstance(heard[-1], LeaseReport))
        assert hanging.is_waited_for_by("electorate", "longest-lease")
    assert hanging.held_up == []


async def test_a_keeper_whose_node_has_lost_its_address_waits_and_says_so(tmp_path: Path, disk: RefusingDisk) -> None:
    settings = settings_in(tmp_path, bind_address="192.0.2.1")
    heard: list[KeeperMessage] = []
    async with starting(settings, heard) as process:
        await until(lambda: len(heard) > 2)
        assert not process.done()
        assert all(isinstance(message, Waiting) for message in heard)
        assert "bind_address: cannot bind UDP 192.0.2.1" in str(heard[-1])


@pytest.mark.parametrize("number", CAUSES, ids=errno.errorcode.get)
async def test_s8_without_a_run_dir_for_the_lock_a_keeper_waits_and_touches_nothing(
    tmp_path: Path, disk: RefusingDisk, number: int
) -> None:
    settings = settings_in(tmp_path)
    heard: list[KeeperMessage] = []
    async with starting(settings, heard) as process:
        # The agent's socket is there, as its agent was first.
        disk.spoil(settings.run_dir, number)
        await until(lambda: bool(heard))
        assert not process.done()
        assert is_silent(settings)
        assert records(settings) == []
        disk.mend()
        await until(lambda: isinstance(heard[-1], LeaseReport))


async def test_a_step_that_failed_is_taken_again_though_no_agent_is_there_to_hear_of_it(tmp_path: Path) -> None:
    failures = [TransientError("run_dir: full"), TransientError("run_dir: read-only")]

    def step() -> str:
        if failures:
            raise failures.pop()
        return "taken"

    assert await begin(step, run_dir=tmp_path) == "taken"


def put_a_file_in_the_place_of(folder: str) -> None:
    Path(folder).rmdir()
    Path(folder).write_text("a file")


async def test_a_file_in_the_place_of_the_state_dir_ends_the_keeper_with_the_setting_and_the_fix(
    tmp_path: Path, disk: RefusingDisk
) -> None:
    settings = settings_in(tmp_path)
    put_a_file_in_the_place_of(settings.state_dir)
    async with asyncio.timeout(5):
        with pytest.raises(OperatorError, match=r"^state_dir: .*name another folder"):
            await run(settings)
