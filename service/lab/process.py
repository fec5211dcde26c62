"""Programs of a lab: started in a namespace, found again by pid and start time, never mistaken for another."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

import msgspec

from service.lab.namespace import enter_command
from service.model.errors import OperatorError

MARK = "EGRESSGW_LAB"
"""Environment variable of every program of a lab: its folder. Finds what an interrupted `up` could not write down."""
_MARKED_S = 10.0
"""How long what bears it has to be gone after SIGKILL."""
START_TIME_FIELD = 19
"""Of /proc/PID/stat, counted after the command's closing parenthesis (proc(5): field 22)."""


class ProcessRecord(msgspec.Struct, frozen=True):
    """One program as it was started."""

    kind: str
    """`agent`, `keeper`, `controller`, `outside` or `capture`; in a cluster `kubelet` and others, by their names."""
    member: str
    """Name of its node or controller; `outside`, `fabric`."""
    netns: str
    command: tuple[str, ...]
    log: str
    folder: str
    """The lab's folder."""
    pid: int
    start_time: int
    """In clock ticks since boot: with the pid it names one process for good."""


def marked_environment(folder: Path) -> dict[str, str]:
    """The environment of a program that `down` shall end even if it is not on record."""
    return dict(os.environ) | {
        MARK: str(folder),
        # The very package that runs now, from wherever it was imported.
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONUNBUFFERED": "1",
    }


def spawn(kind: str, member: str, netns: str, command: tuple[str, ...], log: Path, folder: Path) -> ProcessRecord:
    """Start `command` in a session of its own; its output is appended to `log`. No `netns`: in the host's."""
    # nsenter replaces itself by the command, so this is the command's own pid and start time.
    pid = _spawn([*enter_command(netns), *command] if netns else list(command), log, folder)
    start_time = _start_time(pid)
    if start_time is None:
        raise OperatorError(f"{kind} of {member} ended at once; see {log}")
    return ProcessRecord(
        kind=kind,
        member=member,
        netns=netns,
        command=command,
        log=str(log),
        folder=str(folder),
        pid=pid,
        start_time=start_time,
    )


def _spawn(arguments: list[str], log: Path, folder: Path) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
    ]
    return os.posix_spawnp(
        arguments[0],
        arguments,
        marked_environment(folder),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGPIPE),
    )


def _inheritable() -> list[int]:
    """What a program would inherit of the shell's: a lock, say, which must not be held for as long as a lab is up."""
    found = []
    for descriptor in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
    return found


def respawn(record: ProcessRecord) -> ProcessRecord:
    """Start the same program again. The record given stays that of the former process."""
    return spawn(record.kind, record.member, record.netns, record.command, Path(record.log), Path(record.folder))


def is_alive(record: ProcessRecord) -> bool:
    """The very process that was started still runs (stopped counts, a zombie does not)."""
    _reap(record.pid)
    return _start_time(record.pid) == record.start_time


def send_signal(record: ProcessRecord, number: int) -> bool:
    """Signal the process and its children; False where it is no more."""
    if not is_alive(record):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(record.pid, number)
        return True
    return False


def wait_for_stop(records: list[ProcessRecord], timeout_s: float = 1.0) -> None:
    """Wait until those that were sent SIGSTOP have really stopped: a running one goes on for up to a tick."""
    deadline_s = time.monotonic() + timeout_s
    for record in records:
        while _stat(record.pid)[:1] not in (["T"], []) and time.monotonic() < deadline_s:
            time.sleep(0.001)


def wait_for_end(records: list[ProcessRecord], timeout_s: float) -> list[ProcessRecord]:
    """Wait until all have ended; return those that have not in time."""
    deadline_s = time.monotonic() + timeout_s
    for record in records:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(record.pid)
            try:
                if _start_time(record.pid) == record.start_time:
                    select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
            finally:
                os.close(descriptor)
    return [record for record in records if is_alive(record)]


def end_processes(records: list[ProcessRecord], *, grace_s: float) -> None:
    """SIGTERM, a shared time of grace, SIGKILL. Frozen ones are woken to hear it."""
    for record in records:
        send_signal(record, signal.SIGTERM)
        send_signal(record, signal.SIGCONT)
    stubborn = wait_for_end(records, grace_s)
    for record in stubborn:
        send_signal(record, signal.SIGKILL)
    if left := wait_for_end(stubborn, 5.0):
        raise OperatorError(f"could not end {', '.join(f'{record.kind} {record.pid}' for record in left)}")


def kill_marked(folder: Path) -> None:
    """SIGKILL whatever carries the lab's mark in its environment and is not on record, until nothing does.

    Raises OperatorError where something does still after some seconds.
    """
    deadline_s = time.monotonic() + _MARKED_S
    # What was killed may have started another one just before, and holds its cgroup and mounts until it is gone.
    while pids := _marked(f"{MARK}={folder}".encode()):
        if time.monotonic() > deadline_s:
            raise OperatorError(f"could not end the processes {', '.join(map(str, pids))} of {folder}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _reap(pid)
        time.sleep(0.01)


def _marked(mark: bytes) -> list[int]:
    """What bears the mark and runs; the environment of a zombie is empty."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def log_tail(record: ProcessRecord, lines: int = 15) -> str:
    """The last lines it printed."""
    try:
        text = Path(record.log).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _start_time(pid: int) -> int | None:
    fields = _stat(pid)
    # A zombie or dead process is as good as gone.
    return int(fields[START_TIME_FIELD]) if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return stat.rpartition(")")[2].split()


def _reap(pid: int) -> None:
    # Only its parent can; a program that outlived `lab up` has another one.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
