import os

import pytest

from loadtest.datapath import GATEWAY, METRICS, NFT_MAPS, PLAIN, DatapathOptions, measure_datapath, steps
from service.lab.namespace import namespaces_of


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_all_three_sites_are_measured_in_one_run() -> None:
    options = DatapathOptions(rounds=1, duration_s=0.1, name=f"egwt{os.getpid() % 100000}")
    advanced: list[None] = []
    result = measure_datapath(options, advance=lambda: advanced.append(None))
    assert len(advanced) == steps(options) == 12
    assert [row["metric"] for row in result.summary()] == [metric.key for metric in METRICS]
    for row in result.summary():
        assert set(row["median"]) == {PLAIN, NFT_MAPS, GATEWAY}
    # The gateway's packets really took its datapath: marked and steered on one node, translated on the other.
    counters: dict[str, int] = {}
    for packets in result.packets.values():
        counters |= packets
    assert counters["forwarded"] >= counters["steered"] > 1000
    assert counters["reversed"] > 0
    assert [namespaces_of(options.name + suffix) for suffix in "png"] == [[], [], []]
