"""The variants that are compared, each on a site of its own on this machine; `peer` describes those that are not ours.

Everything stays within the namespaces. The gateway is measured as it runs in a lab: pod on one node, floating IP held
by another.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from loadtest import gateway, peer
from loadtest.gateway import Report
from loadtest.station import Station
from service.lab.lab import Lab
from service.lab.plan import LabOptions, PlannedPod
from service.settings import DatapathSettings

PLAIN, NFT_MAPS, NFT_TUNNEL = "plain routing", "nft maps", "nft maps, tunnel"
GATEWAY, GATEWAY_VXLAN = "gateway", "gateway, vxlan"
PEER_HOLDER, PEER_NODE = "worker1", "worker2"
POLICY_PATH, DIRECT_PATH = "policy", "direct"
PATHS = (POLICY_PATH, DIRECT_PATH)
_DIRECT_SETTING, _TRANSPORT_SETTING = "direct", "transport"


@dataclass(frozen=True, slots=True)
class Site:
    """One variant, ready to measure, as one pod of it sees it."""

    variant: str
    client: Station
    server: Station
    source: str
    """What the server must see."""
    lab: Lab
    pod: PlannedPod
    gateway_node: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One variant's two pods, of the same node."""

    on_veth: Site
    on_bridge: Site


Build = Callable[[str, Report], contextlib.AbstractContextManager[Pair]]
"""Of (name of the lab, report): a variant, as long as it is entered."""


@contextlib.contextmanager
def plain_site(name: str, report: Report) -> Iterator[Pair]:
    """Plain routing (see `peer`)."""
    with _peer_lab(name, report) as (lab, pods):
        peer.route_plainly(lab, pods, lab.node(PEER_HOLDER))
        with _stations(PLAIN, lab, pods, PEER_HOLDER, [str(pod.ip) for pod in pods]) as pair:
            yield pair


@contextlib.contextmanager
def nft_maps_site(name: str, report: Report) -> Iterator[Pair]:
    """The gateway of nft maps (see `peer`)."""
    with _peer_lab(name, report) as (lab, pods):
        peer.route_by_nft_maps(lab, pods, lab.node(PEER_HOLDER), gateway.SOURCE_IP)
        with _stations(NFT_MAPS, lab, pods, PEER_HOLDER, [gateway.SOURCE_IP] * 2) as pair:
            yield pair


@contextlib.contextmanager
def nft_tunnel_site(name: str, report: Report) -> Iterator[Pair]:
    """The same over a tunnel (see `peer`)."""
    with _peer_lab(name, report) as (lab, pods):
        peer.route_by_nft_maps(lab, pods, lab.node(PEER_HOLDER), gateway.SOURCE_IP, through_tunnel=True)
        with _stations(NFT_TUNNEL, lab, pods, PEER_HOLDER, [gateway.SOURCE_IP] * 2) as pair:
            yield pair


@contextlib.contextmanager
def gateway_site(
    name: str,
    report: Report,
    *,
    variant: str = GATEWAY,
    settings: dict[str, Any] | None = None,
    prepare: Callable[[Lab, str], None] = lambda lab, node: None,
) -> Iterator[Pair]:
    """Ours, its pods on another node than the holder; entered once their packets are translated.

    `settings`: of every node's datapath. `prepare` is called with lab and pods' node before that.
    """
    with gateway.running_lab(LabOptions(name=name, controllers=1, datapath=settings or {}), report) as lab:
        peer.add_server(lab)
        gateway.apply_policy(lab, (f"{gateway.OUTSIDE}/32", peer.SERVER_NETWORK))
        report("waiting until the floating IPs are held")
        holder = gateway.wait_until_whole(lab)["floatingIPs"][gateway.SOURCE_IP]["holder"]
        node = next(node.name for node in reversed(lab.plan.nodes) if node.name != holder)
        prepare(lab, node)
        pods = _pods(lab, node)
        for pod in pods:
            gateway.wait_until_translated(lab, pod)
        with _stations(variant, lab, pods, holder, [gateway.SOURCE_IP] * 2) as pair:
            yield pair


def path_settings(path: str) -> dict[str, Any] | None:
    """What a node's `datapath` says for established flows to take this path; None where this version has none such."""
    if _DIRECT_SETTING not in DatapathSettings.__struct_fields__:
        return {} if path == POLICY_PATH else None
    return {_DIRECT_SETTING: path == DIRECT_PATH}


def vxlan_settings() -> dict[str, Any] | None:
    """What a node's `datapath` says for the vxlan transport; None where this version has none."""
    return {_TRANSPORT_SETTING: "vxlan"} if _TRANSPORT_SETTING in DatapathSettings.__struct_fields__ else None


def counters(site: Site) -> dict[str, dict[str, dict[str, int]]]:
    """Node -> `packets` and `drops` of the two nodes on the way, from their agents."""
    found = {}
    for node in (site.pod.node, site.gateway_node):
        document = gateway.status(site.lab, node)
        found[node] = {kind: document[kind] for kind in ("packets", "drops")}
    return found


def _pods(lab: Lab, node: str) -> tuple[PlannedPod, PlannedPod]:
    """(on a bare veth, on the bridge)."""
    return gateway.selected_pod(lab, node, on_bridge=False), gateway.selected_pod(lab, node, on_bridge=True)


@contextlib.contextmanager
def _peer_lab(name: str, report: Report) -> Iterator[tuple[Lab, tuple[PlannedPod, PlannedPod]]]:
    with gateway.running_lab(LabOptions(name=name, controllers=0), report, processes=False) as lab:
        peer.add_server(lab)
        yield lab, _pods(lab, PEER_NODE)


@contextlib.contextmanager
def _stations(
    variant: str, lab: Lab, pods: tuple[PlannedPod, PlannedPod], gateway_node: str, sources: list[str]
) -> Iterator[Pair]:
    with Station(lab.plan.router) as server, Station(pods[0].netns) as first, Station(pods[1].netns) as second:
        sites = (
            Site(variant, client, server, source, lab, pod, gateway_node)
            for client, source, pod in zip((first, second), sources, pods, strict=True)
        )
        yield Pair(*sites)
