"""What a leader has given of the ports of each floating IP, as metrics; nothing while it does not lead."""

from collections.abc import Iterator
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Giving(Protocol):
    """Who has which blocks, as a controller knows it."""

    def status(self) -> dict[str, Any]:
        """By floating IP; empty while it does not lead."""


class GivenPortCollector(Collector):
    """Blocks of ports by floating IP and node, over all nodes; what a node does with its own, its agent tells."""

    def __init__(self, blocks: Giving) -> None:
        self._blocks = blocks

    def collect(self) -> Iterator[Metric]:
        """Three families: for each node that has blocks, for each that lacks some of its base, for each floating IP."""
        whose = ["floating_ip", "node"]
        given = GaugeMetricFamily("egressgw_port_blocks_given", "Blocks of 64 ports that a node has", labels=whose)
        lacking = GaugeMetricFamily(
            "egressgw_port_blocks_lacking", "Blocks that a node lacks of its base, where none are left", labels=whose
        )
        unowned = GaugeMetricFamily("egressgw_port_blocks_unowned", "Blocks that no node has", labels=["floating_ip"])
        for floating_ip, row in self._blocks.status().items():
            for family, counts in ((given, row["blocks"]), (lacking, row["lacking"])):
                for node, count in sorted(counts.items()):
                    family.add_metric([floating_ip, node], count)
            unowned.add_metric([floating_ip], row["unowned"])
        yield from (given, lacking, unowned)
