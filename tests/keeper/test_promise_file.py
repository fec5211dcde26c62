import errno
import os
from pathlib import Path

import pytest

from service.keeper.promise_file import LongestLease, PromiseFile, TokenFile
from service.model.errors import OperatorError, TransientError
from service.model.lease import LONG_LEASE_NS


def test_a_second_keeper_of_a_node_is_refused(tmp_path: Path) -> None:
    with PromiseFile(tmp_path), pytest.raises(OperatorError, match="another keeper"), PromiseFile(tmp_path):
        pass


def test_a_shorter_record_replaces_a_longer_one(tmp_path: Path) -> None:
    with PromiseFile(tmp_path) as promises:
        promises.write(b"long record")
        promises.write(b"abc")
        assert promises.read().startswith(b"abc")


def test_tokens_are_replaced_whole(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "state")
    assert tokens.read() is None
    tokens.write(b"one")
    tokens.write(b"two")
    assert tokens.read() == b"two"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["leader-term"]


SECOND = 1_000_000_000


def test_p2_the_longest_lease_of_before_outlives_a_setting_that_was_lowered(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    for configured, longest in ((5, 5), (1, 5), (7, 7), (2, 7)):
        assert LongestLease(folder).open(configured * SECOND, has_granted=False) == longest * SECOND
    LongestLease(folder).write(2 * SECOND)
    assert LongestLease(folder).open(2 * SECOND, has_granted=True) == 2 * SECOND


def test_p2_a_new_disk_has_promised_nothing_and_an_older_versions_may_have_promised_anything(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    assert LongestLease(tmp_path / "new").open(SECOND, has_granted=False) == SECOND
    assert LongestLease(tmp_path / "old").open(SECOND, has_granted=True) == LONG_LEASE_NS


@pytest.mark.parametrize("text", [b"", b"soon", b"-5", b"9" * 4000, b"99999999"], ids=lambda text: repr(text[:9]))
def test_p2_a_damaged_record_may_have_said_anything(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "longest-lease").write_bytes(text)
    assert LongestLease(tmp_path).open(SECOND, has_granted=False) == LONG_LEASE_NS


def test_a_disk_that_cannot_be_written_now_is_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.keeper.promise_file.replace_durably", refuse)
    with pytest.raises(TransientError, match=r"longest-lease: No space"):
        LongestLease(tmp_path).open(SECOND, has_granted=False)


def test_p2_promises_that_cannot_be_read_are_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with PromiseFile(tmp_path) as promises:
        monkeypatch.setattr(os, "pread", refuse)
        with pytest.raises(TransientError, match=r"^run_dir: cannot read .*promises: Input/output error"):
            promises.read()


def test_a_run_dir_that_is_a_file_is_the_operators_who_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OperatorError, match=r"^run_dir: .*name another folder"), PromiseFile(tmp_path / "run"):
        pass
