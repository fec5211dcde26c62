"""Row `scale`: what a packet, a transaction and a connection cost with many policies and pods beside with one policy.

Two labs of ours stand side by side and are measured in turn. In the large one the maps and netfilter's sets are filled
as the agent fills them, because it is the agent that does it: there are so many policies, each with a destination of
its own, and so many pods of the pods' node, all behind one veth with a route for each.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import Any

from loadtest import gateway
from loadtest.gateway import Report
from loadtest.goal import Figure, Row, at_least, at_most
from loadtest.measurement import (
    METRICS,
    Round,
    measure_connections,
    measure_request_response,
    measure_udp,
    ratio,
)
from loadtest.rows.cost import interleave, summary
from loadtest.rows.options import DatapathOptions, Sizes
from loadtest.variant import Pair, gateway_site, path_settings
from service.lab.lab import Lab
from service.lab.manifest import apply_manifest, pod_manifest
from service.lab.namespace import ip_batch, run
from service.lab.plan import PlannedPod, pod_mac
from service.lab.status import wait_for
from service.model.errors import TransientError

FEW, MANY = "one policy", "many policies"
DEVICE = "many0"
NAMESPACES = 50
"""That the policies and pods are spread over."""
_FIRST_POD = IPv4Address("10.244.128.0")
_FIRST_SOURCE = IPv4Address("192.168.8.0")
"""Of the policies: no floating IPs, so that the number of leases is not measured; their rules are in the maps alike."""
FILLED_S = 180.0
SETTLED_S = 3.0
_COMPARED = ("udp_cpu_ns", "rr_p50_us", "rr_p99_us", "connections")
WITHIN = 0.05


def measure_scale(options: DatapathOptions, report: Report) -> Row:
    """By the first path that is asked for."""
    sizes = options.sizes
    settings = path_settings(options.paths[0]) or {}
    rounds: list[Round] = []
    with _sites(options, settings, report) as (few, many):
        for number in range(options.rounds):
            measures = [measure_udp, measure_request_response, measure_connections]
            rounds.append(interleave(options, number, [few.on_veth, many.on_veth], measures, report))
    detail = {"groups": {"veth": summary(rounds)}, "rounds": rounds}
    size = f"{sizes.policies} policies, {sizes.pods} pods / with 1"
    figures = []
    for metric in METRICS:
        if metric.key in _COMPARED:
            goal = at_least(1 - WITHIN) if metric.higher_is_better else at_most(1 + WITHIN)
            figures.append(Figure(f"{metric.title}, {size}", ratio(rounds, metric.key, MANY, FEW), goal=goal))
    return Row("scale", figures, detail)


@contextlib.contextmanager
def _sites(options: DatapathOptions, settings: dict[str, Any], report: Report) -> Iterator[tuple[Pair, Pair]]:
    sizes = options.sizes

    def fill_lab(lab: Lab, node: str) -> None:
        report(f"{sizes.policies} policies and {sizes.pods} pods")
        fill(lab, node, sizes)

    few = gateway_site(f"{options.name}f", report, variant=FEW, settings=settings)
    many = gateway_site(f"{options.name}m", report, variant=MANY, settings=settings, prepare=fill_lab)
    with few as small, many as large:
        yield small, large


def fill(lab: Lab, node: str, sizes: Sizes) -> None:
    """Give a node so many pods, and the cluster so many policies; returns once its agent has them in the kernel.

    May be called again with more of both.
    """
    pods = list(many_pods(lab, node, sizes))
    provide_device(lab, node, [pod.ip for pod in pods])
    apply_namespaces(lab, pods)
    apply_manifest(lab.manifests, "many-policies.yaml", policies(sizes.policies))
    apply_manifest(lab.manifests, "many-pods.yaml", [pod_manifest(pod) for pod in pods])

    def is_filled() -> bool:
        document = gateway.status(lab, node)
        known = len(document["policies"])
        steered = sum(document["pods"].get(str(pod.ip)) == "steering" for pod in pods)
        if steered < len(pods) or known <= sizes.policies:
            raise TransientError(f"{steered} pods are steered, and {known} policies known")
        return True

    wait_for(f"{len(pods)} pods of {node} to be known", is_filled, timeout_s=FILLED_S)
    # The last pieces of netfilter's sets follow.
    time.sleep(SETTLED_S)


def provide_device(lab: Lab, node: str, addresses: Iterable[IPv4Address]) -> None:
    """A veth of the node behind which all these are, beside those that are from before."""
    netns = lab.node(node).netns
    is_there = bool(run(["ip", "-n", netns, "link", "show", DEVICE], check=False))
    lines = [f"link set {DEVICE} up", f"link set {DEVICE}p up"]
    lines += [f"route replace {address}/32 dev {DEVICE} scope link" for address in addresses]
    ip_batch(netns, lines if is_there else [f"link add {DEVICE} type veth peer name {DEVICE}p", *lines])


def apply_namespaces(lab: Lab, pods: Iterable[PlannedPod]) -> None:
    """Those that the pods are in, with the label that policies select them by."""
    names = sorted({pod.namespace for pod in pods})
    apply_manifest(lab.manifests, "many-namespaces.yaml", [_namespace(name) for name in names])


def many_pods(lab: Lab, node: str, sizes: Sizes) -> Iterator[PlannedPod]:
    """Pods that nobody runs, dealt out to the policies in turn."""
    for number in range(sizes.pods):
        ip = _FIRST_POD + number
        yield PlannedPod(
            namespace=_namespace_of(number % sizes.policies),
            name=f"many-{number}",
            role=f"r{number % sizes.policies}",
            node=node,
            ip=ip,
            netns=lab.node(node).netns,
            device=DEVICE,
            on_bridge=False,
            mac=pod_mac(ip),
        )


def policies(count: int) -> list[dict[str, Any]]:
    """Each with pods, a destination and a source of its own."""
    return [
        {
            "apiVersion": "networking.gke.io/v1alpha1",
            "kind": "EgressNATPolicy",
            "metadata": {"name": f"many-{number}"},
            "spec": {
                "egress": [
                    {
                        "namespaceSelector": {"matchLabels": {"user": _namespace_of(number)}},
                        "podSelector": {"matchLabels": {"role": f"r{number}"}},
                    }
                ],
                "destinationCIDRs": [f"203.{number >> 8}.{number & 0xFF}.0/24"],
                "egressSourceIP": str(_FIRST_SOURCE + number),
            },
        }
        for number in range(count)
    ]


def _namespace_of(policy: int) -> str:
    return f"many{policy % NAMESPACES}"


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"user": name}}}
