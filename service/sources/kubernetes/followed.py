"""What is read of the API server. Pure.

An agent looks at the one gateway object in force and its own node's pods: what it reads does not grow with the cluster.
A controller reads everything, with the nodes' objects, which it alone writes.
"""

from functools import partial
from typing import Any

from service.model.objects import GATEWAY_NAMESPACE, Kind
from service.sources.kubernetes.api_object import (
    ClusterSwitch,
    decode_api_servers,
    decode_cluster,
    decode_cluster_node,
    decode_namespace,
    decode_own,
    decode_pod,
    decode_service_range,
)
from service.sources.kubernetes.custom_resource import collection_path
from service.sources.kubernetes.gateway_mirror import CLUSTERS_PATH, SWITCH
from service.sources.kubernetes.resource import Resource

_SERVICE_RANGES = "/apis/networking.k8s.io/v1/servicecidrs"
"""From Kubernetes 1.33 on; older servers do not know them."""
_API_SERVERS = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
"""The one that the API servers themselves keep, by the name of their service."""


def followed_resources(node: str | None) -> dict[Kind, Resource[Any]]:
    """What an agent of `node` follows; None: what a controller does."""
    resources: dict[Kind, Resource[Any]] = {
        Kind.NAMESPACE: Resource("/api/v1/namespaces", decode_namespace),
        Kind.GATEWAY: _own(Kind.GATEWAY, "" if node is None else GATEWAY_NAMESPACE),
        Kind.POLICY: _own(Kind.POLICY),
        Kind.POD: Resource("/api/v1/pods", decode_pod, "" if node is None else f"spec.nodeName={node}"),
        Kind.CLUSTER_NODE: Resource("/api/v1/nodes", decode_cluster_node),
        Kind.SERVICE_RANGE: Resource(_SERVICE_RANGES, decode_service_range, is_optional=True),
        Kind.API_SERVERS: Resource(_API_SERVERS, decode_api_servers, "metadata.name=kubernetes", is_optional=True),
    }
    if node is None:
        resources[Kind.NODE] = _own(Kind.NODE, GATEWAY_NAMESPACE)
    return resources


def followed_switches() -> Resource[ClusterSwitch]:
    """The Cluster objects, which switch gateways on; most clusters know no such kind."""
    return Resource(CLUSTERS_PATH, partial(decode_cluster, annotation=SWITCH), is_optional=True)


def _own(kind: Kind, namespace: str = "") -> Resource[Any]:
    return Resource(collection_path(kind, namespace), partial(decode_own, kind=kind))
