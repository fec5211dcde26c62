"""Prometheus metrics of agents and controllers, read when they are asked for.

Collectors keep nothing: each scrape asks the objects that count. Names, labels and meaning are an interface to
operators' rules and boards: they are added to, not changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from ipaddress import IPv4Address
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.model.keeper_message import LeaseReport

if TYPE_CHECKING:
    # A controller has no datapath, and does not load one for a type.
    from service.audit.outbox import OutboxState
    from service.audit.publisher import PublisherState
    from service.datapath.shortage import Shortage
    from service.datapath.traffic import Numbers
    from service.datapath.worker_pool import PoolCounters


class Pool(Protocol):
    """What drives the BPF maps."""

    @property
    def counters(self) -> "PoolCounters":
        """Of its work since the start of the process."""

    def pending(self) -> int:
        """Map entries wished for and not yet written."""

    def fill(self) -> Mapping[str, tuple[int, int]]:
        """Entries of each map, and room for them."""


class Dropping(Protocol):
    """What drops packets, and says why."""

    def drops(self) -> dict[tuple[str, str], int]:
        """Packets dropped, by reason and floating IP."""


class Counted(Dropping, Protocol):
    """Where the numbers of the datapath are read."""

    def counters(self) -> dict[str, int]:
        """Packets, by what was done with them."""

    @property
    def pool(self) -> Pool:
        """What writes its maps."""


class Holding(Protocol):
    """Which floating IPs are held here."""

    @property
    def held(self) -> Sized:
        """All of them."""


class Transporting(Protocol):
    """How members are reached, where that is found out."""

    def status(self) -> Mapping[str, Mapping[str, str]]:
        """By floating IP and member."""


class Durable(Protocol):
    """An outbox, by its state."""

    @property
    def state(self) -> "OutboxState":
        """As it is now."""


class Publishing(Protocol):
    """A publisher, by its state."""

    @property
    def state(self) -> "PublisherState":
        """As it is now."""


class Kept(Protocol):
    """Tasks that are kept running."""

    def errors(self) -> dict[str, int]:
        """How often each has failed since the start."""


class Watching(Protocol):
    """What is heard on the segments."""

    def conflicts(self) -> Sized:
        """Held addresses that somebody else uses."""

    def deaf_uplinks(self) -> Sized:
        """Interfaces by which nobody is reached (S5)."""

    @property
    def defences(self) -> int:
        """Since the start."""


class Ports(Protocol):
    """Blocks of ports of a node."""

    flows: int
    """At the last look."""
    tables: dict[str, tuple[int, int]]
    """Rows of flows then, and room for them, by table."""
    busiest_pod: tuple[IPv4Address, int] | None
    """Which has most of them, and how many."""

    def status(self) -> dict[str, Any]:
        """By floating IP."""


class Passed(Protocol):
    """Of one policy and floating IP."""

    @property
    def total(self) -> "Numbers":
        """Since its maps were made, or the policy."""

    @property
    def flows(self) -> int:
        """Now."""


class Counting(Protocol):
    """What flows of this node add up to."""

    @property
    def traffic(self) -> Mapping[tuple[str, bytes], Passed]:
        """By name of policy and packed floating IP."""

    def policy_of(self, floating_ip: IPv4Address) -> str:
        """Empty where none has it."""


class Refusing(Protocol):
    """A socket, by what it has refused."""

    channel: str
    by_reason: dict[str, int]


class RefusalCollector(Collector):
    """Datagrams that a socket of this process has refused."""

    def __init__(self, sockets: Iterable[Refusing]) -> None:
        """Several sockets of one channel count together."""
        self._sockets = tuple(sockets)

    def collect(self) -> Iterator[Metric]:
        """One family, a sample for each reason of each channel."""
        totals: Counter[tuple[str, str]] = Counter()
        for refusals in self._sockets:
            for reason, count in refusals.by_reason.items():
                totals[refusals.channel, reason] += count
        refused = CounterMetricFamily(
            "egressgw_datagrams_refused", "Datagrams refused by a socket", labels=["channel", "reason"]
        )
        for (channel, reason), count in sorted(totals.items()):
            refused.add_metric([channel, reason], count)
        yield refused


class TaskCollector(Collector):
    """Unexpected errors that a task of this process has outlived: each is a fault to be reported."""

    def __init__(self, tasks: Kept) -> None:
        self._tasks = tasks

    def collect(self) -> Iterator[Metric]:
        """One family, a sample for each task."""
        errors = CounterMetricFamily("egressgw_task_errors", "Unexpected errors of a task", labels=["task"])
        for name, count in self._tasks.errors().items():
            errors.add_metric([name], count)
        yield errors


class KeeperCollector(Collector):
    """What this node's lease keeper counts: it serves no HTTP itself. Nothing while it does not report."""

    def __init__(self, report: Callable[[], LeaseReport | None]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Two families, a sample for each task and for each reason."""
        report = self._report()
        errors = CounterMetricFamily(
            "egressgw_keeper_task_errors", "Unexpected errors of a task of the keeper", labels=["task"]
        )
        refused = CounterMetricFamily(
            "egressgw_keeper_datagrams_refused", "Datagrams refused by the keeper's socket", labels=["reason"]
        )
        for family, counts in ((errors, report.errors), (refused, report.refused)) if report else ():
            for label, count in sorted(counts.items()):
                family.add_metric([label], count)
        yield errors
        yield refused


class SegmentCollector(Collector):
    """What others do on the segments of a node."""

    def __init__(self, watched: Watching) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """Conflicts of now, and how often an address was defended."""
        conflicts = len(self._watched.conflicts())
        text = "Floating IPs held here that somebody else uses too"
        yield GaugeMetricFamily("egressgw_floating_ip_conflicts", text, value=conflicts)
        deaf = GaugeMetricFamily("egressgw_deaf_uplinks", "Uplinks by which nobody is reached, though others are")
        deaf.add_metric([], len(self._watched.deaf_uplinks()))
        yield deaf
        text = "Announcements of a held floating IP against somebody else's"
        yield CounterMetricFamily("egressgw_floating_ip_defences", text, value=self._watched.defences)


class TransportCollector(Collector):
    """Over which transport the holders of what this node's pods use are reached, where it finds out by itself (X1)."""

    def __init__(self, watched: Transporting) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """Pairs of a member and a floating IP, by transport."""
        family = GaugeMetricFamily(
            "egressgw_transport_pairs", "Members that hold an address, or come next, by transport", labels=["transport"]
        )
        found = [transport for members in self._watched.status().values() for transport in members.values()]
        for transport in ("l2", "vxlan"):
            family.add_metric([transport], found.count(transport))
        yield family


class PortCollector(Collector):
    """What this node has and uses of the ports of each floating IP, and how many flows it has."""

    def __init__(self, ports: "Ports") -> None:
        self._ports = ports

    def collect(self) -> Iterator[Metric]:
        """Five families with a sample for each floating IP, two of all flows, and two with one for each table.

        No label names the busiest remote or pod: it may be another one at each scrape. Status says which it is.
        """
        usable = GaugeMetricFamily(
            "egressgw_port_blocks_usable", "Blocks of 64 ports for new flows of this node", labels=["floating_ip"]
        )
        known = GaugeMetricFamily(
            "egressgw_port_blocks_known", "Blocks whose node this gateway knows", labels=["floating_ip"]
        )
        taken = GaugeMetricFamily(
            "egressgw_ports_taken", "Ports in use towards the busiest remote", labels=["floating_ip"]
        )
        ports = GaugeMetricFamily(
            "egressgw_ports_in_use", "Ports and ICMP ids that have a flow of this node", labels=["floating_ip"]
        )
        blocks = GaugeMetricFamily("egressgw_port_blocks_in_use", "Blocks with such a port", labels=["floating_ip"])
        for floating_ip, row in self._ports.status().items():
            usable.add_metric([floating_ip], row["usableBlocks"])
            known.add_metric([floating_ip], row["knownBlocks"])
            taken.add_metric([floating_ip], row["busiest"]["portsTaken"])
            ports.add_metric([floating_ip], row["portsInUse"])
            blocks.add_metric([floating_ip], row["blocksInUse"])
        yield from (usable, known, taken, ports, blocks)
        yield GaugeMetricFamily("egressgw_flows", "Flows of this node's pods", value=self._ports.flows)
        _, most = self._ports.busiest_pod or (None, 0)
        yield GaugeMetricFamily("egressgw_flows_of_busiest_pod", "Flows of the pod that has most", value=most)
        rows = GaugeMetricFamily("egressgw_flow_table_rows", "Flows in a table", labels=["table"])
        room = GaugeMetricFamily("egressgw_flow_table_room", "Flows that a table takes", labels=["table"])
        for name, (filled, most) in self._ports.tables.items():
            rows.add_metric([name], filled)
            room.add_metric([name], most)
        yield from (rows, room)


class PolicyCollector(Collector):
    """What passed by each policy and floating IP, of this node's pods (rule B6)."""

    def __init__(self, counting: Callable[[], Counting], dropping: Dropping) -> None:
        self._counting, self._dropping = counting, dropping

    def collect(self) -> Iterator[Metric]:
        """Samples for each policy and floating IP that are there; a policy that is unknown has no name."""
        whose = ["policy", "floating_ip"]
        packets = CounterMetricFamily(
            "egressgw_policy_packets", "Packets of pods, out and back", labels=[*whose, "direction"]
        )
        octets = CounterMetricFamily(
            "egressgw_policy_bytes", "Bytes of IP packets of pods, out and back", labels=[*whose, "direction"]
        )
        opened = CounterMetricFamily("egressgw_policy_flows_opened", "Flows that pods have opened", labels=whose)
        flows = GaugeMetricFamily("egressgw_policy_flows", "Flows of pods", labels=whose)
        counting = self._counting()
        for label, account in sorted(counting.traffic.items()):
            names, total = [label[0], str(IPv4Address(label[1]))], account.total
            packets.add_metric([*names, "out"], total.out_packets)
            packets.add_metric([*names, "in"], total.in_packets)
            octets.add_metric([*names, "out"], total.out_bytes)
            octets.add_metric([*names, "in"], total.in_bytes)
            opened.add_metric(names, total.flows)
            flows.add_metric(names, account.flows)
        yield from (packets, octets, opened, flows, self._dropped(counting))

    def _dropped(self, counting: Counting) -> Metric:
        """A floating IP is one policy's: so are its drops."""
        dropped = CounterMetricFamily(
            "egressgw_policy_dropped_packets", "Packets dropped", labels=["policy", "floating_ip", "reason"]
        )
        for (reason, floating_ip), packets in sorted(self._dropping.drops().items()):
            policy = counting.policy_of(IPv4Address(floating_ip)) if floating_ip else ""
            if policy:
                dropped.add_metric([policy, floating_ip, reason], packets)
        return dropped


class ShortageCollector(Collector):
    """What is not in a BPF map for want of room, and how many pods that costs."""

    def __init__(self, shortages: Callable[[], Iterable["Shortage"]]) -> None:
        self._shortages = shortages

    def collect(self) -> Iterator[Metric]:
        """Two families, a sample for each map that lacks rows now."""
        entries = GaugeMetricFamily("egressgw_map_waiting", "Map entries the kernel refuses", labels=["map"])
        pods = GaugeMetricFamily("egressgw_map_unserved_pods", "Pods dropped for want of them", labels=["map"])
        for name, group in groupby(sorted(self._shortages(), key=lambda one: one.map), key=lambda one: one.map):
            found = list(group)
            entries.add_metric([name], sum(shortage.entries for shortage in found))
            pods.add_metric([name], len({pod for shortage in found for pod in shortage.pods}))
        yield from (entries, pods)


class AuditCollector(Collector):
    """Audit records on their way to the disk and to Kafka."""

    def __init__(self, outbox: Durable, publisher: Publishing) -> None:
        self._outbox = outbox
        self._publisher = publisher

    def collect(self) -> Iterator[Metric]:
        """Families of the outbox; those of Kafka only where brokers are configured."""
        disk, topic = self._outbox.state, self._publisher.state
        yield from _outbox_families(disk, topic)
        if topic.configured:
            yield from _publisher_families(topic)


class DatapathCollector(Collector):
    """Drops per reason and floating IP, packets per counter, work of the pool, leases held."""

    def __init__(self, datapath: Counted, agent: Holding) -> None:
        self._datapath = datapath
        self._agent = agent

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: the maps may not be open yet when the collector is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Families of the datapath, then of the pool, then how many leases are held."""
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
        yield from _pool_families(self._datapath.pool)
        yield GaugeMetricFamily("egressgw_leases_held", "Floating IPs held by this node", len(self._agent.held))


def _outbox_families(disk: "OutboxState", topic: "PublisherState") -> Iterator[Metric]:
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


def _publisher_families(topic: "PublisherState") -> Iterator[Metric]:
    yield CounterMetricFamily("egressgw_audit_published", "Records acknowledged by Kafka", topic.published)
    yield CounterMetricFamily("egressgw_audit_publish_retries", "Rounds begun again", topic.retries)
    yield CounterMetricFamily("egressgw_audit_unpublishable", "Records set aside", topic.unpublishable)
    yield GaugeMetricFamily("egressgw_audit_lag_records", "On disk, not in Kafka", topic.lag_records)
    yield GaugeMetricFamily("egressgw_audit_lag_seconds", "Age of the oldest of them", topic.lag_seconds)


def _pool_families(pool: Pool) -> Iterator[Metric]:
    counters = pool.counters
    writes = CounterMetricFamily("egressgw_map_operations", "Work of the map worker pool", labels=["kind"])
    writes.add_metric(["written"], counters.written)
    writes.add_metric(["deleted"], counters.deleted)
    writes.add_metric(["coalesced"], counters.coalesced)
    writes.add_metric(["retries"], counters.retries)
    writes.add_metric(["full"], counters.full)
    writes.add_metric(["repaired"], counters.repaired)
    writes.add_metric(["reviewed"], counters.reviewed)
    yield writes
    yield GaugeMetricFamily("egressgw_map_pending", "Map entries wished for and not yet written", pool.pending())
    entries = GaugeMetricFamily("egressgw_map_entries", "Entries of a map that the agent fills", labels=["map"])
    room = GaugeMetricFamily("egressgw_map_room", "Entries that it takes", labels=["map"])
    for name, (filled, most) in sorted(pool.fill().items()):
        entries.add_metric([name], filled)
        room.add_metric([name], most)
    yield from (entries, room)
