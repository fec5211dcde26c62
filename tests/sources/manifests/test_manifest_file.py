"""One file read as a whole: what it means, and that no content of it raises."""

import os
import time
from pathlib import Path

import pytest

from service.sources.manifests import manifest_file
from service.sources.manifests.manifest_file import (
    Manifest,
    file_signature,
    is_manifest_name,
    is_quiet,
    read_manifest,
)
from tests.sources.texts import GATEWAY, policy_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


def read(path: Path, text: str | bytes) -> Manifest:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_manifest(path)
    assert found is not None
    return found


def names(found: Manifest) -> list[str]:
    return [key.name for key in found.objects]


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("a.yaml", True),
        ("a.yml", True),
        ("a.json", True),
        ("a.yaml~", False),
        (".a.yaml", False),
        ("#a.yaml#", False),
        ("~a.yaml", False),
        ("a.yaml.swp", False),
        ("README", False),
    ],
)
def test_only_manifests_are_read_and_not_what_editors_leave_behind(name: str, is_read: bool) -> None:
    assert is_manifest_name(name) == is_read


def test_all_documents_of_a_file_count(path: Path) -> None:
    found = read(path, GATEWAY + "---\n" + policy_text("x"))
    assert names(found) == ["default", "x"]
    assert found.is_sound


def test_the_same_bytes_are_not_read_again(path: Path) -> None:
    found = read(path, GATEWAY)
    assert read_manifest(path, found.digest) is None
    path.write_text(GATEWAY + "# edited\n")
    assert read_manifest(path, found.digest) is not None


@pytest.mark.parametrize("text", ["", "\n\n", "  "])
def test_a_blank_file_takes_nothing_away(path: Path, text: str) -> None:
    found = read(path, text)
    assert (found.errors, found.is_sound) == ((), False)


def test_a_file_of_comments_says_that_there_is_nothing(path: Path) -> None:
    assert read(path, "# all of it\n").is_sound


def test_one_bad_object_leaves_the_good_ones_and_takes_none_away(path: Path) -> None:
    found = read(path, policy_text("good") + "---\n" + policy_text("bad", ip="nonsense"))
    assert names(found) == ["good"]
    assert len(found.errors) == 1
    assert not found.is_sound


def test_of_two_of_one_name_in_a_file_the_first_counts(path: Path) -> None:
    found = read(path, policy_text("x") + "---\n" + policy_text("x", ip="192.168.1.101"))
    (item,) = found.objects.values()
    assert str(item.egress_source_ip) == "192.168.1.100"  # type: ignore[union-attr]
    assert "defined twice" in found.errors[0].message


def test_a_list_of_kubectl_is_opened(path: Path) -> None:
    indented = policy_text("x").replace("\n", "\n  ")
    assert names(read(path, f"kind: List\nitems:\n- {indented.strip()}\n")) == ["x"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe", "not UTF-8 text: byte 0 is 0xff"), (b"[", ""), (b"a: b: c", ""), (b"\x00", "")],
)
def test_no_content_raises_and_what_is_no_text_is_told(path: Path, content: bytes, words: str) -> None:
    found = read(path, content)
    assert found.objects == {}
    assert words in found.errors[0].message
    assert found.errors[0].origin == str(path)
    assert not found.is_sound


def test_a_file_that_is_gone_a_folder_and_a_pipe_are_told_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("gone.yaml", "folder.yaml", "pipe.yaml"):
        found = read_manifest(tmp_path / name)
        assert found is not None
        assert "cannot be read" in found.errors[0].message
        assert file_signature(tmp_path / name) is None


def test_a_file_beyond_every_size_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_file, "BYTES_MAX", 1 << 20)
    found = read(path, b"#" * (1 << 20))
    assert found.errors == ()
    assert "larger than 1 MiB" in read(path, b"#" * ((1 << 20) + 1)).errors[0].message


def test_a_write_shows_in_the_signature_once_the_file_has_settled(path: Path) -> None:
    path.write_text("a: 1")
    before = file_signature(path)
    assert before is not None
    # So young that another write within the clock's tick might not show.
    assert not is_quiet(before)
    os.utime(path, ns=(0, 0))
    time.sleep(0.06)
    assert is_quiet(before)
    path.write_text("a: 22")
    assert file_signature(path) != before
