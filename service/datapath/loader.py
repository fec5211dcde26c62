"""Compile and load bpf/egress_gateway.c with BCC. The only module that imports bcc.

Maps are pinned under `{bpf_dir}/v{LAYOUT_VERSION}` and survive the agent, so that a restart interrupts nothing. A pin
is checked for its shape and size before it is reused. BCC never sees it: it would take a map of any size, and it opens
a pinned map by its id, which needs CAP_SYS_ADMIN, and an agent in a pod does not have that (both measured).
"""

import os
import re
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.datapath import bpf_map, map_size
from service.datapath.bpf_map import BpfMap
from service.datapath.flow_room import FlowRoom
from service.datapath.judged_map import JUDGED, Generation, JudgedMap
from service.datapath.kernel_headers import write_kernel_headers
from service.datapath.layout import MAP_SHAPES, MapName, pin_folder
from service.datapath.map_size import KeptSize, RowRoom
from service.model.errors import OperatorError
from service.network.bpf_call import open_object

PROGRAMS = ("pod_ingress", "pod_egress", "steer_egress", "steer_ingress", "uplink_ingress", "uplink_egress")
_SOURCE = Path(__file__).resolve().parent.parent.parent / "bpf"
_BPFFS_MAGIC = 0xCAFE4A11
_ROOM, _ROWS = FlowRoom(), RowRoom()
_OWN_HEADER = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


class LoadedDatapath:
    """The compiled programs and opened maps of one node.

    `programs` maps each name of PROGRAMS to a descriptor that lives as long as this object; an attached program lives
    on in the kernel. `maps` is keyed by MapName. `kept_sizes`: maps of a former agent that are smaller or larger than
    they would be now.
    """

    def __init__(self, pin_dir: Path, headers: Path, room: FlowRoom, rows: RowRoom) -> None:
        self.pin_dir = pin_dir
        self._module, self.kept_sizes = _compile_beside(pin_dir, headers, room, rows)
        from bcc import BPF

        try:
            self.programs = {name: int(self._module.load_func(name.encode(), BPF.SCHED_CLS).fd) for name in PROGRAMS}
        except Exception as error:
            raise OperatorError(f"the kernel refuses the datapath program: {error}") from error
        self.maps = _open_maps(pin_dir)

    def map(self, name: str) -> BpfMap:
        """Our own map of that name; its descriptor closes with the datapath."""
        return self.maps[name]

    def close(self) -> None:
        """Close descriptors; programs that are attached and maps that are pinned stay in the kernel."""
        for opened in self.maps.values():
            opened.close()
        self._module.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_maps(pin_dir: Path) -> dict[str, BpfMap]:
    maps = {name: bpf_map.open_pinned(str(pin_dir / name)) for name in MAP_SHAPES if name not in JUDGED}
    generation = Generation(maps[MapName.GENERATIONS])
    judged = {name: JudgedMap(open_object(str(pin_dir / name)), generation) for name in MAP_SHAPES if name in JUDGED}
    return maps | judged


def load_datapath(bpf_dir: str, run_dir: str, room: FlowRoom = _ROOM, rows: RowRoom = _ROWS) -> LoadedDatapath:
    """Load everything; takes about a second and 50 MB once (LLVM). Call it in a thread.

    `room` is for tables of flows that are not there yet; those of a former agent keep their size, and their flows.

    Raises OperatorError, in one sentence, where the kernel, BCC or the mount is not what is needed; TransientError
    where `run_dir` cannot be written now, which `write_headers` finds out beforehand.
    """
    folder = pin_folder(bpf_dir)
    _ensure_bpffs(Path(bpf_dir))
    folder.mkdir(parents=True, exist_ok=True)
    _drop_misfits(folder)
    return LoadedDatapath(folder, write_headers(run_dir), room, rows)


def write_headers(run_dir: str) -> Path:
    """Write what compiling needs of files and is not there yet; for a thread. Raises as `write_kernel_headers` does."""
    return write_kernel_headers(Path(run_dir) / "kernel-headers")


def _compile_beside(pin_dir: Path, headers: Path, room: FlowRoom, rows: RowRoom) -> tuple[Any, tuple[KeptSize, ...]]:
    """Compile with new maps, then put those of a former agent in their place, and pin those that had no former one."""
    new = pin_dir.with_name(f"{pin_dir.name}-new")
    _remove_pins(new)  # Of one that died in the midst of this.
    new.mkdir()
    try:
        module = _compile(new, headers, room, rows)
        kept = _take_over_maps(module, new, pin_dir)
    finally:
        _remove_pins(new)
    return module, tuple(
        one for one in kept if one.map not in map_size.BY_MEMORY or room.is_other(one.rows, one.wanted)
    )


def _take_over_maps(module: Any, new: Path, pin_dir: Path) -> list[KeptSize]:
    """Return those that stay in use with another size than the new one has."""
    from bcc.libbcc import lib

    kept = []
    for name in MAP_SHAPES:
        try:
            former = bpf_map.open_pinned(str(pin_dir / name))
        except FileNotFoundError:
            (new / name).rename(pin_dir / name)
            continue
        with closing(former), closing(bpf_map.open_pinned(str(new / name))) as made:
            if former.info.max_entries != made.info.max_entries:
                if map_size.copy_rows(name, former, made):
                    # One step: whoever starts after a crash here finds the one map or the other, and whole.
                    (new / name).rename(pin_dir / name)
                    continue
                kept.append(KeptSize(name, former.info.max_entries, made.info.max_entries))
            # Programs name their maps by the number of a descriptor until the kernel has them, and that is after this.
            os.dup2(former.fd, lib.bpf_table_fd(module.module, name.encode()), inheritable=False)
    return kept


def _remove_pins(folder: Path) -> None:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _compile(pin_dir: Path, headers: Path, room: FlowRoom, rows: RowRoom) -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    try:
        from bcc import BPF
    except ImportError as error:
        raise OperatorError(
            "BCC is missing: install the Debian packages python3-bpfcc and libbpfcc (PyPI's `bcc` is another thing)"
        ) from error
    sizes = [f"-DOPEN_FLOWS={room.open}", f"-DYOUNG_FLOWS={room.young}", f"-DDATAGRAM_FLOWS={room.datagram}"]
    sizes += [f"-DPOD_ROWS={2 * rows.pods}", f"-DRULES={rows.rules}", f"-DFLOATING_IPS={rows.floating_ips}"]
    flags = [f"-I{_SOURCE}", f'-DPIN_DIR="{pin_dir}"', "-Wno-unused-function", *sizes]
    try:
        return BPF(text=_flattened(_SOURCE / "egress_gateway.c").encode(), cflags=flags)
    except Exception as error:
        raise OperatorError(f"BCC could not compile {_SOURCE / 'egress_gateway.c'}: {error}") from error


def _flattened(path: Path) -> str:
    """A source with its own headers put in their places: BCC rewrites map accesses in the main text alone."""
    return _OWN_HEADER.sub(lambda found: _flattened(path.with_name(found[1])), path.read_text(encoding="ascii"))


def _ensure_bpffs(folder: Path) -> None:
    """Mount a bpffs at /sys/fs/bpf, or at `folder` itself where that is elsewhere, unless it is on one already."""
    folder.mkdir(parents=True, exist_ok=True) if not str(folder).startswith("/sys/fs/bpf") else None
    probe = folder if folder.exists() else Path("/sys/fs/bpf")
    if _is_bpffs(probe):
        folder.mkdir(parents=True, exist_ok=True)
        return
    result = subprocess.run(
        ["mount", "-t", "bpf", "bpf", str(probe)], capture_output=True, text=True, timeout=10, check=False
    )
    if result.returncode != 0:
        raise OperatorError(f"datapath.bpf_dir: cannot mount a bpffs at {probe}: {result.stderr.strip()}")
    folder.mkdir(parents=True, exist_ok=True)


def _is_bpffs(path: Path) -> bool:
    result = subprocess.run(
        ["stat", "-f", "-c", "%t", str(path)], capture_output=True, text=True, timeout=10, check=False
    )
    return result.returncode == 0 and int(result.stdout.strip() or "0", 16) == _BPFFS_MAGIC


def _drop_misfits(folder: Path) -> None:
    """Unpin maps that this version has not, and those whose shape is not its own, which would overrun memory.

    What keeps its name and shape is kept (rule U1), with its size or without. A keeper of another version has its fence
    open already.
    """
    for path in folder.iterdir():
        if path.name not in MAP_SHAPES:
            path.unlink()
    for name, shape in MAP_SHAPES.items():
        path = folder / name
        try:
            fd = open_object(str(path))
        except FileNotFoundError:
            continue
        info = bpf_map.map_info(fd)
        os.close(fd)
        if (info.type, info.key_size, info.value_size) != (shape.type, shape.key_size, shape.value_size):
            path.unlink()


def unpin(bpf_dir: str) -> None:
    """Remove every pin of this layout (uninstall); programs that use the maps keep them until they are detached."""
    folder = pin_folder(bpf_dir)
    for name in vars(MapName).values():
        if isinstance(name, str) and name in MAP_SHAPES:
            (folder / name).unlink(missing_ok=True)
    for emptied in (folder, folder.parent):
        # What else is in there is another layout's; a mount point is the operator's.
        with suppress(OSError):
            emptied.rmdir()
