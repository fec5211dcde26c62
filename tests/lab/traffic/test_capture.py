import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.lab.capture_site import capture_site
from service.lab.client import ask_udp
from service.lab.lab import Lab
from service.lab.namespace import inside, run
from service.lab.traffic.frame import ETH_ARP, Frame, read_frames
from service.lab.traffic.leak_check import Leak, Tenure, find_leaks
from service.lab.traffic.stream import boot_time_ns
from service.model.errors import OperatorError

pytestmark = pytest.mark.root


@pytest.fixture
def capture(site: Lab, tmp_path: Path):
    """Start a capture, and hand back a function that ends it and reads the frames."""
    path = tmp_path / "capture"
    site.start_capture(path)

    def frames() -> list[Frame]:
        assert site.stop_capture(path)["lost"] == 0
        return list(read_frames(path))

    return frames


def _announce(site: Lab, node: str, *, sender: str, target: str) -> None:
    """Broadcast one ARP request."""
    mac = bytes.fromhex(site.node(node).mac(0).replace(":", ""))
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, _ip(sender), bytes(6), _ip(target))

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as client:
            client.bind(("eth0", 0))
            client.send(b"\xff" * 6 + mac + struct.pack("!H", ETH_ARP) + body)

    inside(site.node(node).netns, send)


def _ip(text: str) -> bytes:
    return IPv4Address(text).packed


def test_a_call_is_seen_at_the_port_of_its_node_with_its_time(site: Lab, capture: Callable[[], list[Frame]]) -> None:
    before_ns = boot_time_ns()
    seen = inside(site.pod("alice/frontend-worker1").netns, lambda: ask_udp("8.8.8.8"))
    after_ns = boot_time_ns()
    calls = [frame for frame in capture() if frame.destination_port == 8081]
    assert [(frame.port, str(frame.source), frame.source_port) for frame in calls] == [
        ("worker1-0", "192.168.1.21", seen.source_port)
    ]
    assert calls[0].source_mac.hex(":") == site.node("worker1").mac(0)
    assert before_ns <= calls[0].time_ns <= after_ns


def test_arp_is_recorded_with_sender_and_target(site: Lab, capture: Callable[[], list[Frame]]) -> None:
    _announce(site, "worker1", sender="192.168.1.21", target="192.168.1.22")
    asked = [frame for frame in capture() if frame.ethertype == ETH_ARP]
    assert ("worker1-0", 1, "192.168.1.21", "192.168.1.22") in [
        (frame.port, frame.arp_operation, str(frame.source), str(frame.destination)) for frame in asked
    ]


def test_a_masqueraded_pod_is_no_leak_and_a_bare_one_is(site: Lab, capture: Callable[[], list[Frame]]) -> None:
    node, pod = site.node("worker1"), site.pod("alice/frontend-worker1")
    inside(pod.netns, lambda: [ask_udp("8.8.8.8"), ask_udp("8.8.4.4")])
    run(site.enter(node.name, "nft", "add chain ip cni off { type nat hook postrouting priority 90 ; }"))
    try:
        run(site.enter(node.name, "nft", f"add rule ip cni off ip saddr {pod.ip} snat to {pod.ip}"))
        for destination in ("8.8.8.8", "8.8.4.4"):
            with pytest.raises(TimeoutError):
                inside(pod.netns, lambda to=destination: ask_udp(to, timeout_s=0.2))
    finally:
        run(site.enter(node.name, "nft", "delete chain ip cni off"))
    tenures = [Tenure(IPv4Address("192.168.1.100"), "worker2", 0)]
    leaks = find_leaks(capture(), tenures, capture_site(site.plan, ["192.168.1.100"]))
    assert {(violation.leak, str(violation.frame.source), violation.frame.port[-2:]) for violation in leaks} == {
        (Leak.POD_BARE, str(pod.ip), "-0"),
        (Leak.POD_BARE, str(pod.ip), "-1"),
    }


def test_a_floating_ip_announced_by_the_wrong_node_is_a_leak(site: Lab, capture: Callable[[], list[Frame]]) -> None:
    _announce(site, "worker1", sender="192.168.1.100", target="192.168.1.100")
    tenures = [Tenure(IPv4Address("192.168.1.100"), "worker2", 0)]
    leaks = find_leaks(capture(), tenures, capture_site(site.plan, ["192.168.1.100"]))
    assert Leak.FLOATING_FROM_STRANGER in {violation.leak for violation in leaks}


def test_a_file_that_is_no_capture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"something else")
    with pytest.raises(OperatorError, match="is not a capture"):
        list(read_frames(path))
