"""Both transports in one cluster: near nodes over the segment where it lets frames pass, far ones by the tunnel."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.lab.fault import Fault
from service.lab.lab import lab_down, lab_up
from service.lab.namespace import nft
from service.lab.plan import LabOptions
from tests.e2e.conftest import new_name
from tests.e2e.site import FLOATING_IPS, Site, gateway, policy

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

NEAR, FAR = "alice/frontend-worker1", "alice/frontend-worker3"
FLOATING_IP = FLOATING_IPS[0]
NARROW = 1300
INNER_MTU = 1450


@pytest.fixture(scope="module")
def mixed() -> Iterator[Site]:
    """Three near nodes and a far one, which find out by themselves."""
    name = new_name()
    try:
        site = Site(lab_up(LabOptions(name=name, nodes=4, far_nodes=1, transport="auto")))
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        site.apply("alice.yaml", policy("alice", FLOATING_IP, user="alice"))
        site.wait_held(*FLOATING_IPS)
        for pod in (NEAR, FAR):
            site.wait_seen(pod, FLOATING_IP)
        yield site
    finally:
        lab_down(name)


def transport(site: Site, node: str) -> Any:
    """To the holder of the address, as a node says it."""
    return site.status(node)["transports"].get(FLOATING_IP, {}).get(site.holder(FLOATING_IP))


def away_from(site: Site) -> str:
    """A near pod whose node does not hold the address."""
    holder = site.holder(FLOATING_IP)
    return next(f"alice/frontend-{name}" for name in ("worker1", "worker2") if name != holder)


@contextmanager
def swallowed(site: Site, node: str) -> Iterator[None]:
    """Port security: by the node's port come in no frames of an address that is not the node's own."""
    table = f"""
table bridge security {{
  chain incoming {{
    type filter hook prerouting priority 0; policy accept;
    iifname "{node}-0" ether type ip ip saddr {FLOATING_IP} drop
  }}
}}
"""
    nft(site.lab.plan.fabric, table)
    try:
        yield
    finally:
        nft(site.lab.plan.fabric, "delete table bridge security")


def test_x1_near_nodes_use_the_segment_and_nothing_leaks(mixed: Site, tmp_path: Path) -> None:
    pod = away_from(mixed)
    node = pod.rpartition("-")[2]
    mixed.wait("the segment to be proven", lambda: transport(mixed, node) == "l2")
    with mixed.captured(tmp_path / "capture") as leaks:
        for name in (pod, FAR):
            assert mixed.seen(name) == FLOATING_IP
            assert mixed.seen(name, proto="tcp") == FLOATING_IP
    assert leaks() == []


def test_x2_a_far_node_goes_on_through_a_failover(mixed: Site) -> None:
    holder = mixed.holder(FLOATING_IP)
    assert holder is not None
    with mixed.stream(FAR, interval_ms=20) as stream:
        mixed.fault(holder, Fault.CUT)
        try:
            mixed.wait("another holder", lambda: mixed.holder(FLOATING_IP, asked=others(holder)) not in (None, holder))
            mixed.wait("the far pod to be seen again", lambda: mixed.seen(FAR, timeout_s=0.3) == FLOATING_IP)
        finally:
            mixed.fault(holder, Fault.HEAL)
    assert stream is not None
    mixed.wait_whole()


def others(holder: str) -> str:
    return next(name for name in ("control1", "worker1", "worker2") if name != holder)


def test_x1_a_segment_that_begins_to_swallow_frames_is_left_and_taken_again(mixed: Site) -> None:
    pod = away_from(mixed)
    node = pod.rpartition("-")[2]
    mixed.wait("the segment to be proven", lambda: transport(mixed, node) == "l2")
    with swallowed(mixed, node):
        mixed.wait("the tunnel", lambda: transport(mixed, node) == "vxlan", timeout_s=10)
        mixed.wait_seen(pod, FLOATING_IP)
    mixed.wait("the segment again", lambda: transport(mixed, node) == "l2", timeout_s=20)
    assert mixed.seen(pod) == FLOATING_IP


# ---- sizes ----

SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", 9090))
for _ in range(2):
    client, _ = server.accept()
    client.settimeout(20)
    total = 0
    while total < 300_000:
        total += len(client.recv(65536))
    client.sendall(bytes(300_000))
    client.close()
"""
CLIENT = """
import socket
client = socket.create_connection(("8.8.8.8", 9090), 10)
client.settimeout(20)
client.sendall(bytes(300_000))
total = 0
while total < 300_000:
    data = client.recv(65536)
    assert data, total
    total += len(data)
print(client.getsockopt(socket.IPPROTO_IP, 14))
"""
REFUSED = """
import errno, socket, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.setsockopt(socket.IPPROTO_IP, 10, 2)
client.connect(("8.8.8.8", 8081))
for _ in range(20):
    try:
        client.send(bytes(1400 + 60 - 28))
    except OSError as error:
        assert error.errno == errno.EMSGSIZE
        print(client.getsockopt(socket.IPPROTO_IP, 14))
        break
    time.sleep(0.1)
"""


def python(netns: str, code: str) -> list[str]:
    return ["ip", "netns", "exec", netns, sys.executable, "-c", code]


@pytest.fixture
def narrow(mixed: Site) -> Iterator[None]:
    """The router's way to the outside, for what goes there."""
    plan = mixed.lab.plan
    route = ["ip", "-n", plan.router, "route", "replace", "8.8.8.0/24", "via", str(plan.outside_link[1])]
    subprocess.run([*route, "mtu", "lock", str(NARROW)], check=True, timeout=10)
    yield
    subprocess.run(route, check=True, timeout=10)


@pytest.mark.parametrize("pod", [NEAR, FAR])
@pytest.mark.usefixtures("narrow")
def test_c31_a_connection_crosses_a_narrow_way_outside(mixed: Site, pod: str) -> None:
    netns = mixed.pod(pod).netns
    server = subprocess.Popen(python(mixed.lab.plan.outside, SERVER))
    try:
        mixed.wait("the server", lambda: client_of(netns).returncode == 0, timeout_s=30)
        assert client_of(netns).stdout.split() == [str(NARROW)]
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()


def client_of(netns: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(python(netns, CLIENT), capture_output=True, text=True, timeout=40, check=False)


def test_x3_a_far_pods_datagram_that_may_not_be_cut_is_refused_for_the_tunnel(mixed: Site) -> None:
    netns = mixed.pod(FAR).netns
    # What it has learned of another way is not to be what it says of this one.
    subprocess.run(["ip", "-n", netns, "route", "flush", "cache"], check=True, timeout=10)
    done = subprocess.run(python(netns, REFUSED), capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == [str(INNER_MTU)]
