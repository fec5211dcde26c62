from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from service.lab.traffic.frame import ETH_ARP, ETH_IPV4, Frame
from service.lab.traffic.leak_check import CaptureSite, Leak, Tenure, find_leaks, tenures_of
from service.model.audit_record import AuditRecord, RecordKind
from service.network.path_probe import PROBE_OUTSIDE

FLOATING = IPv4Address("192.168.1.100")
POD, OUTSIDE = IPv4Address("10.244.1.10"), IPv4Address("8.8.8.8")
MACS = {"worker1": b"\x02\0\0\0\0\x01", "worker2": b"\x02\0\0\0\0\x02"}
ROUTER = b"\x02\0\0\0\0\x09"
SITE = CaptureSite(
    node_of_port={"worker1-0": "worker1", "worker2-0": "worker2"},
    second_uplink_ports=frozenset({"worker1-1", "worker2-1", "router-1"}),
    macs_of_node={node: (mac,) for node, mac in MACS.items()},
    pod_cidrs=(IPv4Network("10.244.0.0/16"),),
    in_cluster=(IPv4Network("10.244.0.0/16"), IPv4Network("192.168.1.0/24")),
    floating_ips=frozenset({FLOATING}),
)
TENURES = [Tenure(FLOATING, "worker1", 100, 200), Tenure(FLOATING, "worker2", 250)]
STEERED = Frame(
    time_ns=150,
    port="worker2-0",
    source_mac=MACS["worker2"],
    destination_mac=MACS["worker1"],
    ethertype=ETH_IPV4,
    source=FLOATING,
    destination=OUTSIDE,
    protocol=17,
)
"""Translated by the pod's node, on its way to the holder."""
TRANSLATED = replace(STEERED, port="worker1-0", source_mac=MACS["worker1"], destination_mac=ROUTER)
"""By the holder to the router."""
BARE = replace(STEERED, source=POD, destination_mac=ROUTER)


def _leaks(*frames: Frame, **slack: int) -> list[Leak]:
    return [violation.leak for violation in find_leaks(frames, TENURES, SITE, **slack)]


def test_steering_to_the_holder_and_sending_on_by_it_are_no_leaks() -> None:
    assert _leaks(STEERED, TRANSLATED) == []


@pytest.mark.parametrize("port", ["worker2-0", "worker2-1"])
@pytest.mark.parametrize("to", [ROUTER, MACS["worker1"], MACS["worker2"]])
def test_a_bare_pod_packet_for_the_outside_is_a_leak_even_to_the_holder(port: str, to: bytes) -> None:
    assert _leaks(replace(BARE, port=port, destination_mac=to)) == [Leak.POD_BARE]


def test_a_pods_address_that_asks_by_arp_is_a_leak() -> None:
    assert _leaks(replace(BARE, ethertype=ETH_ARP, destination=IPv4Address("192.168.1.1"))) == [Leak.POD_BARE]


def test_steering_to_a_node_that_never_held_is_found() -> None:
    frame = replace(STEERED, port="worker1-0", time_ns=240, destination_mac=MACS["worker2"])
    assert _leaks(frame) == [Leak.STEERED_TO_STRANGER]


def test_x1_an_agents_question_to_a_member_that_does_not_hold_is_no_leak_but_to_anybody_else_it_is() -> None:
    question = replace(STEERED, port="worker1-0", time_ns=240, destination=PROBE_OUTSIDE)
    assert _leaks(replace(question, destination_mac=MACS["worker2"])) == []
    assert _leaks(replace(question, port="worker2-0", destination_mac=ROUTER)) == [Leak.FLOATING_FROM_STRANGER]


def test_a_former_holder_may_still_be_steered_to_for_a_while() -> None:
    late = replace(STEERED, time_ns=230)
    assert _leaks(late, steering_slack_ns=50) == []
    assert _leaks(late, steering_slack_ns=10) == [Leak.STEERED_TO_STRANGER]


def test_a_former_holder_steers_to_the_next_one_and_is_no_second_speaker() -> None:
    speaks = replace(TRANSLATED, port="worker2-0", source_mac=MACS["worker2"], time_ns=260)
    steers = replace(STEERED, port="worker1-0", destination_mac=MACS["worker2"], time_ns=270)
    assert _leaks(TRANSLATED, speaks, steers) == []


def test_only_ip_is_steered_and_only_by_a_member() -> None:
    arp = replace(STEERED, ethertype=ETH_ARP)
    assert _leaks(arp, replace(STEERED, port="router-0")) == [Leak.FLOATING_FROM_STRANGER] * 2


def test_pod_traffic_within_the_cluster_is_not_judged() -> None:
    for destination in ("10.244.2.10", "192.168.1.11", "224.0.0.1"):
        assert _leaks(replace(BARE, destination=IPv4Address(destination))) == []


@pytest.mark.parametrize(("time_ns", "port"), [(99, "worker1-0"), (200, "worker1-0"), (240, "worker2-0")])
@pytest.mark.parametrize("ethertype", [ETH_IPV4, ETH_ARP])
def test_a_frame_from_a_floating_ip_outside_its_holders_tenure_is_a_leak(
    time_ns: int, port: str, ethertype: int
) -> None:
    frame = replace(TRANSLATED, time_ns=time_ns, port=port, ethertype=ethertype)
    assert _leaks(frame) == [Leak.FLOATING_FROM_STRANGER]


def test_an_acquisition_may_be_recorded_late_but_an_end_may_not() -> None:
    assert _leaks(replace(TRANSLATED, time_ns=96), slack_ns=5) == []
    assert _leaks(replace(TRANSLATED, time_ns=204), slack_ns=5) == [Leak.FLOATING_FROM_STRANGER]
    assert _leaks(replace(TRANSLATED, port="worker2-0"), slack_ns=5) == [Leak.FLOATING_FROM_STRANGER]


def test_two_nodes_never_speak_in_turns_even_where_late_records_let_tenures_overlap() -> None:
    tenures = [Tenure(FLOATING, "worker1", 100, 250), Tenure(FLOATING, "worker2", 250)]
    spoken = [(200, "worker1-0"), (240, "worker2-0"), (245, "worker1-0"), (260, "worker2-0")]
    frames = [replace(TRANSLATED, time_ns=time_ns, port=port) for time_ns, port in spoken]
    violations = find_leaks(frames, tenures, SITE, slack_ns=20)
    assert [(violation.leak, violation.frame.time_ns) for violation in violations] == [(Leak.FLOATING_FROM_FORMER, 245)]


def test_an_address_may_come_back_to_a_node_with_a_new_tenure() -> None:
    tenures = [*TENURES[:1], Tenure(FLOATING, "worker2", 250, 300), Tenure(FLOATING, "worker1", 300)]
    spoken = [(150, "worker1-0"), (260, "worker2-0"), (299, "worker1-0"), (310, "worker1-0")]
    frames = [replace(TRANSLATED, time_ns=time_ns, port=port) for time_ns, port in spoken]
    assert find_leaks(frames, tenures, SITE, slack_ns=5) == []


def test_steering_on_the_second_uplink_is_a_leak() -> None:
    assert _leaks(replace(STEERED, port="worker2-1")) == [Leak.FLOATING_ON_SECOND_UPLINK]


def test_a_floating_ip_from_the_router_or_on_the_second_uplink_is_a_leak() -> None:
    assert _leaks(replace(TRANSLATED, port="router-0"), replace(TRANSLATED, port="worker1-1")) == [
        Leak.FLOATING_FROM_STRANGER,
        Leak.FLOATING_ON_SECOND_UPLINK,
    ]


def _record(kind: RecordKind, node: str, counter: int, boot_time_ns: int) -> AuditRecord:
    return AuditRecord(
        kind=kind,
        node=node,
        boot_id="b",
        sequence=boot_time_ns,
        wall_time_ns=0,
        boot_time_ns=boot_time_ns,
        subject=str(FLOATING),
        token=(1, 1, counter),
        holder=node,
    )


def test_tenures_come_from_records_in_any_order_with_copies() -> None:
    first, end = _record(RecordKind.ACQUIRED, "worker1", 1, 100), _record(RecordKind.EXPIRED, "worker1", 1, 200)
    second = _record(RecordKind.ACQUIRED, "worker2", 2, 250)
    assert tenures_of([second, end, first, replace(first, boot_time_ns=120), end]) == TENURES


def test_a_holder_without_a_recorded_end_ends_where_the_next_begins() -> None:
    first, second = _record(RecordKind.ACQUIRED, "worker1", 1, 100), _record(RecordKind.ACQUIRED, "worker2", 2, 250)
    assert tenures_of([first, second])[0].until_ns == 250
