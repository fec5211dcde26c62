"""Names and addresses of a lab, derived from its size. No I/O: the same options give the same plan.

One control-plane node and the rest workers share `segment0` (192.168.1.0/24) with the router and the controllers, and
a second uplink `segment1` (172.30.1.0/24) with the router only. The router joins them to the outside server and knows
no way to pod addresses, so a pod's bare packet that leaks is seen outside but never answered. Far nodes, if any, are
the last ones, on `segment2` (172.30.2.0/24) alone: the router joins it to the others, and floating IPs are not of it.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole

SEGMENTS = (IPv4Network("192.168.1.0/24"), IPv4Network("172.30.1.0/24"))
FAR_SEGMENT = len(SEGMENTS)
NETWORKS = (*SEGMENTS, IPv4Network("172.30.2.0/24"))
"""Of all segments, the far one last."""
TRANSPORTS = ("l2", "vxlan", "auto")
POD_CIDR = IPv4Network("10.244.0.0/16")
SERVICE_CIDR = IPv4Network("10.96.0.0/16")
OUTSIDE_LINK = IPv4Network("203.0.113.0/30")
OUTSIDE_ADDRESSES = (IPv4Address("8.8.8.8"), IPv4Address("9.9.9.9"), IPv4Address("8.8.4.4"))
OUTSIDE_NETWORKS = tuple(IPv4Network((int(address) & 0xFFFFFF00, 24)) for address in OUTSIDE_ADDRESSES)
"""The outside server answers for every address of these."""
SECOND_UPLINK_DESTINATION = IPv4Network("8.8.4.0/24")
"""Nodes route this through `segment1`: a place to leak through."""
POD_GATEWAY = IPv4Address("169.254.1.1")
"""The gateway of pods on a bare veth."""
ROUTER_OCTET, CONTROL_OCTET, FIRST_WORKER_OCTET, LAST_WORKER_OCTET = 1, 11, 21, 99
"""Addresses from .100 on are free for floating IPs."""
CONTROLLER_OCTETS = (5, 6, 7)
API_OCTET = 2
API_MEMBER = "kubernetes"
"""Where the API server of a cluster runs: apart from every node, so that any node may die."""
WITNESS_OCTET = 8
WITNESS = "witness1"
"""The elector that is no node, on a host of its own."""
FIRST_POD_OCTET, LAST_POD_OCTET = 10, 254
TCP_PORT, UDP_PORT, HTTP_PORT = 8080, 8081, 9642
DEFAULT_NAME = "egw"
PROXY_MODES = ("iptables", "nftables", "none")
PLAIN_BRIDGE, FLANNEL_VXLAN, KUBE_ROUTER = "bridge", "flannel-vxlan", "kube-router"
CNIS = (PLAIN_BRIDGE, FLANNEL_VXLAN, "flannel-host-gw", KUBE_ROUTER)
_ROLES = (("alice", "frontend"), ("carol", "other"), ("paul", "frontend"))
"""(namespace and its `user` label, role of the pod), dealt out in turn on every node."""


@dataclass(frozen=True, slots=True)
class LabOptions:
    """What `lab up` may be told."""

    name: str = DEFAULT_NAME
    """Prefix of every namespace, and name of the lab."""
    nodes: int = 3
    pods_per_node: int = 3
    controllers: int = 2
    electors: int = 0
    """0: as many of 1, 3 and 5 as there are nodes for."""
    profile: str = "default"
    """Lease profile."""
    kafka: str = ""
    """host:port of a broker that every member publishes its audit records to; empty: none."""
    state_kib: int = 0
    """Size of a disk of its own for the durable state of each member; 0: it is on the lab's."""
    kubernetes: bool = False
    """A real cluster: its pods, the service's among them, are Kubernetes' business, and so are the pods' bridges."""
    proxy_mode: str = "iptables"
    """Of kube-proxy, in a cluster; `none`: kube-router is the service proxy."""
    cni: str = PLAIN_BRIDGE
    """What connects the pods of a cluster."""
    datapath: dict[str, Any] = field(default_factory=dict)
    """Settings of every member's `datapath`, beside or in the place of the lab's own."""
    far_nodes: int = 0
    """So many of the workers are on a segment of their own, behind the router."""
    transport: str = "l2"
    """`datapath.transport` of every member."""
    witness: bool = False
    """A host that is an elector and nothing else, beside the nodes (`egressgw agent --witness`)."""


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """One pod. Of a cluster it is made from the real one (`cluster.pod`), with what is then known of it."""

    namespace: str
    name: str
    role: str
    node: str
    ip: IPv4Address
    netns: str
    device: str
    """The host's end of its veth, in the node's namespace."""
    on_bridge: bool
    """False: bare veth with a /32 route."""
    mac: str

    @property
    def full_name(self) -> str:
        """`namespace/name`, as every command of the lab takes it."""
        return f"{self.namespace}/{self.name}"

    @property
    def labels(self) -> dict[str, str]:
        """What policies select it by; `user` is its namespace's label too."""
        return {"user": self.namespace, "role": self.role}


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node, its pods among it."""

    name: str
    role: NodeRole
    netns: str
    octet: int
    pod_cidr: IPv4Network
    pods: tuple[PlannedPod, ...]
    is_far: bool = False

    @property
    def segments(self) -> tuple[int, ...]:
        """Which ones it is on, as in NETWORKS; by the first it is known to the others."""
        return (FAR_SEGMENT,) if self.is_far else tuple(range(len(SEGMENTS)))

    @property
    def ip(self) -> IPv4Address:
        """On its first segment: by this the node is known to the others, and its pods outside."""
        return self.address(self.segments[0])

    @property
    def bridge_address(self) -> IPv4Address:
        """The gateway of its bridged pods: the first address of its range."""
        return self.pod_cidr[1]

    @property
    def bridge_mac(self) -> str:
        """Set, for a bridge left to itself changes its address with its ports."""
        return pod_mac(self.bridge_address)

    def address(self, segment: int) -> IPv4Address:
        """`segment`: as in NETWORKS."""
        return NETWORKS[segment][self.octet]

    def mac(self, segment: int) -> str:
        """Of the node's own end of its link to that segment."""
        return segment_mac(segment, self.octet)

    def port(self, segment: int) -> str:
        """The fabric's end of the node's link."""
        return f"{self.name}-{segment}"


@dataclass(frozen=True, slots=True)
class PlannedController:
    """A member that is no node: a controller, a witness, or the API server of a cluster."""

    name: str
    netns: str
    octet: int

    @property
    def ip(self) -> IPv4Address:
        """On the first segment, the only one it is on."""
        return SEGMENTS[0][self.octet]

    @property
    def mac(self) -> str:
        """Of its own end of the link."""
        return segment_mac(0, self.octet)

    @property
    def port(self) -> str:
        """The fabric's end of its link."""
        return f"{self.name}-0"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `site` builds; found again from the options alone."""

    options: LabOptions
    nodes: tuple[PlannedNode, ...]
    controllers: tuple[PlannedController, ...]
    fabric: str
    router: str
    outside: str
    witness: PlannedController | None = None
    namespaces: tuple[str, ...] = field(default=())

    @property
    def hosts(self) -> tuple[PlannedController, ...]:
        """Those that are no nodes: controllers, and the witness."""
        return (*self.controllers, *([self.witness] if self.witness else []))

    @property
    def pods(self) -> tuple[PlannedPod, ...]:
        """Of all nodes, in their order; none of a cluster."""
        return tuple(pod for node in self.nodes for pod in node.pods)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of nodes and controllers."""
        return (*(node.name for node in self.nodes), *(controller.name for controller in self.controllers))

    @property
    def electors(self) -> tuple[PlannedNode | PlannedController, ...]:
        """The first nodes: as many as asked for, else the most of 1, 3 and 5 that there are nodes for; a witness is one
        of them."""
        others = () if self.witness is None else (self.witness,)
        there = len(self.nodes) + len(others)
        count = self.options.electors or max(size for size in (1, 3, 5) if size == 1 or size <= there)
        return (*self.nodes[: count - len(others)], *others)

    @property
    def outside_link(self) -> tuple[IPv4Address, IPv4Address]:
        """Addresses of the router and of the outside server on the link between them."""
        return OUTSIDE_LINK[1], OUTSIDE_LINK[2]


def far_nodes(nodes: int, segments: int) -> int:
    """How many of the nodes are far where a cluster of so many is spread over so many segments: a half, if any."""
    return nodes // 2 if segments > 1 else 0


def segment_mac(segment: int, octet: int) -> str:
    """A locally administered address that tells segment and host at a glance in a capture."""
    return f"02:65:67:00:{segment:02x}:{octet:02x}"


def pod_mac(address: IPv4Address) -> str:
    """The address as CNI plugins make it: 0a:58 and the four bytes of the pod's IP."""
    return "0a:58:" + address.packed.hex(":")


def make_plan(options: LabOptions) -> Plan:
    """Lay out a lab. Raises OperatorError naming the option that does not fit."""
    _check(options)
    prefix = options.name
    nodes = tuple(_node(options, index) for index in range(options.nodes))
    controllers = tuple(
        PlannedController(name=f"controller{index + 1}", netns=f"{prefix}-controller{index + 1}", octet=octet)
        for index, octet in enumerate(CONTROLLER_OCTETS[: options.controllers])
    )
    if options.kubernetes:
        controllers = (PlannedController(name=API_MEMBER, netns=f"{prefix}-{API_MEMBER}", octet=API_OCTET),)
    witness = PlannedController(WITNESS, f"{prefix}-{WITNESS}", WITNESS_OCTET) if options.witness else None
    hosts = (*controllers, witness) if witness else controllers
    fabric, router, outside = f"{prefix}-fabric", f"{prefix}-router", f"{prefix}-outside"
    members = [*(node.netns for node in nodes), *(host.netns for host in hosts)]
    pods = [pod.netns for node in nodes for pod in node.pods]
    return Plan(
        options=options,
        nodes=nodes,
        controllers=controllers,
        fabric=fabric,
        router=router,
        outside=outside,
        witness=witness,
        namespaces=(fabric, router, outside, *members, *pods),
    )


def _check(options: LabOptions) -> None:
    nodes_max = LAST_WORKER_OCTET - FIRST_WORKER_OCTET + 2
    pods_max = LAST_POD_OCTET - FIRST_POD_OCTET + 1
    if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", options.name):
        raise OperatorError(f"--name: {options.name!r}: up to 12 lower-case letters and digits, a letter first")
    if not 1 <= options.nodes <= nodes_max:
        raise OperatorError(f"--nodes: 1 to {nodes_max}, not {options.nodes}")
    if not 0 <= options.pods_per_node <= pods_max:
        raise OperatorError(f"--pods-per-node: 0 to {pods_max}, not {options.pods_per_node}")
    if not 0 <= options.controllers <= len(CONTROLLER_OCTETS):
        raise OperatorError(f"--controllers: 0 to {len(CONTROLLER_OCTETS)}, not {options.controllers}")
    if options.proxy_mode not in PROXY_MODES:
        raise OperatorError(f"--proxy-mode: {', '.join(PROXY_MODES)}, not {options.proxy_mode!r}")
    if options.cni not in CNIS:
        raise OperatorError(f"--cni: {', '.join(CNIS)}, not {options.cni!r}")
    if options.proxy_mode == "none" and options.cni != KUBE_ROUTER:
        raise OperatorError(f"--proxy-mode: none is for --cni {KUBE_ROUTER}, which is the service proxy then")
    if not 0 <= options.far_nodes < options.nodes:
        raise OperatorError(f"--far-nodes: fewer than there are nodes, not {options.far_nodes}")
    if options.far_nodes and options.kubernetes and options.cni != FLANNEL_VXLAN:
        raise OperatorError(f"--segments: the pods of two segments reach each other only with --cni {FLANNEL_VXLAN}")
    if options.transport not in TRANSPORTS:
        raise OperatorError(f"--transport: {', '.join(TRANSPORTS)}, not {options.transport!r}")
    if options.state_kib < 0:
        raise OperatorError(f"the size of a state disk cannot be {options.state_kib} KiB")
    if options.electors not in (0, 1, 3, 5, 7) or options.electors > options.nodes + options.witness:
        raise OperatorError(f"--electors: 1, 3, 5 or 7 and no more than there are nodes, not {options.electors}")


def _node(options: LabOptions, index: int) -> PlannedNode:
    control = index == 0
    name = "control1" if control else f"worker{index}"
    pods = 0 if options.kubernetes else options.pods_per_node
    pod_cidr = IPv4Network((int(POD_CIDR[0]) + (index << 8), 24))
    return PlannedNode(
        name=name,
        role=NodeRole.CONTROL_PLANE if control else NodeRole.WORKER,
        netns=f"{options.name}-{name}",
        octet=CONTROL_OCTET if control else FIRST_WORKER_OCTET + index - 1,
        pod_cidr=pod_cidr,
        pods=tuple(_pod(options, name, pod_cidr, index, ordinal) for ordinal in range(pods)),
        is_far=index >= options.nodes - options.far_nodes,
    )


def _pod(options: LabOptions, node: str, pod_cidr: IPv4Network, node_index: int, ordinal: int) -> PlannedPod:
    namespace, role = _ROLES[ordinal % len(_ROLES)]
    turn = ordinal // len(_ROLES)
    name = f"{role}-{node}" + (f"-{turn + 1}" if turn else "")
    last = ordinal == options.pods_per_node - 1
    # With one pod per node all bridge pods would be lost, so only the last node's is on a bare veth then.
    bare = last and (options.pods_per_node > 1 or node_index == options.nodes - 1)
    octet = FIRST_POD_OCTET + ordinal
    return PlannedPod(
        namespace=namespace,
        name=name,
        role=role,
        node=node,
        ip=pod_cidr[octet],
        netns=f"{options.name}-pod-{namespace}-{name}",
        device=f"pod{ordinal}",
        on_bridge=not bare,
        mac=pod_mac(pod_cidr[octet]),
    )
