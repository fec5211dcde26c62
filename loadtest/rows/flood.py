"""Row `flood`: what one pod's flows without end cost the idle connections of others on its node.

UDP and TCP by turns, two packets of each flow, towards where nothing answers. First with the quota of flows that a pod
has by default, then with none, so that the tables themselves have to bear it. Then each idle connection is spoken on,
half of them by the server first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loadtest import peer
from loadtest.gateway import SOURCE_IP, Report
from loadtest.goal import Figure, Row, at_most
from loadtest.rows.options import DatapathOptions
from loadtest.station import Station
from loadtest.variant import Site, gateway_site
from service.lab.namespace import ip_batch
from service.model.errors import TransientError

PORT = 9020
NOWHERE = "198.51.100.77"
"""Of the policy's destinations, and nobody's."""
QUOTA_MAX = 4_000_000
ALIVE_S = 8.0
_PATIENCE_S = 120.0
_FLOWS_A_SECOND = 5000
"""At the least."""
_SOURCE_PORTS, _PORTS = [1024, 1000], [1024, 60_000]
"""So that each flow finds a free port of the node towards its remote."""


def measure_flood(options: DatapathOptions, report: Report) -> Row:
    """Each in a lab of its own: a flood leaves its flows."""
    sizes, row = options.sizes, Row("flood")
    quotas: tuple[tuple[str, dict[str, Any]], ...] = (
        ("", {}),
        (", no quota of flows per pod", {"flows_per_pod": QUOTA_MAX}),
    )
    for words, settings in quotas:
        with gateway_site(f"{options.name}g", report, settings=settings) as pair:
            lost, detail = lost_by_flood(pair.on_veth, pair.on_bridge, sizes.idle, sizes.flood, report)
        title = f"{sizes.flood} flows of one pod{words}: lost of {sizes.idle} idle connections of another"
        row.figures.append(Figure(title, lost, digits=0, goal=at_most(0)))
        row.detail["no quota" if settings else "quota"] = detail
    return row


def lost_by_flood(idle: Site, flooding: Site, connections: int, flows: int, report: Report) -> tuple[int, Any]:
    """(how many idle connections died, what was sent and which kinds live)."""
    counts = {"idle": connections // 2, "idle-server": connections - connections // 2}
    with silent(idle), talking(idle, PORT) as (server, client):
        report(f"{connections} idle connections")
        opened = client.ask("open", timeout_s=_PATIENCE_S, address=peer.SERVER, port=PORT, counts=counts)
        if opened["opened"] != connections or set(opened["sources"]) != {SOURCE_IP}:
            raise TransientError(f"of {connections} connections: {opened}")
        report(f"{flows} flows")
        with Station(flooding.pod.netns, "spray") as spraying:
            sent = spraying.ask(
                "spray",
                timeout_s=flows / _FLOWS_A_SECOND + _PATIENCE_S,
                destination=NOWHERE,
                protocols=["udp", "tcp"],
                source_ports=_SOURCE_PORTS,
                ports=_PORTS,
                flows=flows,
                packets=2,
                pace=0,
            )
        checked = check(client, server, ALIVE_S)
    return connections - sum(checked["alive"].values()), {"flood": sent, "connections": checked}


@contextmanager
def silent(site: Site) -> Iterator[None]:
    """Packets to NOWHERE end at the router without a word, meanwhile."""
    ip_batch(site.lab.plan.router, [f"route add blackhole {NOWHERE}/32"])
    yield
    ip_batch(site.lab.plan.router, [f"route del blackhole {NOWHERE}/32"])


@contextmanager
def talking(site: Site, port: int) -> Iterator[tuple[Station, Station]]:
    """(the server's, the pod's) processes of `conversation`; the server listens."""
    with (
        Station(site.lab.plan.router, "conversation") as server,
        Station(site.pod.netns, "conversation") as client,
    ):
        server.ask("serve", address=peer.SERVER, port=port)
        yield server, client


def check(client: Station, server: Station, within_s: float) -> Any:
    """Which of a pod's connections live: those that it begins, and those on which the server speaks now."""
    client.ask("check", timeout_s=_PATIENCE_S, within_s=within_s)
    server.ask("speak", timeout_s=_PATIENCE_S)
    return client.answer(within_s + _PATIENCE_S)
