"""The lags of a node's processes as Prometheus reads them."""

from prometheus_client import CollectorRegistry, generate_latest

from service.host.loop_lag import BOUNDS_S, Lags
from service.web.loop_metric import LoopLagCollector

NAME = "egressgw_loop_timer_lag_seconds"


def test_every_process_has_a_histogram_that_adds_up() -> None:
    registry = CollectorRegistry()
    counts = [0] * (len(BOUNDS_S) + 1)
    counts[0], counts[4], counts[-1] = 5, 2, 1
    registry.register(LoopLagCollector(lambda: {"agent": Lags(tuple(counts), 9.5), "keeper": Lags(tuple(counts), 0.5)}))
    values = {
        (sample.name.removeprefix(NAME), *sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    agent = ("process", "agent")
    assert values["_bucket", ("le", "0.001"), agent] == values["_bucket", ("le", "0.01"), agent] == 5
    assert values["_bucket", ("le", "0.02"), agent] == values["_bucket", ("le", "5.0"), agent] == 7
    assert values["_bucket", ("le", "+Inf"), agent] == values["_count", agent] == 8
    assert values["_sum", agent] == 9.5
    assert values["_sum", ("process", "keeper")] == 0.5
    assert b"# TYPE egressgw_loop_timer_lag_seconds histogram" in generate_latest(registry)
