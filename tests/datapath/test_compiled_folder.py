"""A start with an unchanged datapath compiles nothing; and nothing that lies in the folder can do harm."""

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.datapath import compiled_folder
from service.datapath.compiled import Compiled, MapSpec, Program
from service.datapath.compiled_folder import compiled_datapath
from service.model.errors import OperatorError, TransientError

COMPILED = Compiled((MapSpec("ways", 1, 4, 32, 4096, 0),), (Program("pod_ingress", b"\x95" + bytes(7), ()),))


class Place:
    """A source, headers, a folder, and how often was compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state" / "compiled"
        self.source, self.headers = folder / "bpf" / "egress_gateway.c", folder / "headers"
        self.source.parent.mkdir()
        self.headers.mkdir()
        self.source.write_text('#include "maps.h"\n', encoding="ascii")
        (self.source.parent / "maps.h").write_text("/* maps */\n", encoding="ascii")
        (self.headers / "version.h").write_text("#define LINUX_VERSION_CODE 1\n", encoding="ascii")
        self.compilings = 0

    def compile(self, *_paths: Path) -> Compiled:
        self.compilings += 1
        return COMPILED

    def start(self) -> Compiled:
        return compiled_datapath(self.folder, self.source, self.headers)

    def kept(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name != "lock"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setattr(compiled_folder, "_compile", made.compile)
    return made


def test_the_second_start_compiles_nothing(place: Place) -> None:
    assert [place.start(), place.start()] == [COMPILED, COMPILED]
    assert place.compilings == 1
    assert place.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("changed", ["bpf/egress_gateway.c", "bpf/maps.h", "headers/version.h"])
def test_a_change_of_anything_that_it_depends_on_compiles_anew(place: Place, tmp_path: Path, changed: str) -> None:
    place.start()
    with (tmp_path / changed).open("a", encoding="ascii") as file:
        file.write("/* changed */\n")
    place.start()
    assert place.compilings == 2


def test_another_bcc_compiles_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.start()
    monkeypatch.setattr(compiled_folder, "_bcc_version", lambda: "another")
    place.start()
    assert place.compilings == 2


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut_short, make_folder])
def test_a_file_that_is_damaged_is_compiled_anew(place: Place, damage: Callable[[Path], None]) -> None:
    place.start()
    damage(place.kept()[0])
    assert place.start() == COMPILED
    assert place.compilings == 2


def test_a_folder_that_others_may_write_is_neither_read_nor_written(place: Place) -> None:
    place.start()
    place.folder.chmod(0o777)
    assert place.start() == COMPILED
    assert place.compilings == 2


def test_without_a_folder_it_is_compiled_all_the_same(place: Place) -> None:
    place.folder.parent.write_text("a file is in the way", encoding="ascii")
    assert place.start() == COMPILED


def test_a_full_disk_is_done_without(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert place.start() == COMPILED
    monkeypatch.undo()


def test_only_the_newest_versions_are_kept(place: Place) -> None:
    for version in range(12):
        place.source.write_text(f"/* {version} */\n", encoding="ascii")
        place.start()
        os.utime(place.kept()[-1])
    assert len(place.kept()) == 8


def test_a_process_that_hangs_with_the_lock_holds_nobody_up_for_ever(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_folder, "_TURN_S", 0.1)
    place.folder.mkdir(parents=True, mode=0o700)
    with (place.folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert place.start() == COMPILED


@pytest.fixture
def bare(tmp_path: Path) -> Place:
    """With the real compiler."""
    return Place(tmp_path)


def ended(monkeypatch: pytest.MonkeyPatch, **how: object) -> None:
    result = subprocess.CompletedProcess([], **{"returncode": 0, "stdout": b"", "stderr": b""} | how)  # type: ignore[arg-type]
    monkeypatch.setattr(subprocess, "run", lambda *_words, **_how: result)


def test_a_compiler_that_was_killed_may_succeed_another_time(bare: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(monkeypatch, returncode=-9)
    with pytest.raises(TransientError, match="signal 9"):
        bare.start()


def test_a_compiler_that_was_broken_off_may_succeed_another_time(bare: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(monkeypatch, stdout=COMPILED.encode()[:-1])
    with pytest.raises(TransientError, match="broken off"):
        bare.start()


def test_what_the_compiler_complains_of_is_said(bare: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(monkeypatch, returncode=1, stderr=b"BCC is missing: install the Debian packages\n")
    with pytest.raises(OperatorError, match="BCC is missing: install"):
        bare.start()
    assert bare.kept() == []
