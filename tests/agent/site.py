"""An agent without a kernel: a datapath that keeps what it is told, and settings on loopback."""

import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.datapath.desired import LocalUplink, Rows
from service.datapath.node_datapath import Inheritance, NodeDatapath
from service.datapath.worker_pool import WorkerPool
from service.gateway.row import MemberMetadata
from service.model.assignment import Assignment
from service.model.errors import TransientError
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.machine import Address
from service.policy.rule_set import RuleSet
from service.settings import HttpSettings, PortSettings, Settings
from service.wire.cluster_view import ClusterView

HOST = "127.0.0.1"
FLOATING_IP = IPv4Address("192.168.1.100")
NETWORK = IPv4Network("192.168.1.0/24")
UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
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


class StandInDatapath(NodeDatapath):
    """Keeps rows and sets; nothing of it touches the kernel."""

    def __init__(self, settings: Settings, *uplinks: LocalUplink) -> None:
        super().__init__(settings)
        self._uplinks = uplinks
        self.pool = WorkerPool({}, workers=1)
        self.written: Mapping[str, Rows] = {}
        self.netfilter: list[tuple[Any, ...]] = []
        self.steer_changes: list[tuple[list[Any], list[Any]]] = []
        self.nftables = self  # type: ignore[assignment]
        self.fails = 0
        self.left = Inheritance({}, {}, {}, {}, ())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def egw_ifindex(self) -> int:
        return 9

    def inherited(self) -> Inheritance:
        return self.left

    def write(self, content: Mapping[str, Rows]) -> None:
        self.written = content

    async def drained(self) -> None: ...

    async def set_netfilter(
        self,
        pods: Sequence[IPv4Network],
        cluster: Sequence[IPv4Network],
        uplinks: Sequence[str],
        *,
        steer: Sequence[tuple[IPv4Address, IPv4Network]],
    ) -> None:
        self._fail_if_told()
        self.netfilter.append((pods, cluster, uplinks, steer))

    async def update_steer(self, added: list[Any], removed: list[Any]) -> None:
        self._fail_if_told()
        self.steer_changes.append((added, removed))

    def _fail_if_told(self) -> None:
        if self.fails:
            self.fails -= 1
            raise TransientError("nft: not now")

    async def clear_connections(self, pod_ips: object, cluster: object) -> None: ...

    async def attach_pod_devices(self) -> None: ...

    async def pod_devices(self, pod_ips: object) -> dict[IPv4Address, int]:
        return {}

    async def repair(self) -> bool:
        return False

    def drops(self) -> dict[tuple[str, str], int]:
        return {("no_gateway", "192.168.1.100"): 2, ("no_gateway", "192.168.1.101"): 3, ("fragment", ""): 1}

    def counters(self) -> dict[str, int]:
        return {"marked": 7}


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

    def address_of(self, name: str, port: int) -> Address | None:
        return self.addresses.get(name)


def steered(*pods: str) -> Inheritance:
    """What a former agent left: these pods under one rule set."""
    rules = RuleSet(5, ((IPv4Network("8.8.8.0/24"), FLOATING_IP),))
    return Inheritance({IPv4Address(pod): rules for pod in pods}, {}, {}, {}, (rules,))
