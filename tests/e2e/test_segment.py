"""What others do on the segment: addresses taken, words forged, a port that lets nothing through.

Judged from what every port of the fabric saw, and from where the router sends.
"""

import itertools
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.lab.namespace import inside
from service.lab.site import set_port_state
from service.lab.traffic.frame import ETH_ARP, Frame, read_frames
from service.lab.witness import wait_for_calls
from service.network.arp import ETH_P_ARP, arp_request_frame, gratuitous_arp_frames
from service.web.verdict import troubles
from tests.e2e.site import FLOATING_IPS, Site, gateway, policy

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND = FLOATING_IPS[:2]
NEW = "192.168.1.103"
THERE, BEYOND = "172.30.1.100", "8.8.4.4"
"""On the second segment, and a destination that is reached by it."""


def run(site: Site, place: str, *command: str) -> str:
    return subprocess.run(site.lab.enter(place, *command), check=True, capture_output=True, text=True).stdout


def is_answered(site: Site, address: str) -> bool:
    """Whether anybody answers the router's ping to an address that it has to ask for first."""
    subprocess.run(site.lab.enter("router", "ip", "neigh", "flush", "all"), check=True)
    ping = subprocess.run(site.lab.enter("router", "ping", "-c1", "-W1", address), check=False, capture_output=True)
    return ping.returncode == 0


@contextmanager
def own_address(site: Site, place: str, address: str, device: str = "eth0") -> Iterator[None]:
    """As kube-vip or keepalived puts a virtual IP on an interface."""
    run(site, place, "ip", "addr", "add", f"{address}/32", "dev", device)
    try:
        yield
    finally:
        run(site, place, "ip", "addr", "del", f"{address}/32", "dev", device)


@contextmanager
def frames_of(site: Site, path: Path) -> Iterator[list[Frame]]:
    """What came out of every port meanwhile; the list is filled once it is over."""
    frames: list[Frame] = []
    site.lab.start_capture(path)
    try:
        yield frames
    finally:
        summary = site.lab.stop_capture(path)
    assert summary["lost"] == 0, "the capture missed frames, so it proves nothing"
    frames += read_frames(path)


def speakers(frames: list[Frame], address: str) -> set[str]:
    """Ports behind which somebody used the address as its own."""
    return {frame.port for frame in frames if frame.source == IPv4Address(address)}


def announce(site: Site, place: str, address: str, mac: bytes) -> None:
    """Say on the segment, from that member's port, that the address is at this MAC."""
    frame, _ = gratuitous_arp_frames(mac, IPv4Address(address))
    send_frame(site, place, frame)


def send_frame(site: Site, place: str, frame: bytes) -> None:
    """Send it from that member's port, by the MAC of its interface."""
    netns = next(member.netns for member in (*site.lab.plan.controllers, *site.lab.plan.nodes) if member.name == place)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("eth0", ETH_P_ARP))
            sender.send(frame[:6] + sender.getsockname()[4] + frame[12:])

    inside(netns, send)


def mac_of(site: Site, place: str) -> bytes:
    link = json.loads(run(site, place, "ip", "-j", "link", "show", "dev", "eth0"))
    return bytes.fromhex(str(link[0]["address"]).replace(":", ""))


def defences(frames: list[Frame], port: str, address: str) -> list[Frame]:
    """Announcements in request form, without those that follow a new lease."""
    ip = IPv4Address(address)
    return [
        frame
        for frame in frames
        if (frame.ethertype, frame.port, frame.source, frame.destination, frame.arp_operation)
        == (ETH_ARP, port, ip, ip, 1)
    ]


def pod_not_on(site: Site, *nodes: str) -> str:
    return next(
        pod.full_name for pod in site.lab.plan.pods if pod.full_name.startswith("alice/") and pod.node not in nodes
    )


def told(site: Site, node: str) -> str:
    return "\n".join(troubles(site.status(node)))


def gateway_conditions(site: Site) -> str:
    return (site.lab.manifests / "status" / "anthosnetworkgateway.kube-system.default.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("owner_holds", "device"), [(True, "eth0"), (False, "lo")])
def test_a1_an_address_that_comes_to_a_members_interface_is_given_up_and_left_to_it_alone(
    site: Site, tmp_path: Path, owner_holds: bool, device: str
) -> None:
    site.wait_whole()
    holder = str(site.holder(SECOND))
    names = [node.name for node in site.lab.plan.nodes]
    owner = holder if owner_holds else next(name for name in names if name != holder)
    with own_address(site, owner, SECOND, device):
        site.wait("it to be given up", lambda: all(site.holder(SECOND, asked=name) is None for name in names))
        site.wait(
            "its owner to tell", lambda: f"{SECOND} is an address of an interface of this node" in told(site, owner)
        )
        site.wait("the object to tell", lambda: f"{SECOND} is an address of an interface" in gateway_conditions(site))
        with frames_of(site, tmp_path / "frames") as frames:
            assert is_answered(site, SECOND)
            time.sleep(3)
            assert is_answered(site, SECOND)
        assert speakers(frames, SECOND) == {f"{owner}-0"}
        assert site.holder(SECOND) is None
    site.wait_whole()
    assert SECOND not in told(site, owner)
    site.wait("the object to tell no more", lambda: "is an address of an interface" not in gateway_conditions(site))


def test_a1_pods_of_an_address_that_was_on_an_interface_for_a_second_go_on_as_soon_as_it_is_held(site: Site) -> None:
    """They had no ports for up to 50 s: agents had forgotten what they had, and the leader had not."""
    site.wait_whole()
    holder = str(site.holder(FIRST))
    owner = next(node.name for node in site.lab.plan.nodes if node.name != holder)
    with site.stream(pod_not_on(site, owner), interval_ms=20) as stream:
        with own_address(site, owner, FIRST):
            site.wait("it to be given up", lambda: site.holder(FIRST) is None)
        site.wait_held(FIRST)
        wait_for_calls(site.lab, "udp", FIRST, 20, timeout_s=5)
        report = stream.report()
    assert list(report["sources"]) == [FIRST]


def test_a1_an_address_on_a_members_interface_is_never_taken_at_all(site: Site, tmp_path: Path) -> None:
    site.wait_whole()
    owner = "worker2"
    with own_address(site, owner, NEW), frames_of(site, tmp_path / "frames") as frames:
        site.apply("gateway.yaml", gateway(*FLOATING_IPS, NEW))
        site.wait("the object to tell", lambda: f"{NEW} is an address of an interface" in gateway_conditions(site))
        time.sleep(2)
        assert is_answered(site, NEW)
        assert site.status()["floatingIPs"][NEW]["holder"] is None
    assert speakers(frames, NEW) == {f"{owner}-0"}
    site.wait_held(NEW)
    site.apply("gateway.yaml", gateway(*FLOATING_IPS))
    site.wait("the address to be removed", lambda: NEW not in site.status()["floatingIPs"])


@pytest.mark.parametrize("says_so", [True, False], ids=["announced", "silent"])
def test_a2_who_takes_an_address_in_use_is_named_and_answered_and_traffic_goes_on(
    site: Site, tmp_path: Path, says_so: bool
) -> None:
    site.wait_whole()
    holder, thief = str(site.holder(FIRST)), site.lab.plan.controllers[0].name
    mac = mac_of(site, thief)
    time.sleep(8)  # The opening burst of announcements is over.
    with own_address(site, thief, FIRST), frames_of(site, tmp_path / "frames") as frames:
        with site.stream(pod_not_on(site, holder), interval_ms=20) as stream:
            started = time.monotonic()
            if says_so:
                announce(site, thief, FIRST, mac)
                time.sleep(1)
                announce(site, thief, FIRST, mac)
            site.wait(
                "the object to name it", lambda: f"{mac.hex(':')}, which is no node's" in gateway_conditions(site)
            )
            assert "FloatingIPConflict" in gateway_conditions(site)
            site.wait("the holder to tell", lambda: mac.hex(":") in told(site, holder))
            time.sleep(max(0.0, 15 - (time.monotonic() - started)))
            report = stream.report()
        elapsed_s = time.monotonic() - started
    assert site.holder(FIRST) == holder, "nothing is given up for a stranger"
    assert list(report["sources"]) == [FIRST]
    # In silence it is found when the holder asks next; until then a router that asks anew hears two answers.
    assert report["gap_max_ms"] < (6000 if says_so else 12_000)
    said = defences(frames, f"{holder}-0", FIRST)
    assert 1 <= len(said) <= 2 + elapsed_s // 10, "one each ten seconds, and one of the usual ones"
    site.wait("nobody to tell of it any more", lambda: "FloatingIPConflict" not in gateway_conditions(site))
    site.wait("the holder to tell no more", lambda: mac.hex(":") not in told(site, holder))


def test_a2_who_only_asks_as_an_address_in_use_is_named_too(site: Site) -> None:
    """It answers no question, so its own questions tell of it: here for another floating IP."""
    site.wait_whole()
    holder, thief = str(site.holder(FIRST)), site.lab.plan.controllers[0].name
    mac = mac_of(site, thief)
    frame = arp_request_frame(mac, IPv4Address(FIRST), IPv4Address(SECOND))

    def is_told() -> bool:
        send_frame(site, thief, frame)
        return mac.hex(":") in told(site, holder)

    site.wait("the holder to tell", is_told, timeout_s=15)
    site.wait("the object to name it", lambda: f"{mac.hex(':')}, which is no node's" in gateway_conditions(site))
    site.wait("nobody to tell of it any more", lambda: "FloatingIPConflict" not in gateway_conditions(site))
    assert site.holder(FIRST) == holder


def gap_outside_ms(site: Site, since: int) -> float:
    """The longest time in which the outside server heard nothing from the pods, whether answers came back or not."""
    with site.lab.outside_log.open("rb") as log:
        log.seek(since)
        times = [json.loads(line)["time_ns"] for line in log if line.endswith(b"\n")]
    return max((after - before) / 1e6 for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("times", [1, 30], ids=["once", "for 3 s"])
def test_w2_a_forged_word_with_a_members_mac_is_believed_for_half_a_second(site: Site, times: int) -> None:
    """It moved every way for 18 s. What the router believes is answered by the holder (A2)."""
    site.wait_whole()
    holder = str(site.holder(FIRST))
    pod = pod_not_on(site, holder)
    forged = next(node.name for node in site.lab.plan.nodes if node.name not in (holder, site.pod(pod).node))
    mac, thief = mac_of(site, forged), site.lab.plan.controllers[0].name
    time.sleep(8)
    with site.stream(pod, interval_ms=10) as stream:
        since = site.log_length()
        time.sleep(0.5)  # So that the server has heard of the pod before.
        for _ in range(times):
            announce(site, thief, FIRST, mac)
            time.sleep(0.1)
        site.wait(
            "the forgery to be told", lambda: f"the MAC of node {forged}, uses {FIRST}" in gateway_conditions(site)
        )
        time.sleep(6)
        report = stream.report()
    print(f"out: off for {gap_outside_ms(site, since):.0f} ms; out and back: {report['gap_max_ms']:.0f} ms")
    assert list(report["sources"]) == [FIRST]
    assert gap_outside_ms(site, since) < 700, "half a second, and not until the holder answers"
    assert report["gap_max_ms"] < (2500 if times == 1 else 8000)
    site.wait("nobody to tell of it any more", lambda: "FloatingIPConflict" not in gateway_conditions(site))


@contextmanager
def second_segment(site: Site) -> Iterator[str]:
    """A floating IP that the nodes reach by their second uplinks; yields its holder."""
    site.apply("gateway.yaml", gateway(*FLOATING_IPS, THERE))
    site.apply("second.yaml", policy("second", THERE, user="alice", destinations=("8.8.4.0/24",)))
    try:
        site.wait_whole()
        site.wait_held(THERE)
        for node in site.lab.plan.nodes:
            site.wait_seen(f"alice/frontend-{node.name}", THERE, BEYOND)
        yield str(site.holder(THERE))
    finally:
        for node in site.lab.plan.nodes:
            set_port_state(site.lab.plan, node.port(1), forwarding=True)
        site.delete("second.yaml")
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        site.wait("the address to be removed", lambda: THERE not in site.status()["floatingIPs"])


def held_by(site: Site, address: str) -> list[str]:
    return [node.name for node in site.lab.plan.nodes if address in site.status(node.name)["held"]]


def test_s5_a_holder_that_is_deaf_on_the_segment_gives_way_though_its_link_is_up(site: Site) -> None:
    with second_segment(site) as deaf:
        port = site.lab.node(deaf).port(1)
        with site.stream(pod_not_on(site, deaf), destination=BEYOND, interval_ms=20) as stream:
            started = time.monotonic()
            set_port_state(site.lab.plan, port, forwarding=False)
            site.wait("another to hold it", lambda: held_by(site, THERE) not in ([], [deaf]))
            took_s = time.monotonic() - started
            site.wait("it to tell", lambda: "eth1: nobody answers this node" in told(site, deaf))
            time.sleep(3)
            report = stream.report()
        print(f"moved within {took_s:.1f} s; dark for {report['gap_max_ms'] / 1000:.1f} s")
        assert took_s < 8
        assert report["gap_max_ms"] < 10_000
        assert list(report["sources"]) == [THERE]
        successor = held_by(site, THERE)
        set_port_state(site.lab.plan, port, forwarding=True)
        site.wait("it to tell no more", lambda: "eth1" not in told(site, deaf))
        time.sleep(2)
        assert held_by(site, THERE) == successor, "nothing comes back by itself (S7)"


def test_s5_when_the_segment_itself_fails_nobody_gives_anything_up(site: Site) -> None:
    with second_segment(site) as holder:
        for node in site.lab.plan.nodes:
            set_port_state(site.lab.plan, node.port(1), forwarding=False)
        for _ in range(16):
            time.sleep(0.5)
            assert held_by(site, THERE) == [holder]
        for node in site.lab.plan.nodes:
            set_port_state(site.lab.plan, node.port(1), forwarding=True)
        site.wait_seen(pod_not_on(site, holder), THERE, BEYOND)
        assert held_by(site, THERE) == [holder]
