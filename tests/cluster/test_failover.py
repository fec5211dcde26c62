"""A node of a real cluster dies whole: kubelet, containerd, every container, its links."""

from pathlib import Path

import pytest

from service.lab.cluster.clients import client_name
from service.lab.fault import Fault
from tests.cluster.service_site import GATEWAY, NODES, ServiceSite
from tests.e2e.site import FLOATING_IPS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
FIRST = FLOATING_IPS[0]


def test_a_node_that_dies_whole_fails_over_and_every_object_tells_the_same_story(
    service: ServiceSite, tmp_path: Path
) -> None:
    service.wait_whole()
    holder = service.shown_holder(FIRST)
    assert holder is not None
    witness = next(node for node in NODES if node != holder)
    with service.captured(tmp_path / "capture") as leaks, service.stream(client_name("alice", witness)) as stream:
        service.fault(holder, Fault.CUT, Fault.KILL)
        try:
            service.wait("another holder", lambda: service.moved_from(holder))
            service.wait_seen(client_name("paul", witness), FIRST)
            check_objects(service, holder)
            report = stream.report()
        finally:
            service.fault(holder, Fault.HEAL, Fault.RESTART)
    print(f"gap {report['gap_max_ms']} ms, {report['lost']} of {report['sent']} lost")
    assert set(report["sources"]) == {FIRST}
    assert leaks() == []
    service.cluster.wait_nodes()
    service.wait_rolled_out()
    service.wait_whole()
    # Ownership is never given back just because a node returned.
    assert service.moved_from(holder)
    service.wait_seen(client_name("alice", holder), FIRST)


def check_objects(service: ServiceSite, dead: str) -> None:
    """Node, DaemonSet, gateway, gateway node and Events."""
    service.wait("Kubernetes to see it", lambda: not service.is_node_ready(dead))
    service.wait("its agent to be missed", lambda: service.agents_available() == len(NODES) - 1)
    service.wait("the gateway's status", lambda: service.gateway_status()["nodes"][dead] == "Down")
    status = service.node_status(dead)
    assert (status["state"], status["floatingIPs"]) == ("Down", [])
    described = service.wait(
        "the Event", lambda: service.said(f"{FIRST} moved from {dead}", "-n", "kube-system", "describe", GATEWAY)
    )
    assert "FloatingIPMoved" in described
