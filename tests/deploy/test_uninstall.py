"""What `deploy/uninstall.yaml` makes of the DaemonSet, as kubectl itself merges it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.lab.cluster.assets import program
from tests.deploy.manifests import DEPLOY, workload

INSTALLED = "registry.example/team/egressgw@sha256:1234"


@pytest.fixture
def daemonset(tmp_path: Path) -> dict[str, Any]:
    kubectl = program("kubectl")
    if not kubectl.exists():
        pytest.skip("there is no kubectl on this machine")
    installed = workload("agent.yaml")
    for container in installed["spec"]["template"]["spec"]["containers"]:
        container["image"] = INSTALLED
    (tmp_path / "installed.yaml").write_text(yaml.safe_dump(installed), encoding="utf-8")
    patch = ("--patch-file", str(DEPLOY / "uninstall.yaml"))
    command = [str(kubectl), "patch", "--local", "-f", str(tmp_path / "installed.yaml"), *patch, "-o", "yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = yaml.safe_load(done.stdout)["spec"]
    return found


@pytest.fixture
def pod(daemonset: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = daemonset["template"]["spec"]
    return found


def test_it_names_no_image_and_runs_the_one_that_was_installed(pod: dict[str, Any]) -> None:
    """Seen: with an image of another name or tag the nodes waited for one that nobody had."""
    assert "image" not in (DEPLOY / "uninstall.yaml").read_text(encoding="utf-8").replace("No image is named", "")
    (container,) = pod["containers"]
    assert container["image"] == INSTALLED
    assert "initContainers" not in pod


def test_it_uninstalls_and_is_ready_only_then(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    shell, option, script = container["command"]
    assert (shell, option, container.get("args")) == ("sh", "-c", None)
    assert script.startswith("egressgw uninstall --purge --config /etc/egressgw/config.yaml && touch /tmp/uninstalled")
    assert container["readinessProbe"]["exec"] == {"command": ["test", "-f", "/tmp/uninstalled"]}
    assert "httpGet" not in container["readinessProbe"]
    assert not {"livenessProbe", "startupProbe"} & container.keys()


def test_it_can_remove_the_folders_themselves_and_makes_none_anew(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert (mounts["/var/lib"], mounts["/run"]) == ("var-lib", "node-run")
    assert not {"/var/lib/egressgw", "/run/egressgw"} & mounts.keys()
    assert {
        "/etc/egressgw/config.yaml",
        "/etc/egressgw/keyring",
        "/sys/fs/bpf",
        "/host/proc/sys/net",
        "/tmp",
    } < mounts.keys()
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == set(mounts.values())
    assert pod["automountServiceAccountToken"] is False


def test_it_has_every_right_of_the_agent_whose_work_it_undoes(pod: dict[str, Any]) -> None:
    """The command asks for the same capabilities as the agent, in the node's own network namespace."""
    agent = workload("agent.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == agent["containers"][0]["securityContext"]
    assert {"NET_ADMIN", "BPF", "PERFMON"} < set(container["securityContext"]["capabilities"]["add"])
    for right in ("securityContext", "hostNetwork", "tolerations", "nodeSelector"):
        assert pod[right] == agent[right]


def test_a_node_that_is_away_holds_up_no_other(daemonset: dict[str, Any]) -> None:
    """One at a time, as updates are made, the first node that does not become ready would be the last."""
    assert daemonset["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
