"""What the agent does with flows that programs made: what is over goes, what must not go on ends (B2, B4, E2)."""

import time

import pytest

from service.datapath import layout
from service.datapath.flow_table import FlowTable
from service.datapath.loader import LoadedDatapath
from service.model.drop import DropReason
from service.port_block.block import block_of
from tests.datapath.node import (
    CLOSING,
    FLOATING_IP,
    FLOWS,
    OTHER_POD,
    POD,
    POD_NUMBER,
    POD_PORT,
    SERVER,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    boot_ns,
)
from tests.datapath.packet import ACK, TCP
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
    await table.end_pods([POD])
    assert pod_node.answer(flow).verdict == SHOT
    assert pod_node.place(other) is not None
    assert {reason for _, reason in pod_node.drops()} == {DropReason.NO_FLOW}


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
