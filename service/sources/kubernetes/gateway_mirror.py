"""Users keep AnthosNetworkGateway in their cluster's namespace; the one in kube-system is kept in step with it.

Where that namespace has a Cluster object, its annotation switches the whole on; without it nothing is followed. What
is to be done is decided here, by values only; `mirror.py` does it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from service.model.objects import GATEWAY_NAME, GATEWAY_NAMESPACE, Kind, ObjectKey
from service.sources.kubernetes.api_object import ApiObject

CLUSTER_NAMESPACE_PREFIX = "cluster-"
MIRRORED_FROM = "networking.gke.io/mirrored-from"
"""Annotation of the object in kube-system: the namespace it follows."""
CLUSTERS_PATH = "/apis/baremetal.cluster.gke.io/v1/clusters"
SWITCH = "baremetal.cluster.gke.io/enable-anthos-network-gateway"
"""Annotation of a Cluster."""
GATEWAY = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)


@dataclass(frozen=True, slots=True)
class Follow:
    """Give the object in kube-system this spec."""

    namespace: str
    spec: Any


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Delete the object in kube-system: the one it followed is gone."""

    uid: str


def is_cluster_gateway(key: ObjectKey) -> bool:
    """Whether it is the one that users edit, in their cluster's namespace."""
    return key.name == GATEWAY_NAME and key.namespace.startswith(CLUSTER_NAMESPACE_PREFIX)


def mirror_step(gateways: Iterable[ApiObject], switches: Mapping[str, bool]) -> Follow | Withdraw | None:
    """What brings the object in kube-system in step; None where it is.

    The oldest of several cluster namespaces counts, ties by name. An object that a user created in kube-system itself
    is left alone for as long as no cluster namespace has one. `switches` says of each namespace with a Cluster whether
    it is switched on.
    """
    found = {item.key: item for item in gateways}
    target = found.get(GATEWAY)
    followed = _followed(found.values(), switches)
    if followed is None:
        return Withdraw(target.uid) if target is not None and MIRRORED_FROM in target.annotations else None
    namespace = followed.key.namespace
    is_in_step = (
        target is not None and target.spec == followed.spec and target.annotations.get(MIRRORED_FROM) == namespace
    )
    return None if is_in_step else Follow(namespace, followed.spec)


def _followed(gateways: Iterable[ApiObject], switches: Mapping[str, bool]) -> ApiObject | None:
    candidates = [item for item in gateways if is_cluster_gateway(item.key) and switches.get(item.key.namespace, True)]
    return min(candidates, key=lambda item: (item.created, item.key.namespace), default=None)
