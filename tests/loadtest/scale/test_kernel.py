import asyncio
import os
import tempfile
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from loadtest.scale.kernel import own_kernel, own_namespace, run_in_namespace
from loadtest.scale.options import ScaleOptions
from service.datapath import layout
from service.datapath.layout import MAP_SHAPES, MapName, SelectedState
from service.datapath.map_size import RowRoom
from service.lab.namespace import namespaces_of

KEY = layout.selected_key(IPv4Address("10.0.0.1"), 0)
VALUE = layout.selected_value(5, SelectedState.STEER)


async def whereabouts() -> tuple[str, str]:
    """The network namespace of the loop, and of a process that it starts."""
    command = ("readlink", "/proc/self/ns/net")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    return os.readlink("/proc/thread-self/ns/net"), printed.decode().strip()


@pytest.mark.root
def test_loop_and_processes_are_in_a_namespace_that_goes(options: ScaleOptions) -> None:
    here = os.readlink("/proc/thread-self/ns/net")
    with own_namespace(f"{options.name}-k") as netns:
        loop, process = run_in_namespace(netns, whereabouts)
    assert here != loop == process
    assert os.readlink("/proc/thread-self/ns/net") == here
    assert namespaces_of(options.name) == []


@pytest.mark.root
@pytest.mark.bpf
def test_maps_are_the_kernels_and_remember_what_was_written_when(
    options: ScaleOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_kernel(f"{options.name}-k", RowRoom(pods=8)) as kernel:
        assert kernel.maps.keys() == MAP_SHAPES.keys()
        selected = kernel.maps[MapName.SELECTED]
        assert (selected.info.name, selected.info.max_entries) == (MapName.SELECTED, 16)
        selected.update_many([(KEY, VALUE)])
        assert selected.items() == {KEY: VALUE}
        selected.delete(KEY)
        assert selected.items() == {}
        (first, rows), (second, gone) = kernel.selected.written
        assert (rows, gone) == ([(KEY, VALUE)], [(KEY, None)])
        assert first < second
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == []
