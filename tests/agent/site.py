"""What is around an agent: settings on loopback, members, what a former agent left."""

import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from service.datapath.inheritance import Inheritance
from service.gateway.row import MemberMetadata
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.machine import Address
from service.policy.rule_set import RuleSet
from service.settings import HttpSettings, PortSettings, Settings
from service.wire.cluster_view import ClusterView

HOST = "127.0.0.1"
FLOATING_IP = IPv4Address("192.168.1.100")
NETWORK = IPv4Network("192.168.1.0/24")
SECOND = 1_000_000_000


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def settings_of(folder: Path, name: str = "worker1") -> Settings:
    (folder / "manifests").mkdir(exist_ok=True)
    return Settings(
        node=name,
        bind_address=HOST,
        keyring=("11" * 32,),
        source=f"manifests:{folder / 'manifests'}",
        state_dir=str(folder / name),
        run_dir=str(folder / f"{name}-run"),
        ports=PortSettings(gossip=free_port(), state=free_port(), http=free_port(socket.SOCK_STREAM)),
        http=HttpSettings(HOST),
    )


def node(name: str, last: int, *, state: NodeState = NodeState.UP) -> GatewayNode:
    segment = Segment(NETWORK, IPv4Address(f"192.168.1.{last}"), bytes((2, 0, 0, 0, 0, last)))
    return GatewayNode(name, NodeRole.WORKER, state, True, (segment,))


class StandInCluster(ClusterView):
    """What gossip would say, set by the test; nothing is sent."""

    def __init__(self, settings: Settings, *nodes: GatewayNode) -> None:
        metadata = MemberMetadata(NodeRole.WORKER, False, True, (), "1", 1)
        super().__init__(settings, metadata, clock=lambda: 1, changed=lambda: None)
        self.nodes = nodes
        self.table: dict[IPv4Address, Assignment] = {}
        self.strangers: dict[IPv4Address, bytes] = {}
        self.addresses: dict[str, Address] = {}

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        return self.nodes

    def assignments(self) -> dict[IPv4Address, Assignment]:
        return self.table

    def conflicts(self) -> dict[IPv4Address, bytes]:
        return dict(self.strangers)

    def publish_conflict(self, floating_ip: IPv4Address, mac: bytes, *, at_s: int) -> bool:
        self.strangers.pop(floating_ip, None)
        if mac:
            self.strangers[floating_ip] = mac
        return True

    def sockets(self, port: int) -> dict[str, Address]:
        return self.addresses


def steered(*pods: str) -> Inheritance:
    """What a former agent left: these pods under one rule set."""
    rules = RuleSet(5, ((IPv4Network("8.8.8.0/24"), FLOATING_IP),))
    return Inheritance({IPv4Address(pod): rules for pod in pods}, {}, {}, {}, (rules,))
