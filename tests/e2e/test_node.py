"""Beside a CNI on a real node: NetworkPolicy, masquerade, DNAT, strangers' addresses, and leaving without a trace."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from service.lab.fault import Fault
from service.lab.namespace import inside
from service.lab.status import fetch
from tests.e2e.site import FLOATING_IPS, OUTSIDE, Site, gateway

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST = FLOATING_IPS[0]
POD, NODE, NODE_IP = "alice/frontend-worker2", "worker2", "192.168.1.22"
LINKS = "<pins of our programs>"
KERNELS_OWN = {"maps.debug", "progs.debug"}
"""What some kernels put into each BPF file system (CONFIG_BPF_PRELOAD)."""


def on_node(site: Site, *command: str, text: str | None = None) -> str:
    namespace = f"--net=/run/netns/{site.lab.node(NODE).netns}"
    done = subprocess.run(["nsenter", namespace, *command], input=text, capture_output=True, text=True, check=True)
    return done.stdout


TCX = """
import socket
from service.network.tcx import read_links
print(read_links(socket.if_nametoindex("{link}"), "{direction}"))
"""
"""What else runs on a hook; `tc` does not show it."""


@contextmanager
def rules(site: Site, text: str) -> Iterator[None]:
    """An nft table `ip test` on the pod's node, as a CNI or kube-proxy would have one."""
    on_node(site, "nft", "-f", "-", text=text)
    try:
        yield
    finally:
        on_node(site, "nft", "delete", "table", "ip", "test")


def test_network_policy_has_the_last_word_over_a_selected_pod(site: Site) -> None:
    address = site.pod(POD).ip
    deny = f"table ip test {{ chain forward {{ type filter hook forward priority 0; ip saddr {address} drop; }}; }}"
    with rules(site, deny):
        assert site.seen(POD, timeout_s=0.3) == "nothing came"
    assert site.seen(POD) == FIRST


def test_a_masquerade_rule_put_first_again_does_not_win(site: Site) -> None:
    """Rule W5: CNIs re-insert their rule at the head now and then."""
    table = (
        "table ip test { chain postrouting { type nat hook postrouting priority srcnat - 5; "
        "ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade; }; }"
    )
    with rules(site, table):
        assert site.seen(POD) == FIRST
        assert site.seen(POD, proto="tcp") == FIRST


def test_a_service_whose_endpoint_is_outside_follows_the_destination_after_translation(site: Site) -> None:
    """Rule W4: the policy is about where a packet really goes."""
    table = """table ip test { chain prerouting { type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.10 dnat to 8.8.8.8
        ip daddr 10.96.0.11 dnat to 9.9.9.9
    }
    }"""
    with rules(site, table):
        assert site.seen(POD, "10.96.0.10", "tcp") == FIRST
        assert site.seen(POD, "10.96.0.11", "tcp") == NODE_IP


def test_replies_of_connections_opened_from_outside_are_left_alone(site: Site) -> None:
    """The outside opens a connection to a node port; the selected pod's replies are not steered (W4)."""
    pod = site.pod(POD)
    table = f"""table ip test {{ chain prerouting {{ type nat hook prerouting priority dstnat;
        ip daddr {NODE_IP} tcp dport 30080 dnat to {pod.ip}:8000
    }}
    }}"""
    server = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{pod.netns}", "python3", "-m", "http.server", "8000", "--bind", str(pod.ip)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=site.lab.manifests,
    )
    outside = f"--net=/run/netns/{site.lab.plan.options.name}-outside"
    dial = f"exec 3<>/dev/tcp/{NODE_IP}/30080; printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' >&3; head -n1 <&3"
    try:
        with rules(site, table):
            site.wait(
                "the reply from the node port",
                lambda: (
                    b"200 OK"
                    in subprocess.run(
                        ["nsenter", outside, "timeout", "1", "bash", "-c", dial], capture_output=True, check=False
                    ).stdout
                ),
                timeout_s=10,
            )
    finally:
        server.kill()
        server.wait()


def test_w4_a_flow_whose_server_speaks_first_after_it_was_forgotten_does_not_leave_bare(site: Site) -> None:
    """Connection tracking would take a late reply for the outside's beginning, and what the pod sends for a reply."""
    pod = site.pod(POD)
    with (
        inside(site.lab.plan.outside, partial(udp_socket, (OUTSIDE, 7007))) as server,
        inside(pod.netns, partial(udp_socket, (str(pod.ip), 7008))) as client,
    ):
        client.sendto(b"first", (OUTSIDE, 7007))
        _, caller = server.recvfrom(100)
        assert caller[0] == FIRST
        on_node(site, "conntrack", "-F")
        server.sendto(b"late", caller)
        assert client.recv(100) == b"late", "the flow's own row knows whose it is"
        client.sendto(b"again", (OUTSIDE, 7007))
        assert server.recvfrom(100) == (b"again", caller)
        server.sendto(b"answer", caller)
        assert client.recv(100) == b"answer"


def udp_socket(address: tuple[str, int]) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(1)
    opened.bind(address)
    return opened


def test_w4_the_outside_opens_a_connection_to_a_selected_pod_by_way_of_another_node(site: Site) -> None:
    """As where a router knows the pods' ranges and sends to any node: it is no late reply that a gateway returned."""
    pod, other = site.pod(POD), site.lab.node("control1")
    router = f"--net=/run/netns/{site.lab.plan.router}"
    way = [f"{pod.ip}/32", "via", str(other.ip)]
    subprocess.run(["nsenter", router, "ip", "route", "add", *way], check=True)
    try:
        with (
            inside(pod.netns, partial(tcp_listener, (str(pod.ip), 7009))) as listener,
            inside(site.lab.plan.outside, partial(tcp_caller, OUTSIDE)) as caller,
        ):
            caller.connect((str(pod.ip), 7009))
            accepted, seen = listener.accept()
            with accepted:
                assert seen[0] == OUTSIDE
                for number in range(3):
                    caller.sendall(b"asked %d" % number)
                    assert accepted.recv(100) == b"asked %d" % number
                    accepted.sendall(b"answer %d" % number)
                    assert caller.recv(100) == b"answer %d" % number
    finally:
        subprocess.run(["nsenter", router, "ip", "route", "del", *way], check=True)


def tcp_listener(address: tuple[str, int]) -> socket.socket:
    return timed(socket.create_server(address))


def tcp_caller(source: str) -> socket.socket:
    caller = timed(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    caller.bind((source, 0))
    return caller


def timed(opened: socket.socket) -> socket.socket:
    opened.settimeout(3)
    return opened


def test_an_address_that_somebody_else_has_is_told_and_never_taken(site: Site) -> None:
    """The operator mistypes a floating IP: it is the default gateway's."""
    site.apply("gateway.yaml", gateway(*FLOATING_IPS, "192.168.1.1"))
    try:
        row = site.wait(
            "the conflict to be told",
            lambda: next(
                (
                    row
                    for floating_ip, row in site.status()["floatingIPs"].items()
                    if floating_ip == "192.168.1.1" and "FloatingIPConflict" in row["reason"]
                ),
                None,
            ),
        )
        assert row["holder"] is None
        assert site.seen(POD) == FIRST
        assert site.seen("carol/other-worker1") == "192.168.1.21"
    finally:
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))


def test_status_and_metrics_tell_what_the_datapath_does(site: Site) -> None:
    before = site.status(NODE)["packets"]["marked"]
    assert site.seen(POD) == FIRST
    assert site.status(NODE)["packets"]["marked"] > before
    node = site.lab.node(NODE)
    code, metrics = fetch(node.netns, str(node.ip), "/metrics")
    assert code == 200
    assert b'egressgw_packets_total{action="marked"}' in metrics
    assert b"egressgw_leases_held" in metrics


@pytest.mark.parametrize(
    "command",
    [
        ("nft", "flush", "ruleset"),
        ("nft", "flush", "chain", "ip", "egressgw", "keep_source"),
        ("ip", "link", "delete", "egw0"),
        ("ip", "rule", "delete", "fwmark", "0x1000/0x1000", "lookup", "9640"),
        ("find", LINKS, "-type", "f", "-delete"),
    ],
    ids=" ".join,
)
def test_what_others_remove_is_put_back_and_meanwhile_nothing_leaks(site: Site, command: tuple[str, ...]) -> None:
    links = site.lab.folder / NODE / "bpf" / "links"
    command = tuple(str(links) if word == LINKS else word for word in command)
    pins = len(list(links.iterdir()))
    masquerade = on_node(site, "nft", "list", "ruleset")
    length = site.log_length()
    on_node(site, *command)
    try:
        site.wait_seen(POD, FIRST)
        site.wait("our table to be back", lambda: "egressgw" in on_node(site, "nft", "list", "tables"))
        # The kernel detaches a program some time after its pin has gone: a packet that passes says nothing yet.
        # A device that was made anew has another index, and so its pins have other names.
        site.wait("every program to be back", lambda: len(list(links.iterdir())) == pins)
        site.wait_seen(POD, FIRST)
    finally:
        if command == ("nft", "flush", "ruleset"):
            cni = masquerade[masquerade.index("table ip cni") :].split("\ntable ")[0]
            on_node(site, "nft", "-f", "-", text=cni)
    assert site.sources_of(length) <= {FIRST}
    assert site.bare_pod_sources() == set()


@contextmanager
def limited(site: Site, device: str) -> Iterator[None]:
    """As the CNI's bandwidth plugin limits what a pod sends."""
    commands = (
        "ip link add bwp0 type ifb",
        "ip link set bwp0 up",
        f"tc qdisc add dev {device} handle ffff: ingress",
        f"tc filter add dev {device} parent ffff: protocol all prio 1 u32 match u32 0 0 flowid 1:1 "
        "action mirred egress redirect dev bwp0",
        "tc qdisc add dev bwp0 root handle 1: tbf rate 80mbit burst 64kb latency 25ms",
    )
    for command in commands:
        on_node(site, *command.split())
    try:
        yield
    finally:
        on_node(site, "tc", "qdisc", "delete", "dev", device, "ingress")
        on_node(site, "ip", "link", "delete", "bwp0")


def test_w13_a_pod_with_the_cnis_bandwidth_limit_has_its_policy_too(site: Site) -> None:
    """It had no egress where the plugin came first, and did not start where we did."""

    def limited_packets() -> int:
        (link,) = json.loads(on_node(site, "ip", "-s", "-j", "link", "show", "dev", "bwp0"))
        return int(link["stats64"]["tx"]["packets"])

    device = site.pod(POD).device
    (link,) = json.loads(on_node(site, "ip", "-j", "link", "show", "dev", device))
    with limited(site, device):
        assert site.seen(POD) == FIRST, "ours came first"
        assert limited_packets() > 0
        pin = site.lab.folder / NODE / "bpf" / "links" / f"{link['ifindex']}-ingress"
        pin.unlink()
        # As above: until the kernel has detached it, a packet that passes says nothing.
        site.wait("our program to be back", pin.exists)
        site.wait_seen(POD, FIRST)
    assert site.seen(POD) == FIRST
    assert site.status(NODE)["hooks"] | {"eth0": "tcx", "egw0": "tcx", device: "tcx"} == site.status(NODE)["hooks"]


def test_uninstall_leaves_the_node_as_it_was(site: Site) -> None:
    site.fault(NODE, Fault.KILL)
    config = site.lab.folder / NODE / "config.yaml"
    on_node(site, sys.executable, "-m", "service", "uninstall", "--config", str(config))
    try:
        assert "egressgw" not in on_node(site, "nft", "list", "tables")
        assert "egw0" not in on_node(site, "ip", "-o", "link")
        assert "0x1000" not in on_node(site, "ip", "rule")
        links = [line.split(": ")[1].split("@")[0] for line in on_node(site, "ip", "-o", "link").splitlines()]
        for link in links:
            for direction in ("ingress", "egress"):
                assert "bpf" not in on_node(site, "tc", "filter", "show", "dev", link, direction)
                assert on_node(site, sys.executable, "-c", TCX.format(link=link, direction=direction)).strip() == "()"
        assert {path.name for path in (site.lab.folder / NODE / "bpf").iterdir()} <= KERNELS_OWN
        assert site.seen(POD) == NODE_IP
    finally:
        site.fault(NODE, Fault.RESTART)
        site.wait_whole()
    site.wait_seen(POD, FIRST)


def test_an_agent_to_which_nothing_happens_writes_its_beat_and_no_more(site: Site) -> None:
    """A beat that woke whoever waits for rows made the agent take one turn after the other."""

    def written() -> float:
        _, metrics = fetch(node.netns, str(node.ip), "/metrics")
        found = re.search(rb'egressgw_map_operations_total\{kind="written"\} (\S+)', metrics)
        assert found
        return float(found[1])

    def is_at_rest() -> bool:
        before = written()
        time.sleep(5)
        return 3 <= written() - before <= 12

    node = site.lab.node(NODE)
    # What came before may still be on its way; an agent that wakes itself never rests.
    site.wait("the agent to write its beat and no more", is_at_rest)
