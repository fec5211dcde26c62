import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from service.lab.command import lab
from service.lab.lab import Lab
from service.lab.namespace import namespaces_of

pytestmark = pytest.mark.root


def test_info_is_json_for_programs(site: Lab, lab_name: str) -> None:
    done = CliRunner().invoke(lab, ["info", "--name", lab_name, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == json.loads(json.dumps(site.info()))


def test_info_names_every_member_and_pod(site: Lab, lab_name: str) -> None:
    done = CliRunner().invoke(lab, ["info", "--name", lab_name])
    names = [*site.plan.members, *(pod.full_name for pod in site.plan.pods)]
    assert len(names) == 5 + 9
    assert [name for name in names if name not in done.output] == []


def test_faults_are_told_line_by_line(site: Lab, lab_name: str) -> None:
    done = CliRunner().invoke(lab, ["fault", "--name", lab_name, "worker1", "heal"])
    assert done.output == "port worker1-0 forwards again\nport worker1-1 forwards again\n"


def test_exec_runs_a_command_in_a_pod(site: Lab, lab_name: str) -> None:
    command = [sys.executable, "-m", "service", "lab", "exec", "--name", lab_name, "alice/frontend-worker1", "--"]
    done = subprocess.run([*command, "ip", "-br", "address"], capture_output=True, text=True, timeout=30, check=True)
    assert str(site.pod("alice/frontend-worker1").ip) in done.stdout


def test_up_and_down_build_and_clear(other_name: str) -> None:
    arguments = ["--name", other_name, "--nodes", "1", "--no-processes"]
    assert CliRunner().invoke(lab, ["up", *arguments]).exit_code == 0
    again = subprocess.run(
        [sys.executable, "-m", "service", "lab", "up", *arguments], capture_output=True, timeout=30, check=False
    )
    assert again.returncode == 2
    assert b"--replace" in again.stderr
    done = CliRunner().invoke(lab, ["down", "--name", other_name])
    assert done.output == f"the lab '{other_name}' is gone\n"
    assert namespaces_of(other_name) == []
