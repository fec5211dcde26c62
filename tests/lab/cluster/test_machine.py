"""How programs get onto a machine of a cluster; that it is one is proven by tests/cluster."""

from pathlib import Path

import pytest

from service.lab.cluster import machine as module
from service.lab.cluster.machine import Machine
from service.lab.plan import LabOptions, make_plan
from service.lab.process import ProcessRecord

WORKER = make_plan(LabOptions(name="mine", kubernetes=True)).nodes[1]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("mine", tmp_path, WORKER)


def test_a_command_sees_the_machines_network_and_files(machine: Machine, tmp_path: Path) -> None:
    mount = f"--mount={tmp_path}/worker1/mnt"
    assert machine.enter("ls", "/run") == ["nsenter", "--net=/run/netns/mine-worker1", mount, "ls", "/run"]


def test_a_program_is_in_the_nodes_cgroup_before_it_is_anything_else(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it starts in its first moments would outlive the node."""
    started: list[tuple[str, ...]] = []

    def spawn(kind: str, member: str, netns: str, command: tuple[str, ...], log: Path, folder: Path) -> ProcessRecord:
        assert (kind, member, netns, log) == ("kubelet", "worker1", "mine-worker1", tmp_path / "worker1/kubelet.log")
        started.append(command)
        return ProcessRecord(kind, member, netns, command, str(log), str(folder), 7, 70)

    monkeypatch.setattr(module, "spawn", spawn)
    machine.start("kubelet", ("kubelet", "--config=x"))
    ((shell, options, script, _, cgroup, mount, *command),) = started
    assert (shell, options, command) == ("sh", "-euc", ["kubelet", "--config=x"])
    assert script.index('echo $$ > "$1/cgroup.procs"') < script.index('exec nsenter --mount="$@"')
    assert (cgroup, mount) == (str(machine.cgroup.system), str(machine.mount_namespace))
