"""Kernel settings are changed so that they can be put back."""

import errno
import os
from pathlib import Path

import pytest

from service.model.errors import OperatorError
from service.network.sysctl import Sysctl

KEY = "ipv4/conf/all/send_redirects"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Stands for /proc/sys/net."""
    path = tmp_path / KEY
    path.parent.mkdir(parents=True)
    path.write_text("1\n", encoding="ascii")
    return tmp_path


def value(node: Path) -> str:
    return (node / KEY).read_text(encoding="ascii").strip()


def test_a_changed_key_is_put_back_by_a_later_process(node: Path) -> None:
    journal = node / "sysctls.json"
    Sysctl(node, journal).write(KEY, "0")
    Sysctl(node, journal).write(KEY, "0")
    assert value(node) == "0"
    Sysctl(node, journal).restore()
    assert value(node) == "1"
    assert not journal.exists()


def test_what_the_operator_has_set_since_is_left_alone(node: Path) -> None:
    sysctl = Sysctl(node, node / "sysctls.json")
    sysctl.write(KEY, "0")
    (node / KEY).write_text("2\n", encoding="ascii")
    sysctl.restore()
    assert value(node) == "2"


def test_keys_of_our_own_devices_are_not_noted(node: Path) -> None:
    sysctl = Sysctl(node, node / "sysctls.json")
    sysctl.write(KEY, "0", keep_former=False)
    sysctl.restore()
    assert value(node) == "0"


def test_an_unreadable_journal_costs_the_former_values_and_nothing_else(
    node: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = node / "sysctls.json"
    journal.write_text("{", encoding="ascii")
    Sysctl(node, journal).restore()
    assert "cannot be read" in caplog.text
    assert not journal.exists()


def test_a_key_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"net\.ipv4\.conf\.all\.send_redirects=0.*datapath\.sysctl_dir"):
        Sysctl(tmp_path).write(KEY, "0")


def test_i2_a_device_that_vanished_is_no_error_of_the_operator(node: Path) -> None:
    """An uplink that goes between two looks must not end the agent, with advice on how to run it."""
    Sysctl(node, node / "sysctls.json").write("ipv4/conf/eth9/send_redirects", "0")
    assert not (node / "sysctls.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_disk_that_takes_no_note_keeps_no_node_from_serving_and_gets_the_note_later(
    node: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    journal = node / "state" / "sysctls.json"
    sysctl = Sysctl(node, journal)

    def refuse(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        for _ in range(3):
            sysctl.write(KEY, "0")
        assert value(node) == "0"
        assert sysctl.trouble.startswith("state_dir: former kernel settings cannot be noted")
        assert sysctl.trouble.endswith(os.strerror(number))
        assert len(caplog.records) == 1
    # As the repair of each two seconds does.
    sysctl.write(KEY, "0")
    assert sysctl.trouble == ""
    Sysctl(node, journal).restore()
    assert value(node) == "1"
