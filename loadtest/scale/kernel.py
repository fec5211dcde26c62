"""What an agent of this process has of the kernel: maps that are its own, and a network namespace that is its own.

The maps are the product's, made by its loader on a bpffs of their own; the programs that come with them are attached to
nothing. Netfilter and connection tracking are those of the namespace.
"""

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from service.datapath.bpf_map import BpfMap
from service.datapath.flow_room import FLOWS_MIN, FlowRoom
from service.datapath.layout import MapName
from service.datapath.loader import load_datapath
from service.datapath.map_size import RowRoom
from service.host.memory import freeze_heap
from service.lab.cache import cache_folder
from service.lab.namespace import create_namespaces, delete_namespaces, inside, require_root, run

T = TypeVar("T")


Written = tuple[int, Sequence[tuple[bytes, bytes | None]]]
"""When the kernel had these rows (`time.perf_counter_ns`), and which; None: when it had none any more."""


class RecordedMap(BpfMap):
    """A map of the kernel that remembers what was written to it, and when that was done. Safe from any one thread."""

    def __init__(self, target: BpfMap) -> None:
        self.info = target.info
        self.written: list[Written] = []
        self._target = target

    def close(self) -> None:
        """Whoever has opened the map closes it."""

    def lookup(self, key: bytes) -> bytes | None:
        """As of the map."""
        return self._target.lookup(key)

    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        """As of the map."""
        self._target.update(key, value, flags=flags)
        self._note([(key, value)])

    def update_many(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        """As of the map."""
        done = self._target.update_many(items)
        self._note(items[:done])
        return done

    def delete(self, key: bytes) -> bool:
        """As of the map."""
        was_there = self._target.delete(key)
        self._note([(key, None)])
        return was_there

    def keys(self, *, after: bytes | None = None, count: int | None = None) -> list[bytes]:
        """As of the map."""
        return self._target.keys(after=after, count=count)

    def items(self) -> dict[bytes, bytes]:
        """As of the map."""
        return self._target.items()

    def _note(self, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        self.written.append((time.perf_counter_ns(), rows))


@dataclass(frozen=True, slots=True)
class Kernel:
    """For one agent."""

    netns: str
    maps: dict[str, BpfMap]
    """By MapName; that of selected pods is `selected`."""
    selected: RecordedMap

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run it in the namespace, on the loop that the product runs on and with the heap as it is at its start."""
        return run_in_namespace(self.netns, main)


def run_in_namespace(netns: str, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """As `Kernel.run`, without maps. Raises what `main` raises."""

    def run_there() -> T:
        freeze_heap()
        try:
            return uvloop.run(main())
        finally:
            gc.unfreeze()

    return inside(netns, run_there)


@contextlib.contextmanager
def own_namespace(name: str) -> Iterator[str]:
    """A network namespace in the place of any left over of that name; it goes with whatever is in it."""
    require_root()
    delete_namespaces([name])
    create_namespaces([name])
    try:
        yield name
    finally:
        delete_namespaces([name])


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """For what an agent keeps on disk; it goes with whatever is in it."""
    with tempfile.TemporaryDirectory(prefix="egressgw-scale-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def own_kernel(name: str, rows: RowRoom) -> Iterator[Kernel]:
    """Empty maps with so much room, and a network namespace of that name. Raises OperatorError where they cannot be.

    Takes a second, and five more where the datapath was not compiled before.
    """
    with own_namespace(name) as netns, own_folder() as folder:
        bpffs = folder / "bpf"
        bpffs.mkdir()
        run(["mount", "-t", "bpf", "bpf", str(bpffs)])
        try:
            flows = FlowRoom.of(FLOWS_MIN, memory_bytes=0)
            place, run_dir, compiled = str(bpffs / "node"), str(folder / "run"), str(cache_folder() / "compiled")
            with load_datapath(place, run_dir, flows, rows, compiled_dir=compiled) as loaded:
                selected = RecordedMap(loaded.map(MapName.SELECTED))
                yield Kernel(netns, {**loaded.maps, MapName.SELECTED: selected}, selected)
        finally:
            run(["umount", "--lazy", str(bpffs)])
