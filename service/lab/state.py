"""What a lab remembers of itself: one folder in shared memory with one JSON file, and the lock that guards it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from service.lab.namespace import run
from service.lab.plan import DEFAULT_NAME, LabOptions
from service.lab.process import ProcessRecord
from service.model.errors import OperatorError

RUN_FOLDER = Path("/run")


class LabState(msgspec.Struct, frozen=True):
    """What cannot be derived from the options again."""

    options: LabOptions
    complete: bool = False
    """False while it is being built: `down` may be needed, nothing else makes sense."""
    processes: tuple[ProcessRecord, ...] = ()
    host_settings: dict[str, str] = {}
    """Files under /proc/sys that the lab had to change for the whole machine, with what they held before."""

    def with_process(self, record: ProcessRecord) -> "LabState":
        """Add the record in the place of an earlier one of the same program."""
        others = tuple(known for known in self.processes if (known.kind, known.member) != (record.kind, record.member))
        return msgspec.structs.replace(self, processes=(*others, record))

    def process(self, kind: str, member: str) -> ProcessRecord | None:
        """None where no such program was started; a record says nothing of whether it still runs."""
        return next((known for known in self.processes if (known.kind, known.member) == (kind, member)), None)


def lab_folder(name: str) -> Path:
    """Known from the name alone, whether there is such a lab or not."""
    return RUN_FOLDER / ("egressgw-lab" if name == DEFAULT_NAME else f"egressgw-lab-{name}")


def read_state(name: str) -> LabState | None:
    """The state of the lab of that name; None where there is none. Raises OperatorError where it cannot be read."""
    path = lab_folder(name) / "state.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabState)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise OperatorError(f"{path}: {error}; `egressgw lab down` clears it") from error


def write_state(state: LabState) -> None:
    """Replace the file in one step: a reader never sees half of it."""
    path = lab_folder(state.options.name) / "state.json"
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    os.replace(new, path)


def create_folder(name: str) -> Path:
    """Make the lab's folder, a tmpfs of its own: nothing of it ever reaches a disk or outlives `down`."""
    folder = lab_folder(name)
    folder.mkdir(mode=0o755)
    run(["mount", "-t", "tmpfs", "-o", "mode=755", f"egressgw-lab-{name}", str(folder)])
    return folder


def remove_folder(name: str) -> None:
    """Unmount everything in and on the lab's folder, innermost first, and remove it. Fine where nothing is there."""
    folder = lab_folder(name)
    for mount_point in reversed(_mounts_under(folder)):
        # Lazily: somebody's shell in there must not keep the lab alive.
        run(["umount", "-l", mount_point])
    with contextlib.suppress(FileNotFoundError):
        # Only the empty mount point is left, or what an interrupted `up` put there before the mount.
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


def _mounts_under(folder: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Nobody else builds, breaks or clears the lab of this name meanwhile. Raises OperatorError where somebody does.

    An abstract socket: the kernel frees it with the process, and no file is left behind.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0egressgw-lab-{name}")
        except OSError as error:
            raise OperatorError(f"another `egressgw lab` is at work on the lab {name!r}; wait for it to end") from error
        yield
