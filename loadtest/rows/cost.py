"""Row `cost`: what a packet, a transaction and a connection cost, beside plain routing and nft maps.

Within a group all variants are measured one right after the other, the first one another one each round; ratios are
taken within a round, and the median over the rounds is given.

    veth     pods on a bare veth: every metric
    bridge   pods on the CNI's bridge: CPU per packet
    rules    pods on a bare veth, every node with the rules of a real one (`peer.node_rules`): CPU per packet
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest import peer
from loadtest.gateway import Report
from loadtest.goal import Figure, Goal, Row, at_least, at_most
from loadtest.measurement import (
    METRICS,
    Measure,
    Round,
    Values,
    measure_bulk,
    measure_connections,
    measure_request_response,
    measure_udp,
    ratio,
    samples,
)
from loadtest.rows.options import DatapathOptions
from loadtest.statistics import median
from loadtest.variant import (
    DIRECT_PATH,
    GATEWAY,
    GATEWAY_VXLAN,
    NFT_MAPS,
    NFT_TUNNEL,
    PLAIN,
    POLICY_PATH,
    Pair,
    Site,
    counters,
    gateway_site,
    nft_maps_site,
    nft_tunnel_site,
    path_settings,
    plain_site,
    vxlan_settings,
)

VETH, BRIDGE, RULES = "veth", "bridge", "rules"
NOT_BUILT = "not in this version"
Rounds = dict[str, list[Round]]
"""Group -> its rounds."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the table: a metric of ours beside that of a peer, and what each path has as its goal."""

    title: str
    group: str
    metric: str
    peer: str
    goals: dict[str, Goal] = field(default_factory=dict)
    """Path -> goal; of the others there is none."""

    def figure(self, rounds: Rounds, path: str) -> Figure:
        """Of the rounds of that path."""
        value = ratio(rounds.get(self.group, []), self.metric, GATEWAY, self.peer)
        return Figure(f"{self.title} / {self.peer}", value, goal=self.goals.get(path))


RATIOS = (
    Ratio("CPU per packet", VETH, "udp_cpu_ns", NFT_MAPS, {POLICY_PATH: at_most(0.93), DIRECT_PATH: at_most(0.70)}),
    Ratio("CPU per packet", VETH, "udp_cpu_ns", PLAIN, {DIRECT_PATH: at_most(0.82)}),
    Ratio("CPU per packet", VETH, "udp_cpu_ns", NFT_TUNNEL),
    Ratio("CPU per packet, bridge pods", BRIDGE, "udp_cpu_ns", NFT_MAPS, {POLICY_PATH: at_most(0.95)}),
    Ratio("CPU per packet, bridge pods", BRIDGE, "udp_cpu_ns", PLAIN, {DIRECT_PATH: at_most(0.78)}),
    Ratio("CPU per packet, rules of a real node", RULES, "udp_cpu_ns", NFT_MAPS, {POLICY_PATH: at_most(0.90)}),
    Ratio("request-response p50", VETH, "rr_p50_us", NFT_MAPS, {DIRECT_PATH: at_most(0.78)}),
    Ratio("request-response p50", VETH, "rr_p50_us", PLAIN, {DIRECT_PATH: at_most(0.90)}),
    Ratio("request-response p99", VETH, "rr_p99_us", NFT_MAPS, {DIRECT_PATH: at_most(0.85)}),
    Ratio(
        "new connections/s",
        VETH,
        "connections",
        NFT_MAPS,
        {POLICY_PATH: at_least(1.0), DIRECT_PATH: at_least(1.0)},
    ),
    Ratio("one TCP stream", VETH, "bulk_gbit", NFT_MAPS, {DIRECT_PATH: at_least(1.15)}),
    Ratio("one TCP stream", VETH, "bulk_gbit", PLAIN, {DIRECT_PATH: at_least(1.0)}),
)


def measure_cost(options: DatapathOptions, report: Report) -> Row:
    """Each path that is asked for in its own rounds, with its own sites."""
    row = Row("cost")
    for path in options.paths:
        settings = path_settings(path)
        if settings is None:
            row.figures.append(Figure(f"{path} path", None, note=NOT_BUILT))
            continue
        rounds, counts = _measure_path(options, settings, report)
        for line in RATIOS:
            figure = line.figure(rounds, path)
            if figure.value is not None:
                row.figures.append(_named(figure, path))
        row.detail[path] = {"groups": {name: summary(one) for name, one in rounds.items()}, "counters": counts}
        row.detail[path]["rounds"] = rounds
    return row


def _named(figure: Figure, path: str) -> Figure:
    return Figure(f"{path}: {figure.title}", figure.value, figure.unit, figure.digits, figure.goal, figure.note)


def _measure_path(options: DatapathOptions, settings: dict[str, Any], report: Report) -> tuple[Rounds, dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(plain_site(f"{options.name}p", report)),
            stack.enter_context(nft_maps_site(f"{options.name}n", report)),
            stack.enter_context(nft_tunnel_site(f"{options.name}t", report)),
        ]
        ours = stack.enter_context(gateway_site(f"{options.name}g", report, settings=settings))
        before = counters(ours.on_veth)
        rounds: Rounds = {VETH: [], BRIDGE: [], RULES: []}
        for number in range(options.rounds):
            measure_round(options, number, [*peers, ours], rounds, report)
        return rounds, difference(counters(ours.on_veth), before)


def measure_round(options: DatapathOptions, number: int, pairs: Sequence[Pair], rounds: Rounds, report: Report) -> None:
    """Every group once, and what came of it behind the former rounds."""
    plain, nft_maps, _, ours = pairs
    everything = [measure_udp, measure_request_response, measure_connections, *([measure_bulk] if options.bulk else [])]
    veth = [pair.on_veth for pair in pairs]
    rounds[VETH].append(interleave(options, number, veth, everything, report))
    bridge = [pair.on_bridge for pair in (plain, nft_maps, ours)]
    rounds[BRIDGE].append(interleave(options, number, bridge, [measure_udp], report))
    with peer.node_rules(nft_maps.on_veth.lab), peer.node_rules(ours.on_veth.lab):
        rules = [nft_maps.on_veth, ours.on_veth]
        rounds[RULES].append(interleave(options, number, rules, [measure_udp], report))


def interleave(
    options: DatapathOptions, number: int, sites: Sequence[Site], measures: Sequence[Measure], report: Report
) -> Round:
    """Each measure in all sites one right after the other, beginning with another one each round."""
    cores = sorted(os.sched_getaffinity(0))
    values: dict[str, Values] = {site.variant: {} for site in sites}
    for measure in measures:
        for turn in range(len(sites)):
            site = sites[(number + turn) % len(sites)]
            report(f"round {number + 1}: {measure.__name__.removeprefix('measure_')}, {site.variant}")
            values[site.variant] |= measure(site, options.duration_s, cores)
    return values


def measure_vxlan(options: DatapathOptions, report: Report) -> Row:
    """Row `vxlan`: the product's tunnel beside a tunnel of standard parts, by the direct path where there is one."""
    title, goal = "CPU per packet, vxlan / nft maps, tunnel", at_most(0.75)
    transport = vxlan_settings()
    if transport is None:
        return Row("vxlan", [Figure(title, None, goal=goal, note=NOT_BUILT)])
    settings = transport | (path_settings(DIRECT_PATH) or {})
    rounds: list[Round] = []
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(nft_tunnel_site(f"{options.name}t", report))
        build = gateway_site(f"{options.name}v", report, variant=GATEWAY_VXLAN, settings=settings)
        ours = stack.enter_context(build)
        for number in range(options.rounds):
            sites = [other.on_veth, ours.on_veth]
            rounds.append(interleave(options, number, sites, [measure_udp, measure_request_response], report))
    figures = [
        Figure(title, ratio(rounds, "udp_cpu_ns", GATEWAY_VXLAN, NFT_TUNNEL), goal=goal),
        Figure("request-response p50, vxlan / nft maps, tunnel", ratio(rounds, "rr_p50_us", GATEWAY_VXLAN, NFT_TUNNEL)),
    ]
    return Row("vxlan", figures, {"groups": {VETH: summary(rounds)}, "rounds": rounds})


def summary(rounds: list[Round]) -> list[dict[str, Any]]:
    """Per metric that was measured: the medians of the variants."""
    variants = list(rounds[0]) if rounds else []
    rows: list[dict[str, Any]] = []
    for metric in METRICS:
        found = {variant: samples(rounds, variant, metric.key) for variant in variants}
        medians = {variant: median(values) for variant, values in found.items() if values}
        if medians:
            shown = {name: getattr(metric, name) for name in ("title", "unit", "digits", "higher_is_better")}
            rows.append({"metric": metric.key, **shown, "median": medians})
    return rows


def difference(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What was counted in between, node by node; what stood still is left out."""
    return {
        node: {
            kind: {
                name: count - before[node][kind].get(name, 0)
                for name, count in counts.items()
                if count != before[node][kind].get(name, 0)
            }
            for kind, counts in kinds.items()
        }
        for node, kinds in after.items()
    }
