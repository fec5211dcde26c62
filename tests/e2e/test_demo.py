"""The demo as a newcomer runs it: it proves its four steps, and whatever happens the machine is as before."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lab.lab import lab_down
from tests.e2e.conftest import new_name

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture
def name() -> Iterator[str]:
    name = new_name()
    yield name
    lab_down(name)


def traces(name: str) -> list[str]:
    """What a lab of that name has left on the machine."""
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    pins = os.listdir("/sys/fs/bpf") if os.path.isdir("/sys/fs/bpf") else []
    lines = [*namespaces.splitlines(), *mounts.splitlines(), *processes.splitlines(), *pins]
    return [line for line in lines if f"{name}-" in line or f"lab-{name}" in line]


def start_demo(name: str) -> subprocess.Popen[str]:
    # With a hang-up as a terminal sends it, also where these tests run under nohup: the demo honours that.
    command = ["env", "--default-signal=HUP", sys.executable, "-m", "service", "lab", "demo", "--name", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_demo_prints_four_proofs_from_the_servers_log_and_leaves_nothing(name: str) -> None:
    pins = sorted(os.listdir("/sys/fs/bpf"))
    demo = start_demo(name)
    printed, _ = demo.communicate(timeout=150)
    assert demo.returncode == 0, printed
    for step in ("1. Before any policy", "2. A gateway", "3. worker1", "4. The audit"):
        assert step in printed
    assert "FAIL" not in printed
    assert "captured at every port: 0" in " ".join(printed.split())
    assert traces(name) == []
    assert sorted(os.listdir("/sys/fs/bpf")) == pins


@pytest.mark.parametrize("moment", ["0. The lab", "2. A gateway", "3. worker1"])
def test_an_interrupted_demo_leaves_nothing(name: str, moment: str) -> None:
    """Also where the shell that started it in the background had interrupts ignored, as some CI systems do."""
    demo = start_demo(name)
    assert demo.stdout is not None
    for line in demo.stdout:
        if moment in line:
            break
    time.sleep(0.3)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert traces(name) == []


def test_a_demo_whose_terminal_is_closed_leaves_nothing(name: str) -> None:
    demo = start_demo(name)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "2. A gateway" in line:
            break
    demo.send_signal(signal.SIGHUP)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert traces(name) == []
