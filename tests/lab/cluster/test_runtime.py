"""Settings of what runs on a node of a cluster."""

import tomllib
from pathlib import Path

import pytest
import yaml

from service.lab.cluster import runtime
from service.lab.cluster.runtime import (
    CONTAINERD_ROOT,
    CONTAINERD_SOCKET,
    CONTROL_PLANE_LABEL,
    containerd_command,
    kubelet_command,
    missing_for_runtime,
    node_object,
    proxy_command,
    write_node_files,
)
from service.lab.plan import LabOptions, make_plan
from tests.lab.cluster.programs import write_program

CONTROL, WORKER = make_plan(LabOptions(nodes=2, kubernetes=True)).nodes


def test_containerd_and_kubelet_agree_on_where_they_meet(tmp_path: Path) -> None:
    write_node_files(tmp_path, WORKER, "/egressgw-lab-mine-worker1")
    containerd = tomllib.loads((tmp_path / "containerd.toml").read_text())
    kubelet = yaml.safe_load((tmp_path / "kubelet.yaml").read_text())
    assert containerd["root"] == str(CONTAINERD_ROOT)
    assert containerd["grpc"]["address"] == str(CONTAINERD_SOCKET)
    assert kubelet["containerRuntimeEndpoint"] == f"unix://{CONTAINERD_SOCKET}"
    assert kubelet["cgroupRoot"] == "/egressgw-lab-mine-worker1"


def test_only_the_control_plane_node_is_tainted_and_both_ways_of_saying_so_agree(tmp_path: Path) -> None:
    for node, tainted in ((CONTROL, True), (WORKER, False)):
        write_node_files(tmp_path, node, "/x")
        kubelet = yaml.safe_load((tmp_path / "kubelet.yaml").read_text())
        taints = node_object(node)["spec"]["taints"]
        assert kubelet.get("registerWithTaints", []) == taints
        assert bool(taints) is tainted


def test_a_node_has_its_role_and_pod_range_before_its_kubelet_reports() -> None:
    for node, is_control in ((CONTROL, True), (WORKER, False)):
        document = node_object(node)
        assert document["metadata"]["name"] == node.name
        assert (CONTROL_PLANE_LABEL in document["metadata"]["labels"]) is is_control
        assert (document["spec"]["podCIDR"], document["spec"]["podCIDRs"]) == (str(node.pod_cidr), [str(node.pod_cidr)])


def test_programs_are_started_under_the_nodes_name_with_the_nodes_files(tmp_path: Path) -> None:
    folder = tmp_path / "worker1"
    assert containerd_command(folder) == ("containerd", "--config", f"{folder}/containerd.toml")
    assert {f"--config={folder}/kubelet.yaml", "--hostname-override=worker1", f"--node-ip={WORKER.ip}"} <= set(
        kubelet_command(folder, WORKER)
    )
    assert {
        f"--kubeconfig={tmp_path}/kube-proxy.kubeconfig",
        "--hostname-override=worker1",
        "--proxy-mode=nftables",
    } <= (set(proxy_command(folder, WORKER, "nftables")))


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plugin = tmp_path / "cni" / "bridge"
    monkeypatch.setattr(runtime, "PLUGINS", (plugin,))
    for name in ("containerd", "ctr", "iptables", "conntrack"):
        write_program(tmp_path / name)
    assert missing_for_runtime().startswith(f"not installed: runc, {plugin} (")
    write_program(tmp_path / "runc")
    write_program(plugin)
    assert missing_for_runtime() == ""
