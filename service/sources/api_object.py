"""Objects of the API server as far as they concern us: typed, read from raw JSON without the rest."""

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

import msgspec

from service.model.objects import API_VERSION, Kind, Namespace, ObjectKey, Pod
from service.sources.object_decoder import Decoded, decode
from service.sources.reflector import Item

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
        if text and ":" not in text:
            try:
                return IPv4Address(text)
            except AddressValueError:
                continue
    return None


def decode_namespace(raw: msgspec.Raw) -> Item[Namespace]:
    metadata = _namespace_decoder.decode(raw).metadata
    key = ObjectKey(Kind.NAMESPACE, "", metadata.name)
    return Item(key.name, Namespace(key, tuple(sorted((metadata.labels or {}).items()))))


@dataclass(frozen=True, slots=True)
class ClusterSwitch:
    """A Cluster object, of which only the switch concerns us."""

    identity: str
    namespace: str
    is_on: bool


def decode_cluster(raw: msgspec.Raw, *, annotation: str) -> Item[ClusterSwitch]:
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
    )
    return Item(str(key), item)
