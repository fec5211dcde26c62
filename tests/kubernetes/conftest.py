"""One API server for all tests of a session; each takes names of its own."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kubernetes.control_plane import CRDS, ControlPlane, Kubectl, running

NAMESPACE = "egressgw-system"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(tmp_path_factory.mktemp("kubernetes")) as plane:
        plane.kubectl("apply", "-f", str(CRDS))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield plane


@pytest.fixture
def kubectl(plane: ControlPlane) -> Kubectl:
    return plane.kubectl


@dataclass(frozen=True)
class Installation:
    """What `kubectl apply -k deploy/` has put there, and the credentials that its pods get."""

    agent: Path
    """A kubeconfig."""
    controller: Path


@pytest.fixture(scope="session")
def installation(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("installation")
    shutil.copytree(CRDS.parent, folder / "deploy")
    (folder / "deploy" / "keyring").write_text("ab" * 32, encoding="ascii")
    plane.kubectl("apply", "-k", str(folder / "deploy"))
    for account in ("agent", "controller"):
        token = plane.kubectl("create", "token", f"egressgw-{account}", "-n", NAMESPACE, "--duration=2h")
        plane.write_kubeconfig(folder / account, token.strip())
    return Installation(folder / "agent", folder / "controller")
