"""The service in a cluster: `deploy/` of this checkout, with a key of its own, applied as a user applies it."""

import secrets
import shutil
from pathlib import Path
from typing import Any

import yaml

from service.lab.cluster.cluster import SERVICE_NAMESPACE, Cluster
from service.lab.cluster.image import REPOSITORY
from service.lab.plan import LabOptions
from service.lab.status import fetch_json
from service.model.errors import OperatorError

AGENT, CONTROLLER = "daemonset/egressgw-agent", "deployment/egressgw-controller"
LAB_SETTINGS = {
    # A new lab shall not wait the usual 15 s for the silence of electors without memory.
    "lease": {"max_lease_ms": 3000},
}


def deploy_folder(lab_folder: Path) -> Path:
    """Where the lab's own copy of `deploy/` is, for the user to edit and apply again."""
    return lab_folder / "deploy"


def write_deploy_folder(
    lab_folder: Path, options: LabOptions, settings: dict[str, Any] | None = None, *, checkout: Path = REPOSITORY
) -> Path:
    """Copy a checkout's manifests, make their key, change `config.yaml` by `settings`; for `kubectl apply -k`.

    A key that is there already stays. Raises OperatorError where this is no checkout.
    """
    source, folder = checkout / "deploy", deploy_folder(lab_folder)
    if not (source / "kustomization.yaml").exists():
        raise OperatorError(f"there is no {source / 'kustomization.yaml'}: the service is installed from a checkout")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("keyring"))
    keyring = folder / "keyring"
    if not keyring.exists():
        keyring.touch(mode=0o600)
        keyring.write_text(f"{secrets.token_hex(32)}\n", encoding="ascii")
    path = folder / "config.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for changes in (LAB_SETTINGS, _settings_for(options), settings or {}):
        document = _merged(document, changes)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder


def _settings_for(options: LabOptions) -> dict[str, Any]:
    """Its name; and where some nodes are behind the router, each finds out for itself how it reaches which."""
    return {"cluster": options.name} | ({"datapath": {"transport": "auto"}} if options.far_nodes else {})


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, section by section; None takes a key away."""
    merged = dict(old)
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def install(cluster: Cluster, settings: dict[str, Any] | None = None, *, wait: bool = True) -> None:
    """`kubectl apply -k`; with `wait`, return when agents and controllers have rolled out and are ready."""
    folder = write_deploy_folder(cluster.folder, cluster.state.options, settings)
    cluster.kubectl("apply", "-k", str(folder))
    if wait:
        wait_installed(cluster)


def wait_installed(cluster: Cluster) -> None:
    """Until agents and controllers have rolled out, and every controller has heard that every node is ready.

    What a node says of itself takes a moment to get around, and an address stays where it is placed first.
    """
    for workload in (AGENT, CONTROLLER):
        cluster.wait_rollout(workload, namespace=SERVICE_NAMESPACE)
    cluster.wait("every controller to know that every node is ready", lambda: _know_every_node(cluster))


def _know_every_node(cluster: Cluster) -> bool:
    # Agents are on the host's network, so these are the controllers.
    controllers = cluster.pods("-n", SERVICE_NAMESPACE)
    known = [fetch_json(pod.netns, str(pod.ip), "/v1/status")["nodes"] for pod in controllers]
    return bool(known) and all(nodes.get(node.name, {}).get("ready") for nodes in known for node in cluster.plan.nodes)


def last_words(cluster: Cluster, lines: int = 8) -> list[str]:
    """The end of what every container of the service printed, and why those that do not run do not."""
    told = []
    pods = cluster.kubectl.get("-n", SERVICE_NAMESPACE, "pods")["items"]
    for pod in pods:
        name = pod["metadata"]["name"]
        for container in pod["spec"]["containers"]:
            words = ("-n", SERVICE_NAMESPACE, "logs", name, "-c", container["name"], f"--tail={lines}")
            printed = cluster.kubectl.run(*words, check=False)
            told.append(f"{name} {container['name']}:\n{printed.stdout or printed.stderr}")
    return told
