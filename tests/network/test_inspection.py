"""What is found of a node is told with how grave it is and what mends it."""

import errno
from ipaddress import IPv4Interface

import pytest

from service.network import inspection
from service.network.inspection import Finding, Level
from service.network.link import Interface


def uplink(name: str = "eth0", *, mtu: int = 1500, carrier: bool = True) -> Interface:
    return Interface(2, name, bytes(6), True, carrier, None, (IPv4Interface("192.168.1.21/24"),), mtu)


def pod(mtu: int) -> Interface:
    return Interface(7, "veth7", bytes(6), True, True, "veth", (), mtu)


GOOD = [
    inspection.judge_uplinks([uplink()]),
    inspection.judge_mtu([uplink()], [pod(1500)], "l2"),
    inspection.judge_mtu([uplink()], [pod(1450)], "auto"),
    inspection.judge_mtu([uplink()], [], "vxlan"),
    inspection.judge_reverse_path({"all": "1"}, [uplink()]),
    inspection.judge_reverse_path({"all": "1", "eth0": "2", "eth1": "2"}, [uplink(), uplink("eth1")]),
    inspection.judge_ports({}),
    inspection.judge_clock(True),
    inspection.judge_hooks(True, {"eth0": 0}),
    inspection.judge_hooks(False, {}),
    inspection.judge_cni(["eth0", "cni0"], is_tried=False),
    inspection.judge_connection_tracking(100, 1000),
    inspection.judge_connection_tracking(0, 0),
    inspection.judge_refusals("marks", [], "free"),
]
DOUBTFUL = [
    (inspection.judge_uplinks([uplink(carrier=False)]), "eth0: no carrier"),
    (inspection.judge_mtu([uplink()], [pod(1450), pod(1500)], "auto"), "1450"),
    (inspection.judge_mtu([], [], "l2"), "no uplink"),
    (inspection.judge_reverse_path({"all": "0", "eth1": "1"}, [uplink(), uplink("eth1")]), "strict on eth1"),
    (inspection.judge_ports({"9640/udp": errno.EACCES}), "EACCES"),
    (inspection.judge_clock(False), "not synchronised"),
    (inspection.judge_clock(None), "does not say"),
    (inspection.judge_hooks(True, {"eth0": 2, "eth1": 0}), "2 on eth0"),
    (inspection.judge_cni(["cilium_host"], is_tried=True), "Cilium"),
    (inspection.judge_connection_tracking(900, 1000), "900 of 1000"),
]
GRAVE = [
    (inspection.judge_uplinks([]), "no interface"),
    (inspection.judge_ports({"9642/tcp": errno.EADDRINUSE, "9640/udp": errno.EADDRINUSE}), "9640/udp, 9642/tcp"),
    (inspection.judge_cni(["cilium_host"], is_tried=False), "Cilium"),
    (inspection.judge_refusals("marks", ["datapath.mark: 0x1000 is in use"], "free"), "0x1000"),
]


@pytest.mark.parametrize("finding", GOOD, ids=lambda finding: f"{finding.topic}: {finding.said}")
def test_what_is_good_needs_no_mend(finding: Finding) -> None:
    assert (finding.level, finding.mend) == (Level.GOOD, "")
    assert finding.said


@pytest.mark.parametrize(("finding", "said"), DOUBTFUL)
def test_what_may_hurt_is_a_warning_with_its_mend(finding: Finding, said: str) -> None:
    assert finding.level is Level.DOUBTFUL
    assert said in finding.said
    assert finding.mend


@pytest.mark.parametrize(("finding", "said"), GRAVE)
def test_what_an_agent_would_not_serve_with_is_a_failure_with_its_mend(finding: Finding, said: str) -> None:
    assert finding.level is Level.GRAVE
    assert said in finding.said
    assert finding.mend
