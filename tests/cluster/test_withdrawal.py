"""The service is taken away again, as its documentation says."""

import pytest

from service.lab.cluster.clients import client_name
from tests.cluster.service_site import NODES, ServiceSite

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_uninstall_leaves_every_node_as_it_was(service: ServiceSite) -> None:
    service.wait_whole()
    installed = {node: service.picture(node) for node in NODES}
    service.uninstall()
    try:
        for node in NODES:
            assert service.picture(node) == service.pictures_before[node]
            assert installed[node] != service.pictures_before[node], "nothing was compared"
            assert service.seen(client_name("alice", node)) == service.node_ip(node)
        left = service.cluster.kubectl("get", "crd,clusterrole,clusterrolebinding,namespace", "-o", "name")
        assert "egressgw" not in left
        assert "networking.gke.io" not in left
    finally:
        service.install()
