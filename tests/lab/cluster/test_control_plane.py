"""Credentials and command lines of the control plane."""

import csv
import stat
from pathlib import Path

import pytest
import yaml

from service.lab.cluster.control_plane import PROGRAMS, ControlPlane, member_of
from service.lab.plan import LabOptions, make_plan
from service.model.errors import OperatorError
from tests.lab.cluster.programs import write_program

PLAN = make_plan(LabOptions(nodes=2, kubernetes=True))


@pytest.fixture
def control_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "programs"))
    monkeypatch.setenv("PATH", "/nowhere")
    for name in PROGRAMS:
        write_program(tmp_path / "programs" / name)
    return ControlPlane(tmp_path, PLAN)


def token_of(path: Path) -> str:
    token: str = yaml.safe_load(path.read_text())["users"][0]["user"]["token"]
    return token


def test_every_component_has_a_token_of_its_own_under_the_name_its_role_is_bound_to(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    control_plane.write_files()
    with (control_plane.folder / "tokens.csv").open() as file:
        users = {token: (user, group) for token, user, _, group in csv.reader(file)}
    assert {users[token_of(path)] for path in tmp_path.rglob("*kubeconfig")} == {
        ("admin", "system:masters"),
        ("system:kube-controller-manager", ""),
        ("system:kube-scheduler", ""),
        ("system:kube-proxy", ""),
        ("system:node:control1", "system:nodes"),
        ("system:node:worker1", "system:nodes"),
    }
    assert users[token_of(control_plane.kubeconfig)][0] == "admin"
    assert users[token_of(tmp_path / "worker1" / "kubelet.kubeconfig")][0] == "system:node:worker1"


def test_key_and_tokens_are_for_root_alone(control_plane: ControlPlane) -> None:
    control_plane.write_files()
    for name in ("service-account.key", "tokens.csv"):
        assert stat.S_IMODE((control_plane.folder / name).stat().st_mode) == 0o600


def test_everybody_asks_the_api_server_where_it_is(control_plane: ControlPlane) -> None:
    control_plane.write_files()
    (cluster,) = yaml.safe_load(control_plane.kubeconfig.read_text())["clusters"]
    assert cluster["cluster"]["server"] == f"https://{member_of(PLAN).ip}:{control_plane.port}"
    assert f"--bind-address={member_of(PLAN).ip}" in control_plane.command("kube-apiserver")


def test_kubectls_script_goes_where_the_api_server_can_be_reached(control_plane: ControlPlane) -> None:
    control_plane.write_files()
    script = control_plane.kubectl.read_text()
    assert f"export KUBECONFIG={control_plane.kubeconfig} " in script
    assert f"nsenter --net=/run/netns/{member_of(PLAN).netns} " in script
    assert control_plane.kubectl.stat().st_mode & 0o111


def test_the_key_that_signs_accounts_is_the_one_they_are_checked_by(control_plane: ControlPlane) -> None:
    key = control_plane.folder / "service-account.key"
    assert f"--service-account-signing-key-file={key}" in control_plane.command("kube-apiserver")
    assert f"--service-account-key-file={key}" in control_plane.command("kube-apiserver")
    assert f"--service-account-private-key-file={key}" in control_plane.command("kube-controller-manager")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_command(control_plane: ControlPlane, tmp_path: Path, name: str) -> None:
    assert control_plane.command(name)[0] == str(tmp_path / "programs" / name)


def test_without_etcd_the_operator_is_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "programs" / "etcd").unlink()
    with pytest.raises(OperatorError, match="etcd is not installed"):
        control_plane.command("etcd")
