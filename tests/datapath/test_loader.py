"""Loading: programs and pinned maps, and what of a former agent is taken over."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.datapath import bpf_map, layout, loader
from service.datapath.bpf_map import BpfMap, create_map
from service.datapath.compiled import Program
from service.datapath.compiler import PROGRAMS
from service.datapath.flow_room import FlowRoom
from service.datapath.layout import LAYOUT_VERSION, MAP_SHAPES, MapName, MapShape
from service.datapath.loader import LoadedDatapath, load_datapath, pin_folder, unpin
from service.datapath.map_size import KeptSize, RowRoom
from service.datapath.program import load_program
from service.model.errors import OperatorError
from service.network import bpf_call
from tests.datapath.program import COMPILED_DIR

pytestmark = pytest.mark.bpf

HASH, PERCPU_ARRAY, LRU_HASH, LPM_TRIE = 1, 6, 9, 11
NO_PREALLOC = 1
MISFITS = {MapName.WAYS: (HASH, 4, 40), MapName.SELECTED: (HASH, 12, 16), MapName.MEMBERS: (LRU_HASH, 12, 4)}
"""Type, key and value size: each differs from the map's real shape in one."""
load = partial(load_datapath, compiled_dir=COMPILED_DIR)
FLOATING_IP = IPv4Address("192.168.1.100")
LEASE = layout.lease_value(5, 6)


@pytest.fixture
def bpf_dir(bpffs: Path) -> Iterator[str]:
    """An empty folder on a bpffs."""
    folder = bpffs / "loader"
    yield str(folder)
    unpin(str(folder))
    if folder.exists():
        folder.rmdir()


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    return str(tmp_path)


def pin_misfit(path: Path, kind: int, key_size: int, value_size: int) -> None:
    path.unlink(missing_ok=True)
    made = BpfMap(create_map(kind, key_size, value_size, 16))
    made.update(bytes(key_size), bytes(value_size))
    bpf_call.pin(made.fd, str(path))
    made.close()


@pytest.fixture(scope="module")
def restarted(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedDatapath]:
    """A second start on the pins of a first one, of which some have become something else meanwhile."""
    bpf_dir, run_dir = str(bpffs / "restarted"), str(tmp_path_factory.mktemp("run"))
    with load(bpf_dir, run_dir) as former:
        former.map(MapName.LEASE_DEADLINES).update(FLOATING_IP.packed, LEASE)
        for name, shape in MISFITS.items():
            pin_misfit(pin_folder(bpf_dir) / name, *shape)
        not_a_map = pin_folder(bpf_dir) / MapName.SELECTED
        not_a_map.unlink()
        bpf_call.pin(former.programs["uplink_egress"], str(not_a_map))
    with load(bpf_dir, run_dir) as again:
        yield again


def shape_of(target: BpfMap) -> MapShape:
    return MapShape(target.info.type, target.info.key_size, target.info.value_size)


def test_every_program_and_every_map_is_there(loaded: LoadedDatapath) -> None:
    assert tuple(loaded.programs) == PROGRAMS
    assert set(loaded.maps) == set(MAP_SHAPES)
    assert sorted(path.name for path in loaded.pin_dir.iterdir()) == sorted(MAP_SHAPES)


def test_pins_lie_under_the_version_of_their_layout(bpf_dir: str) -> None:
    assert pin_folder(bpf_dir) == Path(bpf_dir) / f"v{LAYOUT_VERSION}"


def test_an_agent_with_the_capabilities_of_its_pod_takes_over_the_maps(bpf_dir: str, run_dir: str) -> None:
    with load(bpf_dir, run_dir) as former:
        former.map(MapName.LEASE_DEADLINES).update(FLOATING_IP.packed, LEASE)
    again = (
        "from service.datapath.loader import load_datapath\n"
        f"with load_datapath({bpf_dir!r}, {run_dir!r}) as loaded:\n"
        "    print(loaded.map('lease_deadlines').items())"
    )
    # As in deploy/agent.yaml: nothing that is pinned may need CAP_SYS_ADMIN.
    rights = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon"]
    done = subprocess.run([*rights, sys.executable, "-c", again], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str({FLOATING_IP.packed: LEASE}), done.stderr


def test_a_start_that_was_broken_off_does_not_hinder_the_next(bpf_dir: str, run_dir: str) -> None:
    left = pin_folder(bpf_dir).with_name(f"{pin_folder(bpf_dir).name}-new")
    left.mkdir(parents=True)
    pin_misfit(left / MapName.WAYS, HASH, 4, 40)
    with load(bpf_dir, run_dir) as loaded:
        assert shape_of(loaded.map(MapName.WAYS)) == MAP_SHAPES[MapName.WAYS]
    assert not left.exists()


def test_a_restart_finds_the_maps_with_their_content(restarted: LoadedDatapath) -> None:
    assert restarted.map(MapName.LEASE_DEADLINES).items() == {FLOATING_IP.packed: LEASE}


@pytest.mark.parametrize("name", MISFITS)
def test_a_pin_of_another_shape_is_replaced_and_not_reused(restarted: LoadedDatapath, name: str) -> None:
    assert shape_of(restarted.map(name)) == MAP_SHAPES[name]
    assert restarted.map(name).items() == {}


def test_b5_tables_of_flows_have_the_room_that_is_asked_for_and_keep_it_with_their_flows(
    bpf_dir: str, run_dir: str
) -> None:
    tables = {
        MapName.FLOWS_OPEN: 300,
        MapName.MIRRORS_OPEN: 300,
        MapName.FLOWS_YOUNG: 150,
        MapName.MIRRORS_YOUNG: 150,
        MapName.FLOWS_DATAGRAM: 300,
        MapName.MIRRORS_DATAGRAM: 300,
    }
    flow = bytes(range(16)), bytes(96)
    with load(bpf_dir, run_dir, FlowRoom.of(300, memory_bytes=0)) as loaded:
        assert {name: loaded.map(name).info.max_entries for name in tables} == tables
        assert loaded.kept_sizes == ()
        loaded.map(MapName.FLOWS_OPEN).update(*flow)
    with load(bpf_dir, run_dir, FlowRoom.of(0, memory_bytes=1 << 33)) as loaded:
        assert {name: loaded.map(name).info.max_entries for name in tables} == tables
        assert loaded.map(MapName.FLOWS_OPEN).items() == dict([flow])
        wanted = {name: 65_536 if size == 150 else 131_072 for name, size in tables.items()}
        assert {one.map: (one.rows, one.wanted) for one in loaded.kept_sizes} == {
            name: (size, wanted[name]) for name, size in tables.items()
        }


def test_u1_a_kept_map_that_has_nothing_to_do_with_memory_is_told_of_however_little_it_differs(
    bpf_dir: str, run_dir: str
) -> None:
    """It was left out within a quarter, as is right for tables of flows alone."""
    by_memory = FlowRoom.of(0, memory_bytes=1 << 33)
    load(bpf_dir, run_dir, by_memory, RowRoom(floating_ips=4000)).close()
    with load(bpf_dir, run_dir, by_memory, RowRoom(floating_ips=4096)) as loaded:
        assert KeptSize(MapName.LEASE_DEADLINES, 4000, 4096) in loaded.kept_sizes


def pin_sized(path: Path, size: int, rows: int, *, flags: int = 0) -> dict[bytes, bytes]:
    """A former agent's map of that name, and what is in it."""
    shape = MAP_SHAPES[path.name]
    made = BpfMap(create_map(shape.type, shape.key_size, shape.value_size, size, flags=flags))
    prefix = b"\x20\0\0\0" if shape.type == LPM_TRIE else b""
    width = shape.key_size - len(prefix)
    values = made.lookup(bytes(shape.key_size)) if shape.type == PERCPU_ARRAY else None
    filled = b"\7" * (shape.value_size if values is None else len(values))
    assert made.update_many([(prefix + number.to_bytes(width, "little"), filled) for number in range(rows)]) == rows
    bpf_call.pin(made.fd, str(path))
    content = made.items()
    made.close()
    return content


@pytest.mark.parametrize(
    ("name", "flags", "size"),
    [(MapName.CLUSTER, NO_PREALLOC, 16_384), (MapName.SELECTED, 0, 16_384), (MapName.COUNTS, 0, 15)],
)
def test_u1_a_map_of_the_agents_own_has_this_versions_size_and_the_rows_of_before(
    bpf_dir: str, run_dir: str, name: str, flags: int, size: int
) -> None:
    """0.1 had 4,096 rows in `cluster`. Of a counter that 0.1 had not, the row is there."""
    pin_folder(bpf_dir).mkdir(parents=True)
    content = pin_sized(pin_folder(bpf_dir) / name, 8, 8, flags=flags)
    with load(bpf_dir, run_dir) as loaded:
        assert loaded.map(name).info.max_entries == size
        assert content.items() <= loaded.map(name).items().items()
        assert loaded.kept_sizes == ()


@pytest.mark.parametrize(
    ("name", "size", "rows"),
    [(MapName.UPLINK_ADDRESSES, 300, 300), (MapName.LEASE_DEADLINES, 16, 3)],
    ids=["which has more rows than the new one", "which the keeper writes"],
)
def test_u1_another_map_keeps_its_size_and_that_is_told(
    bpf_dir: str, run_dir: str, name: str, size: int, rows: int
) -> None:
    pin_folder(bpf_dir).mkdir(parents=True)
    content = pin_sized(pin_folder(bpf_dir) / name, size, rows)
    with load(bpf_dir, run_dir) as loaded:
        assert loaded.map(name).info.max_entries == size
        assert loaded.map(name).items() == content
        assert [(one.map, one.rows) for one in loaded.kept_sizes] == [(name, size)]


def test_u1_maps_that_only_a_former_version_had_go(bpf_dir: str, run_dir: str) -> None:
    pin_folder(bpf_dir).mkdir(parents=True)
    pin_misfit(pin_folder(bpf_dir) / "reverse_bindings", HASH, 16, 24)
    with load(bpf_dir, run_dir) as loaded:
        assert sorted(path.name for path in loaded.pin_dir.iterdir()) == sorted(MAP_SHAPES)


def test_what_is_pinned_but_is_no_map_is_replaced(restarted: LoadedDatapath) -> None:
    assert shape_of(restarted.map(MapName.SELECTED)) == MAP_SHAPES[MapName.SELECTED]


def test_the_keeper_and_the_program_see_one_map(restarted: LoadedDatapath) -> None:
    """The keeper opens the pin alone, without BCC."""
    pinned = bpf_map.open_pinned(str(restarted.pin_dir / MapName.FLOATING_IPS))
    pinned.update(FLOATING_IP.packed, bytes(12))
    assert restarted.map(MapName.FLOATING_IPS).items() == {FLOATING_IP.packed: bytes(12)}
    pinned.close()


def test_closing_keeps_the_pins_and_closes_every_descriptor(bpf_dir: str, run_dir: str) -> None:
    load(bpf_dir, run_dir).close()
    before = len(os.listdir("/proc/self/fd"))
    load(bpf_dir, run_dir).close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(list(pin_folder(bpf_dir).iterdir())) == len(MAP_SHAPES)


def test_unpinning_removes_every_pin_and_may_be_repeated(bpf_dir: str) -> None:
    pin_folder(bpf_dir).mkdir(parents=True)
    for name in MAP_SHAPES:
        pin_misfit(pin_folder(bpf_dir) / name, HASH, 4, 4)
    unpin(bpf_dir)
    unpin(bpf_dir)
    assert not pin_folder(bpf_dir).exists()


def test_a_bpffs_is_mounted_where_there_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "bpf"
    with load(str(folder), str(tmp_path / "run")):
        kind = subprocess.run(
            ["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True, timeout=10
        )
    subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)
    assert kind.stdout.strip() == "bpf_fs"


def test_a_load_that_fails_leaves_no_descriptor(bpf_dir: str, run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load(bpf_dir, run_dir).close()
    before = len(os.listdir("/proc/self/fd"))

    def refuse_the_third(program: Program, maps: dict[str, int]) -> int:
        if program.name == PROGRAMS[2]:
            raise OperatorError("the kernel refuses it")
        return load_program(program, maps)

    monkeypatch.setattr(loader, "load_program", refuse_the_third)
    with pytest.raises(OperatorError, match="kernel refuses"):
        load(bpf_dir, run_dir)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_source_that_does_not_compile_is_an_operators_error(
    bpf_dir: str, run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "egress_gateway.c").write_text("#error not a datapath\n", encoding="ascii")
    monkeypatch.setattr(loader, "_SOURCE", tmp_path)
    with pytest.raises(OperatorError, match=r"(?s)could not compile.*not a datapath"):
        load_datapath(bpf_dir, run_dir)
