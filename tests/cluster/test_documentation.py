"""What the user's documentation shows, with kubectl against a real cluster, and the traffic that it promises."""

from typing import Any

import pytest
import yaml

from service.lab.cluster.clients import client_name
from service.lab.witness import PROTOCOLS
from tests.cluster.service_site import GATEWAY, NODE, NODES, ServiceSite
from tests.e2e.site import ELSEWHERE, FLOATING_IPS, policy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
FOR_MOVES = "--field-selector=reason=FloatingIPMoved"
WORKERS = ("worker1", "worker2")


def yaml_of(site: ServiceSite, *words: str) -> dict[str, Any]:
    """As a user reads it: `kubectl -n kube-system get ... -oyaml`."""
    found = yaml.safe_load(site.cluster.kubectl("-n", "kube-system", "get", *words, "-oyaml"))
    assert isinstance(found, dict)
    return found


def test_three_floating_ips_are_shown_on_the_two_workers_in_the_order_of_the_spec(service: ServiceSite) -> None:
    status = yaml_of(service, GATEWAY, "default")["status"]
    assert status["nodes"] == dict.fromkeys(NODES, "Up")
    assert set(status["floatingIPs"]) == set(FLOATING_IPS)
    counts = [list(status["floatingIPs"].values()).count(node) for node in WORKERS]
    # On a machine too busy for its leases an address may have moved since; its Event says so.
    events = service.cluster.kubectl("-n", "kube-system", "get", "events.events.k8s.io", "-o", "name", FOR_MOVES)
    assert sorted(counts) == [1, 2] or (sum(counts) == 3 and events)
    assert not [item for item in status["conditions"] if item["status"] == "True" and item["type"] == "NoEligibleNode"]


def test_each_node_has_an_object_that_says_what_it_holds(service: ServiceSite) -> None:
    table = yaml_of(service, GATEWAY, "default")["status"]["floatingIPs"]
    for node in NODES:
        status = yaml_of(service, NODE, node)["status"]
        assert status["state"] == "Up"
        assert status["role"] == ("control-plane" if node == "control1" else "worker")
        held = {item["address"] for item in status["floatingIPs"]}
        assert held == {address for address, holder in table.items() if holder == node}
        assert any(segment["subnet"] == "192.168.1.0/24" for segment in status["segments"])
        assert {"Ready": "True"}.items() <= {item["type"]: item["status"] for item in status["conditions"]}.items()


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("user", ["alice", "paul"])
def test_selected_pods_of_every_node_leave_with_the_floating_ip(service: ServiceSite, user: str, node: str) -> None:
    pod = client_name(user, node)
    assert {proto: service.seen(pod, proto=proto) for proto in PROTOCOLS} == dict.fromkeys(PROTOCOLS, FLOATING_IPS[0])
    assert service.seen(pod, ELSEWHERE) == service.node_ip(node)


@pytest.mark.parametrize("node", NODES)
def test_other_pods_leave_as_before(service: ServiceSite, node: str) -> None:
    assert service.seen(client_name("carol", node)) == service.node_ip(node)


def test_selected_pods_still_reach_services_and_other_pods(service: ServiceSite) -> None:
    pod, other = client_name("alice", "worker1"), service.pod(client_name("paul", "worker2"))
    program = "import socket; socket.create_connection(('10.96.0.1', 443), timeout=5); print('connected')"
    assert service.execute(pod, "python", "-c", program) == "connected\n"
    pinged = service.execute(pod, "python", "-m", "service.lab.client", "ping", str(other.ip))
    assert pinged.startswith("answered")


def test_describe_shows_unknown_egress_ip_and_the_packets_are_dropped(service: ServiceSite) -> None:
    unknown = policy("stranger", "192.168.1.77", user="carol", role="other")
    length = service.log_length()
    service.apply("", unknown)
    try:
        described = service.wait(
            "the Event", lambda: service.said("UnknownEgressIP", "describe", "EgressNATPolicy", "stranger")
        )
        assert "192.168.1.77" in described
        pod = client_name("carol", "worker1")
        service.wait("the pod's packets to be dropped", lambda: service.seen(pod, timeout_s=0.3) == "nothing came")
        assert service.sources_of(length) <= {service.node_ip(node) for node in NODES} | set(FLOATING_IPS)
    finally:
        service.remove(unknown)
    service.wait_seen(client_name("carol", "worker1"), service.node_ip("worker1"))


def test_the_gateway_of_a_cluster_namespace_is_followed_in_kube_system(service: ServiceSite) -> None:
    found = yaml_of(service, GATEWAY, "default")
    assert found["spec"]["floatingIPs"] == list(FLOATING_IPS)
    assert found["metadata"]["annotations"]
