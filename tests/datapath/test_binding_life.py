"""States and timeouts of NAT bindings (RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-2)."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    CLOSING,
    ECHO_FLOW,
    ESTABLISHED,
    FLOATING_IP,
    FLOWS,
    NEW,
    OTHER_FLOATING_IP,
    POD_FIN,
    REMOTE_FIN,
    SECOND_NS,
    TCP_FLOW,
    UDP_FLOW,
    Binding,
    Flow,
    Node,
)
from tests.datapath.packet import ACK, FIN, PSH, RST, SYN
from tests.datapath.program import REDIRECT, SHOT, Namespace, Programs

pytestmark = pytest.mark.bpf

FIN_ACK = FIN | ACK


class Judge(Protocol):
    """is_binding_over of bpf/binding.h."""

    def __call__(self, last_ns: int, now_ns: int, protocol: int, state: int) -> bool: ...


_JUDGE = """
#include <uapi/linux/bpf.h>
#include "layout.h"
#include "packet.h"
#include "binding.h"
struct question { u64 last_ns; u64 now_ns; u8 protocol; u8 state; u8 _pad[6]; };
int judge(struct __sk_buff *skb)
{
    struct question asked = {};

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &asked, sizeof(asked)) < 0)
        return 9;
    return is_binding_over(asked.last_ns, asked.protocol, asked.state, asked.now_ns);
}
"""


@pytest.fixture(scope="module")
def judge(loaded: LoadedDatapath, namespace: Namespace) -> Iterator[Judge]:
    """The header itself, asked without waiting: a fresh machine's clock is younger than the longest timeout."""
    from bcc import BPF

    folder = Path(__file__).parents[2] / "bpf"
    module = BPF(text=_JUDGE.encode(), cflags=[f"-I{folder}", "-Wno-unused-function"])
    programs = Programs(namespace, {"judge": module.load_func(b"judge", BPF.SCHED_CLS).fd})

    def ask(last_ns: int, now_ns: int, protocol: int, state: int) -> bool:
        question = struct.pack("=QQBB6x", last_ns, now_ns, protocol, state)
        outcome = programs.run("judge", packet.ethernet(bytes(6), bytes(6), packet.ARP, question))
        assert outcome.verdict in (0, 1)
        return bool(outcome.verdict)

    yield ask
    module.cleanup()


@pytest.fixture
def opened(gateway: Node) -> Node:
    """With TCP_FLOW established."""
    gateway.send(TCP_FLOW)
    gateway.answer(TCP_FLOW)
    return gateway


def state(node: Node, flow: Flow = TCP_FLOW) -> int:
    present = node.reverse(flow)
    assert present is not None
    return present.state


def test_a_binding_is_new_until_it_is_answered(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.send(TCP_FLOW)
    assert state(gateway) == NEW
    gateway.answer(TCP_FLOW)
    assert state(gateway) == ESTABLISHED


@pytest.mark.parametrize("flow", [UDP_FLOW, ECHO_FLOW], ids=["udp", "echo"])
def test_a_datagram_flow_is_established_by_its_answer(gateway: Node, flow: Flow) -> None:
    gateway.send(flow)
    assert state(gateway, flow) == NEW
    gateway.answer(flow)
    gateway.send(flow)
    assert state(gateway, flow) == ESTABLISHED


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_an_answer_gets_through_until_the_timeout(gateway: Node, flow: Flow) -> None:
    gateway.send(flow)
    gateway.age(flow, 55)
    assert gateway.answer(flow).verdict == REDIRECT


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_an_answer_after_the_timeout_is_dropped_and_counted(gateway: Node, flow: Flow) -> None:
    gateway.send(flow)
    gateway.age(flow, 61)
    assert gateway.answer(flow).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_BINDING): 1}


@pytest.mark.parametrize(
    ("protocol", "state", "timeout_s"),
    [
        (packet.TCP, NEW, 60),
        (packet.TCP, ESTABLISHED, 8000),
        (packet.TCP, POD_FIN, 8000),
        (packet.TCP, REMOTE_FIN, 8000),
        (packet.TCP, CLOSING, 10),
        (packet.UDP, NEW, 60),
        (packet.UDP, ESTABLISHED, 300),
        (packet.ICMP, NEW, 60),
        (packet.ICMP, ESTABLISHED, 60),
    ],
)
def test_every_state_has_its_timeout(judge: Judge, protocol: int, state: int, timeout_s: int) -> None:
    last_ns = 10**15
    limit_ns = last_ns + timeout_s * SECOND_NS
    assert not judge(last_ns, limit_ns, protocol, state)
    assert judge(last_ns, limit_ns + 1, protocol, state)


def test_a_packet_seen_by_another_cpu_a_moment_later_ends_nothing(judge: Judge) -> None:
    assert not judge(last_ns=10**15, now_ns=10**15 - 1, protocol=packet.TCP, state=CLOSING)


def test_a_pods_packet_after_the_timeout_starts_anew_on_the_same_port(gateway: Node) -> None:
    gateway.occupy(UDP_FLOW, [UDP_FLOW.pod_port])
    port = packet.read(gateway.send(UDP_FLOW).frame).ip.ports[0]
    gateway.age(UDP_FLOW, 61, port)
    assert packet.read(gateway.send(UDP_FLOW).frame).ip.ports[0] == port
    assert gateway.counters()["bindings_created"] == 2


def test_one_fin_leaves_a_half_closed_flow_alive(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=FIN_ACK)
    assert state(opened) == POD_FIN
    opened.age(TCP_FLOW, 65)
    assert opened.answer(TCP_FLOW, flags=PSH | ACK).verdict == REDIRECT
    assert state(opened) == POD_FIN


def test_a_fin_of_the_remote_side_half_closes_too(opened: Node) -> None:
    opened.answer(TCP_FLOW, flags=FIN_ACK)
    assert state(opened) == REMOTE_FIN
    opened.send(TCP_FLOW, flags=PSH | ACK)
    assert state(opened) == REMOTE_FIN


def test_a_repeated_fin_of_one_side_does_not_close(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=FIN_ACK)
    opened.send(TCP_FLOW, flags=FIN_ACK)
    assert state(opened) == POD_FIN


def test_fins_of_both_sides_close_within_ten_seconds(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=FIN_ACK)
    opened.answer(TCP_FLOW, flags=FIN_ACK)
    assert opened.send(TCP_FLOW, flags=ACK).verdict == REDIRECT, "the last ACK still goes out"
    assert state(opened) == CLOSING
    opened.age(TCP_FLOW, 11)
    assert opened.answer(TCP_FLOW, flags=ACK).verdict == SHOT


@pytest.mark.parametrize("from_pod", [True, False], ids=["pod", "remote"])
def test_a_rst_of_either_side_closes(opened: Node, from_pod: bool) -> None:
    outcome = opened.send(TCP_FLOW, flags=RST) if from_pod else opened.answer(TCP_FLOW, flags=RST)
    assert outcome.verdict == REDIRECT
    assert state(opened) == CLOSING


@pytest.mark.parametrize("flags", [ACK, PSH | ACK, FIN_ACK, RST], ids=["ack", "data", "fin", "rst"])
def test_nothing_but_a_syn_reopens_a_closing_binding(opened: Node, flags: int) -> None:
    opened.send(TCP_FLOW, flags=RST)
    opened.send(TCP_FLOW, flags=flags)
    assert state(opened) == CLOSING
    opened.answer(TCP_FLOW, flags=flags)
    assert state(opened) == CLOSING


@pytest.mark.parametrize("ending", [(FIN_ACK, None), (FIN_ACK, FIN_ACK), (RST, None)], ids=["half", "fin", "rst"])
def test_a_syn_of_the_pod_reopens_the_binding(opened: Node, ending: tuple[int, int | None]) -> None:
    """Port reuse in TIME_WAIT."""
    own, other = ending
    opened.send(TCP_FLOW, flags=own)
    if other is not None:
        opened.answer(TCP_FLOW, flags=other)
    assert opened.send(TCP_FLOW, flags=SYN).verdict == REDIRECT
    assert state(opened) == NEW
    opened.answer(TCP_FLOW)
    assert state(opened) == ESTABLISHED


def test_a_syn_of_the_remote_side_reopens_nothing(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=RST)
    opened.answer(TCP_FLOW, flags=SYN)
    assert state(opened) == CLOSING


@pytest.mark.parametrize("flags", [FIN_ACK, RST, RST | ACK], ids=["fin", "rst", "rst-ack"])
def test_a_late_fin_or_rst_makes_no_binding(gateway: Node, flags: int) -> None:
    assert gateway.send(TCP_FLOW, flags=flags).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_STATE): 1}
    assert gateway.binding(TCP_FLOW) is None
    assert gateway.reverse(TCP_FLOW) is None


def test_a_fin_after_the_timeout_makes_no_binding_either(gateway: Node) -> None:
    gateway.send(TCP_FLOW)
    gateway.age(TCP_FLOW, 61)
    assert gateway.send(TCP_FLOW, flags=FIN_ACK).verdict == SHOT
    assert gateway.drops() == {(FLOATING_IP, DropReason.NO_STATE): 1}


def test_an_open_flow_without_state_goes_on_through_a_new_gateway(gateway: Node) -> None:
    """After a failover whose state was lost, the port is kept and so is the connection."""
    outcome = gateway.send(TCP_FLOW, flags=PSH | ACK)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).ip.ports[0] == TCP_FLOW.pod_port
    assert gateway.answer(TCP_FLOW, flags=ACK).verdict == REDIRECT


def move_to_other_floating_ip(node: Node) -> None:
    node.floating_ip(OTHER_FLOATING_IP)
    node.hold(OTHER_FLOATING_IP)
    node.rule(floating_ip=OTHER_FLOATING_IP)


def test_a_changed_floating_ip_replaces_the_binding_of_a_live_flow(opened: Node) -> None:
    move_to_other_floating_ip(opened)
    datagram = packet.read(opened.send(TCP_FLOW, flags=ACK).frame).ip
    assert datagram.source == OTHER_FLOATING_IP
    assert datagram.is_sound()
    assert opened.binding(TCP_FLOW) == Binding(OTHER_FLOATING_IP, TCP_FLOW.pod_port)
    assert opened.reverse(TCP_FLOW, floating_ip=OTHER_FLOATING_IP) is not None


def test_a_replaced_binding_gives_its_port_back(opened: Node) -> None:
    move_to_other_floating_ip(opened)
    opened.send(TCP_FLOW, flags=ACK)
    assert opened.reverse(TCP_FLOW, floating_ip=FLOATING_IP) is None
    assert opened.answer(TCP_FLOW).verdict == SHOT


def test_a_replaced_binding_does_not_take_another_pods_port_away(opened: Node) -> None:
    opened.forget_reverse(TCP_FLOW)
    opened.occupy(TCP_FLOW, [TCP_FLOW.pod_port])
    move_to_other_floating_ip(opened)
    opened.send(TCP_FLOW, flags=ACK)
    assert opened.reverse(TCP_FLOW, floating_ip=FLOATING_IP) is not None


def test_a_flow_never_keeps_a_floating_ip_its_policy_no_longer_names(opened: Node) -> None:
    """Not even when the new one's lease is not here: right source or no packet."""
    opened.floating_ip(OTHER_FLOATING_IP)
    opened.rule(floating_ip=OTHER_FLOATING_IP)
    assert opened.send(TCP_FLOW, flags=ACK).verdict == SHOT
    assert opened.drops() == {(OTHER_FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 1}
