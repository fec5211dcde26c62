"""What is measured in every variant alike: one client verb of `traffic` against one serving verb."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loadtest import peer
from loadtest.statistics import ratio_median
from loadtest.variant import Site
from service.model.errors import TransientError

PORTS = {"udp": 9001, "rr": 9002, "connect": 9003, "bulk": 9004}
WARM_UP_S = 0.15


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured, and how it is shown."""

    key: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool


METRICS = (
    Metric("udp_pps", "UDP, 18 bytes, one flow", "packets/s", 0, True),
    Metric("udp_cpu_ns", "CPU per UDP packet, all hosts", "ns", 0, False),
    Metric("udp_lost", "UDP lost", "%", 2, False),
    Metric("rr_p50_us", "TCP request-response p50", "us", 1, False),
    Metric("rr_p99_us", "TCP request-response p99", "us", 1, False),
    Metric("connections", "new TCP connections", "1/s", 0, True),
    Metric("connection_cpu_us", "CPU per connection, all hosts", "us", 1, False),
    Metric("bulk_gbit", "TCP, one stream", "Gbit/s", 2, True),
)

Values = dict[str, float]
"""Metric -> value, of one site in one round."""
Round = Mapping[str, Values]
"""Variant -> values."""
Measure = Callable[[Site, float, list[int]], Values]


def samples(rounds: list[Round], variant: str, metric: str) -> list[float]:
    """One value per round; empty where it was not measured."""
    return [one[variant][metric] for one in rounds if metric in one.get(variant, {})]


def ratio(rounds: list[Round], metric: str, above: str, below: str) -> float | None:
    """Median of the ratios within each round; None where either was not measured."""
    values = samples(rounds, above, metric), samples(rounds, below, metric)
    return ratio_median(*values) if all(values) else None


def measure_udp(site: Site, duration_s: float, cores: list[int]) -> Values:
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


def measure_request_response(site: Site, duration_s: float, cores: list[int]) -> Values:
    """One byte to and fro over one TCP connection."""
    port, core = PORTS["rr"], cores[-1]
    for seconds in (WARM_UP_S, duration_s):
        site.server.tell("rr_serve", port=port, core=core)
        site.server.answer()
        asked = site.client.ask("rr_ask", destination=peer.SERVER, port=port, duration_s=seconds, core=core)
        _check_source(site, site.server.answer()["source"])
    return {"rr_p50_us": asked["p50_ns"] / 1e3, "rr_p99_us": asked["p99_ns"] / 1e3}


def measure_connections(site: Site, duration_s: float, cores: list[int]) -> Values:
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


def measure_bulk(site: Site, duration_s: float, cores: list[int]) -> Values:
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
