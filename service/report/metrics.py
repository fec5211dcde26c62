"""What of the reports goes wrong, as metrics that are read when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.report.writer import StatusWriter


class ReportCollector(Collector):
    """Of one controller."""

    def __init__(self, writer: StatusWriter) -> None:
        self._writer = writer

    def collect(self) -> Iterator[Metric]:
        """Yield everything as it is now."""
        yield GaugeMetricFamily(
            "egressgw_status_unknown",
            "1 while the status of every object is Unknown, since no leader answers for it",
            value=float(self._writer.loss is not None),
        )
        yield CounterMetricFamily(
            "egressgw_events_lost",
            "Events on objects given up because too many waited",
            value=self._writer.events_lost,
        )
