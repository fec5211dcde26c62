"""Beside a CNI that enforces in eBPF or OVS a node steers nothing and holds nothing, and says so (rule N2)."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.lab.fault import Fault
from service.lab.namespace import enter_command
from tests.e2e.site import FLOATING_IPS, Site

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

NODE, POD, OTHER = "worker1", "alice/frontend-worker1", "alice/frontend-worker2"
ADDRESS = "192.168.1.21"


@contextmanager
def pair(site: Site, name: str, peer: str) -> Iterator[None]:
    """As a CNI makes one on its nodes; the agent of the node is restarted before and after."""
    on_node = [*enter_command(site.lab.node(NODE).netns), "ip", "link"]
    subprocess.run([*on_node, "add", name, "type", "veth", "peer", "name", peer], check=True)
    try:
        restart(site)
        yield
    finally:
        subprocess.run([*on_node, "del", name], check=True)
        restart(site)


def restart(site: Site) -> None:
    site.fault(NODE, Fault.KILL, only="agent")
    site.fault(NODE, Fault.RESTART)


def test_n2_a_node_with_ciliums_device_steers_nothing_and_holds_nothing_until_it_is_gone(site: Site) -> None:
    site.wait_whole()
    site.wait_seen(POD, FLOATING_IPS[0])
    with pair(site, "cilium_host", "cilium_net"):
        site.wait("its pods to be left alone", lambda: site.seen(POD, timeout_s=0.3) == ADDRESS)
        site.wait("its addresses to move", lambda: NODE not in map(site.holder, FLOATING_IPS))
        site.wait_held(*FLOATING_IPS)
        site.wait_seen(OTHER, FLOATING_IPS[0])
        assert any("Cilium (device cilium_host)" in trouble for trouble in site.status(NODE)["troubles"])
    site.wait_seen(POD, FLOATING_IPS[0])
    assert site.bare_pod_sources() == set()
