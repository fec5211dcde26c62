import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from service.lab import demo
from service.lab.demonstration import demonstrate
from service.lab.example import FLOATING_IPS, GATEWAY, POLICY
from service.lab.lab import Lab
from service.lab.namespace import namespaces_of
from service.lab.plan import LabOptions
from service.model.errors import OperatorError
from service.model.objects import EgressPolicy, NetworkGateway, Object
from service.sources.manifests.source import load_folder

pytestmark = pytest.mark.root


def _console() -> tuple[Console, io.StringIO]:
    printed = io.StringIO()
    return Console(file=printed, width=200), printed


def _up_without_programs(options: LabOptions, **arguments: object) -> Lab:
    from service.lab.lab import lab_up

    return lab_up(options, processes=False, replace=True)


def test_what_fails_is_told_and_everything_is_cleared(other_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No controller runs, so the first step is proven and the second cannot be done."""
    monkeypatch.setattr(demo, "lab_up", _up_without_programs)
    monkeypatch.setattr(demo, "ASSIGN_TIMEOUT_S", 0.1)
    console, printed = _console()
    assert demonstrate(demo.LabDemo(other_name), keep=False, console=console) == 1
    assert "no controller answers" in printed.getvalue()
    rows = [line.split("│") for line in printed.getvalue().splitlines() if line.startswith("│ 1. Before any policy")]
    assert [[cell.strip() for cell in row[2:4]] for row in rows] == [["9", "proven"]]
    assert namespaces_of(other_name) == []


def test_keep_leaves_the_lab_with_the_commands_to_try(other_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "lab_up", _up_without_programs)
    monkeypatch.setattr(demo, "ASSIGN_TIMEOUT_S", 0.1)
    console, printed = _console()
    assert demonstrate(demo.LabDemo(other_name), keep=True, console=console) == 1
    assert f"egressgw lab exec --name {other_name}" in printed.getvalue()
    assert Lab.find(other_name).manifests.is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_clears_the_lab(other_name: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def interrupted(options: LabOptions, **arguments: object) -> Lab:
        lab = _up_without_programs(options)
        os.kill(os.getpid(), number)
        return lab

    monkeypatch.setattr(demo, "lab_up", interrupted)
    assert demonstrate(demo.LabDemo(other_name), keep=True, console=_console()[0]) == 130
    assert namespaces_of(other_name) == []


def test_a_lab_that_cannot_be_built_is_exit_status_1(other_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(options: LabOptions, **arguments: object) -> Lab:
        raise OperatorError("nft is not installed")

    monkeypatch.setattr(demo, "lab_up", refuse)
    console, printed = _console()
    assert demonstrate(demo.LabDemo(other_name), keep=False, console=console) == 1
    assert "nft is not installed" in printed.getvalue()


def test_the_objects_of_the_demo_are_valid(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    (tmp_path / "policy.yaml").write_text(POLICY)
    objects, errors = load_folder(tmp_path)
    assert not errors
    kinds: dict[type, Object] = {type(item): item for item in objects}
    gateway, policy = kinds[NetworkGateway], kinds[EgressPolicy]
    assert isinstance(gateway, NetworkGateway)
    assert tuple(map(str, gateway.floating_ips)) == FLOATING_IPS
    assert isinstance(policy, EgressPolicy)
    assert policy.egress_source_ip == gateway.floating_ips[0]
