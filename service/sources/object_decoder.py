"""Documents to typed objects, the same for manifests and for Kubernetes.

Every error names origin, object and field; all errors of an object are found in one pass. An object with an error is
not returned at all: half a policy is worse than the last good one.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from service.model.errors import ObjectError
from service.model.objects import (
    API_GROUP,
    API_VERSION,
    GATEWAY_NAME,
    GATEWAY_NAMESPACE,
    EgressPolicy,
    FlowTimeouts,
    Kind,
    Namespace,
    NetworkGateway,
    Object,
    ObjectKey,
    Pod,
)
from service.sources.field_reader import FieldReader, shown
from service.sources.selector_decoder import decode_labels, decode_rule, decode_selector
from service.sources.timestamp import normal_timestamp

_API_VERSIONS = {
    Kind.GATEWAY: API_VERSION,
    Kind.POLICY: API_VERSION,
    Kind.NAMESPACE: "v1",
    Kind.POD: "v1",
}
_NAMESPACED = (Kind.GATEWAY, Kind.POD)
_OWN_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_FINISHED = ("Succeeded", "Failed")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One document: an object, or what is wrong with it."""

    key: ObjectKey | None
    """Which object it means to be, as far as that can be read; known for refused objects too."""
    object: Object | None
    errors: tuple[ObjectError, ...] = ()
    is_foreign: bool = False
    """Refused because its kind is not ours at all, such as a Service; no object of ours can be behind it."""


@dataclass(frozen=True, slots=True)
class _Metadata:
    key: ObjectKey
    labels: tuple[tuple[str, str], ...]
    created: str
    uid: str
    generation: int


def decode(document: Any, *, origin: str, strict: bool = True) -> Decoded:
    """Decode one document.

    `strict` refuses unknown fields of metadata and beside spec, for hand-written files; an API server, which has
    checked its objects and may be newer than we are, is read without. Unknown fields in the specs that are ours are
    always refused.
    """
    if not isinstance(document, dict):
        error = ObjectError(origin, "", "", "", f"an object (apiVersion, kind, ...) is expected, not {shown(document)}")
        return Decoded(None, None, (error,))
    kind_text, name = document.get("kind"), _display_name(document)
    reader = FieldReader(origin, kind_text if isinstance(kind_text, str) else "", name)
    kind = _decode_kind(document, reader)
    if kind is None:
        is_foreign = isinstance(kind_text, str) and not str(document.get("apiVersion")).startswith(API_GROUP)
        return Decoded(None, None, tuple(reader.errors), is_foreign)
    if strict and kind in (Kind.GATEWAY, Kind.POLICY):
        reader.mapping(document, "", known=_OWN_FIELDS)
    metadata = _decode_metadata(document, kind, reader, strict=strict)
    if metadata is None:
        return Decoded(None, None, tuple(reader.errors))
    item = _decode_body(document, kind, metadata, reader)
    return Decoded(metadata.key, None if reader.errors else item, tuple(reader.errors))


def _decode_body(document: dict[str, Any], kind: Kind, metadata: _Metadata, reader: FieldReader) -> Object | None:
    match kind:
        case Kind.GATEWAY:
            return _decode_gateway(document, metadata, reader)
        case Kind.POLICY:
            return _decode_policy(document, metadata, reader)
        case Kind.NAMESPACE:
            return Namespace(metadata.key, metadata.labels)
        case Kind.POD:
            return _decode_pod(document, metadata, reader)
        case Kind.NODE | Kind.CLUSTER_NODE | Kind.SERVICE_RANGE | Kind.CONFIG_MAP | Kind.API_SERVERS:
            return None  # not among the kinds that are read


def _display_name(document: dict[Any, Any]) -> str:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return ""
    parts = [metadata.get("namespace"), metadata.get("name")]
    return "/".join(part for part in parts if isinstance(part, str) and part)


def _decode_kind(document: dict[str, Any], reader: FieldReader) -> Kind | None:
    if not reader.require(document, "kind", "", f"one of {', '.join(_API_VERSIONS)}"):
        return None
    text = reader.text(document["kind"], "kind", "a kind")
    if text is None:
        return None
    if text not in _API_VERSIONS:
        reader.refuse("kind", f"unknown kind {shown(text)}; read here: {', '.join(_API_VERSIONS)}")
        return None
    kind = Kind(text)
    if (
        reader.require(document, "apiVersion", "", _API_VERSIONS[kind])
        and document["apiVersion"] != _API_VERSIONS[kind]
    ):
        reader.refuse("apiVersion", f"{shown(document['apiVersion'])} is not read; write {_API_VERSIONS[kind]}")
    return kind


def _decode_metadata(document: dict[str, Any], kind: Kind, reader: FieldReader, *, strict: bool) -> _Metadata | None:
    if not reader.require(document, "metadata", "", "at least metadata.name"):
        return None
    metadata = reader.mapping(document["metadata"], "metadata", known=_METADATA if strict else None)
    if metadata is None or not reader.require(metadata, "name", "metadata", "a name"):
        return None
    name = reader.text(metadata["name"], "metadata.name", "a name")
    if name is None or not _is_name(name, kind, reader):
        return None
    namespace = _decode_namespace(metadata, kind, reader)
    if namespace is None:
        return None
    labels = decode_labels(metadata["labels"], "metadata.labels", reader) if metadata.get("labels") is not None else ()
    generation = metadata.get("generation", 0)
    uid = metadata.get("uid")
    return _Metadata(
        key=ObjectKey(kind, namespace, name),
        labels=labels,
        created=_decode_created(metadata.get("creationTimestamp"), reader),
        uid=uid if isinstance(uid, str) else "",
        generation=generation if isinstance(generation, int) else 0,
    )


def _is_name(name: str, kind: Kind, reader: FieldReader) -> bool:
    pattern, length_max = (_LABEL, 63) if kind is Kind.NAMESPACE else (_SUBDOMAIN, 253)
    if pattern.fullmatch(name) and len(name) <= length_max:
        return True
    reader.refuse(
        "metadata.name", f"{shown(name)} is not a name: lower-case letters, digits and - (at most {length_max})"
    )
    return False


def _decode_namespace(metadata: dict[str, Any], kind: Kind, reader: FieldReader) -> str | None:
    # As the API server does: cluster-scoped objects have none, and `default` is meant where none is written.
    if kind not in _NAMESPACED:
        return ""
    text = reader.text(metadata.get("namespace", "default"), "metadata.namespace", "a namespace")
    if text is not None and not _LABEL.fullmatch(text):
        reader.refuse("metadata.namespace", f"{shown(text)} is not a namespace: lower-case letters, digits and -")
        return None
    return text


def _decode_created(value: Any, reader: FieldReader) -> str:
    if value is None:
        return ""
    text = reader.text(value, "metadata.creationTimestamp", "a time")
    try:
        return normal_timestamp(text) if text is not None else ""
    except ValueError:
        message = f"{shown(text)} is not a time; write one such as 2024-05-01T12:00:00Z, or leave it out"
        reader.refuse("metadata.creationTimestamp", message)
        return ""


def _decode_spec(document: dict[str, Any], reader: FieldReader, *, known: tuple[str, ...]) -> dict[str, Any] | None:
    if not reader.require(document, "spec", "", "a mapping"):
        return None
    return reader.mapping(document["spec"], "spec", known=known)


def _decode_gateway(document: dict[str, Any], metadata: _Metadata, reader: FieldReader) -> NetworkGateway | None:
    key = metadata.key
    if (key.namespace, key.name) != (GATEWAY_NAMESPACE, GATEWAY_NAME):
        field = "metadata.name" if key.namespace == GATEWAY_NAMESPACE else "metadata.namespace"
        reader.refuse(field, f"not used: the one gateway object is {GATEWAY_NAMESPACE}/{GATEWAY_NAME}, not {key}")
    spec = _decode_spec(document, reader, known=("floatingIPs", "nodeSelector"))
    if spec is None or not reader.require(spec, "floatingIPs", "spec", "a list of addresses, [] for none"):
        return None
    found = []
    for index, item in enumerate(reader.sequence(spec["floatingIPs"], "spec.floatingIPs", "addresses") or ()):
        path = f"spec.floatingIPs[{index}]"
        address = reader.source_address(item, path)
        if address is not None:
            found.append((path, address))
    # Null is as good as absent to who applies it, and so to the API server.
    said = spec.get("nodeSelector")
    selector = decode_selector(said, "spec.nodeSelector", reader) if said is not None else None
    return NetworkGateway(key, tuple(reader.unique(found)), metadata.generation, selector)


_POLICY_FIELDS = ("egress", "destinationCIDRs", "excludedCIDRs", "egressSourceIP", "timeouts")
_TIMEOUTS = {
    "tcpOpenSeconds": ("tcp_open_s", 60, 864_000),
    "tcpNewSeconds": ("tcp_new_s", 5, 3600),
    "tcpClosingSeconds": ("tcp_closing_s", 5, 3600),
    "udpSeconds": ("udp_s", 5, 86_400),
    "udpNewSeconds": ("udp_new_s", 5, 86_400),
    "icmpSeconds": ("icmp_s", 5, 3600),
}
"""Field of the object -> ours, and the bounds that it has in settings too."""


def _decode_policy(document: dict[str, Any], metadata: _Metadata, reader: FieldReader) -> EgressPolicy | None:
    spec = _decode_spec(document, reader, known=_POLICY_FIELDS)
    if spec is None:
        return None
    rules, source_ip = [], None
    destinations: tuple[IPv4Network, ...] = ()
    if reader.require(spec, "egress", "spec", "at least one rule"):
        for index, item in enumerate(reader.sequence(spec["egress"], "spec.egress", "rules", minimum=1) or ()):
            rules.append(decode_rule(item, f"spec.egress[{index}]", reader))
    if reader.require(spec, "destinationCIDRs", "spec", "at least one CIDR"):
        destinations = _decode_networks(spec, "destinationCIDRs", reader, minimum=1)
    # Null is as good as absent to who applies it, and so to the API server.
    excluded = _decode_networks(spec, "excludedCIDRs", reader) if spec.get("excludedCIDRs") is not None else ()
    for network in (network for network in excluded if network in destinations):
        reader.refuse("spec.excludedCIDRs", f"{network} is in destinationCIDRs, too; remove it from one of the two")
    if reader.require(spec, "egressSourceIP", "spec", "one of the floating IPs"):
        source_ip = reader.source_address(spec["egressSourceIP"], "spec.egressSourceIP")
    if source_ip is None:
        return None
    return EgressPolicy(
        metadata.key,
        tuple(rules),
        destinations,
        source_ip,
        metadata.created,
        metadata.generation,
        excluded,
        _decode_timeouts(spec.get("timeouts"), reader),
    )


def _decode_timeouts(value: Any, reader: FieldReader) -> FlowTimeouts:
    path, found = "spec.timeouts", dict[str, int]()
    known = tuple(_TIMEOUTS)
    said = reader.mapping(value, path, known=known) if value is not None else None
    for name, seconds in (said or {}).items():
        if name in _TIMEOUTS and seconds is not None:
            field, least, most = _TIMEOUTS[name]
            found[field] = reader.whole(seconds, f"{path}.{name}", "a number of seconds", least, most) or 0
    return FlowTimeouts(**found)


def _decode_networks(
    spec: dict[str, Any], name: str, reader: FieldReader, *, minimum: int = 0
) -> tuple[IPv4Network, ...]:
    """Sorted, each once."""
    path, networks = f"spec.{name}", []
    for index, item in enumerate(reader.sequence(spec[name], path, "CIDRs", minimum=minimum) or ()):
        network = reader.network(item, f"{path}[{index}]")
        if network is not None:
            networks.append((f"{path}[{index}]", network))
    return tuple(sorted(reader.unique(networks)))


def _decode_pod(document: dict[str, Any], metadata: _Metadata, reader: FieldReader) -> Pod:
    # Pods have many more fields, none of them ours to judge.
    spec, status = reader.section(document, "spec", ""), reader.section(document, "status", "")
    node = reader.text(spec.get("nodeName", ""), "spec.nodeName", "a node name")
    host_network = spec.get("hostNetwork", False)
    if not isinstance(host_network, bool):
        reader.refuse("spec.hostNetwork", f"true or false is expected, not {shown(host_network)}")
    phase = reader.text(status.get("phase", "Running"), "status.phase", "a phase")
    if phase is not None and phase not in _PHASES:
        reader.refuse("status.phase", f"unknown phase {shown(phase)}; write one of {', '.join(_PHASES)}")
    address = _decode_pod_address(status, reader)
    if host_network is True or phase in _FINISHED:
        address = None
    uid = metadata.uid or str(metadata.key)
    return Pod(metadata.key, uid, metadata.labels, node or "", address)


def _decode_pod_address(status: dict[str, Any], reader: FieldReader) -> IPv4Address | None:
    """Return the pod's IPv4 address; on a dual-stack cluster it may be the second."""
    texts = [("status.podIP", status["podIP"])] if status.get("podIP") else []
    others = status.get("podIPs")
    for index, item in enumerate(others if isinstance(others, list) else ()):
        if isinstance(item, dict) and "ip" in item:
            texts.append((f"status.podIPs[{index}].ip", item["ip"]))
    for path, text in texts:
        if isinstance(text, str) and ":" in text:
            continue
        return reader.address(text, path)
    return None
