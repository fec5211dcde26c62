"""Prometheus metrics of agents and controllers, read when they are asked for."""

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


class Stated(Protocol):
    """An outbox or a publisher, by its state."""

    @property
    def state(self) -> Any: ...


class AuditCollector(Collector):
    """Audit records on their way to the disk and to Kafka."""

    def __init__(self, outbox: Stated, publisher: Stated) -> None:
        self._outbox = outbox
        self._publisher = publisher

    def collect(self) -> Iterator[Any]:
        disk, topic = self._outbox.state, self._publisher.state
        healthy = GaugeMetricFamily("egressgw_audit_healthy", "1 while audit records get on", labels=["part"])
        healthy.add_metric(["outbox"], disk.healthy)
        healthy.add_metric(["publisher"], topic.healthy)
        yield healthy
        yield GaugeMetricFamily("egressgw_audit_pending", "Records not yet on disk", disk.pending)
        yield CounterMetricFamily("egressgw_audit_written", "Records made durable in the outbox", disk.written)
        lost = CounterMetricFamily(
            "egressgw_audit_lost", "Records given up; each loss is on record as a gap", labels=["cause"]
        )
        lost.add_metric(["disk_unwritable"], disk.lost)
        lost.add_metric(["outbox_full"], disk.removed)
        yield lost
        damaged = CounterMetricFamily("egressgw_audit_damaged", "Unreadable places in the outbox", labels=["seen_by"])
        damaged.add_metric(["outbox"], disk.damaged)
        damaged.add_metric(["publisher"], topic.damaged)
        yield damaged
        if topic.configured:
            yield CounterMetricFamily("egressgw_audit_published", "Records acknowledged by Kafka", topic.published)
            yield CounterMetricFamily("egressgw_audit_publish_retries", "Rounds begun again", topic.retries)
            yield CounterMetricFamily("egressgw_audit_unpublishable", "Records set aside", topic.unpublishable)
            yield GaugeMetricFamily("egressgw_audit_lag_records", "On disk, not in Kafka", topic.lag_records)
            yield GaugeMetricFamily("egressgw_audit_lag_seconds", "Age of the oldest of them", topic.lag_seconds)


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
