"""One API server for all tests of a session; each takes names of its own."""

from collections.abc import Iterator

import pytest

from tests.kubernetes.control_plane import CRDS, ControlPlane, Kubectl, running


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(tmp_path_factory.mktemp("kubernetes")) as plane:
        plane.kubectl("apply", "-f", str(CRDS))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield plane


@pytest.fixture
def kubectl(plane: ControlPlane) -> Kubectl:
    return plane.kubectl
