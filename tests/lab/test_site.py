import json

import pytest

from service.lab.client import ask_tcp, ask_udp
from service.lab.lab import Lab
from service.lab.namespace import inside, run

pytestmark = pytest.mark.root


def test_every_pod_is_seen_outside_as_its_node(site: Lab) -> None:
    assert len(site.plan.pods) == 9
    for pod in site.plan.pods:
        node = site.node(pod.node)
        seen = inside(pod.netns, lambda: [ask_tcp("8.8.8.8").source, ask_udp("9.9.9.9").source])
        assert seen == [str(node.ip)] * 2, pod.full_name


def test_the_second_uplink_leads_outside_too(site: Lab) -> None:
    pod = site.pod("alice/frontend-worker2")
    assert inside(pod.netns, lambda: ask_udp("8.8.4.4").source) == str(site.node("worker2").address(1))


def test_pods_reach_each_other_with_their_own_addresses(site: Lab) -> None:
    bridged, bare = site.pod("alice/frontend-worker1"), site.pod("paul/frontend-worker2")
    for source, target in ((bridged, bare), (bare, bridged)):
        printed = run(site.enter(source.full_name, "ping", "-c", "1", "-W", "2", str(target.ip)))
        assert f"from {target.ip}" in printed


def test_a_bare_pod_packet_gets_outside_but_no_answer_comes_back(site: Lab) -> None:
    """The site must show a leak rather than swallow it."""
    node, pod = site.node("worker1"), site.pod("alice/frontend-worker1")
    run(site.enter(node.name, "nft", "add chain ip cni off { type nat hook postrouting priority 90 ; }"))
    try:
        run(site.enter(node.name, "nft", f"add rule ip cni off ip saddr {pod.ip} snat to {pod.ip}"))
        with pytest.raises(TimeoutError):
            inside(pod.netns, lambda: ask_udp("8.8.8.8", timeout_s=0.3))
    finally:
        run(site.enter(node.name, "nft", "delete chain ip cni off"))
    assert f'"source": "{pod.ip}"' in site.outside_log.read_text()


def test_the_router_knows_no_way_to_pods(site: Lab) -> None:
    assert "10.244." not in run(site.enter("router", "ip", "route", "show"))


def test_all_ports_forward_and_nothing_is_in_the_hosts_namespace(site: Lab) -> None:
    links = json.loads(run(["bridge", "-n", site.plan.fabric, "-json", "link", "show"]))
    assert {link["ifname"] for link in links} >= {node.port(0) for node in site.plan.nodes}
    assert {link["state"] for link in links} == {"forwarding"}
    assert "segment0" not in run(["ip", "-brief", "link"])


def test_strict_reverse_path_filter_holds_on_nodes(site: Lab) -> None:
    for node in site.plan.nodes:
        printed = run(site.enter(node.name, "sysctl", "-n", "net.ipv4.conf.all.rp_filter", "net.ipv4.ip_forward"))
        assert printed.split() == ["1", "1"]
