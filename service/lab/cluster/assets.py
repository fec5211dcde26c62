"""Where the programs of Kubernetes are, and how they get there."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from service.lab.cache import cache_folder

VERSION = "1.34.4"
BUILDER = Path(__file__).with_name("build_assets.sh")
CNI_BUILDER = BUILDER.with_name("build_cni.sh")
_CNI_FOLDERS = {"flanneld": "flannel-0.28.10", "flannel": "flannel-0.28.10", "kube-router": "kube-router-2.1.0"}
API_PROGRAMS = ("kube-apiserver", "kubectl")
"""Enough for tests of the API server alone."""
CLUSTER_PROGRAMS = (*API_PROGRAMS, "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "pause")


def program(name: str) -> Path:
    """The program of that name: from KUBEBUILDER_ASSETS where it is there, else as its builder makes it."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and os.access(Path(given) / name, os.X_OK):
        return Path(given) / name
    return cache_folder() / _CNI_FOLDERS.get(name, f"kube-{VERSION}") / name


def etcd() -> Path | None:
    """From KUBEBUILDER_ASSETS, else from PATH; None where it is in neither."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and os.access(Path(given) / "etcd", os.X_OK):
        return Path(given) / "etcd"
    found = shutil.which("etcd")
    return Path(found) if found else None


def missing_programs(names: Iterable[str]) -> str:
    """Which of them are not there, and what to do; empty where all are, etcd included."""
    absent = [name for name in names if not os.access(program(name), os.X_OK)]
    if absent:
        builder = CNI_BUILDER if absent[0] in _CNI_FOLDERS else BUILDER
        return f"no {', '.join(absent)} in {program(absent[0]).parent}: set KUBEBUILDER_ASSETS, or run {builder.name}"
    return "" if etcd() else "etcd is not installed (Debian's etcd-server)"
