"""A pod that sends from its first moment, before anybody has told of it (rule W11)."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from service.datapath.classification import SETTLED_NS
from service.lab.fault import Fault
from service.lab.manifest import pod_manifest
from service.lab.namespace import create_namespaces, ip_batch
from service.lab.plan import PlannedPod, pod_mac
from service.lab.site import pod_lines, pod_link_lines
from tests.e2e.site import FLOATING_IPS, OUTSIDE, Site

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST = FLOATING_IPS[0]
NODE, NODE_IP = "worker1", "192.168.1.21"
TEMPLATE = "alice/frontend-worker1"
UNPUBLISHED_S = 1.5
"""As long as kubelet takes to tell of a pod's address."""
FLOOD = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        s.sendto(b"%d\\n" % time.monotonic_ns(), ("{OUTSIDE}", 8081))
    except OSError:
        pass
    time.sleep(0.001)
"""
each_device = pytest.mark.parametrize("on_bridge", [True, False], ids=["bridge", "veth"])


def planned(site: Site, octet: int, *, role: str = "frontend", on_bridge: bool = True, turn: int = 0) -> PlannedPod:
    """One more pod of the node. `turn`: tells pods apart that have one address after the other."""
    template, node = site.pod(TEMPLATE), site.lab.node(NODE)
    name = f"new-{octet}-{turn}"
    return replace(
        template,
        name=name,
        role=role,
        ip=node.pod_cidr[octet],
        netns=f"{site.lab.plan.options.name}-{name}",
        device=f"new{octet}x{turn}",
        on_bridge=on_bridge,
        mac=pod_mac(node.pod_cidr[octet]),
    )


@contextmanager
def sending(site: Site, pod: PlannedPod) -> Iterator[None]:
    """The pod runs, and sends each millisecond, from before it has a device; nothing is told of it."""
    node = site.lab.node(NODE)
    create_namespaces([pod.netns])
    inside = [sys.executable, "-c", FLOOD]
    flood = subprocess.Popen(["nsenter", f"--net=/run/netns/{pod.netns}", *inside])
    try:
        ip_batch(node.netns, pod_link_lines(pod))
        ip_batch(pod.netns, pod_lines(node, pod))
        yield
    finally:
        flood.kill()
        flood.wait()
        subprocess.run(["ip", "netns", "del", pod.netns], check=True, timeout=10)


def publish(site: Site, pod: PlannedPod) -> None:
    site.apply(f"new-{pod.ip}.yaml", pod_manifest(pod))


def unpublish(site: Site, pod: PlannedPod) -> None:
    site.delete(f"new-{pod.ip}.yaml")


def first_sent_ns(site: Site, since: int) -> int:
    """When the first of the flood's packets that arrived was sent."""
    with Path(site.lab.outside_log).open("rb") as log:
        log.seek(since)
        return min(int(json.loads(line)["payload"]) for line in log if line.endswith(b"\n"))


@each_device
def test_a_selected_pod_that_sends_from_its_first_moment_is_never_seen_as_anybody_else(
    site: Site, on_bridge: bool
) -> None:
    pod, since = planned(site, 60 + on_bridge, on_bridge=on_bridge), site.log_length()
    with sending(site, pod):
        time.sleep(UNPUBLISHED_S)
        assert site.sources_of(since) == set()
        publish(site, pod)
        site.wait("the pod to be seen", lambda: bool(site.sources_of(since)))
        time.sleep(0.5)
        unpublish(site, pod)
        time.sleep(1)
    assert site.sources_of(since) == {FIRST}
    site.wait("what was dropped to be told", lambda: site.status(NODE)["drops"]["unclassified"] > 100)


@each_device
def test_a_pod_that_no_policy_selects_gets_through_once_it_is_told_of(site: Site, on_bridge: bool) -> None:
    pod = planned(site, 62 + on_bridge, role="other", on_bridge=on_bridge)
    since = site.log_length()
    with sending(site, pod):
        time.sleep(UNPUBLISHED_S)
        assert site.sources_of(since) == set()
        told_ns = time.monotonic_ns()
        publish(site, pod)
        site.wait("the pod to be seen", lambda: bool(site.sources_of(since)))
        print(f"sends from {(first_sent_ns(site, since) - told_ns) / 1e6:.0f} ms after its object came")
        unpublish(site, pod)
    assert site.sources_of(since) == {NODE_IP}


def test_without_an_agent_a_new_pod_reaches_nothing_that_a_policy_names_and_known_pods_all_they_did(
    site: Site,
) -> None:
    pod = planned(site, 64)
    site.fault(NODE, Fault.KILL, only="agent")
    try:
        since = site.log_length()
        with sending(site, pod):
            publish(site, pod)
            time.sleep(UNPUBLISHED_S)
            assert site.sources_of(since) == set()
            assert site.seen("carol/other-worker1") == NODE_IP
            assert site.seen(TEMPLATE) == FIRST
            since = site.log_length()
            site.fault(NODE, Fault.RESTART, only="agent")
            site.wait("the pod to be seen", lambda: bool(site.sources_of(since)))
            time.sleep(0.5)
            assert site.sources_of(since) == {FIRST}
    finally:
        unpublish(site, pod)
        site.fault(NODE, Fault.RESTART, only="agent")
        site.wait_whole()


def test_an_address_that_passes_to_a_selected_pod_is_not_taken_for_the_one_that_had_it(site: Site) -> None:
    """The object of the former pod stays a while after its device has gone, as in Kubernetes."""
    former, pod = planned(site, 65, role="other"), planned(site, 65, turn=1)
    since = site.log_length()
    with sending(site, former):
        publish(site, former)
        site.wait("the former pod to be seen", lambda: bool(site.sources_of(since)))
        time.sleep(2 * SETTLED_NS / 1e9)
    since = site.log_length()
    with sending(site, pod):
        time.sleep(UNPUBLISHED_S)
        assert site.sources_of(since) == set()
        publish(site, pod)
        site.wait("the pod to be seen", lambda: bool(site.sources_of(since)))
        time.sleep(0.5)
        assert site.sources_of(since) == {FIRST}
        unpublish(site, pod)


def test_an_agent_that_starts_anew_costs_no_pod_a_packet(site: Site) -> None:
    for name, source in (("carol/other-worker1", NODE_IP), (TEMPLATE, FIRST)):
        with site.stream(name, interval_ms=2) as stream:
            site.fault(NODE, Fault.KILL, Fault.RESTART, only="agent")
            site.wait("the agent to be back", lambda: site.status(NODE)["objects"])
            time.sleep(2)
            report = stream.report()
        assert report["lost"] == 0, (name, source, report)
