"""Measure what a packet costs: through the gateway, by plain routing and through nft maps, in the same run.

Three sites stand side by side on one machine (`peer` describes the two that are not ours). Each round measures every
metric in every site one right after the other, the first site another one each round; ratios are taken within a round
and the median over the rounds is given. Everything stays within the namespaces.

The gateway is measured as it runs in a lab: pod on one node, floating IP held by another, `l2` transport, policy path
(mark at the pod's device, the node's netfilter, steering device; eBPF translates on the holder).
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtest import gateway, peer
from loadtest.station import Station
from loadtest.statistics import median, ratio_median
from service.lab.lab import Lab
from service.lab.plan import LabOptions, PlannedPod
from service.model.errors import TransientError

PORTS = {"udp": 9001, "rr": 9002, "connect": 9003, "bulk": 9004}
WARM_UP_S = 0.15
PLAIN, NFT_MAPS, GATEWAY = "plain routing", "nft maps", "gateway"
VARIANTS = (PLAIN, NFT_MAPS, GATEWAY)
RATIOS = (
    ("gateway/plain", GATEWAY, PLAIN),
    ("gateway/nft", GATEWAY, NFT_MAPS),
    ("nft/plain", NFT_MAPS, PLAIN),
)


@dataclass(frozen=True, slots=True)
class DatapathOptions:
    """What a run is asked for."""

    rounds: int = 3
    duration_s: float = 1.0
    """Of one measurement."""
    name: str = "load"
    """Prefix of the labs' names."""
    on_bridge: bool = False
    """The pod is a port of the CNI's bridge; otherwise on a bare veth."""
    bulk: bool = True


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured, and how it is shown."""

    key: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool
    has_ratio: bool = True


METRICS = (
    Metric("udp_pps", "UDP, 18 bytes, one flow", "packets/s", 0, True),
    Metric("udp_cpu_ns", "CPU per UDP packet, all hosts", "ns", 0, False),
    Metric("udp_lost", "UDP lost", "%", 2, False, has_ratio=False),
    Metric("rr_p50_us", "TCP request-response p50", "us", 1, False),
    Metric("rr_p99_us", "TCP request-response p99", "us", 1, False),
    Metric("connections", "new TCP connections", "1/s", 0, True),
    Metric("connection_cpu_us", "CPU per connection, all hosts", "us", 1, False),
    Metric("bulk_gbit", "TCP, one stream", "Gbit/s", 2, True),
)


@dataclass(frozen=True, slots=True)
class Site:
    """One variant, ready to measure."""

    variant: str
    client: Station
    server: Station
    source: str
    """What the server must see."""
    lab: Lab
    pod: PlannedPod
    gateway_node: str


@dataclass(slots=True)
class DatapathResult:
    """Numbers of the rounds that were finished."""

    options: DatapathOptions
    core: int
    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)
    """Per round: variant -> metric -> value."""
    packets: dict[str, dict[str, int]] = field(default_factory=dict)
    """Counters of the gateway's datapath during the run, per node."""
    drops: dict[str, dict[str, int]] = field(default_factory=dict)

    def values(self, variant: str, metric: str) -> list[float]:
        """One per round; empty where it was not measured."""
        return [values[variant][metric] for values in self.rounds if metric in values.get(variant, {})]

    def summary(self) -> list[dict[str, Any]]:
        """Per metric: medians of each variant, and medians of the ratios within a round."""
        rows: list[dict[str, Any]] = []
        for metric in METRICS:
            samples = {variant: self.values(variant, metric.key) for variant in VARIANTS}
            if not all(samples.values()):
                continue
            rows.append(
                {
                    "metric": metric.key,
                    "title": metric.title,
                    "unit": metric.unit,
                    "digits": metric.digits,
                    "higher_is_better": metric.higher_is_better,
                    "median": {variant: median(values) for variant, values in samples.items()},
                }
            )
            for name, above, below in RATIOS:
                rows[-1][name] = ratio_median(samples[above], samples[below]) if metric.has_ratio else None
        return rows


def measure_datapath(
    options: DatapathOptions,
    report: gateway.Report = lambda line: None,
    advance: Callable[[], None] = lambda: None,
) -> DatapathResult:
    """Build the three sites, measure, clear them. `advance` is called after each of `steps(options)` measurements.

    Raises TransientError where a measurement fails or a server saw a source it must not see.
    """
    cores = sorted(os.sched_getaffinity(0))
    result = DatapathResult(options, core=cores[-1])
    with contextlib.ExitStack() as stack:
        sites = [stack.enter_context(build(options, report)) for build in (plain_site, nft_maps_site, gateway_site)]
        ours = sites[-1]
        before = _counters(ours)
        for number in range(options.rounds):
            values: dict[str, dict[str, float]] = {variant: {} for variant in VARIANTS}
            for measure in measures(options):
                for turn in range(len(sites)):
                    site = sites[(number + turn) % len(sites)]
                    report(f"round {number + 1}: {measure.__name__.removeprefix('measure_')}, {site.variant}")
                    values[site.variant] |= measure(site, options.duration_s, cores)
                    advance()
            result.rounds.append(values)
        after = _counters(ours)
        for node, (packets, drops) in after.items():
            result.packets[node] = _difference(packets, before[node][0])
            result.drops[node] = _difference(drops, before[node][1])
    return result


def steps(options: DatapathOptions) -> int:
    """How many measurements a run has."""
    return options.rounds * len(measures(options)) * len(VARIANTS)


# -- the sites --


def _lab_options(options: DatapathOptions, suffix: str, *, controllers: int) -> LabOptions:
    return LabOptions(name=f"{options.name}{suffix}", controllers=controllers)


@contextlib.contextmanager
def plain_site(options: DatapathOptions, report: gateway.Report) -> Iterator[Site]:
    """Plain routing (see `peer`) as long as it is entered."""
    with gateway.running_lab(_lab_options(options, "p", controllers=0), report, processes=False) as lab:
        pod = gateway.selected_pod(lab, "worker2", on_bridge=options.on_bridge)
        peer.add_server(lab)
        peer.route_plainly(lab, pod, lab.node("worker1"))
        with _stations(PLAIN, lab, pod, "worker1", str(pod.ip)) as site:
            yield site


@contextlib.contextmanager
def nft_maps_site(options: DatapathOptions, report: gateway.Report) -> Iterator[Site]:
    """The gateway of nft maps (see `peer`) as long as it is entered."""
    with gateway.running_lab(_lab_options(options, "n", controllers=0), report, processes=False) as lab:
        pod = gateway.selected_pod(lab, "worker2", on_bridge=options.on_bridge)
        peer.add_server(lab)
        peer.route_by_nft_maps(lab, pod, lab.node("worker1"), gateway.SOURCE_IP)
        with _stations(NFT_MAPS, lab, pod, "worker1", gateway.SOURCE_IP) as site:
            yield site


@contextlib.contextmanager
def gateway_site(options: DatapathOptions, report: gateway.Report) -> Iterator[Site]:
    """Our gateway, its pod on another node than the holder; entered once its packets are translated."""
    with gateway.running_lab(_lab_options(options, "g", controllers=1), report) as lab:
        peer.add_server(lab)
        gateway.apply_policy(lab, (f"{gateway.OUTSIDE}/32", peer.SERVER_NETWORK))
        report("waiting until the floating IPs are held")
        holder = gateway.wait_until_whole(lab)["floatingIPs"][gateway.SOURCE_IP]["holder"]
        pod_node = next(node.name for node in reversed(lab.plan.nodes) if node.name != holder)
        pod = gateway.selected_pod(lab, pod_node, on_bridge=options.on_bridge)
        gateway.wait_until_translated(lab, pod)
        with _stations(GATEWAY, lab, pod, holder, gateway.SOURCE_IP) as site:
            yield site


@contextlib.contextmanager
def _stations(variant: str, lab: Lab, pod: PlannedPod, gateway_node: str, source: str) -> Iterator[Site]:
    with Station(pod.netns) as client, Station(lab.plan.router) as server:
        yield Site(variant, client, server, source, lab, pod, gateway_node)


def _counters(site: Site) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """(packets, drops) of the two nodes on the way, from their agents."""
    found = {}
    for node in (site.pod.node, site.gateway_node):
        document = gateway.status(site.lab, node)
        found[node] = (document["packets"], document["drops"])
    return found


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


# -- the measurements: one client verb against one serving verb --

Measure = Callable[[Site, float, list[int]], dict[str, float]]


def measures(options: DatapathOptions) -> tuple[Measure, ...]:
    """What is measured in each site, in this order."""
    small = (measure_udp, measure_request_response, measure_connections)
    return (*small, measure_bulk) if options.bulk else small


def measure_udp(site: Site, duration_s: float, cores: list[int]) -> dict[str, float]:
    """The flood that arrives, what of it is lost, and what a packet costs all hosts' CPUs."""
    port, core = PORTS["udp"], cores[-1]
    for seconds in (WARM_UP_S, duration_s):
        site.server.tell("udp_sink", address=peer.SERVER, port=port, core=core)
        site.server.answer()
        sent = site.client.ask("udp_send", destination=peer.SERVER, port=port, duration_s=seconds, core=core)
        # What is still in a queue arrives within this time.
        time.sleep(0.02)
        site.server.end()
        arrived = site.server.answer()
    if arrived["strangers"]:
        raise TransientError(f"{site.variant}: {arrived['strangers']} datagrams came from another source")
    _check_source(site, arrived["source"])
    received = max(arrived["received"], 1)
    return {
        "udp_pps": arrived["received"] * 1e9 / sent["elapsed_ns"],
        "udp_cpu_ns": (sent["cpu_ns"] + sent["softirq_ns"]) / received,
        "udp_lost": 100.0 * max(0, sent["sent"] - arrived["received"]) / max(sent["sent"], 1),
    }


def measure_request_response(site: Site, duration_s: float, cores: list[int]) -> dict[str, float]:
    """One byte to and fro over one TCP connection."""
    port, core = PORTS["rr"], cores[-1]
    for seconds in (WARM_UP_S, duration_s):
        site.server.tell("rr_serve", port=port, core=core)
        site.server.answer()
        asked = site.client.ask("rr_ask", destination=peer.SERVER, port=port, duration_s=seconds, core=core)
        _check_source(site, site.server.answer()["source"])
    return {"rr_p50_us": asked["p50_ns"] / 1e3, "rr_p99_us": asked["p99_ns"] / 1e3}


def measure_connections(site: Site, duration_s: float, cores: list[int]) -> dict[str, float]:
    """New connections, one after the other."""
    port, core = PORTS["connect"], cores[-1]
    for seconds in (WARM_UP_S, duration_s):
        site.server.tell("connect_serve", port=port, core=core)
        site.server.answer()
        asked = site.client.ask("connect_ask", destination=peer.SERVER, port=port, duration_s=seconds, core=core)
        site.server.end()
        served = site.server.answer()
        for source in served["sources"]:
            _check_source(site, source)
    return {
        "connections": asked["connections"] * 1e9 / asked["elapsed_ns"],
        "connection_cpu_us": (asked["cpu_ns"] + served["cpu_ns"]) / asked["connections"] / 1e3,
    }


def measure_bulk(site: Site, duration_s: float, cores: list[int]) -> dict[str, float]:
    """Sender and receiver on different cores where there are two."""
    port = PORTS["bulk"]
    site.server.tell("bulk_serve", port=port, core=cores[0])
    site.server.answer()
    site.client.ask("bulk_send", destination=peer.SERVER, port=port, duration_s=duration_s, core=cores[-1])
    received = site.server.answer()
    _check_source(site, received["source"])
    return {"bulk_gbit": received["bytes"] * 8 / received["elapsed_ns"]}


def _check_source(site: Site, source: str) -> None:
    if source != site.source:
        raise TransientError(f"{site.variant}: the server saw {source} instead of {site.source}")
