"""Prometheus metrics of an agent, read from the kernel's maps when they are asked for."""

from collections.abc import Iterator
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class Counted(Protocol):
    """Where the numbers of the datapath are read."""

    def drops(self) -> dict[tuple[str, str], int]: ...

    def counters(self) -> dict[str, int]: ...

    @property
    def pool(self) -> Any: ...


class Holding(Protocol):
    """Which floating IPs are held here."""

    @property
    def held(self) -> Any: ...


class DatapathCollector(Collector):
    """Drops per reason and floating IP, packets per counter, work of the pool, leases held."""

    def __init__(self, datapath: Counted, agent: Holding) -> None:
        self._datapath = datapath
        self._agent = agent

    def describe(self) -> Iterator[Any]:
        """Nothing in advance: the maps may not be open yet when the collector is registered."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        drops = CounterMetricFamily(
            "egressgw_dropped_packets", "Packets dropped by the datapath", labels=["reason", "floating_ip"]
        )
        for (reason, floating_ip), packets in sorted(self._datapath.drops().items()):
            drops.add_metric([reason, floating_ip], packets)
        yield drops
        packets_seen = CounterMetricFamily("egressgw_packets", "Packets by what the datapath did", labels=["action"])
        for name, value in self._datapath.counters().items():
            packets_seen.add_metric([name], value)
        yield packets_seen
        pool = self._datapath.pool
        writes = CounterMetricFamily("egressgw_map_operations", "Work of the map worker pool", labels=["kind"])
        for kind in ("written", "deleted", "coalesced", "retries", "full"):
            writes.add_metric([kind], getattr(pool.counters, kind))
        yield writes
        yield GaugeMetricFamily("egressgw_map_pending", "Map entries wished for and not yet written", pool.pending())
        yield GaugeMetricFamily("egressgw_leases_held", "Floating IPs held by this node", len(self._agent.held))
