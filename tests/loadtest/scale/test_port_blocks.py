import json
from pathlib import Path

import pytest

from loadtest.scale.block_network import LINK_NS, MS
from loadtest.scale.curve import QUADRATIC, Curve, Point
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.port_blocks import (
    ONE_BLOCK_MEMBERS,
    BlockCluster,
    Measured,
    address_counts,
    measure_port_blocks,
    measure_size,
)
from loadtest.statistics import median
from service.port_block.block import base_blocks

NODES = 5


def test_sizes_are_a_tenth_three_tenths_and_all() -> None:
    assert address_counts(ScaleSizes(floating_ips=500)) == [50, 150, 500]
    assert address_counts(ScaleSizes(floating_ips=4)) == [1, 4]


def test_there_are_as_many_members_as_make_a_base_of_one_block_and_no_more() -> None:
    assert (base_blocks(ONE_BLOCK_MEMBERS), base_blocks(ONE_BLOCK_MEMBERS - 1)) == (1, 2)


@pytest.fixture
def cluster(tmp_path: Path) -> BlockCluster:
    found = BlockCluster(tmp_path, 3, NODES)
    found.settle()
    return found


def test_each_node_has_one_block_of_each_address_and_no_block_is_of_two(cluster: BlockCluster) -> None:
    cluster.start_leader()
    assert {key: len(blocks) for key, blocks in cluster.usable.items()} == {
        (node, floating_ip): 1 for node in cluster.nodes for floating_ip in cluster.floating_ips
    }
    for floating_ip in cluster.floating_ips:
        assert len({cluster.usable[node, floating_ip] for node in cluster.nodes}) == NODES


def test_a_leader_that_follows_learns_all_of_that_and_changes_nothing(cluster: BlockCluster) -> None:
    before, cluster.moved = dict(cluster.usable), 0
    steps = cluster.start_leader()
    assert (cluster.usable, cluster.moved) == (before, 0)
    assert {"told of members and addresses", "put on record", "a timer"} <= steps.taken.keys()


def test_one_more_block_is_nobody_elses_and_takes_the_links_that_its_words_go(cluster: BlockCluster) -> None:
    cluster.start_leader()
    node, floating_ip = cluster.nodes[1], cluster.floating_ips[0]
    taken_ms = cluster.request(node, floating_ip)
    # Asked, given, pushed, acknowledged.
    assert taken_ms > 4 * LINK_NS / MS
    blocks = [block for one in cluster.nodes for block in cluster.usable[one, floating_ip]]
    assert len(cluster.usable[node, floating_ip]) == 2
    assert len(set(blocks)) == len(blocks) == NODES + 1


def test_the_row_measures_each_size_and_puts_goals_beside_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.scale.port_blocks.REQUESTS", 3)
    lines: list[str] = []
    options = ScaleOptions(repeats=1, sizes=ScaleSizes(floating_ips=10, block_nodes=NODES))
    row = measure_port_blocks(options, lines.append)
    assert lines == [f"{count} addresses, each with a block on 5 nodes" for count in (1, 3, 10)]
    assert [str(figure.goal) for figure in row.figures if figure.goal] == [
        "<= 500",
        "<= 500",
        "<= 20",
        "<= 10",
        "<= 50",
    ]
    assert all(figure.value is not None and figure.value > 0 for figure in row.figures)
    document = json.loads(json.dumps(row.document()))
    assert [curve["points"][-1][0] for curve in document["detail"]["curves"]] == [10, 10, 10, 10]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Measured]:
    """At two sizes far apart."""
    found = {}
    for addresses in (20, 160):
        options = ScaleOptions(repeats=3, sizes=ScaleSizes(floating_ips=addresses, block_nodes=10))
        folder = tmp_path_factory.mktemp(f"addresses{addresses}")
        found[addresses] = measure_size(folder, addresses, options, requests=20)
    return found


def exponent(costs: dict[int, float]) -> float:
    points = tuple(Point(addresses, cost) for addresses, cost in costs.items())
    return Curve("", "floating IPs", "ms", points).exponent


def test_what_a_leader_costs_grows_no_faster_than_the_number_of_addresses(measured: dict[int, Measured]) -> None:
    assert exponent({count: one.first.total_ms for count, one in measured.items()}) < QUADRATIC
    assert exponent({count: median(one.start_ms) for count, one in measured.items()}) < QUADRATIC
    assert exponent({count: median(one.idle) for count, one in measured.items()}) < QUADRATIC


def test_one_more_block_comes_as_fast_with_many_addresses_as_with_few(measured: dict[int, Measured]) -> None:
    assert exponent({count: median(one.requests) for count, one in measured.items()}) < 1
