"""Breaks a node of a cluster, or its API server, and mends it."""

import contextlib
import os
import signal

from service.lab.cluster.cluster import Cluster
from service.lab.cluster.control_plane import member_of
from service.lab.fault import Fault, apply_fault
from service.lab.process import ProcessRecord, is_alive, respawn
from service.lab.status import wait_for
from service.model.errors import OperatorError

_SIGNALS = {Fault.KILL: signal.SIGKILL, Fault.STOP: signal.SIGSTOP, Fault.CONT: signal.SIGCONT}
_CONTAINERD_READY_S = 30.0


def apply_cluster_fault(cluster: Cluster, member: str, fault: Fault, *, only: str | None = None) -> list[str]:
    """Do it and return one line per thing done.

    `kill` ends kubelet, containerd, its shims and every process of every container of the node at the same instant;
    `stop` freezes them all, `cont` thaws them; `restart` brings back what a node's machine would start: its kubelet
    then makes the pods run again. With `only` (`agent`, `keeper`) they act on the processes of these containers alone,
    which a kubelet restarts by itself. `cut`, `cut-control` and `heal` are as of any lab. On `kubernetes` they act on
    API server, etcd, scheduler and controller manager, or the one named by `only`. Raises OperatorError for what does
    not exist.
    """
    if fault in (Fault.CUT, Fault.CUT_CONTROL, Fault.HEAL) or member == member_of(cluster.plan).name:
        return apply_fault(cluster, member, fault, only=only)
    machine = cluster.machine(member)
    if only is not None:
        return _signal_container(cluster, member, fault, only)
    if fault is Fault.KILL:
        count = machine.cgroup.kill()
        return [f"SIGKILL to all {count} processes of {member}, containers too"] if count else []
    if fault is Fault.STOP:
        machine.cgroup.freeze()
        return [f"every process of {member} is frozen, containers too"]
    if fault is Fault.CONT:
        machine.cgroup.thaw()
        return [f"{member} runs on"]
    return _restart(cluster, member)


def _signal_container(cluster: Cluster, node: str, fault: Fault, container: str) -> list[str]:
    if fault not in _SIGNALS:
        raise OperatorError(f"{fault} --only {container}: it is the kubelet that restarts containers")
    pids = cluster.container_processes(node, container)
    if not pids:
        raise OperatorError(f"no container {container!r} runs on {node}")
    number = _SIGNALS[fault]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return [f"{number.name} to {container} of {node} (pid {pid})" for pid in pids]


def _restart(cluster: Cluster, node: str) -> list[str]:
    records = [cluster.state.process(kind, node) for kind in cluster.node_programs]
    return [_start_again(cluster, record) for record in records if record is not None and not is_alive(record)]


def _start_again(cluster: Cluster, record: ProcessRecord) -> str:
    new = respawn(record)
    cluster.remember(new)
    if new.kind == "containerd":
        machine = cluster.machine(new.member)
        wait_for("containerd to answer", machine.containerd_answers, timeout_s=_CONTAINERD_READY_S)
    return f"{new.kind} of {new.member} runs again (pid {new.pid})"
