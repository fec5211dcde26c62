"""Row `new-pod`: how long a new pod waits, from its object to its first packet with the right source.

The policy has selected pods of the node before, so the node has ports; how long the first block of an address takes is
measured by `loadtest scale --only port-blocks`. Each pod sends every millisecond from before it has a device. Its
object comes a moment later, as kubelet's word does. The time of a packet is that of its sending, and it counts if the
outside server has it; whatever source that saw is judged.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

from loadtest import gateway
from loadtest.failover import OutsideLog
from loadtest.gateway import OUTSIDE, SOURCE_IP, Report
from loadtest.goal import Figure, Row, at_most
from loadtest.rows.options import DatapathOptions
from loadtest.station import Station
from loadtest.statistics import percentile
from loadtest.traffic import boot_time_ns
from service.lab.lab import Lab
from service.lab.manifest import apply_manifest, pod_manifest
from service.lab.namespace import create_namespaces, delete_namespaces, ip_batch
from service.lab.outside import read_calls
from service.lab.plan import UDP_PORT, LabOptions, PlannedPod, pod_mac
from service.lab.site import pod_lines, pod_link_lines
from service.lab.status import wait_for
from service.model.errors import TransientError

FIRST_OCTET = 60
INTERVAL_NS = 1_000_000
UNPUBLISHED_S = 0.2
GOES_ON_S = 0.2
SEEN_S = 20.0


def measure_new_pod(options: DatapathOptions, report: Report) -> Row:
    """One pod after the other, on the bridge and on a bare veth in turn; none has the address of another."""
    waits_ms: list[float] = []
    wrong: dict[str, int] = {}
    with gateway.running_lab(LabOptions(name=f"{options.name}g", controllers=1), report) as lab:
        gateway.apply_policy(lab, (f"{OUTSIDE}/32",))
        gateway.wait_until_whole(lab)
        gateway.wait_until_translated(lab, _template(lab))
        for number in range(options.sizes.new_pods):
            report(f"pod {number + 1} of {options.sizes.new_pods}")
            pod = planned(lab, number)
            waited_ns, sources = wait_of(lab, pod)
            waits_ms.append(waited_ns / 1e6)
            for source, count in sources.items():
                if source != SOURCE_IP:
                    wrong[source] = wrong.get(source, 0) + count
    title = "from a new pod's object to its first packet"
    return Row(
        "new-pod",
        [
            Figure(f"{title}: p50", percentile(waits_ms, 0.5), "ms", 0, at_most(20)),
            Figure(f"{title}: p99", percentile(waits_ms, 0.99), "ms", 0, at_most(100)),
            Figure("packets of new pods with a wrong source", sum(wrong.values()), "", 0, at_most(0)),
        ],
        {"waits_ms": waits_ms, "wrong": wrong},
    )


def planned(lab: Lab, number: int) -> PlannedPod:
    """One more selected pod of the last node."""
    node = lab.plan.nodes[-1]
    template = _template(lab)
    ip, name = node.pod_cidr[FIRST_OCTET + number], f"new-{number}"
    return replace(
        template,
        name=name,
        ip=ip,
        netns=f"{lab.plan.options.name}-{name}",
        device=f"new{number}",
        on_bridge=number % 2 == 0,
        mac=pod_mac(ip),
    )


def _template(lab: Lab) -> PlannedPod:
    return next(pod for pod in lab.plan.nodes[-1].pods if pod.role == "frontend")


def wait_of(lab: Lab, pod: PlannedPod) -> tuple[int, dict[str, int]]:
    """(ns from its object to the first packet that arrived, packets by the source they were seen from)."""
    log, file = OutsideLog(lab.outside_log), f"{pod.name}.yaml"
    start = lab.outside_log.stat().st_size
    with knocking(lab, pod):
        time.sleep(UNPUBLISHED_S)
        told_ns = boot_time_ns()
        apply_manifest(lab.manifests, file, [pod_manifest(pod)])
        wait_for(f"{pod.full_name} to be seen", lambda: bool(log.sources()), timeout_s=SEEN_S)
        time.sleep(GOES_ON_S)
        (lab.manifests / file).unlink()
    sent_ns = (int(call["payload"]) for call in read_calls(lab.outside_log, start))
    # What it sent before may have waited in it for its gateway's MAC, and says nothing of how long this takes.
    return min(moment_ns for moment_ns in sent_ns if moment_ns >= told_ns) - told_ns, log.sources()


@contextlib.contextmanager
def knocking(lab: Lab, pod: PlannedPod) -> Iterator[None]:
    """The pod runs, and sends; nothing is told of it."""
    node = lab.node(pod.node)
    create_namespaces([pod.netns])
    try:
        with Station(pod.netns) as station:
            station.tell("knock", destination=OUTSIDE, port=UDP_PORT, interval_ns=INTERVAL_NS)
            station.answer()
            ip_batch(node.netns, pod_link_lines(pod))
            ip_batch(pod.netns, pod_lines(node, pod))
            yield
            station.end()
            if not station.answer()["sent"]:
                raise TransientError(f"{pod.full_name} could not send")
    finally:
        delete_namespaces([pod.netns])
