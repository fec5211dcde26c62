"""`egressgw keys`: each step is taken only where all members have the last one in force."""

import stat
from pathlib import Path
from typing import Any

import pytest

from service.command.keys import differences
from service.wire.envelope import key_id
from tests.command.invocation import invoke

OLD, NEW = b"\1" * 32, b"\2" * 32
OLD_ID, NEW_ID = key_id(OLD).hex(), key_id(NEW).hex()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keyring"
    path.write_text(f"{OLD.hex()}\n", encoding="ascii")
    path.chmod(0o640)
    return path


def ring(path: Path) -> list[bytes]:
    return [bytes.fromhex(line) for line in path.read_text(encoding="ascii").split()]


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What whoever is asked says: two members that have the old key in force."""
    told: dict[str, Any] = {"nodes": {"worker1": {"state": "Up"}}}
    monkeypatch.setattr("service.web.client.fetch_status", lambda url: told)
    in_force(told, OLD_ID)
    return told


def in_force(told: dict[str, Any], *ids: str) -> None:
    told["keys"] = {
        "worker1": {"agent": list(ids), "keeper": list(ids)},
        "controller-a": {"controller": list(ids)},
    }


def test_three_steps_bring_a_new_key_and_take_the_old_one_away(file: Path, document: dict[str, Any]) -> None:
    assert invoke("keys", "add", "--keyring-file", file).exit_code == 0
    old, new = ring(file)
    assert old == OLD
    in_force(document, OLD_ID, key_id(new).hex())
    assert invoke("keys", "check", "--keyring-file", file).exit_code == 0
    assert invoke("keys", "use", "--keyring-file", file).exit_code == 0
    assert ring(file) == [new, OLD]
    in_force(document, key_id(new).hex(), OLD_ID)
    assert invoke("keys", "drop", "--keyring-file", file).exit_code == 0
    assert ring(file) == [new]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["keyring"]


@pytest.mark.parametrize("step", ["use", "drop"])
@pytest.mark.parametrize(
    ("lagging", "told"),
    [
        ({"agent": [OLD_ID], "keeper": [OLD_ID, NEW_ID]}, "its agent seals with"),
        ({"agent": [OLD_ID, NEW_ID], "keeper": [OLD_ID]}, "its keeper seals with"),
        ({"agent": [OLD_ID, NEW_ID], "keeper": None}, "its keeper does not say"),
    ],
)
def test_no_step_is_taken_while_one_process_lags_behind(
    file: Path, document: dict[str, Any], step: str, lagging: dict[str, Any], told: str
) -> None:
    file.write_text(f"{OLD.hex()}\n{NEW.hex()}\n", encoding="ascii")
    in_force(document, OLD_ID, NEW_ID)
    document["keys"]["worker1"] = lagging
    for command in ("check", step):
        result = invoke("keys", command, "--keyring-file", file)
        assert result.exit_code == 1
        assert f"worker1: {told}" in result.output
    assert ring(file) == [OLD, NEW]


def test_a_step_may_be_taken_unchecked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.web.client.fetch_status", lambda url: pytest.fail("nobody is to be asked"))
    assert invoke("keys", "add", "--keyring-file", file, "--unchecked").exit_code == 0
    assert len(ring(file)) == 2


def test_a_node_that_is_not_up_is_named_and_stops_nothing(file: Path, document: dict[str, Any]) -> None:
    document["nodes"]["worker2"] = {"state": "Down"}
    result = invoke("keys", "check", "--keyring-file", file)
    assert result.exit_code == 0
    assert "worker2 is not up" in result.output


def test_steps_out_of_order_are_refused(file: Path, document: dict[str, Any]) -> None:
    for step in ("use", "drop"):
        assert invoke("keys", step, "--keyring-file", file).exit_code == 2
    file.write_text(f"{OLD.hex()}\n{NEW.hex()}\n", encoding="ascii")
    assert invoke("keys", "add", "--keyring-file", file).exit_code == 2
    assert ring(file) == [OLD, NEW]


def test_ids_are_shown_and_never_a_key(file: Path, document: dict[str, Any]) -> None:
    file.write_text(f"{NEW.hex()}\n{OLD.hex()}\n", encoding="ascii")
    result = invoke("keys", "show", "--keyring-file", file)
    assert result.output.splitlines() == [f"{NEW_ID} seals", f"{OLD_ID} is accepted"]
    for command in ("show", "check", "use"):
        assert OLD.hex() not in invoke("keys", command, "--keyring-file", file).output


def test_a_process_that_knows_nothing_of_keys_is_no_proof(file: Path, document: dict[str, Any]) -> None:
    del document["keys"]
    result = invoke("keys", "check", "--keyring-file", file)
    assert result.exit_code == 1
    assert "does not know" in result.output


def test_the_order_counts_since_the_first_key_seals() -> None:
    document = {"keys": {"worker1": {"agent": ["0b", "0a"], "keeper": ["0a", "0b"]}}}
    assert differences(["0a", "0b"], document) == ["worker1: its agent seals with 0b, accepts 0b 0a"]
