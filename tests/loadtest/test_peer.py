"""The sites the gateway is compared with really do what is said of them."""

import os
from collections.abc import Iterator

import pytest

from loadtest import peer
from loadtest.measurement import (
    METRICS,
    Values,
    measure_bulk,
    measure_connections,
    measure_request_response,
    measure_udp,
)
from loadtest.variant import (
    NFT_MAPS,
    NFT_TUNNEL,
    PLAIN,
    Build,
    Pair,
    Site,
    nft_maps_site,
    nft_tunnel_site,
    plain_site,
)
from service.lab.namespace import namespaces_of, run

pytestmark = pytest.mark.root

BUILD: dict[str, Build] = {PLAIN: plain_site, NFT_MAPS: nft_maps_site, NFT_TUNNEL: nft_tunnel_site}


@pytest.fixture(scope="module", params=BUILD)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    name = f"e{os.getpid() % 100000}p{list(BUILD).index(request.param)}"
    with BUILD[request.param](name, lambda line: None) as pair:
        yield pair
    assert namespaces_of(name) == []


@pytest.fixture(params=["veth", "bridge"])
def site(pair: Pair, request: pytest.FixtureRequest) -> Site:
    return pair.on_veth if request.param == "veth" else pair.on_bridge


def _forwarded(site: Site, node: str) -> int:
    """Packets the node has forwarded."""
    text = run(site.lab.enter(node, "cat", "/proc/net/snmp"))
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


def _measure_all(site: Site) -> Values:
    cores = sorted(os.sched_getaffinity(0))
    values: Values = {}
    for measure in (measure_udp, measure_request_response, measure_connections, measure_bulk):
        values |= measure(site, 0.05, cores)
    return values


def test_packets_pass_both_nodes_and_arrive_with_the_right_source(site: Site) -> None:
    before = {node: _forwarded(site, node) for node in ("worker1", "worker2")}
    assert measure_udp(site, 0.05, sorted(os.sched_getaffinity(0)))["udp_pps"] > 0
    for node, count in before.items():
        assert _forwarded(site, node) - count >= 1000, node


def test_every_measurement_works(site: Site) -> None:
    values = _measure_all(site)
    assert set(values) == {metric.key for metric in METRICS}
    lost = values.pop("udp_lost")
    assert 0 <= lost < 100
    assert min(values.values()) > 0


def test_plain_routing_has_no_netfilter_and_only_the_tunnel_has_a_tunnel(pair: Pair) -> None:
    site = pair.on_veth
    for node in site.lab.plan.nodes:
        assert (run(site.lab.enter(node.name, "nft", "list", "ruleset")) == "") == (site.variant == PLAIN)
    carried = _carried_by_tunnel(site)
    measure_udp(site, 0.05, sorted(os.sched_getaffinity(0)))
    assert (_carried_by_tunnel(site) - carried >= 1000) == (site.variant == NFT_TUNNEL)


def _carried_by_tunnel(site: Site) -> int:
    """Packets that have left the pod's node by the tunnel."""
    text = run(site.lab.enter("worker2", "cat", "/proc/net/dev"))
    lines = (line.replace(":", " ").split() for line in text.splitlines())
    return next((int(words[10]) for words in lines if words[:1] == [peer.TUNNEL]), 0)


def test_the_rules_of_a_real_node_see_the_packets_and_go_again(pair: Pair) -> None:
    site = pair.on_veth
    before = run(site.lab.enter("worker2", "nft", "list", "ruleset"))
    with peer.node_rules(site.lab):
        measure_udp(site, 0.05, sorted(os.sched_getaffinity(0)))
        table = run(site.lab.enter("worker2", "nft", "list", "table", "ip", "kube_proxy"))
        (passed,) = [line for line in table.splitlines() if "established,related" in line]
        assert int(passed.split()[passed.split().index("packets") + 1]) >= 1000
    assert run(site.lab.enter("worker2", "nft", "list", "ruleset")) == before
