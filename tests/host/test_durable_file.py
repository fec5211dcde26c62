"""The disk is not pulled out here: the order of what the kernel is asked for is what a power failure would find."""

import errno
import os
from pathlib import Path

import pytest

from service.host.durable_file import replace_durably


class Calls:
    """What was asked of the kernel, in order: fsync by the name of the file, and the rename."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.content_at_fsync = b""
        self.failing = ""
        fsync, rename = os.fsync, Path.rename

        def note_fsync(fd: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            self.note(f"fsync {path.name}")
            if path.is_file():
                self.content_at_fsync = path.read_bytes()
            fsync(fd)

        def note_rename(path: Path, target: Path) -> Path:
            self.note(f"rename {path.name} {target.name}")
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(Path, "rename", note_rename)

    def note(self, call: str) -> None:
        self.seen.append(call)
        if self.failing and call.startswith(self.failing):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "record"
    path.write_bytes(b"old")
    return path


def test_the_content_is_on_disk_before_the_name_and_the_name_before_it_returns(path: Path, calls: Calls) -> None:
    replace_durably(path, b"new")
    assert calls.seen == ["fsync record.new", "rename record.new record", "fsync folder"]
    assert calls.content_at_fsync == b"new"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync record.new", "rename"])
def test_a_failure_before_the_name_is_taken_leaves_the_old_content(path: Path, calls: Calls, step: str) -> None:
    calls.failing = step
    with pytest.raises(OSError, match="space"):
        replace_durably(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_synced_is_no_success(path: Path, calls: Calls) -> None:
    calls.failing = "fsync folder"
    with pytest.raises(OSError, match="space"):
        replace_durably(path, b"new")
    assert path.read_bytes() in {b"old", b"new"}


def test_what_an_attempt_cut_short_left_behind_is_overwritten(path: Path) -> None:
    (path.parent / "record.new").write_bytes(b"half of something longer")
    replace_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_no_file_descriptor_is_left_open(path: Path, calls: Calls) -> None:
    open_before = set(os.listdir("/proc/self/fd"))
    calls.failing = "fsync"
    with pytest.raises(OSError, match="space"):
        replace_durably(path, b"new")
    assert set(os.listdir("/proc/self/fd")) == open_before
