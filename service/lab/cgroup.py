"""All processes of one node, containers too: the tree of cgroups below the one that bears its name."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from service.model.errors import OperatorError

_KILL_TIMEOUT_S = 20.0
_POLL_S = 0.02
_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
_WEIGHTS = {"cpu.shares": "20480", "cpu.weight": "2000"}
"""Of versions 1 and 2, twenty times the usual: a whole node must not count as one process beside those of the host."""
_PREFIX = "egressgw-lab"


@cache
def _mounts() -> tuple[tuple[str, Path], ...]:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    mounts = ((words[words.index("-") + 1], Path(words[4])) for words in lines)
    return tuple((kind, path) for kind, path in mounts if kind in ("cgroup", "cgroup2"))


def hierarchies() -> tuple[Path, ...]:
    """Where cgroups are: every hierarchy of version 1, or the one of version 2 where there is no other."""
    of_version_1 = tuple(path for kind, path in _mounts() if kind == "cgroup")
    return of_version_1 or tuple(path for _, path in _mounts())[:1]


def is_unified() -> bool:
    """Version 2 alone; False where any hierarchy of version 1 is mounted."""
    return any((path / "cgroup.controllers").exists() for path in hierarchies())


def missing_for_cgroups() -> str:
    """What stands in the way of nodes with cgroups of their own; empty where nothing does."""
    if not hierarchies():
        return "no cgroups are mounted"
    if not is_unified() and not any(path.name == "freezer" for path in hierarchies()):
        return "the freezer cgroup is not mounted"
    absent = [str(path) for path in hierarchies() if not os.access(path, os.W_OK)]
    return f"cannot write to {', '.join(absent)}" if absent else ""


class Cgroup:
    """The cgroup of one node; its kubelet makes those of pods below it."""

    def __init__(self, lab: str, node: str) -> None:
        self.name = f"{_PREFIX}-{lab}-{node}"

    @property
    def path(self) -> str:
        """As kubelet's `cgroupRoot` wants it."""
        return f"/{self.name}"

    @property
    def _tracker(self) -> Path:
        """The folder in the one hierarchy by which processes are found and frozen."""
        root = hierarchies()[0] if is_unified() else next(path for path in hierarchies() if path.name == "freezer")
        return root / self.name

    @property
    def system(self) -> Path:
        """For the node's own programs; what they start stays in it, or goes to a pod's."""
        return self._tracker / "system"

    def create(self) -> None:
        """Make it in every hierarchy, with a weight for a whole node. Fine where it is there already."""
        if is_unified():
            _delegate(hierarchies()[0])
        for root in hierarchies():
            folder = root / self.name
            folder.mkdir(exist_ok=True)
            for name in _CPUSET_FILES:
                if not is_unified() and (folder / name).exists():
                    (folder / name).write_text((root / name).read_text(encoding="ascii"), encoding="ascii")
            for name, weight in _WEIGHTS.items():
                if (folder / name).exists():
                    (folder / name).write_text(weight, encoding="ascii")
        if is_unified():
            _delegate(self._tracker)
        self.system.mkdir(exist_ok=True)

    def processes(self, part: str = "") -> list[int]:
        """Pids in the whole tree, or in the cgroups below it whose name has `part` in it, and all below those."""
        found = []
        for folder in _folders(self._tracker):
            if part in str(folder.relative_to(self._tracker)):
                with contextlib.suppress(OSError):
                    found += [int(pid) for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split()]
        return found

    def freeze(self) -> None:
        """Stop every process at once, containers too. Raises OperatorError where that does not succeed."""
        self._set_frozen(True)
        deadline_s = time.monotonic() + _KILL_TIMEOUT_S
        while not self._is_frozen():
            if time.monotonic() > deadline_s:
                raise OperatorError(f"the cgroup {self.name} does not freeze")
            time.sleep(_POLL_S)

    def thaw(self) -> None:
        """Let them run on; returns at once."""
        self._set_frozen(False)

    def kill(self) -> int:
        """SIGKILL every process, none of which sees another one die first; return how many there were."""
        if not self._tracker.exists():
            return 0
        count = 0
        deadline_s = time.monotonic() + _KILL_TIMEOUT_S
        while self.processes():
            self.freeze()
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    count += 1
            # Version 1 delivers the signal only to what runs again.
            self.thaw()
            time.sleep(_POLL_S)
            if time.monotonic() > deadline_s:
                raise OperatorError(f"could not end every process in the cgroup {self.name}: {self.processes()}")
        return count

    def remove(self) -> None:
        """Remove the tree, in which no process is to be any more. Raises OperatorError where one is for long."""
        # Container runtimes also leave one in a version 2 that is mounted beside version 1.
        for _, root in _mounts():
            for folder in reversed(list(_folders(root / self.name))):
                _remove_folder(folder)

    def _set_frozen(self, frozen: bool) -> None:
        if is_unified():
            (self._tracker / "cgroup.freeze").write_text("1" if frozen else "0", encoding="ascii")
        else:
            (self._tracker / "freezer.state").write_text("FROZEN" if frozen else "THAWED", encoding="ascii")

    def _is_frozen(self) -> bool:
        if is_unified():
            return "frozen 1" in (self._tracker / "cgroup.events").read_text(encoding="ascii")
        return (self._tracker / "freezer.state").read_text(encoding="ascii").strip() == "FROZEN"


def cgroups_of(lab: str) -> list[Cgroup]:
    """Whatever cgroups of a lab there are, in any hierarchy."""
    start = f"{_PREFIX}-{lab}-"
    names = {path.name for _, root in _mounts() for path in root.glob(f"{start}*")}
    return [Cgroup(lab, name.removeprefix(start)) for name in sorted(names)]


def _delegate(folder: Path) -> None:
    """Let the cgroups below have every controller that this one has (version 2)."""
    controllers = (folder / "cgroup.controllers").read_text(encoding="ascii").split()
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers), encoding="ascii")


def _remove_folder(folder: Path) -> None:
    """What was killed is in it until it is gone, in each hierarchy by itself."""
    deadline_s = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline_s:
                raise OperatorError(f"the cgroup {folder} cannot be removed: {error.strerror}") from error
            time.sleep(_POLL_S)
        else:
            return


def _folders(root: Path) -> Iterator[Path]:
    """The cgroup and all below it, outermost first."""
    if root.is_dir():
        yield root
        with contextlib.suppress(OSError):
            for path in sorted(root.iterdir()):
                if path.is_dir():
                    yield from _folders(path)
