"""What a controller knows in tests: two workers, two floating IPs, and electors that answer when a test says so."""

from ipaddress import IPv4Address
from typing import cast

from service.controller.holders import HolderTable
from service.controller.knowledge import Knowledge
from service.lease.observer import Observation
from service.model.assignment import PlannedMove
from service.model.lease import Elector, Token
from service.model.object_event import ObjectEvent
from service.model.objects import NetworkGateway, Synced, Upsert
from service.report.objects import GATEWAY
from service.settings import DatapathSettings
from service.sources.intake import Intake
from service.wire.cluster_view import ClusterView
from tests.controller.cluster import Cluster, member
from tests.report.facts import FIRST, SECOND, node

MS = 1_000_000
A, B = IPv4Address(FIRST), IPv4Address(SECOND)
ELECTORS = (Elector("worker1", "10.0.0.1"),)


class Site:
    def __init__(self) -> None:
        self.now_ns = 0
        self.silent: tuple[str, ...] = ()
        self.problems: tuple[ObjectEvent, ...] = ()
        self.server: IPv4Address | None = None
        self.moves: tuple[PlannedMove, ...] = ()
        self.lacking_ports: dict[IPv4Address, dict[str, int]] = {}
        self.cluster = Cluster((node("worker1", 1), node("worker2", 2)), {"worker1": member("worker1")})
        self.intake = Intake(DatapathSettings(pod_cidrs=("10.244.0.0/16",)))
        self.table = HolderTable(lease_ns=300 * MS)
        self.knowledge = Knowledge(
            self.intake,
            cast(ClusterView, self.cluster),
            self.table,
            electors=lambda: ELECTORS,
            silent=lambda: self.silent,
            problems=lambda: self.problems,
            server=lambda: self.server,
            lacking_ports=lambda: self.lacking_ports,
            moves=lambda: self.moves,
            clock=lambda: self.now_ns,
        )

    def list_only(self, *floating_ips: IPv4Address) -> None:
        """The source has told everything, and these are the spec of the gateway."""
        self.intake.take((Upsert(NetworkGateway(GATEWAY, floating_ips, 1)), Synced()))

    def answer(self, **holders: str) -> None:
        """A majority of electors answers now; `a` and `b` are the two addresses."""
        table = {
            str({"a": A, "b": B}[key]): Observation(name, Token(7, 1, 1), 0, 300 * MS, Token(7, 1, 1))
            for key, name in holders.items()
        }
        self.table.observe(table, now_ns=self.now_ns)
