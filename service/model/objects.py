"""The objects of both sources (Kubernetes and manifests) as typed values, and the changes a source delivers."""

from dataclasses import astuple, dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from service.model.errors import ObjectError
from service.model.gateway_node import NodeRole

API_GROUP = "networking.gke.io"
API_VERSION = "networking.gke.io/v1alpha1"
GATEWAY_NAMESPACE = "kube-system"
GATEWAY_NAME = "default"

Labels = tuple[tuple[str, str], ...]
"""Label pairs sorted by key."""


class Kind(StrEnum):
    """`kind` of the objects that are read or written, as manifests and the API server spell it."""

    GATEWAY = "AnthosNetworkGateway"
    NODE = "AnthosNetworkGatewayNode"
    """Written by the leader; never read from manifests."""
    POLICY = "EgressNATPolicy"
    NAMESPACE = "Namespace"
    POD = "Pod"
    CLUSTER_NODE = "Node"
    """The cluster's own word on a node; only of Kubernetes."""
    SERVICE_RANGE = "ServiceCIDR"
    """Where service addresses come from; only of Kubernetes."""
    CONFIG_MAP = "ConfigMap"
    """Who grants leases, as the API server has it. No source delivers it; Events may be about it."""
    API_SERVERS = "EndpointSlice"
    """Where the API servers are; only of Kubernetes, and no other slice than theirs."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Names one object. `namespace` is empty for cluster-scoped kinds."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Operator(StrEnum):
    """Of a `matchExpressions` entry (meta/v1 LabelSelectorRequirement). An absent key satisfies both negative ones."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One `matchExpressions` entry; `values` is sorted, empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A Kubernetes label selector; the empty selector matches everything."""

    match_labels: Labels = ()
    match_expressions: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class EgressRule:
    """Namespace selector AND pod selector. Rules of a policy are OR-ed."""

    namespace_selector: LabelSelector
    pod_selector: LabelSelector


@dataclass(frozen=True, slots=True)
class NetworkGateway:
    """AnthosNetworkGateway: the floating IPs in the order of the spec, which decides assignment."""

    key: ObjectKey
    floating_ips: tuple[IPv4Address, ...]
    generation: int = 0
    """The API server's count of changes of the spec; 0 where the source counts none."""
    node_selector: LabelSelector | None = None
    """Labels of the nodes that may be gateway nodes; None, and one that is empty: all of them (rule O2)."""


@dataclass(frozen=True, slots=True)
class FlowTimeouts:
    """For how long a flow without a packet is remembered, in seconds, by its state (rule B3); 0: not said here."""

    tcp_open_s: int = 0
    tcp_new_s: int = 0
    tcp_closing_s: int = 0
    udp_s: int = 0
    udp_new_s: int = 0
    icmp_s: int = 0

    def over(self, below: "FlowTimeouts") -> "FlowTimeouts":
        """What is said here, and else what is said there."""
        return FlowTimeouts(*(own or other for own, other in zip(astuple(self), astuple(below), strict=True)))


NO_TIMEOUTS = FlowTimeouts()


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """EgressNATPolicy: which pods, to which destinations, from which source address."""

    key: ObjectKey
    rules: tuple[EgressRule, ...]
    """A pod is selected if any of them matches."""
    destinations: tuple[IPv4Network, ...]
    egress_source_ip: IPv4Address
    created: str = ""
    """RFC 3339 time of creation, UTC, fixed width, so that text order is age order; ties go by name."""
    generation: int = 0
    excluded: tuple[IPv4Network, ...] = ()
    """Destinations that this policy leaves alone (rule W14); what another policy names stays that one's."""
    timeouts: FlowTimeouts = NO_TIMEOUTS
    """Of flows of the selected pods; where nothing is said the node's."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace, for its labels. The one with its own name need not be among them: selection adds it."""

    key: ObjectKey
    labels: Labels


@dataclass(frozen=True, slots=True)
class Pod:
    """What selection needs to know of a pod."""

    key: ObjectKey
    uid: str
    labels: Labels
    node: str
    ip: IPv4Address | None
    """None until it has an address, and for host-network and finished pods, which are never selected."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A Node object, as far as it concerns floating IPs."""

    key: ObjectKey
    role: NodeRole
    addresses: tuple[IPv4Address, ...] = ()
    """Its InternalIPs, in the order of the object."""
    pod_ranges: tuple[IPv4Network, ...] = ()
    is_cordoned: bool = False
    is_shutting_down: bool = False
    """Its kubelet says so; a node that is merely not ready may well go on forwarding."""
    is_ready: bool | None = None
    """What Kubernetes thinks of its kubelet; None where it does not know. Moves nothing."""
    not_ready_reason: str = ""
    labels: Labels = ()

    @property
    def is_schedulable(self) -> bool:
        """Whether it may hold floating IPs, as far as the cluster has a say. Being ready is not asked."""
        return not (self.is_cordoned or self.is_shutting_down)


@dataclass(frozen=True, slots=True)
class ServiceRange:
    """A ServiceCIDR object; a cluster may have several, and service addresses come from any of them."""

    key: ObjectKey
    networks: tuple[IPv4Network, ...]


@dataclass(frozen=True, slots=True)
class ApiServers:
    """What the service `kubernetes` leads to: the API servers, which need not be nodes."""

    key: ObjectKey
    addresses: tuple[IPv4Address, ...]


# A change carries whole objects, never differences, and changes of one key come in order. So the last one counts, and
# one that is heard twice does no harm.
Object = NetworkGateway | EgressPolicy | Namespace | Pod | ClusterNode | ServiceRange | ApiServers


@dataclass(frozen=True, slots=True)
class Upsert:
    """The object exists, and this is how it is now: its first version or a later one."""

    object: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """The object is gone. A key that was never delivered is possible, and means nothing."""

    key: ObjectKey


@dataclass(frozen=True, slots=True)
class Errors:
    """All objects refused at present; replaces the list of the last such change."""

    errors: tuple[ObjectError, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that exists has been delivered once; until this, absence means nothing."""


Change = Upsert | Delete | Errors | Synced
