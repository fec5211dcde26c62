import pytest

from loadtest import gateway
from loadtest.goal import Row
from loadtest.rows.options import DatapathOptions
from loadtest.rows.ports import PORTS_PER_BLOCK, fill, judge_fill, measure_ports, refused_share
from loadtest.variant import Pair, Site
from service.datapath import layout
from service.lab.namespace import namespaces_of
from service.model.errors import TransientError


def test_what_is_refused_when_nearly_all_ports_are_taken_is_not_early() -> None:
    assert judge_fill(range(95, 120), flows=120, ports=100) == (0, 95)


def test_what_is_refused_before_counts_by_the_ports_that_are_taken_then() -> None:
    # Number 94 comes when 94 ports are taken; 95 when still 94 are, for 94 has got none; 97 when 95 are.
    assert judge_fill([94, 95, 97], flows=120, ports=100) == (2, 94)


def test_where_nothing_is_refused_there_is_no_first_refusal() -> None:
    assert judge_fill([], flows=100, ports=200) == (0, None)


def test_a_node_without_ports_has_refused_everything() -> None:
    assert judge_fill(range(10), flows=10, ports=0)[0] == 10


def test_a_block_is_as_large_as_the_product_has_it() -> None:
    assert PORTS_PER_BLOCK == layout.PORTS_PER_BLOCK


def test_of_two_pods_that_open_connections_none_is_refused_where_nothing_is_in_the_way(site: Site) -> None:
    row = Row("ports")
    assert refused_share(Pair(site, site), 100, 0.2, row) == 0
    assert [answer["at_once"] for answer in row.detail["connections"]] == [50, 50]


@pytest.mark.root
def test_of_flows_with_nothing_in_their_way_none_is_missing(site: Site) -> None:
    assert fill(site, flows=2000, pace=0xFFFF) == []


def test_connections_from_a_wrong_source_fail_the_row(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "SOURCE_IP", "192.168.1.100")
    with pytest.raises(TransientError, match=r"came from 127\.0\.0\.1"):
        refused_share(Pair(site, site), 10, 0.05, Row("ports"))


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_few_connections_and_flows_are_refused_nothing(options: DatapathOptions) -> None:
    row = measure_ports(options, lambda line: None)
    refused, early, first = row.figures
    assert (refused.value, early.value, first.value) == (0, 0, None)
    assert sum(answer["at_once"] for answer in row.detail["connections"]) == options.sizes.connections
    assert row.detail["fill"]["ports"] >= 4096
    assert namespaces_of(options.name + "g") == []
