"""The manifests in deploy/ as they are written."""

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def workload(name: str) -> dict[str, Any]:
    """The first object of the file: the DaemonSet or the Deployment."""
    return documents(name)[0]


def containers(name: str) -> dict[str, dict[str, Any]]:
    found = workload(name)["spec"]["template"]["spec"]["containers"]
    return {container["name"]: container for container in found}
