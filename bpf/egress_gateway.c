// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* The datapath. Seven programs:
 *   pod_ingress     tc ingress of each pod's device      direct path; marks candidates (rules F4, W3, W4, W8, W11, D1)
 *   pod_egress      tc egress of each pod's device       approves the direct path of replies (rules F1, F2)
 *   steer_egress    tc egress of egw0                    judges, translates, sends to the holder (rules E1, B1, W1)
 *   steer_ingress   tc ingress of egw0                   replies of live flows, on to netfilter (rule D2); what comes by the
 *                                                        tunnel, as uplink_ingress does (rule X2)
 *   uplink_ingress  tc ingress of each uplink            holder: checks and forwards (rules H1, H2); pod's node: replies
 *   uplink_egress   tc egress of each uplink             the fence (rules G2, H3)
 *   handover_egress tc egress of egw1                    what has waited for a successor goes to it (rule R4)
 * What a program does not consume it leaves to the programs of others (TC_ACT_UNSPEC, rule W7). No other verdicts than
 * that one, TC_ACT_SHOT and TC_ACT_REDIRECT: tcx takes the rest for TC_ACT_UNSPEC.
 * BCC rewrites map accesses in one text and nowhere else, so the loader puts the headers into this one before it compiles.
 * BCC also tells the kernel that this is under the GPL, which some helpers ask for.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/if_packet.h>

#ifndef NULL
#define NULL ((void *)0)
#endif

/* BCC 0.26 declares this helper without its third argument. */
static long (*redirect_neigh)(u32 ifindex, void *next_hop, int next_hop_bytes, u64 flags) =
    (void *)BPF_FUNC_redirect_neigh;

#include "layout.h"
#include "drop.h"
#include "packet.h"
#include "life.h"
#include "maps.h"
#include "verdict.h"
#include "parse.h"
#include "rewrite.h"
#include "cache.h"
#include "table.h"
#include "port.h"
#include "fragment.h"
#include "approval.h"
#include "error.h"
#include "tunnel.h"
#include "steer.h"
#include "handover.h"
#include "direct.h"
#include "deliver.h"
#include "holder.h"
#include "known.h"
#include "probe.h"
#include "arp.h"
#include "fence.h"

/* The flow that a pod's packet is of, or that an error of it is about; NULL where none lives. `key` is the packet's own. */
static inline struct flow *flow_of_packet(struct __sk_buff *skb, const struct packet *packet,
                                          const struct selected_value *row, struct flow_key *key, u64 now_ns)
{
    struct packet quoted = {};
    struct flow *flow;

    if (packet->fragment == FRAGMENT_LATER)
        return NULL;
    if (is_error(packet)) {
        if (load_quoted(skb, packet, &quoted) != DROP_NONE || quoted.destination != packet->source)
            return NULL;
        *key = flow_of_quoted(&quoted);
    } else {
        *key = flow_from_pod(packet);
    }
    flow = find_flow(key);
    if (!flow || flow->pod != row->pod || is_flow_over(flow, now_ns))
        return NULL;
    if (flow->rule_set != row->rule_set && judge_again(key, flow, row))
        return NULL;
    return flow;
}

/* What a flow says to netfilter of its packet: 0, or a priority. Segments of ended ones are reset there, or go to egw0.
 * With a new SYN an ended flow gives way to a new connection, which takes the new verdict (rule E2). */
static inline u32 flow_priority(const struct packet *packet, struct flow_key *key, struct flow *flow)
{
    if (!flow->is_ended)
        return FLOW_PRIORITY;
    if (is_opening(packet)) {
        remove_flow(key, flow);
        return 0;
    }
    if (packet->tcp_flags & TCP_RST)
        return FLOW_PRIORITY;
    flow->is_ended = ENDED_RESET;
    return ENDED_PRIORITY;
}

/* Of no live flow: whether a rule names where it goes. TC_ACT_UNSPEC and no mark: it is none of ours. */
static inline int is_candidate(const struct ipv4 *ip, const struct selected_value *row)
{
    u32 place = cluster_flags(ip->destination);

    /* A service address may be translated to an outside one: only after DNAT is it known (rule W4). */
    if (place)
        return (place & CLUSTER_SERVICE) != 0;
    return find_rule(row->rule_set, ip->destination) != NULL;
}

/* A selected pod's packet from its own device. */
static inline int take_from_pod(struct __sk_buff *skb, const struct ipv4 *ip, const struct selected_value *row,
                                const struct config *settings)
{
    u64 now_ns = flow_clock_ns();
    struct packet packet = {};
    struct flow_key key = {};
    struct flow *flow = NULL;
    u32 priority = 0;
    int verdict;

    if (row->state != SELECTED_CHANGING && load_packet(skb, ip, &packet) == DROP_NONE)
        flow = flow_of_packet(skb, &packet, row, &key, now_ns);
    if (flow) {
        /* Before connection tracking, in which there must be nothing of it until it takes its new verdict (rule E2). */
        if (flow->is_ended && packet.protocol != PROTOCOL_TCP)
            return drop(skb, DROP_FLOW_ENDED, flow->floating_ip);
        verdict = row->state == SELECTED_STEER ? send_direct(skb, &packet, &key, flow, now_ns, settings) : TC_ACT_UNSPEC;
        if (verdict != TC_ACT_UNSPEC)
            return verdict;
        priority = flow_priority(&packet, &key, flow);
    }
    if (!priority && !is_candidate(ip, row))
        return TC_ACT_UNSPEC;
    skb->priority = priority ? priority : CANDIDATE_PRIORITY;
    if (row->state == SELECTED_CHANGING)
        return drop(skb, DROP_ENDPOINT_PENDING, 0);
    if (key.pod_ip)
        mark_seen(skb, &packet, &key, SEEN_FROM_POD);
    skb->mark = skb->mark | settings->mark;
    count(COUNT_MARKED);
    return TC_ACT_UNSPEC;
}

int pod_ingress(struct __sk_buff *skb)
{
    struct selected_key key = {};
    struct selected_value *row;
    struct ipv4 ip;
    u32 zero = 0;
    __be32 source;
    __be16 type;
    struct config *settings = config.lookup(&zero);

    if (!settings)
        return TC_ACT_UNSPEC;
    /* A pod may set it too: only this program says that a packet is of a flow, or of a pod that is known. */
    if (skb->priority - FLOW_PRIORITY <= CLASSIFIED_PRIORITY - FLOW_PRIORITY)
        skb->priority = 0;
    clear_seen(skb);
    if (skb->protocol == bpf_htons(ETHERTYPE_IPV4) && !is_tagged(skb) && load_ipv4(skb, &ip)) {
        key.pod_ip = ip.source;
        /* Where it came in. It may have been redirected since: to the device that shapes the pod, where this may run too. */
        key.ifindex = skb->ingress_ifindex;
        row = selected.lookup(&key);
        if (row) {
            skb->priority = CLASSIFIED_PRIORITY;
            return row->state == SELECTED_NOT ? TC_ACT_UNSPEC : take_from_pod(skb, &ip, row, settings);
        }
        key.ifindex = 0;
        row = selected.lookup(&key);
        if (row && !cluster_flags(ip.destination) && find_rule(row->rule_set, ip.destination))
            return drop(skb, DROP_UNKNOWN_DEVICE, 0);
    }
    /* No pod speaks in the name of a floating IP (rules H3, H5). */
    source = claimed_source(skb, &type);
    if (source && floating_ips.lookup(&source))
        return drop(skb, DROP_FORGED_SOURCE, source);
    return TC_ACT_UNSPEC;
}

/* What leaves for a pod: all that was asked of a reply, and all that the stack has made of it. */
int pod_egress(struct __sk_buff *skb)
{
    struct packet packet = {};
    struct flow_key key;
    struct ipv4 ip;

    if ((skb->hash & 0xff) != SEEN_FOR_POD || skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip) ||
        load_packet(skb, &ip, &packet) != DROP_NONE || packet.fragment == FRAGMENT_LATER)
        return TC_ACT_UNSPEC;
    key = flow_to_pod(&packet);
    approve_back(skb, &key, flow_clock_ns());
    return TC_ACT_UNSPEC;
}

int steer_egress(struct __sk_buff *skb)
{
    struct selected_key key = {};
    struct selected_value *row;
    struct ipv4 ip;
    struct config *settings;
    struct scratch *scratch;
    struct way *way;
    struct flow *flow;
    __be32 floating_ip;
    u32 generation;
    u32 zero = 0;
    u64 now_ns;
    int verdict;
    u32 reason;
    u64 token;
    u32 mtu;

    settings = config.lookup(&zero);
    scratch = scratches.lookup(&zero);
    if (!settings || !scratch || skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip))
        return drop(skb, DROP_MALFORMED, 0);
    /* For the tunnel, by another program. */
    if ((skb->mark & settings->mark) && skb->cb[0] == JUST_JUDGED) {
        skb->cb[0] = 0;
        return TC_ACT_UNSPEC;
    }
    key.pod_ip = ip.source;
    row = selected.lookup(&key);
    if (!row)
        return drop(skb, DROP_NOT_SELECTED, 0);
    if (row->state != SELECTED_STEER)
        return drop(skb, DROP_ENDPOINT_PENDING, 0);
    __builtin_memset(scratch, 0, sizeof(*scratch));
    generation = present_generation();
    reason = load_packet(skb, &ip, &scratch->packet);
    now_ns = flow_clock_ns();
    if (reason == DROP_NONE) {
        flow = flow_of_tuple(scratch);
        verdict = flow ? steer_as_before(skb, row, scratch, flow, generation, now_ns, settings) : TC_ACT_UNSPEC;
        if (verdict != TC_ACT_UNSPEC)
            return verdict;
        reason = judge_outwards(skb, row, scratch, flow, now_ns);
    }
    floating_ip = scratch->nat.floating_ip;
    way = find_way(floating_ip);
    /* Nobody leases ports of an address that nobody holds: what is missing first is the gateway. */
    if (reason == DROP_NO_PORTS && !way)
        reason = DROP_NO_GATEWAY;
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    if (!way)
        return drop(skb, DROP_NO_GATEWAY, floating_ip);
    mtu = way_mtu(skb, way, settings);
    if (is_too_big(skb, &scratch->packet, mtu)) {
        if (fault(&scratch->packet, SIDE_POD, ip.source, DROP_TOO_BIG, floating_ip, mtu) != VERDICT_FAULT ||
            !complain(skb))
            return TC_ACT_SHOT;
        return to_pod(skb, settings, floating_ip);
    }
    token = handover_token(floating_ip, way);
    /* Not of what begins or ends: many conversations are over with that. */
    if (!token && scratch->nat.is_of_old && !is_always_asked(&scratch->packet))
        keep_way(skb, &scratch->packet, floating_ip, way, mtu, generation, now_ns);
    reason = translate_outwards(skb, scratch);
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    if (token && (verdict = wait_for_successor(skb, floating_ip, token)) != TC_ACT_UNSPEC)
        return verdict;
    if (way->kind != WAY_TUNNEL)
        return send_to_holder(skb, floating_ip, way, settings);
    /* It is at the right device already. Our mark is what the fence takes the outer packet by. */
    if (enter_tunnel(skb, way->node, settings) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    skb->mark = skb->mark | settings->mark;
    count(COUNT_STEERED);
    return TC_ACT_UNSPEC;
}

/* Of what cannot go on the sender is told: by the way that the packet came, or, about a reply, as the floating IP by its
 * holder. */
static inline int answer_fault(struct __sk_buff *skb, const struct config *settings)
{
    const struct fault *fault = complain(skb);
    __be32 floating_ip;
    struct way *way;

    if (!fault)
        return TC_ACT_SHOT;
    if (fault->side != SIDE_REMOTE)
        return send_back(skb, fault->packet.source, settings);
    floating_ip = fault->floating_ip;
    way = find_way(floating_ip);
    return way ? send_to_holder(skb, floating_ip, way, settings) : TC_ACT_SHOT;
}

/* What this node has found to be of a live flow carries our mark, and came by no tunnel, whose outer packet somebody may
 * have marked. All else somebody has put into a tunnel: taken from members alone, from or to a floating IP alone (rules
 * D2, X2). */
int steer_ingress(struct __sk_buff *skb)
{
    struct config *settings;
    struct floating_ip *floating;
    struct ipv4 ip;
    u32 zero = 0;
    u32 member;
    int verdict;
    long error;

    settings = config.lookup(&zero);
    skb->cb[1] = 0; /* nothing of it is kept */
    if (skb->protocol != bpf_htons(ETHERTYPE_IPV4))
        return drop(skb, DROP_MALFORMED, 0);
    if (!settings)
        return drop(skb, DROP_NO_TRANSPORT, 0);
    member = tunnel_sender(skb, &error);
    if (error == FROM_NO_TUNNEL && (skb->mark & settings->mark)) {
        skb->mark = skb->mark & ~settings->mark;
        return TC_ACT_UNSPEC;
    }
    if (!member || skb->vlan_present || !load_ipv4(skb, &ip))
        return drop(skb, DROP_NO_TRANSPORT, 0);
    if (floating_ips.lookup(&ip.destination)) {
        verdict = take_floating(skb, &ip, member, BY_TUNNEL, settings);
    } else {
        floating = floating_ips.lookup(&ip.source);
        if (!floating)
            return drop(skb, DROP_NO_TRANSPORT, 0);
        verdict = take_from_floating(skb, &ip, floating, member, BY_TUNNEL, settings);
    }
    return verdict == VERDICT_FAULT ? answer_fault(skb, settings) : verdict;
}

/* What comes by the tunnel past the stack is judged as steer_ingress would (rule X4). */
int uplink_ingress(struct __sk_buff *skb)
{
    struct config *settings;
    struct ipv4 ip;
    u32 zero = 0;
    struct floating_ip *floating;
    __be32 outer_source;
    __be32 probed;
    u32 member;
    int verdict;
    int is_in;
    int by;

    if (is_tagged(skb))
        return TC_ACT_UNSPEC;
    if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
        return arp_ingress(skb);
    if (skb->protocol == bpf_htons(ETHERTYPE_HANDOVER))
        return hear_handover(skb);
    if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) || skb->pkt_type != PACKET_HOST || !load_ipv4(skb, &ip))
        return TC_ACT_UNSPEC;
    settings = config.lookup(&zero);
    if (!settings)
        return TC_ACT_UNSPEC;
    by = (skb->mark & settings->mark) ? BY_ITSELF : BY_WIRE;
    outer_source = ip.source;
    member = by == BY_WIRE ? leave_tunnel(skb, &ip, settings) : 0;
    if (member) {
        by = BY_TUNNEL;
        if (!load_ipv4(skb, &ip))
            return drop(skb, DROP_NO_TRANSPORT, 0);
    }
    /* What is judged below is kept under what was known when it began. */
    skb->cb[1] = by == BY_WIRE ? present_generation() : 0;
    if (by == BY_ITSELF)
        skb->mark = skb->mark & ~settings->mark;
    else if (by == BY_WIRE && (verdict = take_known(skb, &ip, skb->cb[1], settings)) != TC_ACT_UNSPEC)
        return verdict;
    probed = by == BY_WIRE ? probed_address(skb, &ip) : 0;
    if (probed && floating_ips.lookup(&probed))
        return take_probe(skb, probed);
    /* Of a floating IP that this node has not heard of yet, or any more: the stack would send it on, in the name of an
     * address that nobody may hold. It is no packet of a user's, and is asked again: not counted. */
    if (probed && sender_number(skb))
        return TC_ACT_SHOT;
    /* A pod of this node to a floating IP that others hold goes out to it; to one that is held here, in by it. */
    is_in = floating_ips.lookup(&ip.destination) && (by != BY_ITSELF || is_lease_live(ip.destination));
    floating = is_in ? NULL : floating_ips.lookup(&ip.source);
    if (!is_in && !floating)
        return by == BY_TUNNEL ? drop(skb, DROP_NO_TRANSPORT, 0) : TC_ACT_UNSPEC;
    /* A priority without a VLAN: what is made of the frame has none. */
    if (skb->vlan_present && bpf_skb_vlan_pop(skb) < 0)
        return drop(skb, DROP_MALFORMED, 0);
    if (by == BY_WIRE)
        member = sender_number(skb);
    verdict = floating ? take_from_floating(skb, &ip, floating, member, by, settings)
                       : take_floating(skb, &ip, member, by == BY_TUNNEL ? BY_TUNNEL : BY_WIRE, settings);
    if (verdict != VERDICT_FAULT)
        return verdict;
    return by == BY_TUNNEL ? return_to_tunnel(skb, outer_source, settings) : answer_fault(skb, settings);
}

/* Our mark stays: a device below this one, of a VLAN or a macvlan, may have a fence too. */
int uplink_egress(struct __sk_buff *skb)
{
    struct config *settings;
    struct ipv4 ip;
    u32 zero = 0;
    int verdict;
    int is_ours;

    settings = config.lookup(&zero);
    is_ours = settings && (skb->mark & settings->mark) != 0;
    if (is_ours && skb->cb[0] == JUST_JUDGED) {
        skb->cb[0] = 0;
        return TC_ACT_UNSPEC;
    }
    if (skb->vlan_present || is_vlan(skb->protocol))
        return fence_tagged(skb, is_ours, settings);
    if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
        return fence_arp(skb);
    if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip))
        return TC_ACT_UNSPEC;
    if (floating_ips.lookup(&ip.source))
        return fence_packet(skb, ip.source, is_ours);
    if (!is_ours && settings && ip.protocol == PROTOCOL_UDP && is_for_tunnel(skb, ETHERNET_BYTES, settings))
        return drop(skb, DROP_FORGED_TUNNEL, 0);
    if (is_ours || !settings || !floating_ips.lookup(&ip.destination) || !is_lease_live(ip.destination))
        return TC_ACT_UNSPEC;
    verdict = take_floating(skb, &ip, 0, BY_ITSELF, settings);
    if (verdict != VERDICT_FAULT)
        return verdict;
    /* This node's own: its stack hears of it, as a pod's node does where a pod's packet is too big (rule X3). */
    return complain(skb) ? to_pod(skb, settings, ip.destination) : TC_ACT_SHOT;
}

/* Nothing leaves by this device: packets in a floating IP's name that waited, and the stack's questions for whom. */
int handover_egress(struct __sk_buff *skb)
{
    struct config *settings;
    struct ipv4 ip;
    u32 zero = 0;

    settings = config.lookup(&zero);
    if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
        return answer_waiting(skb);
    if (!settings || skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip))
        return TC_ACT_SHOT;
    return send_on(skb, ip.source, settings);
}
