"""Whether the electorate that this process was offered last is refused, as a metric."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ElectorateCollector(Collector):
    """1 while there is trouble with the electorate; which one is in /v1/status."""

    def __init__(self, trouble: Callable[[], str]) -> None:
        self._trouble = trouble

    def collect(self) -> Iterator[Metric]:
        """One family, one sample."""
        refused = 1.0 if self._trouble() else 0.0
        yield GaugeMetricFamily("egressgw_electorate_trouble", "1 while an electorate is refused, or missing", refused)
