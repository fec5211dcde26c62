"""Beside the CNIs that people run: each on a cluster of its own, with real pods, installed as a user does it.

Each test is a claim of docs/compatibility.md, which `make matrix` writes from what these did on every combination.
"""

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from service.lab.cluster.build import cluster_up
from service.lab.cluster.clients import USERS, client_name, create_clients
from service.lab.cluster.image import PROJECT_IMAGE
from service.lab.cluster.pod import client_pod
from service.lab.fault import Fault
from service.lab.lab import lab_down
from service.lab.namespace import enter_command, inside, run
from service.lab.outside import read_calls
from service.lab.plan import KUBE_ROUTER, LabOptions
from service.lab.traffic.frame import Frame, read_frames
from service.lab.witness import check_pod
from tests.cluster.service_site import NODES, ServiceSite, user_policy
from tests.cluster.site import delete, require
from tests.e2e.site import ELSEWHERE, FLOATING_IPS, OUTSIDE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
ALL = (
    ("bridge", "iptables"),
    ("bridge", "nftables"),
    ("flannel-vxlan", "iptables"),
    ("flannel-vxlan", "nftables"),
    ("flannel-host-gw", "iptables"),
    ("flannel-host-gw", "nftables"),
    (KUBE_ROUTER, "iptables"),
    (KUBE_ROUTER, "nftables"),
)
"""CNI and mode of kube-proxy."""
UNLIKE = (("flannel-vxlan", "nftables"), (KUBE_ROUTER, "iptables"))
"""The two that have least in common: what CI has time for."""
COMBINATIONS = ALL if os.environ.get("EGRESSGW_MATRIX") else UNLIKE
ENFORCING = tuple(one for one in COMBINATIONS if one[0] == KUBE_ROUTER)
"""Flannel enforces no NetworkPolicy: there is nothing to be asked of it."""


def _forbidding(user: str) -> dict[str, Any]:
    """A NetworkPolicy of that user's pods: everywhere but outside."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": user, "name": "not-there"},
        "spec": {
            "podSelector": {"matchLabels": {"role": USERS[user]}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["8.8.8.0/24"]}}]}],
        },
    }


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def beside(request: pytest.FixtureRequest) -> Iterator[ServiceSite]:
    """A cluster with that CNI and a pod of alice, carol and paul on every node; nothing of the service yet."""
    cni, proxy_mode = request.param
    options = LabOptions(name=f"egwn{os.getpid() % 1000000}", kubernetes=True, cni=cni, proxy_mode=proxy_mode)
    require(options)
    try:
        cluster = cluster_up(options)
        create_clients(cluster)
        yield ServiceSite(cluster)
    finally:
        lab_down(options.name)


@pytest.fixture(scope="module")
def steering(beside: ServiceSite) -> ServiceSite:
    """The same with the service installed and the user's two objects in force."""
    beside.install()
    return beside


@pytest.fixture
def enforced(steering: ServiceSite) -> Iterator[ServiceSite]:
    """The same with a NetworkPolicy in force."""
    pods = [client_name("alice", node) for node in NODES]
    steering.cluster.kubectl.apply(_forbidding("alice"))
    try:
        steering.wait(
            "the NetworkPolicy to be enforced on every node",
            lambda: all(steering.seen(pod, timeout_s=0.3) == "nothing came" for pod in pods),
        )
        yield steering
    finally:
        delete(steering.cluster, _forbidding("alice"))
    for pod in pods:
        steering.wait_seen(pod, FLOATING_IPS[0])


def _assert_seen(site: ServiceSite, user: str, destination: str, floating_ip: str = "") -> None:
    """Pods of that user on every node are seen there by this address, else as their nodes; TCP, UDP and ping."""
    for node in NODES:
        pod = site.pod(client_name(user, node))
        check = check_pod(site.cluster, pod, destination, floating_ip or site.node_ip(node))
        assert check.holds, check


def test_pods_have_addresses_of_their_nodes_ranges_and_are_seen_outside_as_their_nodes(beside: ServiceSite) -> None:
    for node in beside.cluster.plan.nodes:
        assert all(IPv4Address(beside.pod(client_name(user, node.name)).ip) in node.pod_cidr for user in USERS)
    for user in USERS:
        _assert_seen(beside, user, OUTSIDE)


def test_pods_reach_each_other_on_their_own_node_and_across_nodes(beside: ServiceSite) -> None:
    for node in NODES:
        for other in NODES:
            ip = str(beside.pod(client_name("paul", other)).ip)
            said = beside.execute(client_name("alice", node), "python", "-m", "service.lab.client", "ping", ip)
            assert said.startswith("answered"), (node, other)


def test_pods_on_every_node_reach_the_api_server_by_its_service_address(beside: ServiceSite) -> None:
    program = "import socket; socket.create_connection(('10.96.0.1', 443), timeout=5); print('connected')"
    for node in NODES:
        assert beside.execute(client_name("carol", node), "python", "-c", program) == "connected\n"


def test_selected_pods_are_seen_by_the_floating_ip_and_nothing_leaks(steering: ServiceSite, tmp_path: Path) -> None:
    with steering.captured(tmp_path / "capture") as leaks:
        for user in USERS:
            _assert_seen(steering, user, OUTSIDE, FLOATING_IPS[0] if user != "carol" else "")
            _assert_seen(steering, user, ELSEWHERE)
    assert leaks() == []


def test_pods_reach_each_other_and_services_beside_the_service(steering: ServiceSite) -> None:
    test_pods_reach_each_other_on_their_own_node_and_across_nodes(steering)
    test_pods_on_every_node_reach_the_api_server_by_its_service_address(steering)


def _frames_to(site: ServiceSite, destination: str, path: Path, user: str) -> list[Frame]:
    """What is on the wires, in tunnels too, while pods of that user on every node open connections to it.

    No pings: those of one process are one flow, and the enforcer itself lets pass what is established.
    """
    site.lab.start_capture(path)
    try:
        for node, proto in product(NODES, ("udp", "tcp")):
            site.seen(client_name(user, node), destination, proto, timeout_s=0.5)
    finally:
        assert site.lab.stop_capture(path)["lost"] == 0
    return [frame for frame in read_frames(path) if frame.destination == IPv4Address(destination)]


@pytest.mark.parametrize("beside", ENFORCING, ids="-".join, indirect=True)
def test_what_a_network_policy_forbids_reaches_no_gateway_and_the_rest_goes_on(
    enforced: ServiceSite, tmp_path: Path
) -> None:
    assert _frames_to(enforced, OUTSIDE, tmp_path / "forbidden", "alice") == []
    assert _frames_to(enforced, OUTSIDE, tmp_path / "allowed", "paul")
    _assert_seen(enforced, "alice", ELSEWHERE)
    _assert_seen(enforced, "paul", OUTSIDE, FLOATING_IPS[0])


def _heard(site: ServiceSite, seconds: float) -> Counter[str]:
    """What comes to the outside server meanwhile, by source."""
    length = site.log_length()
    time.sleep(seconds)
    return Counter(call["source"] for call in read_calls(site.lab.outside_log, length))


@pytest.mark.parametrize("beside", ENFORCING, ids="-".join, indirect=True)
def test_a_network_policy_does_to_an_open_flow_what_it_does_without_us(steering: ServiceSite) -> None:
    """The enforcer itself may let pass what is established: carol's pod, that no policy steers, shows what it does."""
    node = "worker1"
    pods, sources = [client_name(user, node) for user in ("alice", "carol")], (FLOATING_IPS[0], steering.node_ip(node))
    with steering.stream(pods[0]), steering.stream(pods[1]):
        steering.wait("both to be heard", lambda: all(_heard(steering, 0.5)[source] for source in sources))
        policies = [_forbidding(user) for user in ("alice", "carol")]
        steering.apply("", *policies)
        try:
            steering.wait(
                "new flows of both to be stopped",
                lambda: all(steering.seen(pod, timeout_s=0.3) == "nothing came" for pod in pods),
            )
            # Packets of a flow that netfilter let pass may go past it for half a second (F2).
            time.sleep(0.6)
            heard = _heard(steering, 2.0)
        finally:
            delete(steering.cluster, *policies)
        assert bool(heard[sources[0]]) == bool(heard[sources[1]]), heard
        assert set(heard) <= set(sources), heard
        steering.wait("both to go on", lambda: all(_heard(steering, 0.5)[source] for source in sources))


def _policy(*destinations: str) -> dict[str, Any]:
    document = user_policy()
    document["spec"]["destinationCIDRs"] = list(destinations)
    return document


@contextmanager
def _pod(site: ServiceSite, name: str, node: str, *command: str, **more: Any) -> Iterator[str]:
    """A selected pod of alice that runs a command; `more` of its spec. Its full name; it need not be ready yet."""
    document = client_pod(
        "alice", name, node=node, labels={"user": "alice", "role": "frontend", "app": name}, image=PROJECT_IMAGE
    )
    document["metadata"]["annotations"] = more.pop("annotations", {})
    document["spec"]["containers"][0]["command"] = list(command)
    document["spec"] |= more
    site.cluster.kubectl.apply(document)
    try:
        yield f"alice/{name}"
    finally:
        delete(site.cluster, document)


@contextmanager
def _service(site: ServiceSite, name: str, port: int, protocol: str, **more: Any) -> Iterator[dict[str, Any]]:
    """A Service before the pods with that label `app`, as the API server has it then."""
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "alice", "name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "protocol": protocol}], **more},
    }
    site.cluster.kubectl.apply(document)
    try:
        yield site.cluster.kubectl.get("-n", "alice", "service", name)
    finally:
        delete(site.cluster, document)


def _lost_by_edits(site: ServiceSite) -> int:
    """Packets of an open flow while a policy gets and loses destinations that are not its own."""
    with site.stream(client_name("alice", "worker1")) as stream:
        time.sleep(1.0)
        for network in ("198.51.100.0/24", "198.18.0.0/15"):
            site.apply("", _policy("8.8.8.0/24", network))
            time.sleep(1.5)
        report = stream.report()
    site.apply("", user_policy())
    assert list(report["sources"]) == [FLOATING_IPS[0]]
    lost: int = report["lost"]
    return lost


def test_a_policy_edit_that_does_not_concern_a_flow_costs_it_nothing(steering: ServiceSite) -> None:
    """Where the machine is too busy for a lease, an address moves; what an edit costs, each edit costs."""
    tries = [_lost_by_edits(steering)]
    while tries[-1] and len(tries) < 4:
        tries.append(_lost_by_edits(steering))
    assert tries[-1] == 0, tries


def test_a_new_pods_first_packets_have_the_right_source(steering: ServiceSite) -> None:
    length = steering.log_length()
    command = ("python", "-m", "service.lab.client", "stream", OUTSIDE, "--interval", "2")
    with _pod(steering, "new-pod", "worker2", *command):
        steering.wait("its packets outside", lambda: steering.log_length() > length + 20_000)
    assert steering.sources_of(length) == {FLOATING_IPS[0]}


def _greeting(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), timeout=1.0) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(64)


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_who_asks_a_selected_pod_from_outside_by_a_node_port_is_answered_by_it(
    steering: ServiceSite, policy: str
) -> None:
    name = f"web-{policy.lower()}"
    spec = {"type": "NodePort", "externalTrafficPolicy": policy}
    outside = steering.lab.plan.outside
    everywhere = _policy("0.0.0.0/0")
    steering.apply("", everywhere)
    try:
        with (
            _pod(steering, name, "worker1", "python", "-m", "http.server", "8088"),
            _service(steering, name, 8088, "TCP", **spec) as service,
        ):
            port = service["spec"]["ports"][0]["nodePort"]
            for node in NODES if policy == "Cluster" else ("worker1",):
                address = steering.node_ip(node)
                steering.wait(
                    f"an answer of {node}",
                    lambda address=address: _answers(outside, address, port),
                )
    finally:
        steering.apply("", user_policy())
    for node in NODES:
        steering.wait_seen(client_name("alice", node), FLOATING_IPS[0])


def _answers(netns: str, address: str, port: int) -> bool:
    try:
        return inside(netns, lambda: _greeting(address, port)).startswith(b"HTTP/1.")
    except OSError:
        return False


_ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 53))
while True:
    data, source = server.recvfrom(512)
    server.sendto(b"said " + data, source)
"""
_QUESTION = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(1)
client.connect((sys.argv[1], 53))
for _ in range(20):
    try:
        client.send(b"name")
        print(client.recv(64).decode())
        break
    except OSError:
        pass
"""


def test_a_name_server_behind_a_service_answers_under_a_policy_for_everything(steering: ServiceSite) -> None:
    with (
        _pod(steering, "dns", "worker2", "python", "-c", _ECHO),
        _service(steering, "dns", 53, "UDP") as service,
    ):
        address = service["spec"]["clusterIP"]
        steering.cluster.wait_pods("alice/dns")
        steering.apply("", _policy("0.0.0.0/0"))
        try:
            for node in NODES:
                steering.wait_seen(client_name("alice", node), FLOATING_IPS[0], ELSEWHERE)
                said = steering.execute(client_name("alice", node), "python", "-c", _QUESTION, address)
                assert said == "said name\n", node
        finally:
            steering.apply("", user_policy())
    for node in NODES:
        steering.wait_seen(client_name("alice", node), steering.node_ip(node), ELSEWHERE)


def test_a_pod_in_its_nodes_network_is_left_alone(steering: ServiceSite) -> None:
    with _pod(steering, "of-the-node", "worker1", "sleep", "infinity", hostNetwork=True) as pod:
        steering.cluster.wait_pods(pod)
        assert steering.seen(pod) == steering.node_ip("worker1")


def test_a_pod_that_the_bandwidth_plugin_limits_is_steered_like_any_other(steering: ServiceSite) -> None:
    limits = {f"kubernetes.io/{way}-bandwidth": "20M" for way in ("ingress", "egress")}
    with _pod(steering, "limited", "worker1", "sleep", "infinity", annotations=limits) as pod:
        steering.cluster.wait_pods(pod)
        steering.wait_seen(pod, FLOATING_IPS[0])
        assert "tbf" in steering.cluster.machine("worker1").run("tc", "qdisc", "show")


_PORT = 9300
_MTU_DISCOVER, _MTU_DO, _MTU = 10, 2, 14
"""IP_MTU_DISCOVER, IP_PMTUDISC_DO and IP_MTU of ip(7): Python's socket module does not name them."""
_BULK = 400_000


def _socket(netns: str, kind: int) -> socket.socket:
    made = inside(netns, lambda: socket.socket(socket.AF_INET, kind))
    made.settimeout(5)
    return made


def _mtu(netns: str) -> int:
    links = json.loads(run([*enter_command(netns), "ip", "-j", "link", "show", "eth0"]))
    mtu: int = links[0]["mtu"]
    return mtu


def _transferred(source: socket.socket, sink: socket.socket) -> int:
    sending = threading.Thread(target=source.sendall, args=(bytes(_BULK),))
    sending.start()
    received = 0
    while received < _BULK and (data := sink.recv(65536)):
        received += len(data)
    sending.join(5)
    return received


def _learned(server: socket.socket, mtu: int) -> int:
    """What the server has learned of the way to the pod, from the errors about datagrams that it may not cut."""
    for _ in range(20):
        with suppress(OSError):
            server.send(bytes(1472))
        if server.getsockopt(socket.IPPROTO_IP, _MTU) <= mtu:
            break
        time.sleep(0.1)
    return server.getsockopt(socket.IPPROTO_IP, _MTU)


@pytest.mark.parametrize("node", ["worker1", "worker2"])
def test_packets_as_large_as_the_uplink_takes_reach_a_pod_whose_device_takes_less_or_are_told_of(
    steering: ServiceSite, node: str
) -> None:
    """An MTU of 1500 outside, and the CNI's own inside: TCP goes on both ways, and who sends datagrams is told."""
    pod, outside = steering.pod(client_name("alice", node)).netns, steering.lab.plan.outside
    mtu = _mtu(pod)
    listener, datagrams = _socket(outside, socket.SOCK_STREAM), _socket(outside, socket.SOCK_DGRAM)
    client, asking = _socket(pod, socket.SOCK_STREAM), _socket(pod, socket.SOCK_DGRAM)
    with closing(listener), closing(datagrams), closing(client), closing(asking):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((OUTSIDE, _PORT))
        listener.listen(1)
        client.connect((OUTSIDE, _PORT))
        accepted, (source, _) = listener.accept()
        accepted.settimeout(5)
        with closing(accepted):
            assert source == FLOATING_IPS[0]
            assert _transferred(client, accepted) == _BULK
            assert _transferred(accepted, client) == _BULK
        datagrams.bind((OUTSIDE, _PORT))
        asking.connect((OUTSIDE, _PORT))
        asking.send(b"here")
        datagrams.connect(datagrams.recvfrom(64)[1])
        datagrams.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _MTU_DO)
        assert _learned(datagrams, mtu) == mtu
        # The word about one sent before may come only now, and is the answer to whatever is sent next.
        with suppress(OSError):
            datagrams.send(bytes(mtu - 28))
        datagrams.send(bytes(mtu - 28))
        while len(asking.recv(2000)) != mtu - 28:
            pass


def test_a_gateway_node_that_dies_is_made_up_for(steering: ServiceSite, tmp_path: Path) -> None:
    first = FLOATING_IPS[0]
    holder = steering.wait("a holder", lambda: steering.shown_holder(first))
    witness = next(node for node in NODES if node != holder)
    with steering.captured(tmp_path / "capture") as leaks:
        steering.fault(holder, Fault.CUT, Fault.KILL)
        try:
            steering.wait("another holder", lambda: steering.moved_from(holder))
            steering.wait_seen(client_name("paul", witness), first)
        finally:
            steering.fault(holder, Fault.HEAL, Fault.RESTART)
    assert leaks() == []
    steering.cluster.wait_nodes()
    steering.wait_rolled_out()
    steering.wait_seen(client_name("alice", holder), first)
