"""What a process knows that takes orders, set by the test."""

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode
from service.model.lease import Stamp
from service.model.objects import Synced, Upsert
from service.settings import DatapathSettings
from service.sources.intake import Intake
from service.web.orders import Orders
from tests.gateway.nodes import node
from tests.policy.objects import gateway
from tests.wire.board import Rows

IP, OTHER = IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101")
NOW_S = 1000


class OrderSite:
    def __init__(self) -> None:
        self.rows = Rows()
        self.nodes: tuple[GatewayNode, ...] = tuple(node(f"worker{i}", f"192.0.2.{i}/24") for i in (1, 2, 3))
        self.holders = {IP: "worker1", OTHER: "worker1"}
        self.table = {ip: Assignment(ip, "worker1", "worker2", Stamp(7, 1)) for ip in (IP, OTHER)}
        self.intake = Intake(DatapathSettings(pod_cidrs=("10.244.0.0/16",)))
        self.intake.take((Upsert(gateway(str(IP), str(OTHER))), Synced()))
        cluster = SimpleNamespace(
            orders=self.rows.board("worker1"),
            gateway_nodes=lambda: self.nodes,
            assignments=lambda: self.table,
            leader=lambda: ("controller-a", 7),
        )
        self.board = cluster.orders
        self.orders = Orders(self.intake, cast(Any, cluster), lambda: self.holders, lambda: NOW_S * 1_000_000_000)
