"""What the leak check is told of a lab agrees with the lab's plan."""

from ipaddress import IPv4Address

from service.lab.capture_site import capture_site
from service.lab.plan import LabOptions, make_plan

PLAN = make_plan(LabOptions(nodes=2))
SITE = capture_site(PLAN, ["192.168.1.100"])


def test_ports_of_the_first_segment_are_their_nodes_and_the_routers_is_nobodys() -> None:
    assert SITE.node_of_port == {"control1-0": "control1", "worker1-0": "worker1"}


def test_every_port_of_the_second_segment_is_a_place_to_leak_through() -> None:
    assert SITE.second_uplink_ports == {"router-1", "control1-1", "worker1-1"}


def test_a_node_is_known_by_its_addresses_on_both_segments() -> None:
    assert SITE.macs_of_node["worker1"] == (b"\x02eg\0\0\x15", b"\x02eg\0\1\x15")


def test_a_far_node_is_known_by_its_only_segment() -> None:
    site = capture_site(make_plan(LabOptions(nodes=2, far_nodes=1)), ["192.168.1.100"])
    assert site.node_of_port == {"control1-0": "control1", "worker1-2": "worker1"}
    assert site.second_uplink_ports == {"router-1", "control1-1"}
    assert site.macs_of_node["worker1"] == (b"\x02eg\0\2\x15",)


def test_pods_services_and_nodes_are_in_the_cluster_and_the_outside_is_not() -> None:
    def is_in_cluster(address: IPv4Address) -> bool:
        return any(address in network for network in SITE.in_cluster)

    inside = [*(pod.ip for pod in PLAN.pods), *(node.address(segment) for node in PLAN.nodes for segment in (0, 1))]
    assert len(inside) == 10
    assert all(map(is_in_cluster, [*inside, IPv4Address("10.96.0.1")]))
    assert is_in_cluster(IPv4Address("192.168.1.100")), "a pod reaches a floating IP as without a policy"
    assert not is_in_cluster(IPv4Address("8.8.8.8"))
    assert not is_in_cluster(IPv4Address("192.168.1.50")), "a host of the segment that is no member (W12)"
    assert all(any(pod.ip in network for network in SITE.pod_cidrs) for pod in PLAN.pods)


def test_the_floating_ips_are_those_of_the_gateway() -> None:
    assert SITE.floating_ips == {IPv4Address("192.168.1.100")}
