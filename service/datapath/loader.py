"""Load the datapath: maps first, those of a former agent with what is in them, then the programs that name them.

Maps are pinned under `{bpf_dir}/v{LAYOUT_VERSION}` and survive the agent, so that a restart interrupts nothing. A pin
is checked for its shape and size before it is reused. All is done by bpf(2) alone, with the capabilities that an agent
in a pod has; BCC compiles, in a process of its own (`compiler`), where nothing is there that was compiled before.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from service.datapath import bpf_map, map_size
from service.datapath.bpf_map import BpfMap, create_map
from service.datapath.compiled import Compiled, MapSpec
from service.datapath.compiled_folder import compiled_datapath
from service.datapath.flow_room import FlowRoom
from service.datapath.judged_map import JUDGED, Generation, JudgedMap
from service.datapath.kernel_headers import write_kernel_headers
from service.datapath.layout import MAP_SHAPES, MapName, pin_folder
from service.datapath.map_size import KeptSize, RowRoom
from service.datapath.program import close_programs, load_program
from service.model.errors import OperatorError
from service.network.bpf_call import open_object, pin

_SOURCE = Path(__file__).resolve().parent.parent.parent / "bpf"
_BPFFS_MAGIC = 0xCAFE4A11
_ROOM, _ROWS = FlowRoom(), RowRoom()


class LoadedDatapath:
    """The programs and opened maps of one node.

    `programs` maps each name of PROGRAMS to a descriptor that lives as long as this object; an attached program lives
    on in the kernel. `maps` is keyed by MapName. `kept_sizes`: maps of a former agent that are smaller or larger than
    they would be now.
    """

    def __init__(self, pin_dir: Path, compiled: Compiled, room: FlowRoom, rows: RowRoom) -> None:
        self.pin_dir = pin_dir
        kept = _provide_maps(pin_dir, compiled, map_size.sizes(room, rows))
        self.kept_sizes = tuple(
            one for one in kept if one.map not in map_size.BY_MEMORY or room.is_other(one.rows, one.wanted)
        )
        self.programs: dict[str, int] = {}
        self.maps = _open_maps(pin_dir)
        try:
            with _scratches(compiled) as scratches:
                descriptors = scratches | {name: opened.fd for name, opened in self.maps.items()}
                for program in compiled.programs:
                    self.programs[program.name] = load_program(program, descriptors)
        except BaseException:
            self.close()
            raise

    def map(self, name: str) -> BpfMap:
        """Our own map of that name; its descriptor closes with the datapath."""
        return self.maps[name]

    def close(self) -> None:
        """Close descriptors; programs that are attached and maps that are pinned stay in the kernel."""
        for opened in self.maps.values():
            opened.close()
        close_programs(self.programs)
        self.programs = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_maps(pin_dir: Path) -> dict[str, BpfMap]:
    with ExitStack() as stack:
        maps: dict[str, BpfMap] = {}
        for name in MAP_SHAPES:
            if name not in JUDGED:
                maps[name] = stack.enter_context(closing(bpf_map.open_pinned(str(pin_dir / name))))
        generation = Generation(maps[MapName.GENERATIONS])
        for name in MAP_SHAPES:
            if name in JUDGED:
                maps[name] = stack.enter_context(closing(JudgedMap(open_object(str(pin_dir / name)), generation)))
        stack.pop_all()
    return maps


def load_datapath(
    bpf_dir: str, run_dir: str, room: FlowRoom = _ROOM, rows: RowRoom = _ROWS, *, compiled_dir: str = ""
) -> LoadedDatapath:
    """Load everything; takes about a second, and five more where it has to be compiled. Call it in a thread.

    `room` and `rows` are for maps that are not there yet; a former agent's may keep their size, and what is in them.
    `compiled_dir`: where what was compiled is kept; in `run_dir` by itself.

    Raises OperatorError, in one sentence, where the kernel, BCC or the mount is not what is needed; TransientError
    where `run_dir` cannot be written now, which `write_headers` finds out beforehand, or the compiler was killed.
    """
    folder = pin_folder(bpf_dir)
    _ensure_bpffs(Path(bpf_dir))
    folder.mkdir(parents=True, exist_ok=True)
    _drop_misfits(folder)
    kept = Path(compiled_dir) if compiled_dir else Path(run_dir) / "compiled"
    compiled = compiled_datapath(kept, _SOURCE / "egress_gateway.c", write_headers(run_dir))
    return LoadedDatapath(folder, compiled, room, rows)


def write_headers(run_dir: str) -> Path:
    """Write what compiling needs of files and is not there yet; for a thread. Raises as `write_kernel_headers` does."""
    return write_kernel_headers(Path(run_dir) / "kernel-headers")


def _provide_maps(pin_dir: Path, compiled: Compiled, sizes: dict[str, int]) -> list[KeptSize]:
    """Pin every map that is not there yet. Return those that stay in use and have another size than new ones."""
    kept = []
    _remove_pins(_beside(pin_dir))  # Of one that died in the midst of this.
    for spec in compiled.maps:
        if spec.name not in MAP_SHAPES:
            continue
        rows = sizes.get(spec.name, spec.rows)
        try:
            former = bpf_map.open_pinned(str(pin_dir / spec.name))
        except FileNotFoundError:
            with closing(_make(spec, rows)) as made:
                pin(made.fd, str(pin_dir / spec.name))
            continue
        with closing(former):
            if former.info.max_entries != rows and not _is_replaced(pin_dir, spec, former, rows):
                kept.append(KeptSize(spec.name, former.info.max_entries, rows))
    return kept


def _is_replaced(pin_dir: Path, spec: MapSpec, former: BpfMap, rows: int) -> bool:
    """Put a map of that size, with the rows of the former one, in its place; False where that cannot be."""
    new = _beside(pin_dir)
    new.mkdir()
    try:
        with closing(_make(spec, rows)) as made:
            if not map_size.copy_rows(spec.name, former, made):
                return False
            pin(made.fd, str(new / spec.name))
        # One step: whoever starts after a crash here finds the one map or the other, and whole.
        (new / spec.name).rename(pin_dir / spec.name)
        return True
    finally:
        _remove_pins(new)


def _beside(pin_dir: Path) -> Path:
    return pin_dir.with_name(f"{pin_dir.name}-new")


def _make(spec: MapSpec, rows: int) -> BpfMap:
    try:
        return BpfMap(create_map(spec.type, spec.key_size, spec.value_size, rows, flags=spec.flags, name=spec.name))
    except OSError as error:
        raise OperatorError(f"the kernel makes no map {spec.name} of {rows} rows: {error.strerror}") from error


@contextmanager
def _scratches(compiled: Compiled) -> Iterator[dict[str, int]]:
    """What the programs need room for and nobody else sees; it lives with them."""
    made: dict[str, int] = {}
    try:
        for spec in compiled.maps:
            if spec.name not in MAP_SHAPES:
                made[spec.name] = _make(spec, spec.rows).fd
        yield made
    finally:
        for fd in made.values():
            os.close(fd)


def _remove_pins(folder: Path) -> None:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


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
        if not shape.is_of(info):
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
