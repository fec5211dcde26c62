"""Metrics as a user scrapes them: names, labels and values of the text that Prometheus reads."""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from service.audit.outbox import OutboxState
from service.audit.publisher import PublisherState
from service.datapath.shortage import Shortage
from service.datapath.traffic import Account, Numbers
from service.datapath.worker_pool import PoolCounters
from service.model.keeper_message import LeaseReport
from service.web.metrics import (
    AuditCollector,
    DatapathCollector,
    KeeperCollector,
    PolicyCollector,
    PortCollector,
    RefusalCollector,
    SegmentCollector,
    ShortageCollector,
    TaskCollector,
)

DISK = OutboxState(healthy=True, reason="", pending=3, written=40, lost=2, removed=5, damaged=1)
TOPIC = PublisherState(
    configured=True,
    healthy=False,
    reason="no brokers",
    published=30,
    lag_records=10,
    lag_seconds=1.5,
    retries=4,
    unpublishable=6,
    damaged=7,
)


@dataclass
class Outbox:
    state: OutboxState = DISK


@dataclass
class Publisher:
    state: PublisherState = TOPIC


@dataclass
class Pool:
    counters: PoolCounters = field(default_factory=PoolCounters)
    waiting: int = 0
    filled: dict[str, tuple[int, int]] = field(default_factory=dict)

    def pending(self) -> int:
        return self.waiting

    def fill(self) -> dict[str, tuple[int, int]]:
        return self.filled


@dataclass
class Datapath:
    pool: Pool = field(default_factory=Pool)
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def drops(self) -> dict[tuple[str, str], int]:
        return self.dropped

    def counters(self) -> dict[str, int]:
        return self.seen


@dataclass
class Agent:
    held: dict[IPv4Address, object] = field(default_factory=dict)


def scraped(registry: CollectorRegistry) -> list[str]:
    """The samples, in order, without the help and type lines."""
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def registered(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_audit_tells_how_far_records_have_come_and_what_was_lost() -> None:
    assert scraped(registered(AuditCollector(Outbox(), Publisher()))) == [
        'egressgw_audit_healthy{part="outbox"} 1.0',
        'egressgw_audit_healthy{part="publisher"} 0.0',
        "egressgw_audit_pending 3.0",
        "egressgw_audit_written_total 40.0",
        'egressgw_audit_lost_total{cause="disk_unwritable"} 2.0',
        'egressgw_audit_lost_total{cause="outbox_full"} 5.0',
        'egressgw_audit_damaged_total{seen_by="outbox"} 1.0',
        'egressgw_audit_damaged_total{seen_by="publisher"} 7.0',
        "egressgw_audit_published_total 30.0",
        "egressgw_audit_publish_retries_total 4.0",
        "egressgw_audit_unpublishable_total 6.0",
        "egressgw_audit_lag_records 10.0",
        "egressgw_audit_lag_seconds 1.5",
    ]


def test_without_brokers_nothing_is_told_of_kafka() -> None:
    publisher = Publisher(replace(TOPIC, configured=False, healthy=True, damaged=0))
    names = [line.split("{")[0].split()[0] for line in scraped(registered(AuditCollector(Outbox(), publisher)))]
    assert list(dict.fromkeys(names)) == [
        "egressgw_audit_healthy",
        "egressgw_audit_pending",
        "egressgw_audit_written_total",
        "egressgw_audit_lost_total",
        "egressgw_audit_damaged_total",
    ]


def test_the_datapath_tells_drops_packets_work_and_leases() -> None:
    datapath = Datapath(
        Pool(
            PoolCounters(written=9, deleted=8, coalesced=7, retries=6, full=5, repaired=3, reviewed=2),
            waiting=4,
            filled={"ways": (6, 1000)},
        ),
        {("no_gateway", "192.0.2.101"): 2, ("fragment", ""): 1, ("no_gateway", "192.0.2.100"): 3},
        {"steered": 11, "snat": 12},
    )
    agent = Agent({IPv4Address("192.0.2.100"): object(), IPv4Address("192.0.2.101"): object()})
    assert scraped(registered(DatapathCollector(datapath, agent))) == [
        'egressgw_dropped_packets_total{floating_ip="",reason="fragment"} 1.0',
        'egressgw_dropped_packets_total{floating_ip="192.0.2.100",reason="no_gateway"} 3.0',
        'egressgw_dropped_packets_total{floating_ip="192.0.2.101",reason="no_gateway"} 2.0',
        'egressgw_packets_total{action="steered"} 11.0',
        'egressgw_packets_total{action="snat"} 12.0',
        'egressgw_map_operations_total{kind="written"} 9.0',
        'egressgw_map_operations_total{kind="deleted"} 8.0',
        'egressgw_map_operations_total{kind="coalesced"} 7.0',
        'egressgw_map_operations_total{kind="retries"} 6.0',
        'egressgw_map_operations_total{kind="full"} 5.0',
        'egressgw_map_operations_total{kind="repaired"} 3.0',
        'egressgw_map_operations_total{kind="reviewed"} 2.0',
        "egressgw_map_pending 4.0",
        'egressgw_map_entries{map="ways"} 6.0',
        'egressgw_map_room{map="ways"} 1000.0',
        "egressgw_leases_held 2.0",
    ]


def test_what_finds_no_room_in_a_map_is_told_with_how_many_pods_that_costs() -> None:
    pods = (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    lacking = [Shortage("rules", 40, "no room", pods), Shortage("ways", 1, "no room", ())]
    lacking.append(Shortage("rules", 2, "no memory", pods[:1]))
    registry = registered(ShortageCollector(lambda: lacking))
    assert scraped(registry) == [
        'egressgw_map_waiting{map="rules"} 42.0',
        'egressgw_map_waiting{map="ways"} 1.0',
        'egressgw_map_unserved_pods{map="rules"} 2.0',
        'egressgw_map_unserved_pods{map="ways"} 0.0',
    ]
    lacking.clear()
    assert scraped(registry) == []


def test_traffic_is_told_by_policy_and_floating_ip_and_drops_are_those_of_the_policy_that_has_the_address() -> None:
    class Flows:
        traffic: ClassVar[dict[tuple[str, bytes], Account]] = {
            ("all", bytes((192, 0, 2, 100))): Account(Numbers(7, 700, 5, 900, 3), Numbers(4, 400, 2, 300, 1)),
            ("", bytes((192, 0, 2, 101))): Account(Numbers(1, 40, 0, 0, 1)),
        }

        def policy_of(self, floating_ip: IPv4Address) -> str:
            return "all" if floating_ip == IPv4Address("192.0.2.100") else ""

    dropped = {("quota", "192.0.2.100"): 4, ("quota", "192.0.2.101"): 5, ("guard_marked", ""): 6}
    collector = PolicyCollector(Flows, Datapath(dropped=dropped))
    assert scraped(registered(collector)) == [
        'egressgw_policy_packets_total{direction="out",floating_ip="192.0.2.101",policy=""} 1.0',
        'egressgw_policy_packets_total{direction="in",floating_ip="192.0.2.101",policy=""} 0.0',
        'egressgw_policy_packets_total{direction="out",floating_ip="192.0.2.100",policy="all"} 7.0',
        'egressgw_policy_packets_total{direction="in",floating_ip="192.0.2.100",policy="all"} 5.0',
        'egressgw_policy_bytes_total{direction="out",floating_ip="192.0.2.101",policy=""} 40.0',
        'egressgw_policy_bytes_total{direction="in",floating_ip="192.0.2.101",policy=""} 0.0',
        'egressgw_policy_bytes_total{direction="out",floating_ip="192.0.2.100",policy="all"} 700.0',
        'egressgw_policy_bytes_total{direction="in",floating_ip="192.0.2.100",policy="all"} 900.0',
        'egressgw_policy_flows_opened_total{floating_ip="192.0.2.101",policy=""} 1.0',
        'egressgw_policy_flows_opened_total{floating_ip="192.0.2.100",policy="all"} 3.0',
        'egressgw_policy_flows{floating_ip="192.0.2.101",policy=""} 1.0',
        'egressgw_policy_flows{floating_ip="192.0.2.100",policy="all"} 2.0',
        'egressgw_policy_dropped_packets_total{floating_ip="192.0.2.100",policy="all",reason="quota"} 4.0',
    ]


def test_ports_are_told_by_floating_ip_and_flows_in_all() -> None:
    class Blocks:
        flows = 7
        tables: ClassVar[dict[str, tuple[int, int]]] = {"open": (5, 100), "datagram": (2, 50)}
        busiest_pod = IPv4Address("10.0.0.1"), 4

        def status(self) -> dict[str, Any]:
            busiest = {"remote": "203.0.113.7:443", "portsTaken": 5}
            row = {"usableBlocks": 64, "knownBlocks": 128, "blocksInUse": 3, "portsInUse": 6, "busiest": busiest}
            return {"192.0.2.100": row}

    assert scraped(registered(PortCollector(Blocks()))) == [
        'egressgw_port_blocks_usable{floating_ip="192.0.2.100"} 64.0',
        'egressgw_port_blocks_known{floating_ip="192.0.2.100"} 128.0',
        'egressgw_ports_taken{floating_ip="192.0.2.100"} 5.0',
        'egressgw_ports_in_use{floating_ip="192.0.2.100"} 6.0',
        'egressgw_port_blocks_in_use{floating_ip="192.0.2.100"} 3.0',
        "egressgw_flows 7.0",
        "egressgw_flows_of_busiest_pod 4.0",
        'egressgw_flow_table_rows{table="open"} 5.0',
        'egressgw_flow_table_rows{table="datagram"} 2.0',
        'egressgw_flow_table_room{table="open"} 100.0',
        'egressgw_flow_table_room{table="datagram"} 50.0',
    ]


def test_every_scrape_tells_what_is_so_then() -> None:
    outbox, agent = Outbox(), Agent()
    registry = registered(AuditCollector(outbox, Publisher()))
    registry.register(DatapathCollector(Datapath(), agent))
    assert "egressgw_audit_pending 3.0" in scraped(registry)
    assert "egressgw_leases_held 0.0" in scraped(registry)
    outbox.state = replace(DISK, pending=0)
    agent.held[IPv4Address("192.0.2.100")] = object()
    assert "egressgw_audit_pending 0.0" in scraped(registry)
    assert "egressgw_leases_held 1.0" in scraped(registry)


def test_registering_reads_no_map_which_may_not_be_open_yet() -> None:
    class Closed(Datapath):
        def drops(self) -> dict[tuple[str, str], int]:
            raise AssertionError("the maps are not open")

    CollectorRegistry(auto_describe=True).register(DatapathCollector(Closed(), Agent()))


def test_every_family_has_a_help_line_and_counters_are_counters() -> None:
    datapath = Datapath(Pool(filled={"ways": (6, 1000)}), dropped={("fragment", ""): 1}, seen={"snat": 1})
    registry = registered(AuditCollector(Outbox(), Publisher()))
    registry.register(DatapathCollector(datapath, Agent()))
    lines = generate_latest(registry).decode().splitlines()
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    helps = {line.split()[2]: line.split(maxsplit=3)[3] for line in lines if line.startswith("# HELP")}
    names = {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")}
    assert set(kinds) == set(helps) == names
    assert all((kinds[name] == "counter") == name.endswith("_total") for name in names)
    assert all(helps.values())


def test_errors_that_tasks_outlived_are_counted_for_each() -> None:
    class Tasks:
        def errors(self) -> dict[str, int]:
            return {"find pod devices": 2, "repair": 0}

    assert scraped(registered(TaskCollector(Tasks()))) == [
        'egressgw_task_errors_total{task="find pod devices"} 2.0',
        'egressgw_task_errors_total{task="repair"} 0.0',
    ]


def test_what_the_keeper_counts_is_told_while_it_reports() -> None:
    report = LeaseReport((), True, True, "nice", errors={"holder": 2}, refused={"unknown-key": 3})
    assert scraped(registered(KeeperCollector(lambda: report))) == [
        'egressgw_keeper_task_errors_total{task="holder"} 2.0',
        'egressgw_keeper_datagrams_refused_total{reason="unknown-key"} 3.0',
    ]
    assert scraped(registered(KeeperCollector(lambda: None))) == []


@dataclass
class Socket:
    channel: str
    by_reason: dict[str, int]


def test_refused_datagrams_are_told_by_channel_and_reason() -> None:
    sockets = (Socket("lease", {"replay": 2}), Socket("gossip", {"unknown-key": 7}), Socket("lease", {"replay": 3}))
    assert scraped(registered(RefusalCollector(sockets))) == [
        'egressgw_datagrams_refused_total{channel="gossip",reason="unknown-key"} 7.0',
        'egressgw_datagrams_refused_total{channel="lease",reason="replay"} 5.0',
    ]


def test_conflicts_of_now_and_defences_since_the_start_are_counted() -> None:
    class Segments:
        defences = 3

        def conflicts(self) -> dict[str, bytes]:
            return {"192.168.1.100": b""}

        def deaf_uplinks(self) -> tuple[str, ...]:
            return ("eth1",)

    assert scraped(registered(SegmentCollector(Segments()))) == [
        "egressgw_floating_ip_conflicts 1.0",
        "egressgw_deaf_uplinks 1.0",
        "egressgw_floating_ip_defences_total 3.0",
    ]
