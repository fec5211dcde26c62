"""The folder BCC takes for kernel source: user-space API headers alone are enough."""

import errno
import os
from pathlib import Path

import pytest

from service.datapath.kernel_headers import write_kernel_headers
from service.model.errors import OperatorError, TransientError


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A small /usr/include as Debian lays it out."""
    root = tmp_path / "usr-include"
    for name in ("linux/pkt_cls.h", "linux/bpf.h", "x86_64-linux-gnu/asm/types.h", "asm-generic/int-ll64.h"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"/* {name} */\n", encoding="ascii")
    return root


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.h"))}


def test_the_systems_headers_are_linked(system: Path, tmp_path: Path) -> None:
    files = tree(write_kernel_headers(tmp_path / "out", system))
    assert files["include/uapi/linux/pkt_cls.h"] == "/* linux/pkt_cls.h */\n"
    assert files["include/asm/types.h"] == "/* x86_64-linux-gnu/asm/types.h */\n"
    assert files["include/asm-generic/int-ll64.h"] == "/* asm-generic/int-ll64.h */\n"


def test_bccs_own_bpf_header_is_not_shadowed(system: Path, tmp_path: Path) -> None:
    """BCC brings a newer one than most distributions have."""
    assert "linux/bpf.h" not in tree(write_kernel_headers(tmp_path / "out", system))["include/uapi/linux/bpf.h"]
    assert (system / "linux/bpf.h").read_text() == "/* linux/bpf.h */\n"


def test_writing_again_changes_nothing(system: Path, tmp_path: Path) -> None:
    first = tree(write_kernel_headers(tmp_path / "out", system))
    assert tree(write_kernel_headers(tmp_path / "out", system)) == first


def test_a_header_that_came_with_an_upgrade_is_linked_too(system: Path, tmp_path: Path) -> None:
    write_kernel_headers(tmp_path / "out", system)
    (system / "linux/new.h").write_text("/* new */\n", encoding="ascii")
    assert "include/uapi/linux/new.h" in tree(write_kernel_headers(tmp_path / "out", system))


def test_the_running_kernels_version_is_named(system: Path, tmp_path: Path) -> None:
    assert (
        "#define LINUX_VERSION_CODE " in tree(write_kernel_headers(tmp_path / "out", system))["include/linux/version.h"]
    )


def test_a_system_with_plain_asm_headers_will_do(system: Path, tmp_path: Path) -> None:
    (system / "x86_64-linux-gnu/asm").rename(system / "asm")
    assert "include/asm/types.h" in tree(write_kernel_headers(tmp_path / "out", system))


@pytest.mark.parametrize("missing", ["linux/pkt_cls.h", "x86_64-linux-gnu/asm/types.h"])
def test_missing_headers_are_an_operators_error_that_names_the_package(
    system: Path, tmp_path: Path, missing: str
) -> None:
    (system / missing).unlink()
    with pytest.raises(OperatorError, match="linux-libc-dev"):
        write_kernel_headers(tmp_path / "out", system)
    assert not (tmp_path / "out").exists()


def refuse(path: Path, *_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_run_dir_without_room_is_a_state_that_names_the_setting(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(TransientError, match=r"^run_dir: cannot write .*No space left"):
        write_kernel_headers(tmp_path / "out", system)


def test_a_run_dir_that_has_filled_up_since_the_last_start_keeps_its_headers_and_the_agent_starts(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree(write_kernel_headers(tmp_path / "out", system))
    monkeypatch.setattr(Path, "write_text", refuse)
    assert tree(write_kernel_headers(tmp_path / "out", system)) == first


def test_what_a_full_disk_cut_short_is_written_whole_later(system: Path, tmp_path: Path) -> None:
    first = tree(write_kernel_headers(tmp_path / "out", system))
    (tmp_path / "out" / "include/linux/types.h").write_text("", encoding="ascii")
    assert tree(write_kernel_headers(tmp_path / "out", system)) == first
