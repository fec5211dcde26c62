"""Objects of the API server as far as they concern us: typed, read from raw JSON without the rest."""

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any

import msgspec

from service.model.gateway_node import NodeRole
from service.model.objects import API_VERSION, ApiServers, ClusterNode, Kind, Namespace, ObjectKey, Pod, ServiceRange
from service.sources.kubernetes.resource import Item
from service.sources.object_decoder import Decoded, decode

ORIGIN = "kubernetes"
_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class ApiObject:
    """One of our custom resources."""

    key: ObjectKey
    uid: str
    created: str
    """As the API server writes it; text order is age order."""
    generation: int
    annotations: dict[str, str]
    spec: Any
    status: dict[str, Any]
    decoded: Decoded
    version: str = ""
    """resourceVersion."""


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _PodSpec(msgspec.Struct, rename="camel", frozen=True):
    node_name: str = ""
    host_network: bool = False


class _PodAddress(msgspec.Struct, frozen=True):
    ip: str = ""


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    address: str = msgspec.field(name="podIP", default="")
    addresses: list[_PodAddress] | None = msgspec.field(name="podIPs", default=None)


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Bare(msgspec.Struct):
    metadata: _Metadata


_pod_decoder = msgspec.json.Decoder(_Pod)
_namespace_decoder = msgspec.json.Decoder(_Bare)
_cluster_decoder = msgspec.json.Decoder(_Bare)


def decode_pod(raw: msgspec.Raw) -> Item[Pod]:
    """Read a pod; without an address where it shares its node's or has finished."""
    pod = _pod_decoder.decode(raw)
    metadata = pod.metadata
    has_own_address = not pod.spec.host_network and pod.status.phase not in _FINISHED
    address = _pod_address(pod.status) if has_own_address else None
    key = ObjectKey(Kind.POD, metadata.namespace, metadata.name)
    labels = tuple(sorted(metadata.labels.items())) if metadata.labels else ()
    return Item(str(key), Pod(key, metadata.uid, labels, pod.spec.node_name, address))


def _pod_address(status: _PodStatus) -> IPv4Address | None:
    """The IPv4 address; on a dual-stack cluster it may be the second."""
    for text in (status.address, *(item.ip for item in status.addresses or ())):
        if (found := _address(text)) is not None:
            return found
    return None


def decode_namespace(raw: msgspec.Raw) -> Item[Namespace]:
    """Read a namespace, of which only the labels count."""
    metadata = _namespace_decoder.decode(raw).metadata
    key = ObjectKey(Kind.NAMESPACE, "", metadata.name)
    return Item(key.name, Namespace(key, tuple(sorted((metadata.labels or {}).items()))))


class _NodeSpec(msgspec.Struct, rename="camel", frozen=True):
    unschedulable: bool = False
    pod_range: str = msgspec.field(name="podCIDR", default="")
    pod_ranges: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class _NodeAddress(msgspec.Struct, frozen=True):
    type: str = ""
    address: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _NodeStatus(msgspec.Struct, frozen=True):
    addresses: list[_NodeAddress] | None = None
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct):
    metadata: _Metadata
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _RangeSpec(msgspec.Struct, frozen=True):
    cidrs: list[str] | None = None


class _Range(msgspec.Struct):
    metadata: _Metadata
    spec: _RangeSpec = _RangeSpec()


class _Endpoint(msgspec.Struct, frozen=True):
    addresses: list[str] | None = None


class _Slice(msgspec.Struct):
    metadata: _Metadata
    endpoints: list[_Endpoint] | None = None


_node_decoder = msgspec.json.Decoder(_Node)
_range_decoder = msgspec.json.Decoder(_Range)
_slice_decoder = msgspec.json.Decoder(_Slice)
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_SHUTDOWN = "node is shutting down"
"""What a kubelet says in its Ready condition from the moment it delays a shutdown; it has no reason of its own."""


def decode_cluster_node(raw: msgspec.Raw) -> Item[ClusterNode]:
    """Read a Node. What changes with every heartbeat is left out, so that heartbeats are no news."""
    node = _node_decoder.decode(raw)
    key = ObjectKey(Kind.CLUSTER_NODE, "", node.metadata.name)
    addresses = (item.address for item in node.status.addresses or () if item.type == "InternalIP")
    ready = next((item for item in node.status.conditions or () if item.type == "Ready"), _Condition())
    is_not_ready = ready.status == "False"
    value = ClusterNode(
        key,
        NodeRole.CONTROL_PLANE if _CONTROL_PLANE in (node.metadata.labels or {}) else NodeRole.WORKER,
        addresses=tuple(found for text in addresses if (found := _address(text)) is not None),
        pod_ranges=_networks([*(node.spec.pod_ranges or ()), node.spec.pod_range]),
        is_cordoned=node.spec.unschedulable,
        is_shutting_down=is_not_ready and _SHUTDOWN in ready.message,
        is_ready={"True": True, "False": False}.get(ready.status),
        not_ready_reason="" if ready.status == "True" else ready.message or ready.reason,
        labels=tuple(sorted((node.metadata.labels or {}).items())),
    )
    return Item(key.name, value)


def decode_service_range(raw: msgspec.Raw) -> Item[ServiceRange]:
    """Read a ServiceCIDR; of a dual-stack one the IPv4 ranges. Raises ValueError where one is no network."""
    found = _range_decoder.decode(raw)
    key = ObjectKey(Kind.SERVICE_RANGE, "", found.metadata.name)
    return Item(key.name, ServiceRange(key, _networks(found.spec.cidrs or [])))


def decode_api_servers(raw: msgspec.Raw) -> Item[ApiServers]:
    """Read the EndpointSlice of the service `kubernetes`. Also what is not ready: it may be at any time."""
    found = _slice_decoder.decode(raw)
    key = ObjectKey(Kind.API_SERVERS, found.metadata.namespace, found.metadata.name)
    addresses = (_address(text) for endpoint in found.endpoints or () for text in endpoint.addresses or ())
    return Item(str(key), ApiServers(key, tuple(dict.fromkeys(one for one in addresses if one is not None))))


def _networks(texts: list[str]) -> tuple[IPv4Network, ...]:
    """The IPv4 ones, each once."""
    return tuple(dict.fromkeys(IPv4Network(text) for text in texts if text and ":" not in text))


def _address(text: str) -> IPv4Address | None:
    """An IPv4 address; None for what is none, such as the IPv6 address of a dual-stack node."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


@dataclass(frozen=True, slots=True)
class ClusterSwitch:
    """A Cluster object, of which only the switch concerns us."""

    identity: str
    namespace: str
    is_on: bool


def decode_cluster(raw: msgspec.Raw, *, annotation: str) -> Item[ClusterSwitch]:
    """Read a Cluster; it is on where the annotation says `true`, and off where there is none."""
    metadata = _cluster_decoder.decode(raw).metadata
    is_on = (metadata.annotations or {}).get(annotation) == "true"
    identity = f"{metadata.namespace}/{metadata.name}"
    return Item(identity, ClusterSwitch(identity, metadata.namespace, is_on))


def decode_own(raw: msgspec.Raw, kind: Kind) -> Item[ApiObject]:
    """Read one of our kinds. Raises ValueError where it has no name; what else is wrong is in `decoded`."""
    document = msgspec.json.decode(raw)
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise ValueError("no metadata.name")
    key = ObjectKey(kind, metadata.get("namespace", ""), metadata["name"])
    # Items of a list may come without their type.
    document |= {"apiVersion": API_VERSION, "kind": str(kind)}
    decoded = decode(document, origin=ORIGIN, strict=False) if kind is not Kind.NODE else Decoded(key, None)
    item = ApiObject(
        key,
        uid=metadata.get("uid", ""),
        created=metadata.get("creationTimestamp") or "",
        generation=metadata.get("generation", 0),
        annotations=metadata.get("annotations") or {},
        spec=document.get("spec"),
        status=document.get("status") or {},
        decoded=decoded,
        version=metadata.get("resourceVersion") or "",
    )
    return Item(str(key), item)
