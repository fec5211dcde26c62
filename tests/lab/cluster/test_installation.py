"""The lab's own copy of `deploy/`: with a key, with the lab's settings, and otherwise as a user has it."""

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.lab.cluster.image import REPOSITORY
from service.lab.cluster.installation import LAB_SETTINGS, deploy_folder, write_deploy_folder
from service.lab.plan import LabOptions
from service.model.errors import OperatorError


def config(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return document


MINE = LabOptions(name="mine", kubernetes=True)
OURS = config(REPOSITORY / "deploy")


def test_only_settings_and_key_differ_from_the_checkout(tmp_path: Path) -> None:
    folder = write_deploy_folder(tmp_path, MINE)
    assert folder == deploy_folder(tmp_path)
    for path in (REPOSITORY / "deploy").rglob("*.yaml"):
        if path.name != "config.yaml":
            assert (folder / path.relative_to(REPOSITORY / "deploy")).read_bytes() == path.read_bytes()
    changed = config(folder)
    assert changed["cluster"] == "mine"
    assert changed["lease"] == OURS.get("lease", {}) | LAB_SETTINGS["lease"]
    same = set(OURS) - {"cluster", "lease"}
    assert {key: changed[key] for key in same} == {key: OURS[key] for key in same}


def test_the_key_is_new_secret_and_stays(tmp_path: Path) -> None:
    keyring = write_deploy_folder(tmp_path / "one", MINE) / "keyring"
    key = keyring.read_text()
    assert len(bytes.fromhex(key)) == 32
    assert stat.S_IMODE(keyring.stat().st_mode) == 0o600
    write_deploy_folder(tmp_path / "one", MINE)
    assert keyring.read_text() == key
    assert (write_deploy_folder(tmp_path / "two", MINE) / "keyring").read_text() != key


def test_settings_go_over_those_of_the_lab_section_by_section(tmp_path: Path) -> None:
    settings = {"lease": {"profile": "fast"}, "kafka": {"bootstrap_servers": ["k:1"]}, "cluster": None}
    changed = config(write_deploy_folder(tmp_path, MINE, settings))
    assert changed["lease"] == OURS.get("lease", {}) | LAB_SETTINGS["lease"] | {"profile": "fast"}
    assert changed["kafka"]["bootstrap_servers"] == ["k:1"]
    assert "cluster" not in changed, "None takes a key away"


def test_nodes_behind_a_router_are_reached_as_they_can_be(tmp_path: Path) -> None:
    far = LabOptions(name="far", nodes=4, far_nodes=2, kubernetes=True, cni="flannel-vxlan")
    assert config(write_deploy_folder(tmp_path, far))["datapath"] == OURS["datapath"] | {"transport": "auto"}


def test_settings_of_an_earlier_call_are_gone(tmp_path: Path) -> None:
    write_deploy_folder(tmp_path, MINE, {"lease": {"profile": "fast"}})
    assert config(write_deploy_folder(tmp_path, MINE)) == config(write_deploy_folder(tmp_path / "new", MINE))


def test_without_a_checkout_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="installed from a checkout"):
        write_deploy_folder(tmp_path, MINE, checkout=tmp_path)
