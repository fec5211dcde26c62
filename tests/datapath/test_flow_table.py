"""What the agent does with flows that programs made: what is over goes, what must not go on ends (B2, B4, E2)."""

import struct
import time
from ipaddress import IPv4Address

import pytest

from service.datapath import layout
from service.datapath.flow_table import FlowTable
from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from service.network.conntrack import Flow as Tracked
from service.network.priority import ENDED_PRIORITY
from service.port_block.block import block_of
from tests.datapath.node import (
    CLOSING,
    FLOATING_IP,
    FLOWS,
    MARK,
    OTHER_FLOATING_IP,
    OTHER_POD,
    OTHER_SERVER,
    POD,
    POD_NUMBER,
    POD_PORT,
    RULE_SET,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    boot_ns,
)
from tests.datapath.packet import ACK, FIN, ICMP, SYN, TCP
from tests.datapath.program import REDIRECT, SHOT

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


@pytest.fixture
def table(loaded: LoadedDatapath) -> FlowTable:
    return FlowTable(loaded.maps, clock=boot_ns, monotonic=time.monotonic_ns)


@each_protocol
async def test_b2_a_flow_that_is_over_gives_its_port_back(pod_node: Node, table: FlowTable, flow: Flow) -> None:
    pod_node.send(flow)
    pod_node.answer(flow)
    scan = await table.sweep(None)
    assert (scan.flows, sum(rows for rows, _ in scan.tables.values())) == (1, 1)
    assert set(scan.tables) == {"open", "young", "datagram"}
    pod_node.end(flow)
    scan = await table.sweep(None)
    assert (scan.flows, pod_node.place(flow), pod_node.owner(flow)) == (0, None, None)
    assert all(word == 0 for word in pod_node.hints().values()), "the search for a port finds it again"


async def test_a_port_in_time_wait_counts_as_taken(pod_node: Node, table: FlowTable) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.change(TCP_FLOW, state=CLOSING)
    scan = await table.sweep(None)
    assert scan.blocks == {FLOATING_IP.packed: {block_of(POD_PORT)}}
    ((_, taken),) = scan.busiest().values()
    assert taken == 1


async def test_b4_what_ended_unseen_is_made_up_for(pod_node: Node, table: FlowTable) -> None:
    pod_node.limit(flows_per_pod=2)
    for port in (40001, 40002):
        pod_node.send(Flow(TCP, pod_port=port))
    third = Flow(TCP, pod_port=40003)
    assert pod_node.send(third).verdict == SHOT
    pod_node.end(Flow(TCP, pod_port=40001))
    await table.sweep(None)
    assert pod_node.send(third).verdict == REDIRECT
    assert pod_node.send(Flow(TCP, pod_port=40004)).verdict == SHOT


@pytest.mark.parametrize("is_settled", [True, False])
async def test_e2_an_ended_datagram_flow_goes_once_connection_tracking_has_nothing_of_its_pod(
    pod_node: Node, table: FlowTable, is_settled: bool
) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.send(TCP_FLOW)
    for flow in (UDP_FLOW, TCP_FLOW):
        pod_node.change(flow, is_ended=True)
    await table.sweep({POD} if is_settled else {OTHER_POD})
    assert (pod_node.place(UDP_FLOW) is None) == is_settled
    assert pod_node.place(TCP_FLOW) is not None, "its pod is still to be told"


@each_protocol
async def test_b2_a_pod_that_leaves_has_no_flow_and_gets_no_reply(pod_node: Node, table: FlowTable, flow: Flow) -> None:
    other = Flow(flow.protocol, pod=OTHER_POD)
    pod_node.select(OTHER_POD)
    pod_node.send(flow)
    pod_node.send(other)
    await table.end_pods([POD], gone=[POD])
    assert pod_node.answer(flow).verdict == SHOT
    assert pod_node.place(other) is not None
    assert {reason for _, reason in pod_node.drops()} == {DropReason.NO_FLOW}


async def test_e2_connections_of_a_pod_that_is_not_selected_any_more_end_and_are_answered_with_resets(
    pod_node: Node, table: FlowTable
) -> None:
    """Connection tracking takes a FIN without a connection for invalid, and nobody would translate it."""
    pod_node.send(TCP_FLOW)
    pod_node.send(UDP_FLOW)
    await table.end_pods([POD], gone=[])
    pod_node.select(rule_set=0)
    assert (pod_node.answer(TCP_FLOW).verdict, pod_node.place(UDP_FLOW)) == (SHOT, None)
    assert pod_node.drops() == {(FLOATING_IP, DropReason.FLOW_ENDED): 1}
    for flags in (ACK, ACK | FIN):
        outcome = pod_node.leave_pod(TCP_FLOW.outbound(flags=flags))
        assert (outcome.mark, outcome.priority) == (MARK, ENDED_PRIORITY)
    assert (await table.sweep(None)).without_flows([POD, OTHER_POD]) == [OTHER_POD]
    assert pod_node.leave_pod(TCP_FLOW.outbound(flags=SYN)).mark == 0, "what is new is nobody's business"


async def test_q3_flows_of_a_block_that_is_another_nodes_end(pod_node: Node, table: FlowTable) -> None:
    elsewhere = Flow(TCP, pod_port=POD_PORT + layout.PORTS_PER_BLOCK)
    for flow in (TCP_FLOW, elsewhere):
        pod_node.send(flow)
    table.end_blocks({FLOATING_IP: {block_of(POD_PORT)}})
    assert pod_node.send(TCP_FLOW, flags=ACK).verdict == SHOT
    assert pod_node.send(elsewhere, flags=ACK).verdict == REDIRECT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.FLOW_ENDED): 1}


async def test_of_many_flows_each_is_seen_once(pod_node: Node, table: FlowTable) -> None:
    """Also where a bucket has more than one piece holds."""
    ports = range(1024, 1024 + 20_000)
    pod_node.occupy(TCP_FLOW, ports)
    began = time.monotonic()
    scan = await table.sweep(None)
    print(f"{len(ports)} flows in {time.monotonic() - began:.3f} s")
    assert scan.flows == len(ports)
    ((remote, taken),) = scan.busiest().values()
    assert (remote.address, taken) == (SERVER.packed, len(ports))
    assert scan.pods == {(OTHER_POD.packed, POD_NUMBER + 1): len(ports)}


def tracked(flow: Flow) -> Tracked:
    """As connection tracking tells of it."""

    def attribute(kind: int, payload: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)

    def side(kind: int, source: IPv4Address, destination: IPv4Address, ports: tuple[int, int]) -> bytes:
        addresses = attribute(1, source.packed) + attribute(2, destination.packed)
        if flow.protocol == ICMP:
            named = attribute(4, ports[0].to_bytes(2, "big")) + attribute(5, b"\x08") + attribute(6, b"\0")
        else:
            named = b"".join(attribute(2 + place, port.to_bytes(2, "big")) for place, port in enumerate(ports))
        return attribute(kind, attribute(1, addresses) + attribute(2, attribute(1, bytes([flow.protocol])) + named))

    ports = flow.pod_port, flow.remote_port
    back = ports if flow.protocol == ICMP else ports[::-1]
    original, reply = side(1, flow.pod, flow.server, ports), side(2, flow.server, flow.pod, back)
    return Tracked(int(flow.pod), int(flow.server), original, reply)


@each_protocol
async def test_e3_a_connection_older_than_the_selection_has_ended_until_it_is_forgotten(
    pod_node: Node, table: FlowTable, flow: Flow
) -> None:
    ended: set[bytes] = set()
    older = tracked(flow)
    assert await table.end_older([older], [POD], ended) == [older]
    outcome = pod_node.leave_pod(flow.outbound(flags=ACK))
    if flow.protocol == TCP:
        assert outcome.priority == ENDED_PRIORITY, "whatever its direction"
    else:
        assert outcome.verdict == SHOT, "before connection tracking makes an entry of it anew"
    assert pod_node.send(flow, flags=ACK).verdict == SHOT
    assert {reason for _, reason in pod_node.drops()} == {DropReason.FLOW_ENDED}
    await table.release(ended)
    assert (pod_node.send(flow, flags=ACK).verdict == SHOT) == (flow.protocol == TCP), "its pod is still to be told"
    assert pod_node.send(flow).verdict == REDIRECT, "a new connection is a new flow"


@each_protocol
async def test_e3_a_flow_that_goes_on_as_it_is_keeps_its_connection(
    pod_node: Node, table: FlowTable, flow: Flow
) -> None:
    pod_node.send(flow)
    assert await table.end_older([tracked(flow)], [POD], set()) == []
    another = RULE_SET + 1
    pod_node.rule(rule_set=another)
    pod_node.select(rule_set=another)
    assert await table.end_older([tracked(flow)], [POD], set()) == [], "other rules, the same verdict"
    pod_node.rule(floating_ip=OTHER_FLOATING_IP, rule_set=another)
    assert await table.end_older([tracked(flow)], [POD], set()) == [tracked(flow)]
    assert pod_node.send(flow, flags=ACK).verdict == SHOT


async def test_e3_what_is_not_steered_becomes_no_flow(pod_node: Node, table: FlowTable) -> None:
    pod_node.exclude(f"{OTHER_SERVER}/32")
    ended: set[bytes] = set()
    excluded, leaving, unknown = TCP_FLOW.to(OTHER_SERVER), TCP_FLOW, Flow(TCP, pod=OTHER_POD)
    older = [tracked(flow) for flow in (excluded, leaving, unknown)]
    assert await table.end_older(older, [OTHER_POD], ended) == older, "they are forgotten all the same"
    assert ended == set()
    assert (await table.sweep(None)).flows == 0


async def test_e3_a_flow_without_a_port_is_in_nobodys_way(pod_node: Node, table: FlowTable) -> None:
    await table.end_older([tracked(TCP_FLOW)], [POD], set())
    scan = await table.sweep(None)
    assert (scan.flows, scan.blocks, scan.busiest()) == (1, {}, {})
    pod_node.end(TCP_FLOW)
    assert (await table.sweep(None)).flows == 0
