"""All processes of a node end, or stand still, together (real cgroups of whatever version)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lab.cgroup import Cgroup, cgroups_of, hierarchies
from service.lab.status import wait_for

pytestmark = pytest.mark.cluster
LAB = f"egwt{os.getpid()}"
COUNTING = "n=0; while :; do n=$((n+1)); echo $n > {file}; done"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    cgroup = Cgroup(LAB, "worker1")
    cgroup.create()
    yield cgroup
    cgroup.kill()
    cgroup.remove()


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()


def start(cgroup: Cgroup, children: list[subprocess.Popen[bytes]], script: str, *, into: Path | None = None) -> int:
    """A shell in the cgroup; what it starts is in it too."""
    enter = f"echo $$ > {into or cgroup.system}/cgroup.procs; {script}"
    children.append(subprocess.Popen(["sh", "-euc", enter]))
    pid = children[-1].pid
    wait_for("the shell to be in the cgroup", lambda: pid in cgroup.processes(), timeout_s=10)
    return pid


def test_it_is_in_every_hierarchy_and_found_by_the_labs_name(cgroup: Cgroup) -> None:
    assert all((root / cgroup.name).is_dir() for root in hierarchies())
    assert [found.name for found in cgroups_of(LAB)] == [cgroup.name]
    assert cgroups_of(f"{LAB}x") == []
    cgroup.create()
    cgroup.remove()
    assert cgroups_of(LAB) == []


def test_processes_are_found_in_the_tree_and_by_part_of_a_name(
    cgroup: Cgroup, children: list[subprocess.Popen[bytes]]
) -> None:
    pod = cgroup.system.parent / "podabc" / "container"
    pod.mkdir(parents=True)
    ours, theirs = start(cgroup, children, "exec sleep 60"), start(cgroup, children, "exec sleep 60", into=pod)
    assert sorted(cgroup.processes()) == sorted([ours, theirs])
    assert cgroup.processes("podabc") == [theirs]
    assert cgroup.processes("podxyz") == []


def test_what_is_frozen_stands_still_until_it_is_thawed(
    cgroup: Cgroup, children: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    start(cgroup, children, COUNTING.format(file=count))
    wait_for("the count to begin", lambda: count.exists() and count.read_text(), timeout_s=10)
    cgroup.freeze()
    stands_at = count.read_text()
    # A running shell counts on within microseconds.
    for _ in range(1000):
        assert count.read_text() == stands_at
    cgroup.thaw()
    wait_for("the count to go on", lambda: count.read_text() not in ("", stands_at), timeout_s=10)


def test_kill_ends_every_process_even_frozen_ones_and_says_how_many(
    cgroup: Cgroup, children: list[subprocess.Popen[bytes]]
) -> None:
    for _ in range(3):
        start(cgroup, children, "exec sleep 60")
    cgroup.freeze()
    assert cgroup.kill() == 3
    assert cgroup.processes() == []
    assert [child.wait(10) for child in children] == [-9, -9, -9]
    assert cgroup.kill() == 0


def test_a_tree_is_removed_once_the_last_process_has_left_every_hierarchy(
    cgroup: Cgroup, children: list[subprocess.Popen[bytes]]
) -> None:
    """As one that was caught while it entered them one after the other: `kill` looks at one."""
    folder = hierarchies()[-1] / cgroup.name
    folder = cgroup.system if folder == cgroup.system.parent else folder
    late = subprocess.Popen(["sh", "-euc", f"echo $$ > {folder}/cgroup.procs; exec sleep 0.5"])
    children.append(late)
    wait_for("it to be in", lambda: str(late.pid) in (folder / "cgroup.procs").read_text().split(), timeout_s=10)
    cgroup.remove()
    assert cgroups_of(LAB) == []


def test_of_a_node_that_is_not_there_there_is_nothing_to_kill() -> None:
    assert Cgroup(LAB, "worker9").kill() == 0
