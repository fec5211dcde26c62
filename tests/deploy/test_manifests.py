"""What the manifests say agrees with what the program does."""

import itertools
import re
from pathlib import Path

import pytest

from service.model.errors import OperatorError
from service.network.capability import CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, check_node
from service.settings import PortSettings, Settings, load_settings
from service.version import VERSION
from tests.deploy.manifests import DEPLOY, containers, documents, workload

NUMBERS = {"NET_ADMIN": CAP_NET_ADMIN, "NET_RAW": CAP_NET_RAW, "BPF": CAP_BPF, "PERFMON": CAP_PERFMON}
FILES = ("agent.yaml", "controller.yaml")


def test_the_image_is_the_one_of_this_version() -> None:
    (image,) = documents("kustomization.yaml")[0]["images"]
    assert (image["newName"], image["newTag"]) == ("docker.io/library/egressgw", VERSION)
    compose = (DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"EGRESSGW_VERSION:-([^}]*)}", compose)) == {VERSION}


def test_the_program_would_start_with_the_capabilities_it_is_given_and_not_with_one_less(tmp_path: Path) -> None:
    added = containers("agent.yaml")["agent"]["securityContext"]["capabilities"]["add"]
    _check(tmp_path, added)
    for fewer in itertools.combinations(added, len(added) - 1):
        with pytest.raises(OperatorError, match="is missing"):
            _check(tmp_path, fewer)


def _check(proc: Path, capabilities: tuple[str, ...]) -> None:
    mask = sum(1 << NUMBERS[name] for name in capabilities)
    (proc / "self").mkdir(exist_ok=True)
    (proc / "self" / "status").write_text(f"CapEff:\t{mask:016x}\n", encoding="ascii")
    check_node(proc=proc, release="6.1.0")


@pytest.mark.parametrize("name", FILES)
def test_no_container_is_privileged_or_writes_to_its_image(name: str) -> None:
    for container in containers(name).values():
        context = container["securityContext"]
        assert context.get("privileged") is None
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]


def test_a_controller_speaks_to_nodes_from_ports_that_no_agent_has() -> None:
    """Behind its CNI's masquerade it looks like its node, port and all, and connection tracking would take what other
    nodes say to that node's agent for its answers."""
    ports = PortSettings()
    of_nodes = {ports.gossip, ports.state, ports.vxlan, ports.lease, ports.probe}
    assert not {ports.leader, ports.controller_gossip} & of_nodes


def test_ports_are_those_of_the_settings() -> None:
    ports = PortSettings()
    declared = {
        port["name"]: port["containerPort"]
        for name in FILES
        for container in containers(name).values()
        for port in container["ports"]
    }
    assert declared == {
        "http": ports.http,
        "gossip": ports.gossip,
        "state": ports.state,
        "leader": ports.leader,
        "ctrl-gossip": ports.controller_gossip,
        "lease": ports.lease,
        "probe": ports.probe,
    }
    policy = next(item for item in documents("controller.yaml") if item["kind"] == "NetworkPolicy")
    ingress = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    egress = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ingress == {ports.controller_gossip, ports.leader, ports.http}
    assert {ports.gossip, ports.controller_gossip, ports.state, ports.lease} <= egress
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    exposed = next(line.split()[1:] for line in dockerfile.splitlines() if line.startswith("EXPOSE"))
    assert {int(entry.split("/")[0]) for entry in exposed} == {
        ports.gossip,
        ports.state,
        ports.http,
        ports.vxlan,
        ports.lease,
        ports.probe,
        ports.leader,
        ports.controller_gossip,
    }


@pytest.mark.parametrize("name", FILES)
def test_folders_of_the_settings_are_mounted(name: str, settings: Settings) -> None:
    pod = workload(name)["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert {settings.state_dir, settings.run_dir, str(Path(settings.keyring_file).parent)} <= set(mounts)
        if name == "agent.yaml":
            # What must outlive the pod is the node's own, under its own name.
            for folder in (settings.state_dir, settings.run_dir, str(Path(settings.datapath.bpf_dir).parent)):
                assert mounts[folder]["hostPath"]["path"] == folder
            assert mounts[settings.datapath.sysctl_dir]["hostPath"]["path"] == "/proc/sys/net"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("NODE_NAME", "worker1")
    monkeypatch.setenv("BIND_ADDRESS", "192.168.1.21")
    return load_settings(DEPLOY / "config.yaml")


def test_the_settings_shipped_are_valid_and_update_a_node_without_moving_its_addresses(settings: Settings) -> None:
    assert (settings.source, settings.electors) == ("kubernetes", "auto")
    assert settings.lease.on_stop == "keep"
    # Nobody's key is in the repository.
    assert settings.keyring == ()
