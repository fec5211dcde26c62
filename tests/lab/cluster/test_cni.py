"""What each CNI is told, and what stands in its way."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from service.lab.cluster.cni import (
    CONFIGURATION_FOLDER,
    cni_commands,
    cni_configuration,
    cni_objects,
    cni_programs,
    daemon,
    daemon_command,
    missing_for_cni,
    write_cni_files,
)
from service.lab.cluster.control_plane import ControlPlane
from service.lab.cluster.runtime import write_node_files
from service.lab.plan import CNIS, LabOptions, make_plan
from service.lab.site import POD_BRIDGE, build_site
from tests.lab.cluster.programs import write_program

OPTIONS = LabOptions(nodes=2, kubernetes=True)
WORKER = make_plan(OPTIONS).nodes[1]
FLANNELS = ("flannel-vxlan", "flannel-host-gw")


def test_on_the_plain_bridge_pods_get_addresses_of_their_nodes_range() -> None:
    bridge, *_ = cni_configuration("bridge", WORKER)["plugins"]
    assert bridge["bridge"] == POD_BRIDGE
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert bridge["ipMasq"], "pods are seen outside as their node"


@pytest.mark.parametrize("cni", CNIS)
def test_configuration_and_plugins_are_where_containerd_looks(tmp_path: Path, cni: str) -> None:
    write_node_files(tmp_path, WORKER, "/x")
    write_cni_files(tmp_path, WORKER, replace(OPTIONS, cni=cni))
    settings = tomllib.loads((tmp_path / "containerd.toml").read_text())["plugins"]["io.containerd.grpc.v1.cri"]["cni"]
    make_folders, link, copy, *_ = cni_commands(tmp_path, cni)
    assert make_folders[2:] == [settings["bin_dir"], settings["conf_dir"]]
    assert link[-1] == settings["bin_dir"]
    assert copy[1] == str(tmp_path / "cni.conflist")
    assert Path(copy[2]).parent == Path(settings["conf_dir"])


@pytest.mark.parametrize("cni", FLANNELS)
@pytest.mark.parametrize(("proxy_mode", "by_nftables"), [("iptables", False), ("nftables", True)])
def test_flannel_has_the_backend_that_was_asked_for_and_writes_rules_as_kube_proxy_does(
    tmp_path: Path, cni: str, proxy_mode: str, by_nftables: bool
) -> None:
    write_cni_files(tmp_path, WORKER, replace(OPTIONS, cni=cni, proxy_mode=proxy_mode))
    written = json.loads((tmp_path / "flannel.json").read_text())
    assert written == {
        "Network": "10.244.0.0/16",
        "EnableNFTables": by_nftables,
        "Backend": {"Type": cni.removeprefix("flannel-")},
    }


def test_kube_router_writes_the_pod_range_into_the_file_that_containerd_reads(tmp_path: Path) -> None:
    command = daemon_command(tmp_path, WORKER, replace(OPTIONS, cni="kube-router"))
    *_, copy, _, _ = cni_commands(tmp_path, "kube-router")
    assert f"KUBE_ROUTER_CNI_CONF_FILE={copy[2]}" in command
    assert Path(copy[2]).parent == CONFIGURATION_FOLDER


@pytest.mark.parametrize(("proxy_mode", "runs"), [("iptables", "false"), ("none", "true")])
def test_kube_router_is_the_service_proxy_only_where_kube_proxy_is_not(
    tmp_path: Path, proxy_mode: str, runs: str
) -> None:
    options = replace(OPTIONS, cni="kube-router", proxy_mode=proxy_mode)
    assert f"--run-service-proxy={runs}" in daemon_command(tmp_path, WORKER, options)


@pytest.mark.parametrize("cni", CNIS)
def test_every_daemon_asks_the_api_server_under_the_name_that_its_rights_are_bound_to(tmp_path: Path, cni: str) -> None:
    options = replace(OPTIONS, cni=cni)
    objects = cni_objects(cni)
    assert bool(objects) is bool(daemon(cni)) is bool(cni_programs(cni))
    control_plane = ControlPlane(tmp_path, make_plan(options))
    control_plane.write_files()
    tokens = (control_plane.folder / "tokens.csv").read_text()
    for binding in objects[1:]:
        assert f",{binding['subjects'][0]['name']}," in tokens
        assert any(
            word.endswith(f"={tmp_path}/{daemon(cni)}.kubeconfig")
            for word in daemon_command(tmp_path / WORKER.name, WORKER, options)
        )


def test_a_cluster_without_kube_proxy_needs_ipvs_in_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ip_vs = tmp_path / "ip_vs"
    write_program(tmp_path / "ipset")
    monkeypatch.setenv("PATH", str(tmp_path))
    options = replace(OPTIONS, cni="kube-router", proxy_mode="none")
    assert "IPVS" in missing_for_cni(options, ip_vs)
    assert missing_for_cni(OPTIONS, ip_vs) == ""
    write_program(ip_vs)
    assert missing_for_cni(options, ip_vs) == ""


def test_kube_router_needs_ipset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ipset" in missing_for_cni(replace(OPTIONS, cni="kube-router"))
    assert missing_for_cni(OPTIONS) == ""


@pytest.mark.parametrize("cni", CNIS)
def test_the_site_lays_ways_to_pods_only_where_the_cni_does_not(monkeypatch: pytest.MonkeyPatch, cni: str) -> None:
    lines: list[str] = []
    monkeypatch.setattr("service.lab.site.ip_batch", lambda netns, batch: lines.extend(batch))
    for name in ("create_namespaces", "write_sysctls"):
        monkeypatch.setattr(f"service.lab.site.{name}", lambda *_: None)
    list(build_site(make_plan(replace(OPTIONS, cni=cni))))
    assert any(line.startswith("route add 10.244.") for line in lines) is (cni == "bridge")
