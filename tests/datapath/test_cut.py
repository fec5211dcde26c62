"""Each rule with its wiring cut: the test that is named after it fails then.

A rule that is built, and tested by itself, may be called by nobody. So one line of the programs is taken out, they are
compiled anew, and the claim of the rule is made of what is left. Cut in netfilter's rules, or by hand, are those that
only whole walks show.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.datapath.compiled import Compiled
from service.datapath.compiled_folder import COMPILE_TIMEOUT_S, compiled_datapath
from service.datapath.flow_room import FlowRoom
from service.datapath.layout import BlockKind, WayKind, pin_folder
from service.datapath.loader import LoadedDatapath, write_headers
from service.datapath.map_size import RowRoom
from tests.datapath import (
    test_direct,
    test_error,
    test_flow_counters,
    test_flow_life,
    test_fragment,
    test_handover,
    test_holder,
    test_known_verdict,
    test_pod_ingress,
    test_port,
    test_reverse_snat,
    test_snat,
    test_steer,
    test_tunnel_past_stack,
    test_uplink_arp,
    test_uplink_egress,
)
from tests.datapath.node import TCP_FLOW, UDP_FLOW, Node
from tests.datapath.program import Namespace, Programs

pytestmark = pytest.mark.bpf

SOURCE = Path(__file__).parents[2] / "bpf"


@dataclass(frozen=True, slots=True)
class Cut:
    """One line of `bpf/FILE` that is replaced, and who fails of it, on which kind of node."""

    file: str
    line: str
    instead: str
    claim: Callable[..., object]
    node: str
    arguments: dict[str, Any] = field(default_factory=dict)


def bare(node: Node) -> None:
    """As it is configured."""


def pod_node(node: Node) -> None:
    for make in (node.rule, node.select, node.own, node.way):
        make()


def opened(node: Node) -> None:
    pod_node(node)
    node.send(TCP_FLOW)
    node.answer(TCP_FLOW)
    node.send(TCP_FLOW, flags=test_flow_life.ACK)


def holder(node: Node) -> None:
    node.hold()
    node.assign()


def own_holder(node: Node) -> None:
    pod_node(node)
    node.hold()
    node.way(WayKind.LOCAL)
    node.assign(kind=BlockKind.LOCAL, member=0)


NODES = {made.__name__: made for made in (pod_node, opened, holder, own_holder)} | {"node": bare}
TCP, UDP = {"flow": TCP_FLOW}, {"flow": UDP_FLOW}
FRAME = {"frame": test_uplink_egress.FRAMES["ip"]}
STRANGERS = "block->member != member"
CUTS = {
    "B2": Cut(
        "steer.h", "flow->pod == row->pod &&", "", test_flow_life.test_b2_nobody_inherits_a_flow, "pod_node", TCP
    ),
    "B3": Cut(
        "table.h",
        "flow->last_ns = now_ns;\n    tally_packet(flow, packet, from_pod);",
        "tally_packet(flow, packet, from_pod);",
        test_flow_life.test_c20_both_directions_refresh,
        "pod_node",
        UDP,
    ),
    "B4": Cut(
        "steer.h",
        "if (is_over_quota(key->pod_ip, row->pod, own))",
        "if (0)",
        test_flow_life.test_b4_a_pod_has_no_more_flows_than_its_quota_and_open_ones_go_on,
        "pod_node",
    ),
    "B5": Cut(
        "table.h",
        "        move_to_open(key, flow);\n",
        "        return;\n",
        test_flow_life.test_b5_a_tcp_flow_is_kept_from_eviction_as_soon_as_it_is_answered_and_until_it_closes,
        "pod_node",
    ),
    "B6": Cut(
        "table.h",
        "flow->last_ns = now_ns;\n    tally_packet(flow, packet, from_pod);",
        "flow->last_ns = now_ns;",
        test_flow_counters.test_b6_each_packet_either_way_is_counted_with_the_bytes_of_its_ip_packet,
        "pod_node",
        UDP,
    ),
    "B6, removed": Cut(
        "table.h",
        "departed_flows.update(key, (struct flow *)flow);",
        "",
        test_flow_counters.test_b6_what_a_program_removes_is_laid_aside_as_it_was,
        "pod_node",
    ),
    "D1": Cut(
        "egress_gateway.c",
        "priority = flow_priority(&packet, &key, flow);",
        "priority = 0;",
        test_pod_ingress.test_d1_a_packet_of_a_live_flow_says_so_to_netfilter,
        "pod_node",
    ),
    "D2": Cut(
        "egress_gateway.c",
        "if (!member || skb->vlan_present || !load_ipv4(skb, &ip))",
        "if (!load_ipv4(skb, &ip) || !member)\n        return TC_ACT_UNSPEC;\n    if (0)",
        test_reverse_snat.test_d2_nothing_else_enters_by_egw0,
        "pod_node",
    ),
    "D4": Cut(
        "steer.h",
        "!may_make_flow(packet, settings)",
        "0",
        test_flow_life.test_d4_a_segment_from_a_port_that_servers_use_makes_none,
        "pod_node",
    ),
    "E1": Cut(
        "steer.h",
        "if (rule && rule->floating_ip == flow->floating_ip) {",
        "if (0) {",
        test_flow_life.test_e1_an_edit_that_leaves_the_floating_ip_is_not_felt,
        "opened",
    ),
    "E2": Cut(
        "steer.h",
        "    flow->is_ended = 1;\n    if (flow->life_s > ENDED_S)",
        "    if (flow->life_s > ENDED_S)",
        test_flow_life.test_e2_a_flow_that_no_rule_names_any_more_is_ended,
        "opened",
    ),
    "F1": Cut(
        "approval.h",
        "    if ((skb->hash & 0xff) != tag)\n        return 0;\n    settings = flow_settings.lookup(&zero);\n"
        "    return settings && skb->hash == seen_hash(key, settings->seed, tag);",
        "    settings = flow_settings.lookup(&zero);\n    return settings != NULL;",
        test_direct.test_f1_behind_netfilter_nothing_is_approved_that_was_not_seen_before_it,
        "pod_node",
    ),
    "F2": Cut(
        "approval.h",
        "now_ns < until_ns && ",
        "",
        test_direct.test_f2_without_approval_or_after_it_a_packet_takes_the_policy_path,
        "pod_node",
        TCP,
    ),
    "F4": Cut(
        "direct.h",
        "if (!keeps_port(key, flow, now_ns))",
        "if (0)",
        test_direct.test_f4_nothing_goes_past_what_the_policy_path_would_stop,
        "pod_node",
        {"change": test_direct.CHANGES["its port is another flow's"]},
    ),
    "F5": Cut(
        "egress_gateway.c",
        "else if (by == BY_WIRE && (verdict = take_known(skb, &ip, skb->cb[1], settings)) != TC_ACT_UNSPEC)",
        "else if (0)",
        test_known_verdict.test_f5_of_the_outside_goes_to_the_node_like_the_one_before_it,
        "holder",
        UDP,
    ),
    "F5, out": Cut(
        "direct.h",
        "keep_way(skb, packet, floating_ip, way, mtu, generation, now_ns);",
        "",
        test_known_verdict.test_f5_of_a_pod_goes_the_way_of_the_packet_before_it,
        "pod_node",
        UDP,
    ),
    "F5, policy path": Cut(
        "egress_gateway.c",
        "verdict = flow ? steer_as_before(",
        "verdict = 0 ? steer_as_before(",
        test_known_verdict.test_f5_behind_netfilter_a_packet_goes_the_way_of_the_one_before_it,
        "pod_node",
        UDP,
    ),
    "F5, replies": Cut(
        "deliver.h",
        "            keep_delivery(skb, packet, &delivery);",
        "            ;",
        test_known_verdict.test_f5_a_reply_goes_to_the_stack_like_the_one_before_it,
        "pod_node",
        {"flow": UDP_FLOW, "is_held": False},
    ),
    "F5, lease": Cut(
        "known.h",
        "if (known->token && live_token(",
        "if (0 && live_token(",
        test_known_verdict.test_f5_the_lease_is_asked_for_with_every_packet,
        "holder",
    ),
    "F5, sender": Cut(
        "known.h",
        " || !same_mac(known->sender_mac, data + MAC_BYTES))",
        ")",
        test_known_verdict.test_f5_a_verdict_is_of_one_sender,
        "holder",
    ),
    "F5, generation": Cut(
        "cache.h",
        "known->generation != generation || ",
        "",
        test_known_verdict.test_f5_a_row_that_changes_is_felt_by_the_holders_next_packet,
        "holder",
        {"change": test_known_verdict.HELD["nobody's block"]},
    ),
    "F5, hint": Cut(
        "arp.h",
        "way_hints.update(&floating_ip, &learned);\n    begin_generation();",
        "way_hints.update(&floating_ip, &learned);",
        test_known_verdict.test_f5_a_hint_moves_the_way_at_once_and_is_kept_by_nobody,
        "pod_node",
    ),
    "G1": Cut(
        "arp.h",
        "is_lease_live(address))\n        return answer_arp(skb, &arp, floating, 0);",
        "0)\n        return answer_arp(skb, &arp, floating, 0);",
        test_uplink_arp.test_while_the_lease_lives_a_request_is_answered,
        "holder",
        {"destination": test_uplink_arp.BROADCAST},
    ),
    "G2": Cut(
        "fence.h",
        "if (is_lease_live(floating_ip) || is_on_the_way(skb, floating_ip))",
        "if (1)",
        test_uplink_egress.test_g2_after_the_lease_nothing_leaves_and_it_is_counted,
        "holder",
        FRAME,
    ),
    "H1": Cut(
        "holder.h",
        "if (by != BY_ITSELF && !member)",
        "if (0)",
        test_holder.test_h1_a_strangers_frame_is_dropped_and_counted,
        "holder",
    ),
    "H2": Cut(
        "holder.h",
        "if (!block)\n        return drop(skb, DROP_NO_FLOW, floating_ip);",
        "if (!block)\n        return TC_ACT_UNSPEC;",
        test_holder.test_c32_what_comes_for_nobodys_block_is_dropped_and_never_reaches_the_stack,
        "holder",
        {"port": 22},
    ),
    "H3": Cut(
        "fence.h",
        "if (!is_ours)\n        return drop",
        "if (0)\n        return drop",
        test_uplink_egress.test_c15_what_nobody_of_us_made_never_leaves_in_a_floating_ips_name,
        "holder",
        FRAME,
    ),
    "H3, pod": Cut(
        "egress_gateway.c",
        "if (source && floating_ips.lookup(&source))",
        "if (0)",
        test_pod_ingress.test_h3_no_pod_speaks_for_a_floating_ip,
        "node",
        {"frame": test_pod_ingress.FORGED["ip"], "tags": []},
    ),
    "H4": Cut(
        "holder.h",
        STRANGERS,
        "(block->member != member && by != BY_WIRE)",
        test_holder.test_h4_nothing_off_the_wire_is_of_the_holders_own_block,
        "own_holder",
    ),
    "H5": Cut(
        "egress_gateway.c",
        "return fence_tagged(skb, is_ours, settings);",
        "return TC_ACT_UNSPEC;",
        test_uplink_egress.test_h5_a_floating_ip_behind_tags_is_fenced_like_any,
        "holder",
        {"tags": [(test_uplink_egress.packet.VLAN, 5)]},
    ),
    "Q3": Cut(
        "holder.h",
        STRANGERS,
        "0",
        test_holder.test_q3_a_packet_of_another_members_block_is_dropped_and_told,
        "holder",
        TCP,
    ),
    "Q4": Cut(
        "steer.h",
        "return names(mirror, key);",
        "return 1;",
        test_port.test_q4_a_flow_whose_port_names_another_flow_is_ended,
        "pod_node",
    ),
    "Q5": Cut(
        "holder.h",
        "block->seen_ns = now_ns;",
        ";",
        test_holder.test_q5_the_holder_remembers_when_it_last_saw_a_packet_of_a_block,
        "holder",
    ),
    "Q6": Cut(
        "port.h",
        "    if (!own)\n        return DROP_NO_PORTS;",
        "    if (!own) {\n        key->nat_port = flow->pod_port;\n        return DROP_NONE;\n    }",
        test_port.test_q6_without_a_block_of_the_floating_ip_a_new_flow_is_dropped_and_counted,
        "pod_node",
    ),
    "R1": Cut(
        "deliver.h",
        "flow->floating_ip != mirror_key->floating_ip",
        "1",
        test_reverse_snat.test_r1_a_reply_of_any_member_is_taken_because_the_holder_may_be_a_new_one,
        "pod_node",
    ),
    "R3": Cut(
        "verdict.h",
        "return token && lease->token == *token;",
        "return token != NULL;",
        test_holder.test_r3_rows_of_blocks_count_under_the_tenure_that_the_agent_has_vouched_for,
        "holder",
    ),
    "W1": Cut(
        "steer.h",
        "if (write_macs(skb, way->gateway_mac, way->own_mac) < 0)",
        "if (0)",
        test_steer.test_w1_a_packet_goes_to_the_holders_mac_from_the_floating_ip,
        "pod_node",
    ),
    "R4, heard": Cut(
        "egress_gateway.c",
        "return hear_handover(skb);\n",
        "return TC_ACT_SHOT;\n",
        test_handover.test_r4_a_node_hears_from_the_holder_that_it_lets_go,
        "pod_node",
    ),
    "R4, outwards": Cut(
        "egress_gateway.c",
        "if (token && (verdict = wait_for_successor(skb, floating_ip, token)) != TC_ACT_UNSPEC)\n",
        "if (0)\n",
        test_handover.test_r4_packets_wait_while_the_address_is_handed_over_and_no_longer,
        "pod_node",
    ),
    "R4, inwards": Cut(
        "holder.h",
        "is_held = is_handing_on(floating_ip) ? HANDING_ON : 0;\n",
        ";\n",
        test_handover.test_r4_what_still_comes_to_the_former_holder_goes_on_to_the_node_of_its_block,
        "holder",
        UDP,
    ),
    "W2": Cut(
        "arp.h",
        "learn_way(skb, &arp, floating);\n",
        ";\n",
        test_uplink_arp.test_w2_an_announcement_is_a_hint_where_there_was_no_way,
        "node",
    ),
    "W11": Cut(
        "egress_gateway.c",
        "skb->priority = CLASSIFIED_PRIORITY;",
        ";",
        test_pod_ingress.test_w11_packets_of_classified_pods_are_known_to_netfilter_whatever_becomes_of_them,
        "node",
    ),
    "X2": Cut(
        "tunnel.h",
        " || !number)\n        return 0;\n    hop = find_tunnel_hop(skb, source, settings);\n"
        "    if (!hop || hop->ifindex != ifindex || bpf_skb_adjust_room(skb, -TUNNEL_BYTES, BPF_ADJ_ROOM_MAC, 0) < 0)\n"
        "        return 0;\n    return *number;",
        ")\n        return 0;\n    hop = find_tunnel_hop(skb, source, settings);\n"
        "    if (!hop || hop->ifindex != ifindex || bpf_skb_adjust_room(skb, -TUNNEL_BYTES, BPF_ADJ_ROOM_MAC, 0) < 0)\n"
        "        return 0;\n    return number ? *number : 1;",
        test_tunnel_past_stack.test_x2_nothing_is_taken_out_of_the_tunnel_from_who_is_no_member,
        "holder",
    ),
    "X2, fence": Cut(
        "egress_gateway.c",
        "if (!is_ours && settings && ip.protocol == PROTOCOL_UDP && is_for_tunnel(",
        "if (0 && is_for_tunnel(",
        test_uplink_egress.test_h5_nothing_leaves_to_the_tunnels_port_but_what_the_steering_device_made,
        "node",
        {"datagram": test_uplink_egress.to_tunnel(), "tags": ()},
    ),
    "X3": Cut(
        "holder.h",
        "if (by != BY_ITSELF && packet->ttl <= 1)\n        return fault(packet, SIDE_MEMBER",
        "if (0)\n        return fault(packet, SIDE_MEMBER",
        test_error.test_h2_a_member_is_told_by_the_holders_own_address_that_the_hops_are_used_up,
        "holder",
        TCP,
    ),
    "X4": Cut(
        "tunnel.h",
        "else if (put_into_tunnel(skb, hop, node, settings) == 0)",
        "else if (0)",
        test_tunnel_past_stack.test_x4_an_approved_packet_leaves_by_the_uplink_with_the_outer_headers_of_the_stack,
        "pod_node",
        UDP,
    ),
    "X4, neighbour": Cut(
        "tunnel.h",
        "if (hop->is_due)\n            hop->is_due = 0;\n        else if",
        "if",
        test_tunnel_past_stack.test_x4_the_first_packet_of_each_half_second_goes_by_the_stack,
        "pod_node",
    ),
    "X4, congestion": Cut(
        "tunnel.h",
        "tos = ip->tos & 3;\n    if (tos == 3)\n        tos = 2;",
        "tos = ip->tos & 3;",
        test_tunnel_past_stack.test_x4_congestion_is_told_outside_as_inside,
        "pod_node",
        {"inner": 3, "outer": 2},
    ),
    "X4, in": Cut(
        "egress_gateway.c",
        "member = by == BY_WIRE ? leave_tunnel(skb, &ip, settings) : 0;",
        "member = 0;",
        test_tunnel_past_stack.test_x4_what_a_member_sends_is_taken_out_at_the_uplink_and_forwarded,
        "holder",
        UDP,
    ),
    "X4, way back": Cut(
        "tunnel.h",
        "!hop || hop->ifindex != ifindex || ",
        "",
        test_tunnel_past_stack.test_x4_what_comes_by_another_device_than_answers_would_take_is_the_stacks_to_believe,
        "holder",
    ),
    "X4, stack": Cut(
        "egress_gateway.c",
        "return by == BY_TUNNEL ? drop(skb, DROP_NO_TRANSPORT, 0) : TC_ACT_UNSPEC;",
        "return TC_ACT_UNSPEC;",
        test_tunnel_past_stack.test_x4_neither_from_nor_to_a_floating_ip_is_dropped_and_never_reaches_the_stack,
        "holder",
    ),
    "X4, error": Cut(
        "egress_gateway.c",
        "return by == BY_TUNNEL ? return_to_tunnel(skb, outer_source, settings) : answer_fault(skb, settings);",
        "return answer_fault(skb, settings);",
        test_tunnel_past_stack.test_x4_what_cannot_go_on_is_put_back_for_the_steering_device_to_answer,
        "holder",
    ),
    "C4": Cut(
        "egress_gateway.c",
        "    if (!way)\n        return drop(skb, DROP_NO_GATEWAY, floating_ip);",
        "    if (!way)\n        return TC_ACT_UNSPEC;",
        test_steer.test_c4_without_a_way_the_packet_is_dropped_and_counted,
        "pod_node",
    ),
    "C10": Cut(
        "port.h",
        "return present && names(present, flow) ? 0 : -1;\n    }\n    if (mirrors_young",
        "return 0;\n    }\n    if (mirrors_young",
        test_port.test_c10_both_pods_of_a_collision_keep_their_own_ports,
        "pod_node",
        UDP,
    ),
    "C21": Cut(
        "life.h",
        "return (from_pod && is_opening(packet)) ? FLOW_NEW : state;",
        "return state;",
        test_flow_life.test_c21_a_syn_of_the_pod_reopens_a_closed_flow,
        "opened",
        {"ending": test_flow_life.RST},
    ),
    "C23": Cut(
        "life.h",
        "now_ns - flow->last_ns > flow->life_s * SECOND_NS",
        "0",
        test_flow_life.test_c23_an_answer_after_its_time_is_dropped_and_counted,
        "pod_node",
        UDP,
    ),
    "C28": Cut(
        "fragment.h",
        "fragments.update(&key, &fragment);",
        ";",
        test_fragment.test_c28_fragments_of_a_pod_leave_from_the_floating_ip,
        "pod_node",
        UDP,
    ),
    "C29": Cut(
        "rewrite.h",
        "u64 flags = checksum_flags(packet);",
        "u64 flags = 0;",
        test_snat.test_c29_a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones,
        "pod_node",
    ),
}


def compile_cut(name: str, folder: Path) -> Compiled:
    cut, source = CUTS[name], folder / "bpf"
    shutil.copytree(SOURCE, source)
    text = (source / cut.file).read_text(encoding="ascii")
    assert text.count(cut.line) == 1, "the line has moved: find it again"
    (source / cut.file).write_text(text.replace(cut.line, cut.instead), encoding="ascii")
    return compiled_datapath(folder / "compiled", source / "egress_gateway.c", write_headers(str(folder)))


@pytest.fixture(scope="module")
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Compiled]]]:
    """Of all cuts that are asked for. Compiling takes twice as long as what is tested then, so it goes ahead."""
    cases = [item for item in request.session.items if item.path == request.path]
    names = [str(item.callspec.params["name"]) for item in cases if isinstance(item, pytest.Function)]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(compile_cut, name, tmp_path_factory.mktemp(name)) for name in names}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CUTS)
def test_with_its_wiring_cut_a_rule_is_not_kept(
    name: str, namespace: Namespace, bpffs: Path, compiled: dict[str, Future[Compiled]]
) -> None:
    cut, pins = CUTS[name], pin_folder(str(bpffs / f"cut-{name}"))
    programs = compiled[name].result(timeout=COMPILE_TIMEOUT_S)
    pins.mkdir(parents=True)
    with LoadedDatapath(pins, programs, FlowRoom(), RowRoom()) as loaded:
        node = Node(loaded, Programs(namespace, loaded.programs))
        node.configure()
        NODES[cut.node](node)
        with pytest.raises((AssertionError, AttributeError, ValueError)):
            cut.claim(node, **cut.arguments)
