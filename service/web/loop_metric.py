"""How late the event loops of a node's processes are, as one histogram."""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.host.loop_lag import BOUNDS_S, Lags


class LoopLagCollector(Collector):
    """By process: a keeper's are told by its agent, for it serves no HTTP itself."""

    def __init__(self, lags: Callable[[], Mapping[str, Lags]]) -> None:
        self._lags = lags

    def collect(self) -> Iterator[Metric]:
        """One family."""
        text = "How late the event loop came to a timer, looked at ten times a second"
        family = HistogramMetricFamily("egressgw_loop_timer_lag_seconds", text, labels=["process"])
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        for process, lags in self._lags().items():
            family.add_metric([process], list(zip(bounds, accumulate(lags.counts), strict=True)), lags.sum_s)
        yield family
