import contextlib
import os
import signal
from pathlib import Path

import msgspec
import pytest

from service.lab.lab import Lab
from service.lab.process import MARK, ProcessRecord, end_processes, is_alive, kill_marked, respawn, send_signal, spawn

pytestmark = pytest.mark.root


@pytest.fixture
def sleeper(site: Lab, tmp_path: Path) -> ProcessRecord:
    return spawn("sleeper", "worker1", site.node("worker1").netns, ("sleep", "60"), tmp_path / "log", tmp_path)


def test_the_pid_is_that_of_the_program_itself(sleeper: ProcessRecord) -> None:
    os.kill(sleeper.pid, 0)
    # nsenter is replaced in place, so what the pid runs is soon the program.
    while (command := Path(f"/proc/{sleeper.pid}/cmdline").read_bytes()) != b"sleep\x0060\0":
        assert command.startswith((b"nsenter", sys_executable())) or command == b""
    end_processes([sleeper], grace_s=5)
    assert not is_alive(sleeper)


def sys_executable() -> bytes:
    # Between fork and exec the child still carries the command line of this test run.
    return Path("/proc/self/cmdline").read_bytes()


def test_another_process_with_the_same_pid_is_not_touched(sleeper: ProcessRecord) -> None:
    stranger = msgspec.structs.replace(sleeper, start_time=sleeper.start_time - 1)
    assert not is_alive(stranger)
    assert not send_signal(stranger, signal.SIGKILL)
    end_processes([stranger], grace_s=0)
    assert is_alive(sleeper)
    end_processes([sleeper], grace_s=5)


def test_a_frozen_program_ends_within_the_grace(sleeper: ProcessRecord) -> None:
    send_signal(sleeper, signal.SIGSTOP)
    end_processes([sleeper], grace_s=5)
    assert not is_alive(sleeper)


def test_a_program_that_ignores_sigterm_is_killed(site: Lab, tmp_path: Path) -> None:
    command = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    stubborn = spawn("stubborn", "worker1", site.node("worker1").netns, command, tmp_path / "log", tmp_path)
    while "ready" not in (tmp_path / "log").read_text():
        assert is_alive(stubborn)
    end_processes([stubborn], grace_s=0.1)
    assert not is_alive(stubborn)


def test_what_is_not_on_record_is_found_by_its_mark(sleeper: ProcessRecord, tmp_path: Path) -> None:
    while MARK.encode() not in Path(f"/proc/{sleeper.pid}/environ").read_bytes():
        assert is_alive(sleeper)
    kill_marked(tmp_path / "another")
    assert is_alive(sleeper)
    kill_marked(tmp_path)
    end_processes([sleeper], grace_s=5)
    assert not is_alive(sleeper)


def test_nothing_that_bears_the_mark_runs_once_it_was_killed(site: Lab, tmp_path: Path) -> None:
    """Each of them starts the next one, and may have done so while the others were looked for."""
    chain = ("sh", "-c", "while :; do sleep 0.01 & wait; sleep 60 & sleep 0.01; done")
    netns = site.node("worker1").netns
    started = [spawn("chain", "worker1", netns, chain, tmp_path / "log", tmp_path) for _ in range(5)]
    while MARK.encode() not in Path(f"/proc/{started[-1].pid}/environ").read_bytes():
        assert is_alive(started[-1])
    kill_marked(tmp_path)
    mark = f"{MARK}={tmp_path}".encode()
    left = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            left += [path] if mark in path.read_bytes().split(b"\0") else []
    assert left == []


def test_respawn_is_the_same_program_in_a_new_process(sleeper: ProcessRecord) -> None:
    end_processes([sleeper], grace_s=5)
    again = respawn(sleeper)
    assert is_alive(again)
    assert again.command == sleeper.command
    end_processes([again], grace_s=5)


def test_a_lock_of_the_shell_is_not_held_on_by_what_it_started(site: Lab, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        sleeper = spawn("sleeper", "worker1", site.node("worker1").netns, ("sleep", "60"), tmp_path / "log", tmp_path)
        while Path(f"/proc/{sleeper.pid}/cmdline").read_bytes() != b"sleep\x0060\0":
            assert is_alive(sleeper)
        held = [os.readlink(path) for path in Path(f"/proc/{sleeper.pid}/fd").iterdir()]
    end_processes([sleeper], grace_s=5)
    assert str(tmp_path / "lock") not in held
