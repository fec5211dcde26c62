from pathlib import Path

import pytest

from service.keeper.promise_file import PromiseFile, TokenFile
from service.model.errors import OperatorError


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
