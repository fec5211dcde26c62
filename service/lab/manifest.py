"""The manifests folder of a lab: what its agents and controllers are told, in Kubernetes form."""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import yaml

from service.lab.plan import Plan, PlannedPod
from service.model.errors import OperatorError

SUFFIXES = (".yaml", ".yml", ".json")


def write_manifests(folder: Path, plan: Plan, source: Path | None) -> None:
    """Describe the lab's namespaces and pods, and add the files of `source`.

    Raises OperatorError where `source` is no folder with manifests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({pod.namespace for pod in plan.pods})
    apply_manifest(folder, "namespaces.yaml", [_namespace(name) for name in names])
    for node in plan.nodes:
        apply_manifest(folder, f"pods-{node.name}.yaml", [pod_manifest(pod) for pod in node.pods])
    if source is not None:
        _copy(source, folder)


def apply_manifest(folder: Path, file_name: str, documents: list[dict[str, Any]]) -> None:
    """As `write_manifest`, of several documents in one file."""
    write_manifest(folder, file_name, yaml.safe_dump_all(documents, sort_keys=False))


def write_manifest(folder: Path, file_name: str, text: str) -> None:
    """Write or replace one file in one step: a watcher never sees half of it."""
    hidden = folder / f".{file_name}.new"
    hidden.write_text(text, encoding="utf-8")
    os.replace(hidden, folder / file_name)


def pod_manifest(pod: PlannedPod) -> dict[str, Any]:
    """A running pod as the API server would show it, as far as the gateway looks."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{pod.name}.{pod.namespace}.pod.egressgw.lab")),
            "labels": pod.labels,
        },
        "spec": {"nodeName": pod.node},
        "status": {"phase": "Running", "podIP": str(pod.ip), "podIPs": [{"ip": str(pod.ip)}]},
    }


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"user": name}}}


def _copy(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise OperatorError(f"--source: {source} is not a folder")
    files = sorted(path for path in source.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise OperatorError(f"--source: {source} has no {', '.join(SUFFIXES)} file")
    for path in files:
        shutil.copyfile(path, folder / path.name)
