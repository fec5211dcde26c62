"""One real cluster for all tests of this folder, with the client pods of the user's example. Who breaks it mends it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import create_clients
from service.lab.cluster.cluster import Cluster
from service.lab.lab import lab_down
from service.lab.plan import PLAIN_BRIDGE, PROXY_MODES, LabOptions
from tests.cluster.service_site import NODES, ServiceSite
from tests.cluster.site import ClusterSite


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the bare cluster come first: the service stays once it is installed. Then what it shows, then faults."""
    here = Path(__file__).parent
    ours = [item for item in items if item.path.parent == here]
    ours.sort(key=lambda item: ("service" in _fixtures(item), "documentation" not in item.path.name))
    following = iter(ours)
    items[:] = [next(following) if item.path.parent == here else item for item in items]


def _fixtures(item: pytest.Item) -> list[str]:
    names: list[str] = getattr(item, "fixturenames", [])
    return names


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """API server and three nodes that are Ready. Nothing of the service is installed; its image is on every node.

    EGRESSGW_CLUSTER names one that is up already (`egressgw lab --name NAME up --kubernetes`), which then stays. Else
    EGRESSGW_CNI and EGRESSGW_PROXY_MODE say what `--cni` and `--proxy-mode` do.
    """
    if kept := os.environ.get("EGRESSGW_CLUSTER"):
        yield Cluster.find(kept)
        return
    name = f"egwk{os.getpid() % 1000000}"
    try:
        yield cluster_up(
            LabOptions(
                name=name,
                cni=os.environ.get("EGRESSGW_CNI", PLAIN_BRIDGE),
                proxy_mode=os.environ.get("EGRESSGW_PROXY_MODE", PROXY_MODES[0]),
            )
        )
    finally:
        lab_down(name)


@pytest.fixture(scope="package")
def clients(cluster: Cluster) -> ClusterSite:
    """The cluster with a pod of alice, carol and paul on every node."""
    create_clients(cluster)
    return ClusterSite(cluster)


@pytest.fixture(scope="package")
def service(clients: ClusterSite) -> ServiceSite:
    """The same with the service installed and the user's two objects in force."""
    site = ServiceSite(clients.cluster)
    site.pictures_before = {node: site.picture(node) for node in NODES}
    site.install()
    return site
