"""Life of a flow: states, how long each lives, where it is kept, and with what it ends (rules B2-B5, D4, E1, E2)."""

import dataclasses
from pathlib import Path

import pytest

from service.datapath.flow_room import FlowRoom
from service.datapath.layout import MapName
from service.datapath.loader import load_datapath
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    CLOSING,
    ECHO_FLOW,
    ESTABLISHED,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    NEW,
    OTHER_FLOATING_IP,
    OTHER_SERVER,
    POD,
    POD_FIN,
    POD_NUMBER,
    POD_PORT,
    REMOTE_FIN,
    RULE_SET,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
)
from tests.datapath.packet import ACK, ACKED, FIN, PSH, RST, SYN
from tests.datapath.program import COMPILED_DIR, REDIRECT, SHOT, Namespace, Programs

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
DATAGRAMS = {name: flow for name, flow in FLOWS.items() if flow != TCP_FLOW}
each_datagram = pytest.mark.parametrize("flow", DATAGRAMS.values(), ids=DATAGRAMS)

OTHER_RULE_SET = RULE_SET + 1
WAIT_S = 240
"""What a TCP flow that is over leaves (RFC 7857, 2.2)."""


@pytest.fixture
def opened(pod_node: Node) -> Node:
    """With TCP_FLOW established."""
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    pod_node.send(TCP_FLOW, flags=ACK)
    return pod_node


def life_s(node: Node, flow: Flow) -> int:
    present = node.flow(flow)
    assert present is not None
    return present.life_s


# ---- states ----


@each_protocol
def test_b3_a_flow_is_new_until_it_is_answered(pod_node: Node, flow: Flow) -> None:
    pod_node.send(flow)
    pod_node.send(flow)
    assert pod_node.state(flow) == NEW
    pod_node.answer(flow)
    assert pod_node.state(flow) == ESTABLISHED


@pytest.mark.parametrize(
    ("flow", "new_s", "open_s"),
    [(TCP_FLOW, 240, 7440), (UDP_FLOW, 120, 300), (ECHO_FLOW, 60, 60)],
    ids=FLOWS,
)
def test_b3_every_state_has_its_lifetime(pod_node: Node, flow: Flow, new_s: int, open_s: int) -> None:
    pod_node.send(flow)
    assert life_s(pod_node, flow) == new_s
    pod_node.answer(flow)
    assert life_s(pod_node, flow) == open_s


def test_c23_a_question_of_dns_does_not_hold_its_port_for_minutes(pod_node: Node) -> None:
    """A thousand a minute to one resolver would take all ports of a node."""
    question = dataclasses.replace(UDP_FLOW, server_port=53)
    pod_node.send(question)
    pod_node.answer(question)
    assert life_s(pod_node, question) == 10


@pytest.mark.parametrize("rule_set", [0, RULE_SET], ids=["settings", "policy"])
def test_b3_lifetimes_are_set_by_settings_and_by_policy(pod_node: Node, rule_set: int) -> None:
    pod_node.limit(rule_set, tcp_open_s=100, udp_s=200)
    for flow in (TCP_FLOW, UDP_FLOW):
        pod_node.send(flow)
        pod_node.answer(flow)
    assert (life_s(pod_node, TCP_FLOW), life_s(pod_node, UDP_FLOW)) == (100, 200)


@each_protocol
def test_c20_both_directions_refresh(pod_node: Node, flow: Flow) -> None:
    pod_node.limit(**dict.fromkeys(("tcp_open_s", "tcp_new_s", "udp_s", "udp_new_s", "icmp_s"), 60))
    pod_node.send(flow)
    for refresh in (lambda: pod_node.answer(flow, flags=ACK), lambda: pod_node.send(flow, flags=ACK)):
        pod_node.age(flow, 50)
        assert refresh().verdict == REDIRECT
        pod_node.age(flow, 50)
        assert pod_node.answer(flow, flags=ACK).verdict == REDIRECT


def test_c20_a_connection_that_is_silent_lives_up_to_its_time_and_no_longer(opened: Node) -> None:
    opened.limit(tcp_open_s=100)
    opened.send(TCP_FLOW, flags=RST)
    opened.send(TCP_FLOW)
    opened.answer(TCP_FLOW)
    opened.age(TCP_FLOW, 95)
    assert opened.answer(TCP_FLOW, flags=ACK).verdict == REDIRECT
    opened.age(TCP_FLOW, 105)
    assert opened.answer(TCP_FLOW, flags=ACK).verdict == SHOT


@each_protocol
def test_c23_an_answer_after_its_time_is_dropped_and_counted(pod_node: Node, flow: Flow) -> None:
    pod_node.send(flow)
    pod_node.end(flow)
    assert pod_node.answer(flow).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}


def test_a_pods_packet_after_the_time_starts_anew_on_the_same_port(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.answer(UDP_FLOW)
    pod_node.end(UDP_FLOW)
    assert pod_node.sent_port(UDP_FLOW) == POD_PORT
    assert pod_node.state(UDP_FLOW) == NEW


def test_c21_one_fin_half_closes_and_the_other_side_may_go_on(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=FIN | ACK)
    opened.send(TCP_FLOW, flags=FIN | ACK)
    assert (opened.state(TCP_FLOW), life_s(opened, TCP_FLOW)) == (POD_FIN, 7440)


def test_c21_a_fin_of_the_remote_side_half_closes_too(opened: Node) -> None:
    opened.answer(TCP_FLOW, flags=FIN | ACK)
    assert (opened.state(TCP_FLOW), life_s(opened, TCP_FLOW)) == (REMOTE_FIN, 7440)


def test_c21_fins_both_ways_leave_240_seconds(opened: Node) -> None:
    opened.answer(TCP_FLOW, flags=FIN | ACK)
    opened.send(TCP_FLOW, flags=FIN | ACK)
    assert (opened.state(TCP_FLOW), life_s(opened, TCP_FLOW)) == (CLOSING, WAIT_S)


def test_c21_the_pods_rst_leaves_240_seconds(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=RST)
    assert (opened.state(TCP_FLOW), life_s(opened, TCP_FLOW)) == (CLOSING, WAIT_S)


def test_b3_the_remotes_rst_counts_where_its_sequence_is_the_pods_last_ack(opened: Node) -> None:
    opened.send(TCP_FLOW, flags=ACK, acked=0xFFFF0000)
    assert opened.answer(TCP_FLOW, flags=RST, sequence=0xFFFF0000).verdict == REDIRECT
    assert opened.state(TCP_FLOW) == CLOSING


@pytest.mark.parametrize("sequence", [ACKED - 1, ACKED + 1, 0])
def test_b3_a_forged_rst_of_the_remote_shortens_and_refreshes_nothing(opened: Node, sequence: int) -> None:
    before = opened.flow(TCP_FLOW)
    assert opened.answer(TCP_FLOW, flags=RST, sequence=sequence).verdict == REDIRECT, "the pod judges it for itself"
    assert opened.flow(TCP_FLOW) == before


def test_b3_a_refused_connection_is_over(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW, flags=RST | ACK, sequence=0)
    assert pod_node.state(TCP_FLOW) == CLOSING


def test_b3_a_forged_rst_does_not_answer_a_syn(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW, flags=RST | ACK, sequence=5)
    assert pod_node.state(TCP_FLOW) == NEW


@pytest.mark.parametrize("ending", [RST, None], ids=["rst", "fins"])
def test_c21_a_syn_of_the_pod_reopens_a_closed_flow(opened: Node, ending: int | None) -> None:
    if ending:
        opened.send(TCP_FLOW, flags=ending)
    else:
        opened.answer(TCP_FLOW, flags=FIN | ACK)
        opened.send(TCP_FLOW, flags=FIN | ACK)
    assert opened.sent_port(TCP_FLOW, flags=SYN) == POD_PORT
    assert opened.state(TCP_FLOW) == NEW


@pytest.mark.parametrize("flags", [ACK, PSH | ACK, FIN | ACK, SYN | ACK, SYN | FIN])
def test_c21_nothing_but_a_syn_reopens_it(opened: Node, flags: int) -> None:
    opened.send(TCP_FLOW, flags=RST)
    opened.send(TCP_FLOW, flags=flags)
    opened.answer(TCP_FLOW, flags=SYN)
    assert opened.state(TCP_FLOW) == CLOSING


# ---- what makes a flow ----


@pytest.mark.parametrize("flags", [FIN | ACK, RST, RST | ACK, SYN | FIN, SYN | ACK, SYN | RST])
def test_c22_a_late_segment_makes_no_flow(pod_node: Node, flags: int) -> None:
    assert pod_node.send(TCP_FLOW, flags=flags).verdict == SHOT
    assert pod_node.flow(TCP_FLOW) is None
    assert pod_node.drops() == {(None, DropReason.NO_STATE): 1}


def test_d4_a_segment_with_data_from_an_ephemeral_port_makes_a_flow_that_lives_shortly(pod_node: Node) -> None:
    assert pod_node.send(TCP_FLOW, flags=PSH | ACK).verdict == REDIRECT
    assert (pod_node.state(TCP_FLOW), life_s(pod_node, TCP_FLOW)) == (NEW, 240)


def test_d4_a_segment_from_a_port_that_servers_use_makes_none(pod_node: Node) -> None:
    """It is more likely the answer of a connection from outside, which connection tracking forgot."""
    served = dataclasses.replace(TCP_FLOW, pod_port=8080)
    assert pod_node.send(served, flags=PSH | ACK).verdict == SHOT
    pod_node.flow_settings(ephemeral=range(1024, 65536))
    assert pod_node.send(served, flags=PSH | ACK).verdict == REDIRECT


def test_d4_a_bare_ack_makes_none(pod_node: Node) -> None:
    segment = packet.tcp(POD, TCP_FLOW.server, (POD_PORT, TCP_FLOW.server_port), ACK)
    assert pod_node.steer(packet.ipv4(POD, TCP_FLOW.server, packet.TCP, segment)).verdict == SHOT
    assert pod_node.drops() == {(None, DropReason.NO_STATE): 1}


def test_b4_a_pod_has_no_more_flows_than_its_quota_and_open_ones_go_on(pod_node: Node) -> None:
    pod_node.limit(flows_per_pod=2)
    flows = [dataclasses.replace(TCP_FLOW, pod_port=POD_PORT + number) for number in range(3)]
    assert [pod_node.send(flow).verdict for flow in flows] == [REDIRECT, REDIRECT, SHOT]
    assert pod_node.drops() == {(FLOATING_IP, DropReason.QUOTA): 1}
    assert pod_node.send(flows[0], flags=ACK).verdict == REDIRECT


def test_b4_a_quota_is_the_policys_where_it_has_one(pod_node: Node) -> None:
    pod_node.limit(flows_per_pod=100)
    pod_node.limit(RULE_SET, flows_per_pod=1)
    assert pod_node.send(TCP_FLOW).verdict == REDIRECT
    assert pod_node.send(UDP_FLOW).verdict == SHOT


def test_b4_what_was_evicted_or_swept_is_not_counted_against_the_pod(pod_node: Node) -> None:
    pod_node.limit(flows_per_pod=1)
    pod_node.send(UDP_FLOW)
    pod_node.forget(UDP_FLOW)
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    spare = (1).to_bytes(8, "little")
    pod_node.map(MapName.POD_SPARES).update(POD.packed + POD_NUMBER.to_bytes(4, "little"), spare)
    assert pod_node.send(TCP_FLOW).verdict == REDIRECT


# ---- where it is kept ----


def test_b5_a_tcp_flow_is_kept_from_eviction_as_soon_as_it_is_answered_and_until_it_closes(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    places = [pod_node.place(TCP_FLOW)]
    pod_node.answer(TCP_FLOW)
    places.append(pod_node.place(TCP_FLOW))
    pod_node.send(TCP_FLOW, flags=RST)
    places.append(pod_node.place(TCP_FLOW))
    assert places == [MapName.FLOWS_YOUNG, MapName.FLOWS_OPEN, MapName.FLOWS_YOUNG]
    assert pod_node.owner(TCP_FLOW) == (POD, POD_PORT)


def test_b5_a_flood_of_unanswered_flows_evicts_no_open_one(opened: Node) -> None:
    """As many as there is room for, and more."""
    room = 65536
    opened.occupy(TCP_FLOW.to(FLOATING_IP), range(1, 65536), state=NEW)
    opened.occupy(dataclasses.replace(TCP_FLOW, server_port=1), range(1, room // 4), state=NEW)
    assert opened.sent_port(TCP_FLOW, flags=ACK) == POD_PORT


# ---- with what it ends ----


@each_protocol
def test_b2_a_reply_to_a_pod_that_was_withdrawn_is_dropped(pod_node: Node, flow: Flow) -> None:
    pod_node.send(flow)
    pod_node.withdraw()
    assert pod_node.answer(flow).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_FLOW): 1}


@each_protocol
def test_b2_nobody_inherits_a_flow(pod_node: Node, flow: Flow) -> None:
    """Another pod has the address: it gets no reply to the former one, and its own packets start anew."""
    pod_node.send(flow)
    pod_node.select(number=POD_NUMBER + 1)
    assert pod_node.answer(flow).verdict == SHOT
    assert pod_node.send(flow).verdict == REDIRECT
    assert pod_node.flow(flow).pod_number == POD_NUMBER + 1


# ---- changes of policy ----


def select_again(node: Node, floating_ip=FLOATING_IP) -> None:
    node.rule(floating_ip=floating_ip, rule_set=OTHER_RULE_SET)
    node.select(rule_set=OTHER_RULE_SET)


def test_e1_an_edit_that_leaves_the_floating_ip_is_not_felt(opened: Node) -> None:
    select_again(opened)
    assert opened.sent_port(TCP_FLOW, flags=ACK) == POD_PORT
    assert opened.answer(TCP_FLOW, flags=ACK).verdict == REDIRECT
    assert opened.flow(TCP_FLOW).rule_set == OTHER_RULE_SET
    assert opened.counters()["flows_made"] == 1


@pytest.mark.parametrize("first", ["send", "answer"])
def test_e1_a_flow_lives_by_the_timeouts_of_the_edited_policy(opened: Node, first: str) -> None:
    opened.limit(OTHER_RULE_SET, tcp_open_s=100)
    select_again(opened)
    assert life_s(opened, TCP_FLOW) == 7440
    getattr(opened, first)(TCP_FLOW, flags=ACK)
    assert life_s(opened, TCP_FLOW) == 100


def change_address(node: Node) -> None:
    node.floating_ip(OTHER_FLOATING_IP)
    node.own(floating_ip=OTHER_FLOATING_IP)
    node.way(floating_ip=OTHER_FLOATING_IP, gateway_mac=HOLDER_MAC)
    select_again(node, OTHER_FLOATING_IP)


@pytest.mark.parametrize("first", ["send", "answer"])
def test_c16_another_floating_ip_ends_a_connection_both_ways(pod_node: Node, first: str) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    change_address(pod_node)
    packets = [lambda: pod_node.send(TCP_FLOW, flags=ACK), lambda: pod_node.answer(TCP_FLOW, flags=ACK)]
    outcomes = [each() for each in (packets if first == "send" else reversed(packets))]
    assert [outcome.verdict for outcome in outcomes] == [SHOT, SHOT]
    assert pod_node.drops() == {(FLOATING_IP, DropReason.FLOW_ENDED): 2}


@each_datagram
@pytest.mark.parametrize("first", ["send", "answer"])
def test_c16_datagrams_have_another_floating_ip_at_once_and_what_comes_for_the_former_is_dropped(
    pod_node: Node, flow: Flow, first: str
) -> None:
    """A socket that has the ports of an old one by chance lost its first request, for minutes after an edit."""
    pod_node.send(flow)
    pod_node.answer(flow)
    change_address(pod_node)
    if first == "answer":
        assert pod_node.answer(flow).verdict == SHOT
    outcome = pod_node.send(flow)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).ip.source == OTHER_FLOATING_IP
    assert pod_node.flow(flow).floating_ip == OTHER_FLOATING_IP
    assert pod_node.answer(flow).verdict == SHOT
    assert set(pod_node.drops()) == {(FLOATING_IP, DropReason.NO_FLOW)}
    assert pod_node.send(flow).verdict == REDIRECT


@each_datagram
def test_e2_datagrams_that_had_ended_before_they_got_another_floating_ip_wait_for_connection_tracking(
    pod_node: Node, flow: Flow
) -> None:
    """In between they were nobody's, and the node may have given them its own address."""
    pod_node.send(flow)
    pod_node.select(rule_set=1)
    assert pod_node.send(flow).verdict == SHOT
    change_address(pod_node)
    assert pod_node.send(flow).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.FLOW_ENDED): 2}


def test_e2_a_flow_that_no_rule_names_any_more_is_ended(opened: Node) -> None:
    opened.select(rule_set=OTHER_RULE_SET)
    assert opened.send(TCP_FLOW, flags=ACK).verdict == SHOT
    assert opened.drops() == {(FLOATING_IP, DropReason.FLOW_ENDED): 1}


def test_e2_a_new_connection_takes_the_new_verdict_at_once(opened: Node) -> None:
    opened.floating_ip(OTHER_FLOATING_IP)
    opened.own(floating_ip=OTHER_FLOATING_IP)
    opened.way(floating_ip=OTHER_FLOATING_IP, gateway_mac=HOLDER_MAC)
    select_again(opened, OTHER_FLOATING_IP)
    opened.send(TCP_FLOW, flags=ACK)
    outcome = opened.send(TCP_FLOW, flags=SYN)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).ip.source == OTHER_FLOATING_IP
    assert opened.answer(TCP_FLOW, flags=ACK).verdict == SHOT, "the former flow's"


def test_e2_what_keeps_talking_stays_ended(opened: Node) -> None:
    opened.select(rule_set=OTHER_RULE_SET)
    opened.send(TCP_FLOW, flags=ACK)
    opened.age(TCP_FLOW, 100)
    opened.send(TCP_FLOW, flags=ACK)
    assert opened.flow(TCP_FLOW).is_ended
    opened.age(TCP_FLOW, 200)
    assert opened.send(TCP_FLOW, flags=ACK).verdict == SHOT
    assert opened.drops() == {(FLOATING_IP, DropReason.FLOW_ENDED): 3}
    assert life_s(opened, TCP_FLOW) == WAIT_S


@each_protocol
def test_e3_a_connection_older_than_the_selection_neither_leaves_bare_nor_by_the_floating_ip(
    pod_node: Node, flow: Flow
) -> None:
    """Until its entry in connection tracking is gone, and after: what opens a new one is steered."""
    pod_node.plant_ended(flow)
    outcome = pod_node.leave_pod(flow.outbound(flags=ACK))
    assert outcome.verdict == SHOT or outcome.mark == MARK
    assert pod_node.send(flow, flags=ACK).verdict == SHOT
    assert {reason for _, reason in pod_node.drops()} == {DropReason.FLOW_ENDED}
    pod_node.forget(flow)
    assert pod_node.sent_port(flow, flags=SYN) == POD_PORT


def test_b4_ended_flows_that_the_agent_wrote_do_not_count_against_the_pod(pod_node: Node) -> None:
    pod_node.plant_ended(TCP_FLOW)
    pod_node.plant_ended(TCP_FLOW.to(OTHER_SERVER))
    for flow in (TCP_FLOW, TCP_FLOW.to(OTHER_SERVER), UDP_FLOW):
        assert pod_node.send(flow).verdict == REDIRECT


def test_c19_where_open_flows_have_no_more_room_a_connection_goes_on_and_may_be_evicted(
    namespace: Namespace, bpffs: Path, tmp_path: Path
) -> None:
    room = FlowRoom(open=4, young=1024, datagram=1024)
    with load_datapath(str(bpffs / "few-open"), str(tmp_path), room, compiled_dir=COMPILED_DIR) as loaded:
        node = Node(loaded, Programs(namespace, loaded.programs))
        node.configure()
        for make in (node.rule, node.select, node.own, node.way):
            make()
        flows = [Flow(packet.TCP, pod_port=POD_PORT + number) for number in range(5)]
        for flow in flows:
            node.send(flow)
            assert node.answer(flow).verdict == REDIRECT
            assert node.send(flow, flags=ACK).verdict == REDIRECT
        assert [node.place(flow) for flow in flows] == [MapName.FLOWS_OPEN] * 4 + [MapName.FLOWS_YOUNG]
        assert node.counters()["open_flows_full"] == 1
