"""Agent and keeper of one node talk over unix datagram sockets; either may be absent, stuck or talk nonsense."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.model.errors import OperatorError
from service.model.keeper_message import AGENT_SOCKET, KEEPER_SOCKET, Claim, Heartbeat, HeldLease, LeaseReport, Uplink
from service.wire.agent_link import AgentLink, say_waiting
from service.wire.keeper_link import REPORT_AGE_NS_MAX, WAITING_AGE_NS_MAX, KeeperLink

REPORT = LeaseReport((HeldLease("192.168.1.100", 1, 2, 3, 4),), elector=True, voting=True, scheduling="fifo")


async def until(condition: Callable[[], object]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("nothing was heard")


async def test_reports_and_heartbeats_arrive_whole(tmp_path: Path) -> None:
    heartbeats: list[Heartbeat] = []
    reports: list[LeaseReport] = []
    async with (
        KeeperLink(tmp_path, clock=lambda: 0, on_report=reports.append) as agent,
        AgentLink(tmp_path, on_heartbeat=heartbeats.append) as keeper,
    ):
        agent.say(Heartbeat(ready=True))
        keeper.report(REPORT)
        await until(lambda: heartbeats and reports)
    assert heartbeats == [Heartbeat(ready=True)]
    assert reports == [REPORT]


async def test_of_heartbeats_that_wait_only_the_newest_counts(tmp_path: Path) -> None:
    heard: list[Heartbeat] = []
    async with (
        AgentLink(tmp_path, on_heartbeat=heard.append),
        KeeperLink(tmp_path, clock=lambda: 0, on_report=lambda _: None) as agent,
    ):
        for ready in (True, False, True):
            agent.say(Heartbeat(ready=ready))
        await until(lambda: heard)
    assert heard == [Heartbeat(ready=True)]


async def test_what_is_told_an_absent_other_end_is_lost_and_what_follows_is_heard(tmp_path: Path) -> None:
    """Absent before its start, and again after its end: nothing is kept for it, and the sender goes on."""
    former: list[LeaseReport] = []
    reports: list[LeaseReport] = []
    early, late = (replace(REPORT, scheduling=word) for word in ("early", "late"))
    async with AgentLink(tmp_path, on_heartbeat=lambda _: None) as keeper:
        keeper.report(early)
        async with KeeperLink(tmp_path, clock=lambda: 0, on_report=former.append):
            keeper.report(REPORT)
            await until(lambda: former)
        keeper.report(early)
        async with KeeperLink(tmp_path, clock=lambda: 0, on_report=reports.append):
            keeper.report(late)
            await until(lambda: reports)
        # Its own socket has lived through all of it.
        assert (tmp_path / KEEPER_SOCKET).is_socket()
    assert former == [REPORT]
    assert reports == [late]


async def test_the_agent_may_speak_before_the_keeper_is_there_and_is_heard_once_it_is(tmp_path: Path) -> None:
    heard: list[Heartbeat] = []
    async with KeeperLink(tmp_path, clock=lambda: 0, on_report=lambda _: None) as agent:
        agent.say(Heartbeat(ready=True))
        async with AgentLink(tmp_path, on_heartbeat=heard.append):
            agent.say(Heartbeat(ready=False))
            await until(lambda: heard)
    assert heard == [Heartbeat(ready=False)]


async def test_nonsense_is_skipped_and_what_follows_is_heard(tmp_path: Path) -> None:
    reports: list[LeaseReport] = []
    async with (
        KeeperLink(tmp_path, clock=lambda: 0, on_report=reports.append),
        AgentLink(tmp_path, on_heartbeat=lambda _: None) as keeper,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for nonsense in (b"", b"\xff\xfe", b"{", b'{"type":"heartbeat"}', b"[" * 5000):
                stranger.sendto(nonsense, str(tmp_path / AGENT_SOCKET))
        keeper.report(REPORT)
        await until(lambda: reports)
    assert reports == [REPORT]


async def test_a_keeper_that_falls_silent_is_no_longer_alive(tmp_path: Path) -> None:
    now = [1]
    reports: list[LeaseReport] = []
    async with (
        KeeperLink(tmp_path, clock=lambda: now[0], on_report=reports.append) as agent,
        AgentLink(tmp_path, on_heartbeat=lambda _: None) as keeper,
    ):
        assert not agent.is_keeper_alive
        keeper.report(REPORT)
        await until(lambda: reports)
        assert agent.is_keeper_alive
        now[0] += REPORT_AGE_NS_MAX
        assert not agent.is_keeper_alive


async def test_the_socket_of_a_dead_process_is_replaced_and_only_the_owner_may_write(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.bind(str(tmp_path / KEEPER_SOCKET))
    left.close()
    async with AgentLink(tmp_path, on_heartbeat=lambda _: None):
        assert (tmp_path / KEEPER_SOCKET).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / KEEPER_SOCKET).exists()


async def test_a_run_dir_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="run_dir"):
        await AgentLink(tmp_path / "file", on_heartbeat=lambda _: None).__aenter__()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
async def test_a_run_dir_that_takes_no_socket_now_is_told_once_in_the_log_and_in_status_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    heard: list[Heartbeat] = []

    def refuse(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number))

    async with AgentLink(tmp_path, on_heartbeat=heard.append):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "mkdir", refuse)
            agent = await KeeperLink(tmp_path, clock=lambda: 0, on_report=lambda _: None).__aenter__()
            for ready in (True, False) * 100:
                agent.say(Heartbeat(ready=ready))
            (trouble,) = agent.troubles()
            assert trouble.startswith(f"run_dir: cannot bind {tmp_path / AGENT_SOCKET}: {os.strerror(number)}")
            assert len(caplog.records) == 1
        repeating = asyncio.create_task(agent.run())
        await until(lambda: heard)
        assert agent.troubles() == []
        repeating.cancel()
        await agent.__aexit__(None, None, None)


async def test_a_keeper_that_waits_for_its_disk_is_not_alive_and_its_agent_says_why(tmp_path: Path) -> None:
    now = [1]
    reports: list[LeaseReport] = []
    say_waiting(tmp_path, "nobody is there to hear it")
    async with (
        KeeperLink(tmp_path, clock=lambda: now[0], on_report=reports.append) as agent,
        AgentLink(tmp_path, on_heartbeat=lambda _: None) as keeper,
    ):
        keeper.report(REPORT)
        await until(lambda: agent.is_keeper_alive)
        say_waiting(tmp_path, "state_dir: full")
        await until(lambda: not agent.is_keeper_alive)
        assert [trouble.endswith("holds and grants nothing: state_dir: full") for trouble in agent.troubles()] == [True]
        now[0] += WAITING_AGE_NS_MAX
        assert agent.troubles() == []
        say_waiting(tmp_path, "state_dir: full")
        await until(agent.troubles)
        keeper.report(REPORT)
        await until(lambda: agent.is_keeper_alive)
        assert agent.troubles() == []
    assert reports == [REPORT, REPORT]


def long_heartbeat(count: int) -> Heartbeat:
    addresses = [f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}" for index in range(count)]
    return Heartbeat(
        ready=True,
        uplinks=tuple(Uplink(address, "enp65s0f0np0", 7, "0a1b2c3d4e5f", True) for address in addresses),
        claims=tuple(Claim(address, "holder", 12, index) for index, address in enumerate(addresses)),
    )


@pytest.mark.parametrize("count", [2_400, 2_600, 4_096, 20_000])
async def test_a_heartbeat_of_thousands_of_addresses_arrives_whole(tmp_path: Path, count: int) -> None:
    heard: list[Heartbeat] = []
    heartbeat = long_heartbeat(count)
    async with (
        AgentLink(tmp_path, on_heartbeat=heard.append),
        KeeperLink(tmp_path, clock=lambda: 0, on_report=lambda _: None) as agent,
    ):
        agent.say(heartbeat)
        await until(lambda: heard)
        assert agent.troubles() == []
    assert heard == [heartbeat]


async def test_a_report_of_thousands_of_leases_arrives_whole(tmp_path: Path) -> None:
    reports: list[LeaseReport] = []
    held = tuple(HeldLease(f"10.0.{index >> 8}.{index & 255}", 1, index, 3, 4 << 50) for index in range(4_096))
    async with (
        KeeperLink(tmp_path, clock=lambda: 0, on_report=reports.append),
        AgentLink(tmp_path, on_heartbeat=lambda _: None) as keeper,
    ):
        keeper.report(replace(REPORT, held=held))
        await until(lambda: reports)
    assert reports == [replace(REPORT, held=held)]


async def test_a_heartbeat_that_cannot_be_said_is_told_in_status_and_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        AgentLink(tmp_path, on_heartbeat=lambda _: None),
        KeeperLink(tmp_path, clock=lambda: 0, on_report=lambda _: None) as agent,
    ):
        agent.say(long_heartbeat(150_000))
        assert ["too long" in trouble for trouble in agent.troubles()] == [True]
        agent.say(long_heartbeat(150_001))
        assert len(caplog.records) == 1
        agent.say(Heartbeat(ready=True))
        assert agent.troubles() == []


async def test_a_keeper_that_reads_nothing_is_told_in_status_and_one_that_is_absent_is_not(tmp_path: Path) -> None:
    async with KeeperLink(tmp_path, clock=lambda: 0, on_report=lambda _: None) as agent:
        agent.say(Heartbeat(ready=True))
        assert agent.troubles() == []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
            stuck.bind(str(tmp_path / KEEPER_SOCKET))
            for _ in range(600):
                agent.say(Heartbeat(ready=False))
                agent.say(Heartbeat(ready=True))
            assert ["does not reach keeper.sock" in trouble for trouble in agent.troubles()] == [True]


async def test_the_agent_hears_which_keys_its_keeper_has_while_it_lives(tmp_path: Path) -> None:
    now = [1]
    ids = ["0a0a0a0a"]
    async with (
        KeeperLink(tmp_path, clock=lambda: now[0], on_report=lambda _: None) as agent,
        AgentLink(tmp_path, on_heartbeat=lambda _: None) as keeper,
    ):
        keeper.tell_keys(lambda: tuple(ids))
        assert agent.key_ids() == ()
        keeper.report(REPORT)
        await until(lambda: agent.key_ids() == ("0a0a0a0a",))
        ids.append("0b0b0b0b")
        keeper.report(REPORT)
        await until(lambda: agent.key_ids() == ("0a0a0a0a", "0b0b0b0b"))
        now[0] += REPORT_AGE_NS_MAX
        assert agent.key_ids() == ()
