"""The sites the gateway is compared with really do what is said of them."""

import os
from collections.abc import Iterator

import pytest

from loadtest import datapath
from loadtest.datapath import METRICS, NFT_MAPS, PLAIN, DatapathOptions, Site
from service.lab.namespace import namespaces_of, run

pytestmark = pytest.mark.root

OPTIONS = DatapathOptions(name=f"egwt{os.getpid() % 100000}", duration_s=0.05)


@pytest.fixture(scope="module")
def plain() -> Iterator[Site]:
    with datapath.plain_site(OPTIONS, lambda line: None) as site:
        yield site
    assert namespaces_of(site.lab.plan.options.name) == []


@pytest.fixture(scope="module")
def nft_maps() -> Iterator[Site]:
    with datapath.nft_maps_site(OPTIONS, lambda line: None) as site:
        yield site
    assert namespaces_of(site.lab.plan.options.name) == []


def _forwarded(site: Site, node: str) -> int:
    """Packets the node has forwarded."""
    text = run(site.lab.enter(node, "cat", "/proc/net/snmp"))
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


@pytest.mark.parametrize("variant", [PLAIN, NFT_MAPS])
def test_packets_pass_both_nodes_and_arrive_with_the_right_source(variant: str, plain: Site, nft_maps: Site) -> None:
    site = plain if variant == PLAIN else nft_maps
    before = {node: _forwarded(site, node) for node in ("worker1", "worker2")}
    measured = datapath.measure_udp(site, 0.05, sorted(os.sched_getaffinity(0)))
    assert measured["udp_pps"] > 0
    for node, count in before.items():
        assert _forwarded(site, node) - count >= 1000, node


@pytest.mark.parametrize("variant", [PLAIN, NFT_MAPS])
def test_every_measurement_works(variant: str, plain: Site, nft_maps: Site) -> None:
    site = plain if variant == PLAIN else nft_maps
    cores = sorted(os.sched_getaffinity(0))
    values: dict[str, float] = {}
    for measure in datapath.measures(OPTIONS):
        values |= measure(site, 0.05, cores)
    assert set(values) == {metric.key for metric in METRICS}
    lost = values.pop("udp_lost")
    assert 0 <= lost < 100
    assert min(values.values()) > 0


def test_plain_routing_has_no_netfilter(plain: Site) -> None:
    for node in plain.lab.plan.nodes:
        assert run(plain.lab.enter(node.name, "nft", "list", "ruleset")) == ""
