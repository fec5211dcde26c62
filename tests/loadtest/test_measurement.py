from loadtest.measurement import METRICS, Round, ratio, samples

# A disturbed second round doubles what both need, and must not show.
ROUNDS: list[Round] = [
    {"ours": {"udp_cpu_ns": 10.0}, "theirs": {"udp_cpu_ns": 5.0}},
    {"ours": {"udp_cpu_ns": 20.0}, "theirs": {"udp_cpu_ns": 10.0}},
    {"ours": {"udp_cpu_ns": 33.0}, "theirs": {"udp_cpu_ns": 11.0}},
]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    assert ratio(ROUNDS, "udp_cpu_ns", "ours", "theirs") == 2
    assert samples(ROUNDS, "ours", "udp_cpu_ns") == [10, 20, 33]


def test_what_one_side_has_not_has_no_ratio() -> None:
    assert ratio(ROUNDS, "bulk_gbit", "ours", "theirs") is None
    assert ratio(ROUNDS, "udp_cpu_ns", "ours", "nobody") is None
    assert ratio([], "udp_cpu_ns", "ours", "theirs") is None


def test_each_metric_is_there_once() -> None:
    assert len({metric.key for metric in METRICS}) == len(METRICS)
