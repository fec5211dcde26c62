"""What passes is counted in a flow's row, by both directions, and the agent's sweeps add it up (rule B6)."""

import time
from ipaddress import IPv4Address

import pytest

from service.datapath import flow_row
from service.datapath.attribution import Attribution
from service.datapath.flow_table import FlowTable
from service.datapath.layout import MapName
from service.datapath.loader import LoadedDatapath
from service.datapath.traffic import Account, Numbers
from tests.datapath import packet
from tests.datapath.node import (
    ESTABLISHED,
    FLOATING_IP,
    FLOWS,
    MARK,
    OTHER_FLOATING_IP,
    OTHER_SERVER,
    POD,
    RULE_SET,
    TCP_FLOW,
    UDP_FLOW,
    Flow,
    Node,
    boot_ns,
    egw_frame,
)
from tests.datapath.packet import ACK, FIN, RST, SYN
from tests.datapath.program import EGW, REDIRECT, SHOT

pytestmark = pytest.mark.bpf
each_protocol = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)

ATTRIBUTION = Attribution(
    {FLOATING_IP.packed: "all", OTHER_FLOATING_IP.packed: "other"},
    policies=("all", "other"),
    floating_ips=(FLOATING_IP.packed, OTHER_FLOATING_IP.packed),
)


@pytest.fixture
def table(loaded: LoadedDatapath) -> FlowTable:
    return FlowTable(loaded.maps, clock=boot_ns, monotonic=time.monotonic_ns)


async def counted(table: FlowTable, policy: str = "all", floating_ip: IPv4Address = FLOATING_IP) -> Account:
    """After a look at all flows."""
    await table.sweep(None, ATTRIBUTION)
    return table.traffic.get((policy, floating_ip.packed), Account())


def passed(node: Node, flow: Flow) -> tuple[int, int, int, int]:
    """As the flow's row has it."""
    row = node.flow(flow)
    assert row is not None
    return row.out_packets, row.out_bytes, row.in_packets, row.in_bytes


def reply_bytes(flow: Flow, **fields: int) -> int:
    """Of the IP packet."""
    return len(flow.reply(**fields)) - packet.ETHERNET_BYTES


# ---- rows ----


@each_protocol
def test_b6_each_packet_either_way_is_counted_with_the_bytes_of_its_ip_packet(pod_node: Node, flow: Flow) -> None:
    out = [len(flow.outbound(flags=flags)) for flags in (SYN, ACK, ACK)]
    pod_node.send(flow)
    assert passed(pod_node, flow) == (1, out[0], 0, 0)
    pod_node.answer(flow)
    assert passed(pod_node, flow) == (1, out[0], 1, reply_bytes(flow))
    for _ in range(2):
        pod_node.send(flow, flags=ACK)
    pod_node.answer(flow, flags=ACK)
    assert passed(pod_node, flow) == (3, sum(out), 2, reply_bytes(flow) + reply_bytes(flow, flags=ACK))


def test_b6_options_of_the_ip_header_count(pod_node: Node) -> None:
    options = bytes((1, 1, 1, 0))
    pod_node.steer(UDP_FLOW.outbound(options=options))
    assert passed(pod_node, UDP_FLOW)[:2] == (1, len(UDP_FLOW.outbound()) + len(options))


@pytest.mark.parametrize(("data", "packets"), [(3_000, 3), (1_300, 1)])
def test_b6_segments_that_the_kernel_holds_together_count_each_with_its_headers(
    pod_node: Node, data: int, packets: int
) -> None:
    """Where together they are longer than a packet can be."""
    segment = packet.tcp(POD, TCP_FLOW.server, (TCP_FLOW.pod_port, TCP_FLOW.server_port), ACK, b"x" * data)
    whole = packet.ipv4(POD, TCP_FLOW.server, packet.TCP, segment)
    pod_node.programs.run("steer_egress", egw_frame(whole), device=EGW, mark=MARK, segments=(-(-data // 1000), 1000))
    assert passed(pod_node, TCP_FLOW)[:2] == (packets, data + 40 * packets)


def test_b6_a_flow_takes_its_count_along_from_table_to_table(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    assert pod_node.place(TCP_FLOW) == MapName.FLOWS_YOUNG
    pod_node.answer(TCP_FLOW)
    assert pod_node.place(TCP_FLOW) == MapName.FLOWS_OPEN
    pod_node.send(TCP_FLOW, flags=ACK | FIN)
    pod_node.answer(TCP_FLOW, flags=ACK | FIN)
    assert pod_node.place(TCP_FLOW) == MapName.FLOWS_YOUNG
    assert passed(pod_node, TCP_FLOW)[::2] == (2, 2)


def test_b6_what_an_ended_flow_drops_is_not_counted(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.answer(UDP_FLOW)
    before = passed(pod_node, UDP_FLOW)
    pod_node.change(UDP_FLOW, is_ended=True)
    assert pod_node.send(UDP_FLOW).verdict == pod_node.answer(UDP_FLOW).verdict == SHOT
    assert passed(pod_node, UDP_FLOW) == before


def test_b6_a_stray_reset_of_the_remote_is_delivered_and_not_counted(pod_node: Node) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    pod_node.send(TCP_FLOW, flags=ACK)
    before = passed(pod_node, TCP_FLOW)
    assert pod_node.answer(TCP_FLOW, flags=RST, sequence=1).verdict == REDIRECT
    assert passed(pod_node, TCP_FLOW) == before


def test_b6_what_a_program_removes_is_laid_aside_as_it_was(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.end(UDP_FLOW)
    pod_node.send(UDP_FLOW)
    (flow,) = pod_node.map(MapName.DEPARTED_FLOWS).items().items()
    assert flow_row.parse_flow(*flow).out_packets == 1


def test_b6_an_edit_that_leaves_the_flow_leaves_its_count(pod_node: Node) -> None:
    pod_node.send(UDP_FLOW)
    pod_node.rule(rule_set=RULE_SET + 1)
    pod_node.select(rule_set=RULE_SET + 1)
    pod_node.send(UDP_FLOW)
    assert passed(pod_node, UDP_FLOW)[0] == 2


# ---- totals ----


@each_protocol
async def test_b6_sweeps_add_up_what_passed(pod_node: Node, table: FlowTable, flow: Flow) -> None:
    pod_node.send(flow)
    assert (await counted(table)).total == Numbers(1, len(flow.outbound()), 0, 0, 1)
    pod_node.answer(flow)
    pod_node.send(flow, flags=ACK)
    found = await counted(table)
    assert (found.total.out_packets, found.total.in_packets, found.total.flows, found.flows) == (2, 1, 1, 1)
    assert found.total == (await counted(table)).total, "nothing passed meanwhile"


async def test_b6_a_flow_that_is_over_is_counted_to_the_end_and_no_flow_any_more(
    pod_node: Node, table: FlowTable
) -> None:
    for _ in range(3):
        pod_node.send(UDP_FLOW)
    pod_node.end(UDP_FLOW)
    found = await counted(table)
    assert (found.total.out_packets, found.total.flows, found.flows) == (3, 1, 0)


async def test_b6_what_a_program_takes_away_between_two_sweeps_is_counted(pod_node: Node, table: FlowTable) -> None:
    """The pod uses the port again after the flow's time, before a sweep has seen that it is over."""
    for _ in range(3):
        pod_node.send(UDP_FLOW)
    await counted(table)
    for _ in range(4):
        pod_node.send(UDP_FLOW)
    pod_node.end(UDP_FLOW)
    pod_node.send(UDP_FLOW)
    assert passed(pod_node, UDP_FLOW)[0] == 1, "it is another flow"
    found = await counted(table)
    assert (found.total.out_packets, found.total.flows, found.flows) == (8, 2, 1)
    assert pod_node.map(MapName.DEPARTED_FLOWS).items() == {}
    assert (await counted(table)).total == found.total


async def test_b6_a_syn_on_an_ended_flow_leaves_what_that_had(pod_node: Node, table: FlowTable) -> None:
    pod_node.send(TCP_FLOW)
    pod_node.answer(TCP_FLOW)
    pod_node.change(TCP_FLOW, is_ended=True)
    pod_node.leave_pod(TCP_FLOW.outbound())
    assert pod_node.place(TCP_FLOW) is None
    found = await counted(table)
    assert (found.total.out_packets, found.total.in_packets, found.total.flows, found.flows) == (1, 1, 1, 0)


async def test_b6_flows_of_a_pod_that_leaves_are_counted_to_the_end(pod_node: Node, table: FlowTable) -> None:
    pod_node.send(UDP_FLOW)
    await counted(table)
    pod_node.send(UDP_FLOW)
    await table.end_pods([POD], gone=[POD])
    found = await counted(table)
    assert (found.total.out_packets, found.total.flows, found.flows) == (2, 1, 0)


async def test_b6_what_is_evicted_keeps_what_the_last_sweep_saw(pod_node: Node, table: FlowTable) -> None:
    pod_node.send(UDP_FLOW)
    await counted(table)
    pod_node.send(UDP_FLOW)
    pod_node.forget(UDP_FLOW)
    for _ in range(2):
        found = await counted(table)
    assert (found.total.out_packets, found.total.flows, found.flows) == (1, 1, 0)


async def test_b6_each_policy_has_its_own(pod_node: Node, table: FlowTable) -> None:
    pod_node.rule(f"{OTHER_SERVER}/32", OTHER_FLOATING_IP)
    pod_node.floating_ip(OTHER_FLOATING_IP)
    pod_node.own(floating_ip=OTHER_FLOATING_IP)
    pod_node.way(floating_ip=OTHER_FLOATING_IP)
    for _ in range(2):
        pod_node.send(UDP_FLOW)
    pod_node.send(UDP_FLOW.to(OTHER_SERVER))
    assert (await counted(table)).total.out_packets == 2
    assert (await counted(table, "other", OTHER_FLOATING_IP)).total.out_packets == 1


async def test_b6_the_next_agent_goes_on_where_this_one_was(
    pod_node: Node, table: FlowTable, loaded: LoadedDatapath
) -> None:
    gone = Flow(UDP_FLOW.protocol, pod_port=UDP_FLOW.pod_port + 1)
    for flow in (UDP_FLOW, gone, gone):
        pod_node.send(flow)
    pod_node.end(gone)
    await counted(table)
    after = FlowTable(loaded.maps, clock=boot_ns, monotonic=time.monotonic_ns)
    pod_node.send(UDP_FLOW)
    assert after.traffic == {}
    found = await counted(after)
    assert (found.total.out_packets, found.total.flows, found.flows) == (4, 2, 1)


async def test_b6_nothing_is_counted_while_the_policies_are_not_known_and_nothing_is_lost_by_it(
    pod_node: Node, table: FlowTable
) -> None:
    pod_node.send(UDP_FLOW)
    await table.sweep(None)
    assert table.traffic == {}
    assert (await counted(table)).total.out_packets == 1


async def test_b6_a_look_at_many_flows_counts_each_and_takes_little_longer(pod_node: Node, table: FlowTable) -> None:
    ports = range(1024, 1024 + 20_000)
    pod_node.occupy(TCP_FLOW, ports, out_packets=1, out_bytes=40, state=ESTABLISHED)
    for attribution in (None, ATTRIBUTION, ATTRIBUTION):
        began = time.monotonic()
        await table.sweep(None, attribution)
        print(f"{len(ports)} flows in {time.monotonic() - began:.3f} s, counted: {attribution is not None}")
    assert (await counted(table)).total == Numbers(20_000, 800_000, 0, 0, 20_000)
