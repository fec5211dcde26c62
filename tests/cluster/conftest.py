"""One real cluster for all tests of a session, with the client pods of the user's example. Who breaks it mends it."""

import os
from collections.abc import Iterator

import pytest

from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import create_clients
from service.lab.cluster.cluster import Cluster
from service.lab.lab import lab_down
from service.lab.plan import LabOptions
from tests.cluster.service_site import NODES, ServiceSite
from tests.cluster.site import ClusterSite


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """API server and three nodes that are Ready. Nothing of the service is installed; its image is on every node.

    EGRESSGW_CLUSTER names one that is up already (`egressgw lab --name NAME up --kubernetes`), which then stays.
    """
    if kept := os.environ.get("EGRESSGW_CLUSTER"):
        yield Cluster.find(kept)
        return
    name = f"egwk{os.getpid() % 1000000}"
    try:
        yield cluster_up(LabOptions(name=name))
    finally:
        lab_down(name)


@pytest.fixture(scope="session")
def clients(cluster: Cluster) -> ClusterSite:
    """The cluster with a pod of alice, carol and paul on every node."""
    create_clients(cluster)
    return ClusterSite(cluster)


@pytest.fixture(scope="session")
def service(clients: ClusterSite) -> ServiceSite:
    """The same with the service installed and the user's two objects in force."""
    site = ServiceSite(clients.cluster)
    site.pictures_before = {node: site.picture(node) for node in NODES}
    site.install()
    return site
