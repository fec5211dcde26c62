"""Row `ports`: what one node is refused of its ports towards one server.

First it opens many real connections within seconds, from the few ports that a node has from the start: what is refused
then is what the leader was too slow to give. Then, towards another port, it fills what it has at the most, flow by
flow, and what is refused before nearly all is taken the search for a free port has missed. Both by the same pods, whose
quota of flows (rule B4) is set so high that it refuses nothing: connections that have closed count for minutes.
"""

import contextlib
import time
from collections.abc import Sequence

from loadtest import gateway, peer
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_most, below
from loadtest.rows.options import DatapathOptions
from loadtest.station import Station
from loadtest.variant import Pair, Site, gateway_site
from service.model.errors import TransientError

CONNECT_PORT, FILL_PORT = 9010, 9011
PORTS_PER_BLOCK = 64
FIRST_SOURCE_PORT = 1024
FILL = 0.95
_SERVERS = 2
"""Processes on one port: each has a limit of open files."""
_PATIENCE_S = 60.0
_UNDER_WAY_S = 0.1
"""After that what was sent has come, or never will."""


def measure_ports(options: DatapathOptions, report: Report) -> Row:
    """Both, in this order: the second leaves the node with all that it may ever have."""
    sizes, row = options.sizes, Row("ports")
    quota = {"flows_per_pod": 2 * (sizes.connections + sizes.fill_flows)}
    with gateway_site(f"{options.name}g", report, settings=quota) as pair:
        report(f"{sizes.connections} connections in {sizes.connections_s:g} s")
        share = refused_share(pair, sizes.connections, sizes.connections_s, row)
        title = f"{sizes.connections} connections of one node to one server in {sizes.connections_s:g} s: refused"
        row.figures.append(Figure(title, 100 * share, "%", 3, below(0.1)))
        report(f"{sizes.fill_flows} flows to one server")
        missing = fill(pair.on_veth, sizes.fill_flows, sizes.fill_pace)
        ports = usable_ports(pair.on_veth)
    early, first = judge_fill(missing, sizes.fill_flows, ports)
    row.detail["fill"] = {"ports": ports, "flows": sizes.fill_flows, "refused": len(missing)}
    row.figures.append(
        Figure(f"flows towards one server refused before {FILL:.0%} fill", early, digits=0, goal=at_most(0))
    )
    note = "" if first is not None else f"none of {sizes.fill_flows} towards {ports} ports"
    row.figures.append(Figure("fill at the first refusal", first, "%", 1, note=note))
    return row


def refused_share(pair: Pair, connections: int, duration_s: float, row: Row) -> float:
    """Of real connections, half of them by each pod: those that lost a SYN or did not open."""
    sites = (pair.on_veth, pair.on_bridge)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Station(sites[0].lab.plan.router, "spray")) for _ in range(_SERVERS)]
        clients = [stack.enter_context(Station(site.pod.netns, "spray")) for site in sites]
        for server in servers:
            server.tell("accept", address=peer.SERVER, port=CONNECT_PORT)
            server.answer()
        for client in clients:
            half = connections // len(clients)
            client.tell("connect", destination=peer.SERVER, port=CONNECT_PORT, connections=half, duration_s=duration_s)
        answers = [client.answer(duration_s + _PATIENCE_S) for client in clients]
        for station in (*clients, *servers):
            station.end()
        sources = {source for server in servers for source in server.answer(_PATIENCE_S)["sources"]}
    if sources != {gateway.SOURCE_IP}:
        raise TransientError(f"connections came from {', '.join(sorted(sources))}")
    row.detail["connections"] = answers
    opened = sum(answer["at_once"] for answer in answers)
    return 1 - opened / (len(clients) * half)


def fill(site: Site, flows: int, pace: int) -> list[int]:
    """Numbers of the flows, in the order in which they were begun, whose only packet never came."""
    with Station(site.lab.plan.router, "spray") as server, Station(site.pod.netns, "spray") as client:
        server.tell("count", address=peer.SERVER, port=FILL_PORT, flows=flows)
        server.answer()
        client.ask(
            "spray",
            timeout_s=flows / pace + _PATIENCE_S,
            destination=peer.SERVER,
            protocols=["udp"],
            source_ports=[FIRST_SOURCE_PORT, 0xFFFF - FIRST_SOURCE_PORT],
            ports=[FILL_PORT, 1],
            flows=flows,
            packets=1,
            pace=pace,
        )
        time.sleep(_UNDER_WAY_S)
        server.end()
        counted = server.answer(_PATIENCE_S)
    if counted["sources"] != [gateway.SOURCE_IP]:
        raise TransientError(f"datagrams came from {', '.join(counted['sources']) or 'nobody'}")
    missing: list[int] = counted["missing"]
    return missing


def usable_ports(site: Site) -> int:
    """Of the pods' node, of the floating IP, as its agent says."""
    rows = gateway.status(site.lab, site.pod.node)["portBlocks"]
    return PORTS_PER_BLOCK * int(rows[gateway.SOURCE_IP]["usableBlocks"])


def judge_fill(missing: Sequence[int], flows: int, ports: int) -> tuple[int, float | None]:
    """(how many were refused before the ports were nearly all taken, fill in % at the first refusal or None).

    `missing` are numbers of flows in the order in which they were begun. Each that was not refused has taken a port.
    """
    early = 0
    for index, number in enumerate(sorted(missing)):
        taken = number - index
        early += taken < FILL * ports
    first = 100 * missing[0] / ports if missing and ports else None
    return early if ports else flows, first
