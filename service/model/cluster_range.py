"""The address ranges that are the cluster's own: packets to them are never steered (rule W12)."""

from dataclasses import dataclass
from ipaddress import IPv4Network


@dataclass(frozen=True, slots=True)
class ClusterRanges:
    """Each sorted and without duplicates. An empty `pods` means that none is known, not that there is none."""

    pods: tuple[IPv4Network, ...] = ()
    services: tuple[IPv4Network, ...] = ()
    nodes: tuple[IPv4Network, ...] = ()
    servers: tuple[IPv4Network, ...] = ()
    """The API servers, by their own word."""
