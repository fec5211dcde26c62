import json
from dataclasses import replace

import pytest

from loadtest.goal import Verdict
from loadtest.measurement import METRICS, Round, measure_request_response
from loadtest.rows.cost import (
    BRIDGE,
    RATIOS,
    RULES,
    VETH,
    difference,
    interleave,
    measure_cost,
    measure_vxlan,
    summary,
)
from loadtest.rows.options import DatapathOptions
from loadtest.variant import DIRECT_PATH, GATEWAY, NFT_MAPS, NFT_TUNNEL, PLAIN, POLICY_PATH, Site
from service.lab.namespace import namespaces_of


def rounds_of(ours: float, theirs: float) -> list[Round]:
    keys = [metric.key for metric in METRICS]
    values = {PLAIN: theirs, NFT_MAPS: theirs, NFT_TUNNEL: theirs, GATEWAY: ours}
    return [{variant: dict.fromkeys(keys, value) for variant, value in values.items()}]


@pytest.mark.parametrize("path", [POLICY_PATH, DIRECT_PATH])
def test_each_path_has_its_own_goals(path: str) -> None:
    rounds = {group: rounds_of(0.92, 1.0) for group in (VETH, BRIDGE, RULES)}
    verdicts = {
        (line.group, line.metric, line.peer): line.figure(rounds, path).verdict
        for line in RATIOS
        if line.metric == "udp_cpu_ns"
    }
    is_policy = path == POLICY_PATH
    assert verdicts == {
        (VETH, "udp_cpu_ns", NFT_MAPS): Verdict.MET if is_policy else Verdict.MISSED,
        (VETH, "udp_cpu_ns", PLAIN): Verdict.NO_GOAL if is_policy else Verdict.MISSED,
        (VETH, "udp_cpu_ns", NFT_TUNNEL): Verdict.NO_GOAL,
        (BRIDGE, "udp_cpu_ns", NFT_MAPS): Verdict.MET if is_policy else Verdict.NO_GOAL,
        (BRIDGE, "udp_cpu_ns", PLAIN): Verdict.NO_GOAL if is_policy else Verdict.MISSED,
        (RULES, "udp_cpu_ns", NFT_MAPS): Verdict.MISSED if is_policy else Verdict.NO_GOAL,
    }


def test_more_connections_are_better_and_more_time_is_not() -> None:
    by_metric = {line.metric: line.goals for line in RATIOS if line.peer == NFT_MAPS and line.group == VETH}
    for metric in METRICS:
        for goal in by_metric.get(metric.key, {}).values():
            assert goal.relation == (">=" if metric.higher_is_better else "<="), metric.key


def test_a_summary_has_the_medians_of_what_was_measured() -> None:
    rounds = [*rounds_of(1.0, 5.0), *rounds_of(3.0, 7.0)]
    for one in rounds:
        del one[PLAIN]["bulk_gbit"]
    rows = {row["metric"]: row for row in summary(rounds)}
    assert rows["udp_cpu_ns"]["median"] == {PLAIN: 6, NFT_MAPS: 6, NFT_TUNNEL: 6, GATEWAY: 2}
    assert set(rows["bulk_gbit"]["median"]) == {NFT_MAPS, NFT_TUNNEL, GATEWAY}
    assert summary([]) == []


def test_each_round_begins_with_another_variant(site: Site, options: DatapathOptions) -> None:
    other, told = replace(site, variant=PLAIN), list[str]()
    for number in range(2):
        found = interleave(options, number, [other, site], [measure_request_response], told.append)
        assert set(found) == {PLAIN, GATEWAY}
        assert found[GATEWAY]["rr_p99_us"] >= found[GATEWAY]["rr_p50_us"] > 0
    assert [line.rpartition(", ")[2] for line in told] == [PLAIN, GATEWAY, GATEWAY, PLAIN]


def test_what_was_counted_meanwhile_is_told_and_what_stood_still_is_not() -> None:
    before = {"worker1": {"packets": {"steered": 5, "forwarded": 1}, "drops": {}}}
    after = {"worker1": {"packets": {"steered": 9, "forwarded": 1}, "drops": {"no_flow": 2}}}
    assert difference(after, before) == {"worker1": {"packets": {"steered": 4}, "drops": {"no_flow": 2}}}


def test_a_tunnel_that_there_is_not_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the releases before it, which are measured too."""
    monkeypatch.setattr("loadtest.rows.cost.vxlan_settings", lambda: None)
    (figure,) = measure_vxlan(DatapathOptions(), lambda line: None).figures
    assert figure.verdict is Verdict.NOT_MEASURED


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_all_variants_are_measured_in_one_run(options: DatapathOptions) -> None:
    row = measure_cost(options, lambda line: None)
    assert [figure.value is not None and figure.value > 0 for figure in row.figures] == [True] * len(RATIOS)
    part = row.detail[POLICY_PATH]
    medians = {group: {one["metric"]: one["median"] for one in rows} for group, rows in part["groups"].items()}
    assert set(medians[VETH]) == {metric.key for metric in METRICS}
    assert all(set(median) == {PLAIN, NFT_MAPS, NFT_TUNNEL, GATEWAY} for median in medians[VETH].values())
    assert set(medians[BRIDGE]["udp_cpu_ns"]) == {PLAIN, NFT_MAPS, GATEWAY}
    assert set(medians[RULES]["udp_cpu_ns"]) == {NFT_MAPS, GATEWAY}
    # The gateway's packets really took its datapath: marked and steered on one node, forwarded by the other.
    counted: dict[str, int] = {}
    for counts in part["counters"].values():
        counted |= counts["packets"]
    assert counted["forwarded"] >= counted["steered"] > 1000
    assert counted["reversed"] > 0
    json.dumps(row.document())
    assert [namespaces_of(options.name + suffix) for suffix in "pntg"] == [[], [], [], []]
