"""Ports of new flows: of this node, the pod's own where it can be, none refused while one is free (Q3, Q4)."""

import dataclasses
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.datapath.layout import MapName
from service.model.drop import DropReason
from tests.datapath import packet
from tests.datapath.node import (
    CLOSING,
    ECHO_FLOW,
    FLOATING_IP,
    FLOWS,
    HOLDER_MAC,
    MARK,
    OTHER_POD,
    OTHER_SERVER,
    OWN_BLOCKS,
    POD,
    POD_PORT,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    egw_frame,
    ports_of,
)
from tests.datapath.program import REDIRECT, SHOT, UPLINK, run_program

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)

OWN_PORTS = [port for block in OWN_BLOCKS for port in ports_of(block)]


def flows_like(flow: Flow, count: int) -> list[Flow]:
    """From ports that no block has, so that each needs another one."""
    return [dataclasses.replace(flow, pod_port=10 + number) for number in range(count)]


@each_protocol
def test_c9_a_free_port_in_an_own_block_is_kept(pod_node: Node, flow: Flow) -> None:
    assert pod_node.sent_port(flow) == flow.pod_port
    assert pod_node.owner(flow) == (POD, flow.pod_port)


@each_protocol
def test_q3_a_port_of_anybody_elses_block_is_replaced_by_one_of_an_own_block(pod_node: Node, flow: Flow) -> None:
    elsewhere = dataclasses.replace(flow, pod_port=POD_PORT - 1000)
    port = pod_node.sent_port(elsewhere)
    assert port in OWN_PORTS
    assert pod_node.owner(elsewhere, port) == (POD, elsewhere.pod_port)


@each_protocol
def test_c10_a_taken_port_is_replaced_by_another_one(pod_node: Node, flow: Flow) -> None:
    pod_node.occupy(flow, [flow.pod_port])
    port = pod_node.sent_port(flow)
    assert port in OWN_PORTS
    assert port != flow.pod_port


@each_protocol
def test_c10_both_pods_of_a_collision_keep_their_own_ports(pod_node: Node, flow: Flow) -> None:
    pod_node.select(OTHER_POD, number=9)
    other = dataclasses.replace(flow, pod=OTHER_POD)
    first, second = pod_node.sent_port(flow), pod_node.sent_port(other)
    assert first != second
    assert (pod_node.owner(flow, first), pod_node.owner(other, second)) == ((POD, POD_PORT), (OTHER_POD, POD_PORT))


def test_c24_pods_that_ping_one_remote_with_one_id_get_their_own_answers(pod_node: Node) -> None:
    pod_node.select(OTHER_POD, number=9)
    other = dataclasses.replace(ECHO_FLOW, pod=OTHER_POD)
    for asked, pod in ((ECHO_FLOW, POD), (other, OTHER_POD)):
        answer = packet.read(pod_node.answer(asked, pod_node.sent_port(asked)).frame)
        assert (answer.ip.destination, answer.ip.ports[0]) == (pod, POD_PORT), "its own id"


def test_c10_two_cpus_never_share_a_port(pod_node: Node) -> None:
    """Each flow is sent once by each of two threads, all at once; the kernel runs them side by side."""
    flows = flows_like(TCP_FLOW, len(OWN_PORTS))
    program = pod_node.programs.descriptors["steer_egress"]
    ports: dict[int, set[int]] = {flow.pod_port: set() for flow in flows}

    def send_all(order: list[Flow]) -> None:
        for flow in order:
            outcome = run_program(program, egw_frame(flow.outbound()), ifindex=1, mark=MARK)
            if outcome.verdict == REDIRECT:
                ports[flow.pod_port].add(packet.read(outcome.frame).ip.ports[0])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send_all, [flows, list(reversed(flows))]))
    settled = [pod_node.flow(flow).nat_port for flow in flows]
    assert len(set(settled)) == len(flows)
    assert all(pod_node.owner(flow, port) == (POD, flow.pod_port) for flow, port in zip(flows, settled, strict=True))
    assert [ports[flow.pod_port] for flow in flows] == [{port} for port in settled]


@pytest.mark.parametrize("seed", range(3))
def test_c10_flows_that_open_and_close_side_by_side_never_share_a_port(pod_node: Node, seed: int) -> None:
    """Two CPUs with packets of either side of more flows than there are ports; afterwards each port names one flow."""
    pod_node.own(OWN_BLOCKS[:1])
    flows = flows_like(TCP_FLOW, 90)
    steer, uplink = (pod_node.programs.descriptors[name] for name in ("steer_egress", "uplink_ingress"))

    def storm(number: int) -> None:
        chance = random.Random(seed * 2 + number)
        for _ in range(3000):
            flow = chance.choice(flows)
            if chance.random() < 0.6:
                flags = chance.choice([packet.SYN, packet.SYN, packet.ACK, packet.RST, packet.FIN | packet.ACK])
                run_program(steer, egw_frame(flow.outbound(flags=flags)), ifindex=1, mark=MARK)
            else:
                reply = flow.reply(chance.choice(OWN_PORTS[:64]), flags=packet.ACK, source_mac=HOLDER_MAC)
                pod_node.programs.namespace.call(lambda frame=reply: run_program(uplink, frame, ifindex=UPLINK.ifindex))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(storm, range(2)))
    present = {flow: row for flow in flows if (row := pod_node.flow(flow)) is not None}
    owners = {flow: pod_node.owner(flow, row.nat_port) for flow, row in present.items()}
    named = [row.nat_port for flow, row in present.items() if owners[flow] == (POD, flow.pod_port)]
    assert len(named) == len(set(named)) > 32
    lost = [flow for flow in present if owners[flow] != (POD, flow.pod_port)]
    assert all(present[flow].state == CLOSING or present[flow].is_ended for flow in lost), "their ports were taken over"


def test_c13_one_port_serves_any_number_of_destinations(pod_node: Node) -> None:
    pod_node.select(OTHER_POD)
    others = [
        dataclasses.replace(TCP_FLOW, pod=OTHER_POD, server=OTHER_SERVER),
        dataclasses.replace(TCP_FLOW, pod=OTHER_POD, server_port=80),
        dataclasses.replace(UDP_FLOW, pod=OTHER_POD),
    ]
    assert [pod_node.sent_port(flow) for flow in [TCP_FLOW, *others]] == [POD_PORT] * 4


@each_protocol
def test_c12_nothing_is_refused_while_a_port_is_free_and_then_everything(pod_node: Node, flow: Flow) -> None:
    flows = flows_like(flow, len(OWN_PORTS) + 1)
    ports = [pod_node.sent_port(each) for each in flows[:-1]]
    assert sorted(ports) == OWN_PORTS
    outcome = pod_node.send(flows[-1])
    assert outcome.verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.PORTS_EXHAUSTED): 1}
    assert pod_node.flow(flows[-1]) is None
    assert pod_node.send(flows[-1].to(OTHER_SERVER)).verdict == REDIRECT, "another destination has ports of its own"


def test_q4_block_after_block_is_filled(pod_node: Node) -> None:
    """So the words of hints are few, however many blocks there are."""
    blocks = list(range(0, 1008, 2))
    pod_node.own(blocks)
    flows = flows_like(UDP_FLOW, 1000)
    ports = [pod_node.sent_port(flow) for flow in flows]
    assert len(set(ports)) == len(flows)
    assert {(port - 1024) // 64 % 2 for port in ports} == {0}
    assert len({(port - 1024) // 64 for port in ports}) == len(flows) // 64 + (len(flows) % 64 > 0)


def test_q4_the_search_does_not_need_its_hints(pod_node: Node) -> None:
    """They were evicted: the reservations decide."""
    flows = flows_like(TCP_FLOW, 100)
    first = {pod_node.sent_port(flow) for flow in flows[:50]}
    pod_node.forget_hints()
    second = {pod_node.sent_port(flow) for flow in flows[50:]}
    assert len(first | second) == 100


def test_q4_a_port_whose_flow_is_over_is_found_when_no_other_is_left(pod_node: Node) -> None:
    flows = flows_like(TCP_FLOW, 65)
    pod_node.own(OWN_BLOCKS[:1])
    ports = [pod_node.sent_port(flow) for flow in flows[:-1]]
    pod_node.end(flows[30])
    assert pod_node.sent_port(flows[-1]) == ports[30]
    assert pod_node.owner(flows[-1], ports[30]) == (POD, flows[-1].pod_port)


def test_q4_however_many_blocks_there_are_each_is_looked_at_in_turn(pod_node: Node) -> None:
    """Some with each new flow, and no more often than every 50 ms: nobody burns a CPU with what is refused."""
    blocks = [1, 2, 63, 64, 200, 500, 600, 700, 1000, 1007]
    pod_node.own(blocks)
    flows = flows_like(UDP_FLOW, len(blocks) * 64 + 1)
    for flow in flows[:-1]:
        pod_node.send(flow)
    for flow in (flows[3], flows[300], flows[620]):
        pod_node.end(flow)
        free = pod_node.flow(flow).nat_port
        tries = 0
        while pod_node.send(flows[-1]).verdict != REDIRECT:
            tries += 1
            assert tries < 4
            assert pod_node.send(flows[-1]).verdict == SHOT, "at once again"
            time.sleep(0.06)
        assert pod_node.flow(flows[-1]).nat_port == free
        flows[-1] = dataclasses.replace(flows[-1], pod_port=flows[-1].pod_port + 1)


def test_c11_a_reservation_without_its_flow_is_found_too(pod_node: Node) -> None:
    pod_node.own(OWN_BLOCKS[:1])
    ports = list(ports_of(OWN_BLOCKS[0]))
    pod_node.occupy(TCP_FLOW, ports)
    other = dataclasses.replace(TCP_FLOW, pod=OTHER_POD, pod_port=ports[7])
    pod_node.forget(other)
    assert pod_node.sent_port(dataclasses.replace(TCP_FLOW, pod_port=10)) == ports[7]


def test_q4_a_port_that_just_closed_comes_last(pod_node: Node) -> None:
    pod_node.own(OWN_BLOCKS[:1])
    flows = flows_like(TCP_FLOW, 65)
    ports = [pod_node.sent_port(flow) for flow in flows[:63]]
    pod_node.send(flows[5], flags=packet.RST)
    assert pod_node.state(flows[5]) == CLOSING
    last = pod_node.sent_port(flows[63])
    assert last not in ports, "there was another one"
    assert pod_node.sent_port(flows[64]) == ports[5]


def test_q4_of_closed_ports_one_that_is_past_time_wait_goes_first(pod_node: Node) -> None:
    pod_node.own(OWN_BLOCKS[:1])
    flows = flows_like(TCP_FLOW, 65)
    ports = [pod_node.sent_port(flow) for flow in flows[:-1]]
    for closed in (flows[5], flows[40], flows[60]):
        pod_node.send(closed, flags=packet.RST)
    pod_node.age(flows[40], 61)
    assert pod_node.sent_port(flows[-1]) == ports[40]


def test_q4_the_start_of_the_search_is_another_one_after_a_reboot(pod_node: Node) -> None:
    """A remote may still know the ports of before."""
    flow = dataclasses.replace(TCP_FLOW, pod_port=10)
    pod_node.own(range(0, 1008, 3))
    ports = []
    for seed in range(4):
        pod_node.flow_settings(seed=seed * 7919)
        ports.append(pod_node.sent_port(flow))
        pod_node.forget(flow)
        pod_node.forget_mirror(flow, ports[-1])
        pod_node.forget_hints()
    assert len(set(ports)) > 2


def test_q6_without_a_block_of_the_floating_ip_a_new_flow_is_dropped_and_counted(pod_node: Node) -> None:
    pod_node.own([])
    assert pod_node.send(TCP_FLOW).verdict == SHOT
    pod_node.map(MapName.OWN_BLOCKS).delete(FLOATING_IP.packed)
    assert pod_node.send(UDP_FLOW).verdict == SHOT
    drops = pod_node.drops()
    assert drops == {(FLOATING_IP, DropReason.PORTS_EXHAUSTED): 1, (FLOATING_IP, DropReason.NO_PORTS): 1}


def test_q5_a_flow_lives_on_when_its_block_is_to_go(pod_node: Node) -> None:
    """No new flow takes a port of it."""
    pod_node.send(TCP_FLOW)
    pod_node.own(OWN_BLOCKS[1:])
    assert pod_node.sent_port(TCP_FLOW, flags=packet.ACK) == POD_PORT
    assert pod_node.sent_port(TCP_FLOW.to(OTHER_SERVER)) in ports_of(OWN_BLOCKS[1])


def test_q4_an_evicted_reservation_is_made_again(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.forget_mirror(UDP_FLOW)
    assert pod_node.sent_port(UDP_FLOW) == POD_PORT
    assert pod_node.owner(UDP_FLOW) == (POD, POD_PORT)


def test_q4_a_flow_whose_port_names_another_flow_is_ended(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.forget_mirror(TCP_FLOW)
    pod_node.occupy(TCP_FLOW, [POD_PORT])
    assert pod_node.send(TCP_FLOW, flags=packet.ACK).verdict == SHOT
    assert pod_node.answer(TCP_FLOW, flags=packet.ACK).verdict == SHOT
    assert pod_node.drops()[FLOATING_IP, DropReason.FLOW_ENDED] == 1


def test_no_flow_is_moved_to_a_well_known_port(pod_node: Node) -> None:
    pod_node.own([0])
    flow = dataclasses.replace(TCP_FLOW, pod_port=80)
    assert pod_node.sent_port(flow) in range(1024, 1088)
