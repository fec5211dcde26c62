"""What one look at the flows finds, flow by flow."""

import struct
from ipaddress import IPv4Address

import pytest

from service.datapath.flow_row import FLOW
from service.datapath.flow_scan import TIME_WAIT_NS, FlowScan, Remote
from service.datapath.layout import NO_MAC

SECOND = 1_000_000_000
NOW_NS = 1000 * SECOND
POD, SERVER, FLOATING_IP = (IPv4Address(one).packed for one in ("10.0.0.1", "203.0.113.7", "192.168.1.100"))
ESTABLISHED, CLOSING = 1, 4
TCP, UDP = 6, 17


def entry(
    *,
    protocol: int = TCP,
    silent_s: float = 1,
    life_s: int = 240,
    state: int = ESTABLISHED,
    ended: int = 0,
    port: int = 1024,
    now_ns: int = NOW_NS,
) -> tuple[bytes, bytes]:
    key = struct.pack("=4s4s2s2sB3x", POD, SERVER, b"\x9c\x40", b"\x01\xbb", protocol)
    last_ns = now_ns - int(silent_s * SECOND)
    value = FLOW.pack(
        *(7, last_ns, life_s, 71, 3, FLOATING_IP, 0, port.to_bytes(2, "big"), state, ended),
        *(0, 0, 0, 0),
        *(0, 0, 0, NO_MAC, NO_MAC),
    )
    return key, value


def scan(*entries: tuple[bytes, bytes], settled: frozenset[bytes] | None = None) -> tuple[FlowScan, int]:
    """And how many are over."""
    found = FlowScan(NOW_NS, 5, settled)
    return found, len(list(found.take(entries)))


def test_a_flow_takes_its_port_towards_its_remote_and_keeps_its_block() -> None:
    found, over = scan(entry(port=1024 + 64 * 3))
    assert over == 0
    assert found.taken == {Remote(FLOATING_IP, SERVER, b"\x01\xbb", TCP): 1}
    assert (found.blocks, found.pods, found.flows) == ({FLOATING_IP: {3}}, {(POD, 71): 1}, 1)


@pytest.mark.parametrize(("silent_s", "over"), [(240, 0), (240.001, 1)])
def test_it_is_over_after_its_life(silent_s: float, over: int) -> None:
    found, count = scan(entry(silent_s=silent_s))
    assert (count, found.flows) == (over, 1 - over)


def test_a_flow_that_closed_is_over_and_its_port_waits_for_the_rest_of_time_wait() -> None:
    """Its life may be set shorter than that."""
    for silent_s, flows in ((TIME_WAIT_NS / SECOND, 1), (TIME_WAIT_NS / SECOND + 1, 0)):
        found, over = scan(entry(silent_s=silent_s, life_s=10, state=CLOSING))
        assert (over, found.flows, bool(found.blocks)) == (1, flows, bool(flows))


@pytest.mark.parametrize(
    ("protocol", "settled", "over"),
    [(UDP, None, 1), (UDP, frozenset({POD}), 1), (UDP, frozenset(), 0), (TCP, None, 0)],
)
def test_an_ended_flow_of_datagrams_is_over_once_its_pod_is_settled(
    protocol: int, settled: frozenset[bytes] | None, over: int
) -> None:
    assert scan(entry(protocol=protocol, ended=1), settled=settled)[1] == over


def test_a_port_is_in_use_once_however_many_remotes_it_is_used_towards() -> None:
    found, _ = scan(entry(), entry(protocol=UDP), entry(port=1025), entry(port=0))
    assert found.ports == {FLOATING_IP: {1024, 1025}}


def test_the_pod_that_has_most_flows_is_named() -> None:
    assert scan()[0].busiest_pod() is None
    found, _ = scan(entry(), entry(port=1025))
    found.pods[IPv4Address("10.0.0.2").packed, 72] = 1
    assert found.busiest_pod() == (IPv4Address(POD), 2)


def test_the_busiest_remote_is_that_to_which_most_ports_are_taken() -> None:
    found, _ = scan(entry(), entry(protocol=UDP), entry(protocol=UDP))
    ((remote, taken),) = found.busiest().values()
    assert (remote.protocol, taken) == (UDP, 2)
