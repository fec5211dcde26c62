"""What others do on the segment: addresses taken, words forged, a port that lets nothing through.

Judged from what every port of the fabric saw, and from where the router sends.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.lab.traffic.frame import Frame, read_frames
from service.web.verdict import troubles
from tests.e2e.site import FLOATING_IPS, Site, gateway

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND = FLOATING_IPS[:2]
NEW = "192.168.1.103"


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
