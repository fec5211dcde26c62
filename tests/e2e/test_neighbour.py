"""A server in the nodes' own subnet, and what of that subnet is the cluster's own (rules W12, W14)."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from service.lab.lab import Lab
from service.lab.namespace import create_namespaces, enter_command, ip_batch
from service.lab.plan import ROUTER_OCTET, SEGMENTS, segment_mac
from service.lab.process import marked_environment
from service.lab.site import SEGMENT_BRIDGES
from service.lab.witness import PROTOCOLS, PodStream, look, wait_for_calls
from tests.e2e.site import ELSEWHERE, FLOATING_IPS, OUTSIDE, Site, gateway, policy

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND, _ = FLOATING_IPS
ROUTER = str(SEGMENTS[0][ROUTER_OCTET])
WORKER1, WORKER2 = "192.168.1.21", "192.168.1.22"
POD, NODE = "alice/frontend-worker2", "worker2"
OCTET = 50
SERVER, VIRTUAL = str(SEGMENTS[0][OCTET]), "192.168.1.150"
"""The server has both addresses."""


@dataclass
class Witness:
    """What answers and logs in one network namespace; stands in for the lab where only its log is asked for."""

    netns: str
    outside_log: Path

    def sees(self, site: Site, pod: str, destination: str, proto: str = "udp", *, timeout_s: float = 1.0) -> str:
        return look(cast(Lab, self), site.pod(pod), proto, destination, timeout_s=timeout_s)


@contextmanager
def witness(site: Site, netns: str) -> Iterator[Witness]:
    log = site.lab.folder / f"{netns}.log"
    program = [sys.executable, "-m", "service.lab.outside", "--log", str(log)]
    process = subprocess.Popen([*enter_command(netns), *program], env=marked_environment(site.lab.folder))
    try:
        site.wait("the witness", log.with_suffix(".ready").exists, timeout_s=10)
        yield Witness(netns, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Witness]:
    """A host on the nodes' segment that is no member."""
    netns = f"{site.lab.plan.options.name}-server"
    create_namespaces([netns])
    try:
        link = f"link add server-0 type veth peer name eth0 netns {netns} address {segment_mac(0, OCTET)}"
        ip_batch(site.lab.plan.fabric, [link, f"link set server-0 master {SEGMENT_BRIDGES[0]} up"])
        addresses = [f"address add {SERVER}/24 dev eth0", f"address add {VIRTUAL}/32 dev eth0"]
        ip_batch(netns, ["link set lo up", *addresses, "link set eth0 up", f"route add default via {ROUTER}"])
        with witness(site, netns) as found:
            yield found
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)


@contextmanager
def everywhere(site: Site, *excluded: str) -> Iterator[None]:
    """The policy of alice's frontends is for 0.0.0.0/0 meanwhile, but for these."""
    wide = policy("alice", FIRST, user="alice", destinations=("0.0.0.0/0",))
    wide["spec"]["excludedCIDRs"] = list(excluded)
    site.apply("alice.yaml", wide)
    try:
        yield
    finally:
        site.apply("alice.yaml", policy("alice", FIRST, user="alice"))
        site.wait("the former policy", lambda: site.seen(POD, ELSEWHERE, timeout_s=0.3) == WORKER2)


def answers(site: Site, pod: str, address: str) -> bool:
    command = site.lab.enter(pod, "ping", "-c1", "-W1", address)
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_w12_a_server_in_the_nodes_subnet_sees_the_floating_ip_from_every_node_and_answers_it(
    site: Site, server: Witness, tmp_path: Path
) -> None:
    pods = [f"alice/frontend-{node.name}" for node in site.lab.plan.nodes]
    with everywhere(site):
        site.wait(
            "all to be steered", lambda: all(server.sees(site, pod, SERVER, timeout_s=0.3) == FIRST for pod in pods)
        )
        with site.captured(tmp_path / "frames") as leaks:
            seen = {(pod, proto): server.sees(site, pod, SERVER, proto) for pod in pods for proto in PROTOCOLS}
    assert set(seen.values()) == {FIRST}, seen
    assert leaks() == [], "and the bare address of no pod"
    holder = site.lab.node(str(site.holder(FIRST)))
    told = subprocess.run(
        [*enter_command(server.netns), "ip", "neigh", "show", FIRST], check=True, capture_output=True, text=True
    )
    assert holder.mac(0) in told.stdout


def test_w12_the_default_gateway_is_a_host_like_any_other(site: Site) -> None:
    with everywhere(site), witness(site, site.lab.plan.router) as router:
        site.wait("the router to be steered to", lambda: router.sees(site, POD, ROUTER, timeout_s=0.3) == FIRST)
        assert [router.sees(site, POD, ROUTER, proto) for proto in PROTOCOLS] == [FIRST] * 3
        assert site.seen(POD) == FIRST


def test_w12_under_a_policy_for_everything_nodes_and_floating_ips_are_reached_as_without_one(site: Site) -> None:
    holder = site.holder(SECOND)
    pod = next(name for name in ("control1", "worker1", "worker2") if name != holder)
    with everywhere(site):
        site.wait_seen(POD, FIRST, ELSEWHERE)
        before = site.status(pod)["packets"]["steered"]
        assert all(answers(site, f"alice/frontend-{pod}", address) for address in (WORKER1, WORKER2, SECOND))
        assert site.status(pod)["packets"]["steered"] == before


def test_w14_what_a_policy_excludes_is_seen_as_without_a_policy(site: Site) -> None:
    with everywhere(site, f"{ELSEWHERE}/32"):
        site.wait_seen(POD, FIRST, "9.9.9.10")
        assert [site.seen(POD, ELSEWHERE, proto) for proto in PROTOCOLS] == [WORKER2] * 3
        assert site.seen(POD) == FIRST


def test_w14_an_open_flow_follows_an_exclusion_that_comes_and_goes(site: Site) -> None:
    with everywhere(site):
        site.wait_seen(POD, FIRST, ELSEWHERE)
        with site.stream(POD, destination=ELSEWHERE) as stream, everywhere(site, f"{ELSEWHERE}/32"):
            wait_for_calls(site.lab, "udp", WORKER2, 50, timeout_s=10)
            site.apply("alice.yaml", policy("alice", FIRST, user="alice", destinations=("0.0.0.0/0",)))
            wait_for_calls(site.lab, "udp", FIRST, 50, timeout_s=10)
            report = stream.report()
    assert [change["source"] for change in report["changes"]] == [FIRST, WORKER2, FIRST]
    assert site.bare_pod_sources() == set()


def test_w12_an_open_flow_to_an_address_that_leaves_the_cluster_is_steered_from_then_on(
    site: Site, server: Witness
) -> None:
    """What connection tracking remembers of before would have each of its packets dropped."""
    rule = f"type nat hook postrouting priority 100; ip daddr {VIRTUAL} masquerade"
    masquerade = f"table ip test {{ chain out {{ {rule}; }}; }}"
    on_node = enter_command(site.lab.node(NODE).netns)
    subprocess.run([*on_node, "nft", "-f", "-"], input=masquerade, text=True, check=True)
    try:
        with everywhere(site):
            site.wait_seen(POD, FIRST, ELSEWHERE)
            site.apply("gateway.yaml", gateway(*FLOATING_IPS, VIRTUAL))
            site.wait("it to be exempt", lambda: server.sees(site, POD, VIRTUAL, timeout_s=0.3) == WORKER2)
            stream = PodStream(site.lab, site.pod(POD), "udp", VIRTUAL, interval_ms=5.0)
            try:
                # Not before the stream has been heard as the node: what it opens after would be steered at once.
                length = server.outside_log.stat().st_size
                site.wait("the flow to be open", lambda: server.outside_log.stat().st_size > length + 5000)
                site.apply("gateway.yaml", gateway(*FLOATING_IPS))
                site.wait("it to be steered", lambda: server.sees(site, POD, VIRTUAL, timeout_s=0.3) == FIRST)
                length = server.outside_log.stat().st_size
                site.wait("the flow to go on", lambda: server.outside_log.stat().st_size > length + 20000)
                assert [change["source"] for change in stream.report()["changes"]] == [WORKER2, FIRST]
            finally:
                stream.close()
    finally:
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        subprocess.run([*on_node, "nft", "delete", "table", "ip", "test"], check=True)


def test_w12_a_policy_that_names_a_node_says_so(site: Site) -> None:
    site.apply("alice.yaml", policy("alice", FIRST, user="alice", destinations=("8.8.8.0/24", f"{WORKER1}/32")))
    try:
        path = site.lab.manifests / "status"
        site.wait(
            "the condition",
            lambda: any("PartlyExempt" in file.read_text() for file in path.glob("egressnatpolicy*alice*")),
        )
        assert site.seen(POD, OUTSIDE) == FIRST
    finally:
        site.apply("alice.yaml", policy("alice", FIRST, user="alice"))
