// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* The datapath. Five programs:
 *   pod_ingress     tc ingress of each pod's device      marks candidates (rules W3, W4, W8, W11)
 *   steer_egress    tc egress of egw0                    final lookup, to the holder (rules W1, W3)
 *   steer_ingress   tc ingress of egw0                   local pods of a gateway node
 *   uplink_ingress  tc ingress of each uplink            gateway: ARP, SNAT, reverse SNAT (rules G1-G4, W2)
 *   uplink_egress   tc egress of each uplink             the fence (rule G2)
 * What a program does not consume it leaves to the programs of others (TC_ACT_UNSPEC, rule W7). No other verdicts than
 * that one, TC_ACT_SHOT and TC_ACT_REDIRECT: tcx takes the rest for TC_ACT_UNSPEC.
 * All map accesses are in this file: BCC rewrites them here and nowhere else. BCC also tells the kernel that this is
 * under the GPL, which some helpers ask for.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/if_packet.h>

#ifndef NULL
#define NULL ((void *)0)
#endif

#include "layout.h"
#include "drop.h"
#include "packet.h"
#include "binding.h"

/* BCC 0.26 declares this helper without its third argument. */
static long (*redirect_neigh)(u32 ifindex, void *next_hop, int next_hop_bytes, u64 flags) =
    (void *)BPF_FUNC_redirect_neigh;

#define FIRST_PORT 1024
#define PORT_TRIES 32
#define ECHO_REPLY_TTL 64

BPF_TABLE_PINNED("array", u32, struct config, config, 1, PIN_DIR "/config");
BPF_TABLE_PINNED("hash", struct selected_key, struct selected_value, selected, 16384, PIN_DIR "/selected");
BPF_TABLE_PINNED("hash", __be32, struct way, ways, 4096, PIN_DIR "/ways");
BPF_TABLE_PINNED("lru_hash", __be32, struct way_hint, way_hints, 4096, PIN_DIR "/way_hints");
BPF_TABLE_PINNED("array", u32, u64, agent_beat, 1, PIN_DIR "/agent_beat");
BPF_TABLE_PINNED("hash", __be32, struct floating_ip, floating_ips, 4096, PIN_DIR "/floating_ips");
BPF_TABLE_PINNED("hash", __be32, struct lease, lease_deadlines, 4096, PIN_DIR "/lease_deadlines");
BPF_TABLE_PINNED("hash", struct endpoint_key, struct endpoint, endpoints, 262144, PIN_DIR "/endpoints");
BPF_TABLE_PINNED("hash", struct member_key, u32, members, 16384, PIN_DIR "/members");
BPF_TABLE_PINNED("lru_hash", struct binding_key, struct binding, bindings, 262144, PIN_DIR "/bindings");
BPF_TABLE_PINNED("lru_hash", struct reverse_key, struct reverse_binding, reverse_bindings, 262144,
                 PIN_DIR "/reverse_bindings");
BPF_TABLE_PINNED("lru_percpu_hash", struct drop_key, struct tally, drops, 8192, PIN_DIR "/drops");
BPF_TABLE_PINNED("percpu_array", u32, u64, counters, COUNTERS, PIN_DIR "/counters");
BPF_TABLE_PINNED("lpm_trie", struct rule_key, struct rule_value, rules, 262144, PIN_DIR "/rules",
                 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("lpm_trie", struct cluster_key, u32, cluster, 16384, PIN_DIR "/cluster", BPF_F_NO_PREALLOC);

static inline void count(u32 which)
{
    u64 *value = counters.lookup(&which);

    if (value)
        *value += 1;
}

static inline int drop(struct __sk_buff *skb, u32 reason, __be32 floating_ip)
{
    struct drop_key key = {.floating_ip = floating_ip, .reason = reason};
    struct tally *tally = drops.lookup(&key);

    if (tally) {
        tally->packets += 1;
        tally->bytes += skb->len;
    } else {
        struct tally first = {.packets = 1, .bytes = skb->len};

        drops.update(&key, &first);
    }
    return TC_ACT_SHOT;
}

static inline int is_lease_live(__be32 floating_ip)
{
    struct lease *lease = lease_deadlines.lookup(&floating_ip);

    return lease && bpf_ktime_get_boot_ns() < lease->deadline_ns;
}

static inline int is_agent_away(u64 now_ns)
{
    u32 zero = 0;
    u64 *beat_ns = agent_beat.lookup(&zero);

    return !beat_ns || now_ns > *beat_ns + AGENT_AWAY_NS;
}

/* Whether a hint stands in for the authenticated way now: never for a newer one, nor for long while there is an agent to
 * hear the authenticated word (rule W2). */
static inline int is_hint_in_force(const struct way_hint *hint, u64 token)
{
    u64 now_ns = bpf_ktime_get_boot_ns();

    if (hint->way.token != token || hint->until_ns == 0)
        return 0;
    return now_ns < hint->until_ns || is_agent_away(now_ns);
}

static inline struct rule_value *find_rule(u64 rule_set, __be32 destination)
{
    struct rule_key key = {
        .prefixlen = RULE_SET_BITS + 32,
        .rule_set_high = rule_set >> 32,
        .rule_set_low = (u32)rule_set,
        .destination = destination,
    };
    struct rule_value *rule = rules.lookup(&key);

    return rule && rule->action == RULE_STEER ? rule : NULL;
}

static inline u32 cluster_flags(__be32 address)
{
    struct cluster_key key = {.prefixlen = 32, .address = address};
    u32 *flags = cluster.lookup(&key);

    return flags ? *flags : 0;
}

/* Load the IPv4 header behind the Ethernet header; 0 where it is not a whole IPv4 header. */
static inline int load_ipv4(struct __sk_buff *skb, struct ipv4 *ip)
{
    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, ip, sizeof(*ip)) < 0)
        return 0;
    return (ip->version_ihl >> 4) == 4 && (ip->version_ihl & 0x0f) >= 5;
}

/* Fill in ports, flags and types; returns a drop reason, DROP_NONE where NAT can translate it. */
static inline u32 load_flow(struct __sk_buff *skb, const struct ipv4 *ip, struct flow *flow)
{
    u8 header[TCP_BYTES];

    flow->source = ip->source;
    flow->destination = ip->destination;
    flow->protocol = ip->protocol;
    flow->ttl = ip->ttl;
    flow->l4 = ETHERNET_BYTES + (ip->version_ihl & 0x0f) * 4;
    if (is_fragment(ip))
        return DROP_FRAGMENT;
    if (ip->protocol != PROTOCOL_TCP && ip->protocol != PROTOCOL_UDP && ip->protocol != PROTOCOL_ICMP)
        return DROP_UNSUPPORTED_PROTOCOL;
    if (bpf_skb_load_bytes(skb, flow->l4, header, 8) < 0)
        return DROP_MALFORMED;
    if (ip->protocol == PROTOCOL_ICMP) {
        flow->icmp_type = header[0];
        flow->source_port = *(__be16 *)&header[4];
        return DROP_NONE;
    }
    flow->source_port = *(__be16 *)&header[0];
    flow->destination_port = *(__be16 *)&header[2];
    if (ip->protocol == PROTOCOL_TCP) {
        if (bpf_skb_load_bytes(skb, flow->l4, header, TCP_BYTES) < 0)
            return DROP_MALFORMED;
        flow->tcp_flags = header[13];
    }
    return DROP_NONE;
}

/* The header that an ICMP error quotes at offset `at`: whole IPv4 header, at least 8 bytes behind it (RFC 792). */
static inline u32 load_quoted(struct __sk_buff *skb, u32 at, struct flow *quoted)
{
    struct ipv4 ip;
    u8 header[ICMP_BYTES];

    if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || (ip.version_ihl >> 4) != 4 || (ip.version_ihl & 0x0f) < 5)
        return DROP_MALFORMED;
    if (ip.fragment & bpf_htons(0x1fff)) /* only the first fragment has ports */
        return DROP_FRAGMENT;
    quoted->source = ip.source;
    quoted->destination = ip.destination;
    quoted->protocol = ip.protocol;
    quoted->l4 = at + (ip.version_ihl & 0x0f) * 4;
    if (bpf_skb_load_bytes(skb, quoted->l4, header, sizeof(header)) < 0)
        return DROP_MALFORMED;
    if (ip.protocol == PROTOCOL_ICMP && header[0] == ICMP_ECHO_REQUEST) {
        quoted->source_port = *(__be16 *)&header[4];
        return DROP_NONE;
    }
    if (ip.protocol != PROTOCOL_TCP && ip.protocol != PROTOCOL_UDP)
        return DROP_UNSUPPORTED_PROTOCOL;
    quoted->source_port = *(__be16 *)&header[0];
    quoted->destination_port = *(__be16 *)&header[2];
    return DROP_NONE;
}

/* Rewrite one address and one port and every checksum they are part of. */
static inline int rewrite(struct __sk_buff *skb, const struct flow *flow, int is_source, __be32 address, __be16 port)
{
    __be32 old_address = is_source ? flow->source : flow->destination;
    __be16 old_port = is_source || flow->protocol == PROTOCOL_ICMP ? flow->source_port : flow->destination_port;
    u32 address_at = ETHERNET_BYTES + (is_source ? 12 : 16);
    u32 checksum_at = checksum_offset(flow);
    u64 flags = checksum_flags(flow);

    if (flow->protocol != PROTOCOL_ICMP &&
        bpf_l4_csum_replace(skb, checksum_at, old_address, address, BPF_F_PSEUDO_HDR | flags | 4) < 0)
        return -1;
    if (old_port != port && bpf_l4_csum_replace(skb, checksum_at, old_port, port, flags | 2) < 0)
        return -1;
    if (bpf_l3_csum_replace(skb, ETHERNET_BYTES + 10, old_address, address, 4) < 0)
        return -1;
    if (bpf_skb_store_bytes(skb, address_at, &address, 4, 0) < 0)
        return -1;
    if (old_port != port && bpf_skb_store_bytes(skb, port_offset(flow, is_source), &port, 2, 0) < 0)
        return -1;
    return 0;
}

static inline int write_ttl(struct __sk_buff *skb, const struct flow *flow, u8 ttl)
{
    __be16 before = bpf_htons((u16)flow->ttl << 8 | flow->protocol);
    __be16 after = bpf_htons((u16)ttl << 8 | flow->protocol);

    if (bpf_l3_csum_replace(skb, ETHERNET_BYTES + 10, before, after, 2) < 0)
        return -1;
    return bpf_skb_store_bytes(skb, ETHERNET_BYTES + 8, &ttl, 1, 0);
}

static inline int write_macs(struct __sk_buff *skb, const __u8 *destination, const __u8 *source)
{
    u8 macs[2 * MAC_BYTES];

    copy_mac(macs, destination);
    copy_mac(macs + MAC_BYTES, source);
    return bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

/* ---- the pod's node ---- */

int pod_ingress(struct __sk_buff *skb)
{
    struct selected_key key = {};
    struct selected_value *row;
    struct ipv4 ip;
    u32 zero = 0;
    u32 place;
    struct config *settings = config.lookup(&zero);

    if (!settings || skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip))
        return TC_ACT_UNSPEC;
    key.pod_ip = ip.source;
    /* Where it came in. It may have been redirected since: to the device that shapes the pod, where this may run too. */
    key.ifindex = skb->ingress_ifindex;
    row = selected.lookup(&key);
    if (!row) {
        key.ifindex = 0;
        row = selected.lookup(&key);
        if (!row)
            return TC_ACT_UNSPEC;
        if (cluster_flags(ip.destination) || !find_rule(row->rule_set, ip.destination))
            return TC_ACT_UNSPEC;
        return drop(skb, DROP_UNKNOWN_DEVICE, 0);
    }
    skb->priority = CLASSIFIED_PRIORITY;
    if (row->state == SELECTED_NOT)
        return TC_ACT_UNSPEC;
    place = cluster_flags(ip.destination);
    /* A service address may be translated to an outside one: only after DNAT is it known (rule W4). */
    if (place && !(place & CLUSTER_SERVICE))
        return TC_ACT_UNSPEC;
    if (!place && !find_rule(row->rule_set, ip.destination))
        return TC_ACT_UNSPEC;
    if (row->state == SELECTED_CHANGING)
        return drop(skb, DROP_ENDPOINT_PENDING, 0);
    skb->mark = skb->mark | settings->mark;
    count(COUNT_MARKED);
    return TC_ACT_UNSPEC;
}

int steer_egress(struct __sk_buff *skb)
{
    struct selected_key key = {};
    struct selected_value *row;
    struct rule_value *rule;
    struct config *settings;
    struct way_hint *hint;
    struct way *way;
    struct ipv4 ip;
    __be32 floating_ip;
    u32 zero = 0;
    u32 ifindex;

    settings = config.lookup(&zero);
    if (!settings || skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip))
        return drop(skb, DROP_MALFORMED, 0);
    key.pod_ip = ip.source;
    row = selected.lookup(&key);
    if (!row)
        return drop(skb, DROP_NOT_SELECTED, 0);
    rule = find_rule(row->rule_set, ip.destination);
    if (!rule)
        return drop(skb, DROP_NOT_SELECTED, 0);
    floating_ip = rule->floating_ip;
    if (row->state != SELECTED_STEER)
        return drop(skb, DROP_ENDPOINT_PENDING, floating_ip);
    way = ways.lookup(&floating_ip);
    hint = way_hints.lookup(&floating_ip);
    if (hint && is_hint_in_force(hint, way ? way->token : 0) && !is_lease_live(floating_ip))
        way = &hint->way;
    if (!way)
        return drop(skb, DROP_NO_GATEWAY, floating_ip);
    ifindex = way->ifindex;
    if (way->kind == WAY_LOCAL) {
        if (write_macs(skb, settings->egw_mac, settings->egw_mac) < 0)
            return drop(skb, DROP_MALFORMED, floating_ip);
        count(COUNT_STEERED);
        return bpf_redirect(settings->egw_ifindex, BPF_F_INGRESS);
    }
    if (way->kind != WAY_L2)
        return drop(skb, DROP_NO_TRANSPORT, floating_ip);
    if (write_macs(skb, way->gateway_mac, way->own_mac) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    skb->mark = skb->mark & ~settings->mark;
    count(COUNT_STEERED);
    return bpf_redirect(ifindex, 0);
}

/* ---- the gateway: towards the outside ---- */

/* Reserve the reverse key: create-if-absent is atomic, so two CPUs never share a port. A binding whose time is over, or
 * that is this very flow's, is taken over. Returns 0 where reserved. */
static inline int reserve(struct reverse_key *key, struct reverse_binding *binding)
{
    struct reverse_binding *present;

    if (reverse_bindings.insert(key, binding) == 0)
        return 0;
    present = reverse_bindings.lookup(key);
    if (!present)
        return -1;
    if ((present->pod_ip == binding->pod_ip && present->pod_port == binding->pod_port) ||
        is_binding_over(present->last_ns, key->protocol, present->state, binding->last_ns)) {
        reverse_bindings.update(key, binding);
        return 0;
    }
    return -1;
}

/* Find a port for a flow: the one in `key->nat_port` if free, else random ones, filled in there; 0 where reserved. */
static inline int reserve_port(struct reverse_key *key, struct reverse_binding *binding)
{
    u32 range = 65536 - FIRST_PORT;
    u32 start;
    int try;

    if (reserve(key, binding) == 0)
        return 0;
    start = bpf_get_prandom_u32();
    for (try = 0; try < PORT_TRIES; try++) {
        u32 port = FIRST_PORT + (u32)(((u64)(start & 0xffff) * range) >> 16);

        key->nat_port = bpf_htons((u16)port);
        if (reserve(key, binding) == 0)
            return 0;
        /* A fresh random place each time: neighbours of a taken port tend to be taken. */
        start = bpf_get_prandom_u32();
    }
    return -1;
}

/* Give up the reservation of a former floating IP, unless another flow has taken that port over. */
static inline void release(const struct binding_key *forward, const struct binding *former)
{
    struct reverse_key key = {
        .remote_ip = forward->remote_ip,
        .floating_ip = former->floating_ip,
        .remote_port = forward->remote_port,
        .nat_port = former->nat_port,
        .protocol = forward->protocol,
    };
    struct reverse_binding *present = reverse_bindings.lookup(&key);

    if (present && present->pod_ip == forward->pod_ip && present->pod_port == forward->pod_port)
        reverse_bindings.delete(&key);
}

/* The NAT port of a flow from a pod, from its binding or newly reserved. Returns a drop reason. */
static inline u32 bind_flow(const struct flow *flow, __be32 floating_ip, u32 ifindex, __be16 *nat_port)
{
    struct binding_key forward = {
        .pod_ip = flow->source,
        .remote_ip = flow->destination,
        .pod_port = flow->source_port,
        .remote_port = flow->destination_port,
        .protocol = flow->protocol,
    };
    struct reverse_key reverse = {
        .remote_ip = flow->destination,
        .floating_ip = floating_ip,
        .remote_port = flow->destination_port,
        .nat_port = flow->source_port,
        .protocol = flow->protocol,
    };
    struct reverse_binding fresh = {
        .last_ns = bpf_ktime_get_boot_ns(),
        .pod_ip = flow->source,
        .ifindex = ifindex,
        .pod_port = flow->source_port,
        .state = BINDING_NEW,
    };
    struct binding *known = bindings.lookup(&forward);
    struct reverse_binding *present;
    struct binding made = {.floating_ip = floating_ip};
    struct binding former = {};

    if (known)
        former = *known;
    /* A binding to another floating IP is a former policy's (rule G5): it is replaced. */
    if (known && known->floating_ip == floating_ip) {
        /* Where only the reverse entry was lost, the remote side still knows the flow by this port. */
        reverse.nat_port = former.nat_port;
        present = reverse_bindings.lookup(&reverse);
        if (present && present->pod_ip == flow->source && present->pod_port == flow->source_port &&
            !is_binding_over(present->last_ns, flow->protocol, present->state, fresh.last_ns)) {
            present->last_ns = fresh.last_ns;
            present->ifindex = ifindex;
            present->state = next_binding_state(present->state, flow, 1);
            *nat_port = former.nat_port;
            return DROP_NONE;
        }
    }
    if (!may_create_binding(flow))
        return DROP_NO_STATE;
    if (reserve_port(&reverse, &fresh) < 0)
        return DROP_PORTS_EXHAUSTED;
    made.nat_port = reverse.nat_port;
    if (bindings.update(&forward, &made) < 0) {
        reverse_bindings.delete(&reverse);
        return DROP_MAP_FULL;
    }
    if (known && former.floating_ip != floating_ip)
        release(&forward, &former);
    count(COUNT_BINDINGS_CREATED);
    *nat_port = reverse.nat_port;
    return DROP_NONE;
}

/* A steered packet: accept it with every proof (rules G2, G4), translate and send it out, or drop it (rule G3). */
static inline int forward_to_outside(struct __sk_buff *skb, const struct ipv4 *ip, int is_local)
{
    struct endpoint_key key = {.pod_ip = ip->source, .ifindex = skb->ifindex};
    struct endpoint *endpoint = endpoints.lookup(&key);
    struct floating_ip *floating;
    struct rule_value *rule;
    struct flow flow = {};
    __be32 floating_ip;
    __be16 nat_port = 0;
    u8 source_mac[MAC_BYTES];
    u32 reason;
    u32 ifindex;

    if (!endpoint)
        return drop(skb, DROP_UNKNOWN_ENDPOINT, 0);
    if (!is_local && (bpf_skb_load_bytes(skb, MAC_BYTES, source_mac, MAC_BYTES) < 0 ||
                      !same_mac(source_mac, endpoint->node_mac)))
        return drop(skb, DROP_WRONG_NODE, 0);
    rule = find_rule(endpoint->rule_set, ip->destination);
    if (!rule)
        return drop(skb, DROP_NOT_SELECTED, 0);
    floating_ip = rule->floating_ip;
    if (!is_lease_live(floating_ip))
        return drop(skb, DROP_LEASE_EXPIRED_INGRESS, floating_ip);
    floating = floating_ips.lookup(&floating_ip);
    if (!floating || !floating->ifindex)
        return drop(skb, DROP_NO_GATEWAY, floating_ip);
    ifindex = floating->ifindex;
    reason = load_flow(skb, ip, &flow);
    if (reason == DROP_NONE && flow.protocol == PROTOCOL_ICMP && flow.icmp_type != ICMP_ECHO_REQUEST)
        reason = DROP_UNSUPPORTED_PROTOCOL;
    /* A local pod's packet has been through this node's forwarding, which counted the hop (rule X3). */
    if (reason == DROP_NONE && !is_local && flow.ttl <= 1)
        reason = DROP_TTL_EXPIRED;
    if (reason == DROP_NONE)
        reason = bind_flow(&flow, floating_ip, skb->ifindex, &nat_port);
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    if (rewrite(skb, &flow, 1, floating_ip, nat_port) < 0 || (!is_local && write_ttl(skb, &flow, flow.ttl - 1) < 0))
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_TRANSLATED);
    /* Safe here: the packet has no route yet, so an unresolved next hop cannot fall back to one (rules G7, W1). */
    return redirect_neigh(ifindex, NULL, 0, 0);
}

/* For a selected pod of this node, from where its policy points to. */
static inline int is_for_selected(const struct ipv4 *ip)
{
    struct selected_key key = {.pod_ip = ip->destination};
    struct selected_value *row = selected.lookup(&key);

    return row && find_rule(row->rule_set, ip->source);
}

int steer_ingress(struct __sk_buff *skb)
{
    u32 zero = 0;
    struct config *settings = config.lookup(&zero);
    struct bpf_tunnel_key tunnel = {};
    struct ipv4 ip;

    if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) || !load_ipv4(skb, &ip))
        return drop(skb, DROP_MALFORMED, 0);
    /* Only what steer_egress of this node redirected carries the mark. Without it come replies of local pods, redirected
     * at an uplink, and what somebody on the network has put into a tunnel: that has a tunnel key. */
    if (!settings)
        return drop(skb, DROP_NO_TRANSPORT, 0);
    if (!(skb->mark & settings->mark)) {
        if (!is_for_selected(&ip) || bpf_skb_get_tunnel_key(skb, &tunnel, sizeof(tunnel), 0) == 0)
            return drop(skb, DROP_NO_TRANSPORT, 0);
        return TC_ACT_UNSPEC;
    }
    skb->mark = skb->mark & ~settings->mark;
    return forward_to_outside(skb, &ip, 1);
}

/* ---- the gateway: from the outside ---- */

/* Ping of the floating IP itself: answered here, because no interface has the address (rule G1). */
static inline int answer_echo(struct __sk_buff *skb, const struct flow *flow)
{
    u8 macs[2 * MAC_BYTES];
    u8 swapped[2 * MAC_BYTES];
    u8 reply = ICMP_ECHO_REPLY;
    __be32 addresses[2] = {flow->destination, flow->source};

    if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0)
        return TC_ACT_SHOT;
    copy_mac(swapped, macs + MAC_BYTES);
    copy_mac(swapped + MAC_BYTES, macs);
    if (bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0) < 0 ||
        bpf_skb_store_bytes(skb, ETHERNET_BYTES + 12, addresses, sizeof(addresses), 0) < 0 ||
        bpf_l4_csum_replace(skb, flow->l4 + 2, bpf_htons(ICMP_ECHO_REQUEST << 8), 0, 2) < 0 ||
        bpf_skb_store_bytes(skb, flow->l4, &reply, 1, 0) < 0 || write_ttl(skb, flow, ECHO_REPLY_TTL) < 0)
        return TC_ACT_SHOT;
    count(COUNT_ECHO_ANSWERED);
    return bpf_redirect(skb->ifindex, 0);
}

/* To a local pod by the stack, as its request went: netfilter must see both directions. By the steering device: the
 * main table may route the remote by another uplink, and a strict rp_filter would drop the reply here. */
static inline int to_local_pod(struct __sk_buff *skb, const struct config *settings)
{
    if (write_macs(skb, settings->egw_mac, settings->egw_mac) < 0)
        return drop(skb, DROP_MALFORMED, 0);
    return bpf_redirect(settings->egw_ifindex, BPF_F_INGRESS);
}

/* A TCP connection that the other side opens: its own, and no reply (rule W4). */
static inline int is_opening(struct __sk_buff *skb, const struct ipv4 *ip)
{
    u8 flags = 0;

    if (ip->protocol != PROTOCOL_TCP || is_fragment(ip))
        return 0;
    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + (ip->version_ihl & 0x0f) * 4 + 13, &flags, 1) < 0)
        return 0;
    return (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* A reply that the gateway of a local pod sent on, as far as this node can tell: from a member. */
static inline int is_returned(struct __sk_buff *skb, const struct ipv4 *ip)
{
    struct member_key member = {.ifindex = skb->ifindex};

    if (!is_for_selected(ip) || is_opening(skb, ip))
        return 0;
    return bpf_skb_load_bytes(skb, MAC_BYTES, member.mac, MAC_BYTES) == 0 && members.lookup(&member);
}

/* Send what came back to its pod: `port` is the pod's for a reply, and what it was for an ICMP error. */
static inline int deliver(struct __sk_buff *skb, const struct flow *flow, const struct reverse_binding *binding,
                          __be16 port, struct config *settings)
{
    struct endpoint_key key = {.pod_ip = binding->pod_ip, .ifindex = binding->ifindex};
    struct endpoint *endpoint = endpoints.lookup(&key);
    __be32 floating_ip = flow->destination;
    int is_local = key.ifindex == settings->egw_ifindex;
    struct floating_ip *floating;

    if (!endpoint)
        return drop(skb, DROP_UNKNOWN_ENDPOINT, floating_ip);
    if (!is_local && flow->ttl <= 1)
        return drop(skb, DROP_TTL_EXPIRED, floating_ip);
    floating = floating_ips.lookup(&floating_ip);
    if (!floating)
        return drop(skb, DROP_NO_GATEWAY, floating_ip);
    if (rewrite(skb, flow, 0, key.pod_ip, port) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    if (!is_local && (write_ttl(skb, flow, flow->ttl - 1) < 0 ||
                      write_macs(skb, endpoint->node_mac, floating->mac) < 0))
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_REVERSED);
    if (!is_local)
        return bpf_redirect(key.ifindex, 0);
    /* An ICMP error comes from any router, not from where the policy points to. */
    return is_icmp_error(flow->icmp_type) ? TC_ACT_UNSPEC : to_local_pod(skb, settings);
}

/* Undo SNAT in the packet an ICMP error quotes, whose source is the floating IP. Each change that the quoted checksums
 * do not cancel goes into the error's own. A quote may end before its checksum (RFC 792: 8 bytes). */
static inline int rewrite_quoted(struct __sk_buff *skb, const struct flow *error, const struct flow *quoted,
                                 const struct reverse_binding *binding)
{
    u32 ip_at = error->l4 + ICMP_BYTES;
    u32 error_at = checksum_offset(error);
    u32 quoted_at = checksum_offset(quoted);
    u64 flags = checksum_flags(quoted);
    __be32 address = binding->pod_ip;
    __be16 port = binding->pod_port;
    __be16 before = 0;
    __be16 after;

    if (bpf_l3_csum_replace(skb, ip_at + 10, quoted->source, address, 4) < 0 ||
        bpf_skb_store_bytes(skb, ip_at + 12, &address, 4, 0) < 0 ||
        bpf_skb_store_bytes(skb, port_offset(quoted, 1), &port, 2, 0) < 0 ||
        bpf_l4_csum_replace(skb, error_at, quoted->source_port, port, 2) < 0)
        return -1;
    if (bpf_skb_load_bytes(skb, quoted_at, &before, 2) < 0)
        return 0;
    if (quoted->protocol != PROTOCOL_ICMP &&
        bpf_l4_csum_replace(skb, quoted_at, quoted->source, address, flags | 4) < 0)
        return -1;
    if (bpf_l4_csum_replace(skb, quoted_at, quoted->source_port, port, flags | 2) < 0 ||
        bpf_skb_load_bytes(skb, quoted_at, &after, 2) < 0)
        return -1;
    return bpf_l4_csum_replace(skb, error_at, before, after, 2);
}

/* An ICMP error about a packet this node translated (RFC 5508 REQ-4). It proves nothing of the flow's life, since
 * anybody may send one: the binding is neither refreshed nor changed. */
static inline int return_error(struct __sk_buff *skb, const struct flow *error, struct config *settings)
{
    __be32 floating_ip = error->destination;
    u64 now_ns = bpf_ktime_get_boot_ns();
    struct reverse_key key = {.floating_ip = floating_ip};
    struct reverse_binding *present;
    struct reverse_binding binding;
    struct flow quoted = {};
    u32 reason = load_quoted(skb, error->l4 + ICMP_BYTES, &quoted);

    if (reason == DROP_NONE && quoted.source != floating_ip)
        reason = DROP_MALFORMED;
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    key.remote_ip = quoted.destination;
    key.remote_port = quoted.destination_port;
    key.nat_port = quoted.source_port;
    key.protocol = quoted.protocol;
    present = reverse_bindings.lookup(&key);
    if (!present || is_binding_over(present->last_ns, key.protocol, present->state, now_ns))
        return drop(skb, DROP_NO_BINDING, floating_ip);
    binding = *present;
    if (rewrite_quoted(skb, error, &quoted, &binding) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    return deliver(skb, error, &binding, error->source_port, settings);
}

/* A flow that only receives keeps its forward entry young too, and gets it back if it was evicted. */
static inline void keep_forward(const struct reverse_key *reverse, const struct reverse_binding *binding)
{
    struct binding_key key = {
        .pod_ip = binding->pod_ip,
        .remote_ip = reverse->remote_ip,
        .pod_port = binding->pod_port,
        .remote_port = reverse->remote_port,
        .protocol = reverse->protocol,
    };
    struct binding again = {.floating_ip = reverse->floating_ip, .nat_port = reverse->nat_port};

    if (!bindings.lookup(&key))
        bindings.insert(&key, &again);
}

/* What came for a floating IP: a reply goes to its pod, everything else is answered here or dropped; the stack never
 * sees a packet of another node's pod. */
static inline int return_to_pod(struct __sk_buff *skb, const struct ipv4 *ip, struct config *settings)
{
    __be32 floating_ip = ip->destination;
    struct flow flow = {};
    struct reverse_key key = {.remote_ip = ip->source, .floating_ip = floating_ip, .protocol = ip->protocol};
    struct reverse_binding *present;
    struct reverse_binding binding;
    u64 now_ns = bpf_ktime_get_boot_ns();
    u32 reason;

    if (!is_lease_live(floating_ip))
        return drop(skb, DROP_LEASE_EXPIRED_INGRESS, floating_ip);
    reason = load_flow(skb, ip, &flow);
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    if (flow.protocol == PROTOCOL_ICMP) {
        if (flow.icmp_type == ICMP_ECHO_REQUEST)
            return answer_echo(skb, &flow);
        if (is_icmp_error(flow.icmp_type))
            return return_error(skb, &flow, settings);
        if (flow.icmp_type != ICMP_ECHO_REPLY)
            return drop(skb, DROP_UNSUPPORTED_PROTOCOL, floating_ip);
        key.nat_port = flow.source_port;
    } else {
        key.remote_port = flow.source_port;
        key.nat_port = flow.destination_port;
    }
    present = reverse_bindings.lookup(&key);
    if (!present || is_binding_over(present->last_ns, key.protocol, present->state, now_ns))
        return drop(skb, DROP_NO_BINDING, floating_ip);
    present->last_ns = now_ns;
    present->state = next_binding_state(present->state, &flow, 0);
    binding = *present;
    keep_forward(&key, &binding);
    return deliver(skb, &flow, &binding, binding.pod_port, settings);
}

/* ---- ARP ---- */

static inline int answer_arp(struct __sk_buff *skb, const struct arp *request, const struct floating_ip *floating)
{
    struct arp reply = {
        .hardware = bpf_htons(1),
        .protocol = bpf_htons(ETHERTYPE_IPV4),
        .hardware_bytes = MAC_BYTES,
        .protocol_bytes = 4,
        .operation = bpf_htons(ARP_REPLY),
        .sender_ip = request->target_ip,
        .target_ip = request->sender_ip,
    };

    copy_mac(reply.sender_mac, floating->mac);
    copy_mac(reply.target_mac, request->sender_mac);
    if (write_macs(skb, request->sender_mac, floating->mac) < 0 ||
        bpf_skb_store_bytes(skb, ETHERNET_BYTES, &reply, sizeof(reply), 0) < 0)
        return TC_ACT_SHOT;
    count(COUNT_ARP_ANSWERED);
    return bpf_redirect(skb->ifindex, 0);
}

/* A member announces a floating IP: the fence lets only the holder do so, so the way to it is known at once (W2). But
 * anybody may forge it: it is a hint, and while the agent lives there is one under each token. */
static inline void learn_way(struct __sk_buff *skb, const struct arp *arp, const struct floating_ip *floating)
{
    struct member_key member = {.ifindex = skb->ifindex};
    struct way_hint learned = {.way = {.kind = WAY_L2, .ifindex = skb->ifindex}};
    u64 now_ns = bpf_ktime_get_boot_ns();
    __be32 floating_ip = arp->sender_ip;
    struct way_hint *hint;
    struct way *present;

    copy_mac(member.mac, arp->sender_mac);
    if (!members.lookup(&member) || floating->ifindex != skb->ifindex || is_lease_live(floating_ip))
        return;
    present = ways.lookup(&floating_ip);
    hint = way_hints.lookup(&floating_ip);
    if (present) {
        learned.way.token = present->token;
        if (present->kind == WAY_L2 && present->ifindex == learned.way.ifindex &&
            same_mac(present->gateway_mac, arp->sender_mac)) {
            /* The holder of the authenticated word speaks: no hint stands in for it any more. */
            if (hint)
                hint->until_ns = 0;
            return;
        }
    }
    if (hint && hint->way.token == learned.way.token && !is_agent_away(now_ns))
        return;
    copy_mac(learned.way.own_mac, floating->mac);
    copy_mac(learned.way.gateway_mac, arp->sender_mac);
    learned.until_ns = now_ns + HINT_NS;
    way_hints.update(&floating_ip, &learned);
    count(COUNT_WAY_LEARNED);
}

static inline int arp_ingress(struct __sk_buff *skb)
{
    struct floating_ip *floating;
    struct arp arp;
    __be32 address;

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &arp, sizeof(arp)) < 0 || !is_ipv4_arp(&arp))
        return TC_ACT_UNSPEC;
    address = arp.sender_ip;
    floating = floating_ips.lookup(&address);
    if (floating && arp.sender_ip == arp.target_ip) {
        learn_way(skb, &arp, floating);
        return TC_ACT_UNSPEC;
    }
    address = arp.target_ip;
    floating = floating_ips.lookup(&address);
    if (!floating || arp.operation != bpf_htons(ARP_REQUEST))
        return TC_ACT_UNSPEC;
    /* Whoever asks as an address held here is in conflict (rule A2), and the agent's listener comes after tc. What the
     * host might answer by proxy ARP the fence keeps in. */
    if (is_lease_live(arp.sender_ip))
        return TC_ACT_UNSPEC;
    if (floating->ifindex == skb->ifindex && is_lease_live(address))
        return answer_arp(skb, &arp, floating);
    /* Not ours to answer, nor the host's (proxy ARP): only the holder answers. */
    return TC_ACT_SHOT;
}

int uplink_ingress(struct __sk_buff *skb)
{
    struct config *settings;
    struct ipv4 ip;
    u32 zero = 0;

    if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
        return arp_ingress(skb);
    if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) || skb->pkt_type != PACKET_HOST || !load_ipv4(skb, &ip))
        return TC_ACT_UNSPEC;
    settings = config.lookup(&zero);
    if (!settings)
        return TC_ACT_UNSPEC;
    if (floating_ips.lookup(&ip.destination))
        return return_to_pod(skb, &ip, settings);
    if ((cluster_flags(ip.source) & CLUSTER_POD) && !cluster_flags(ip.destination))
        return forward_to_outside(skb, &ip, 0);
    return is_returned(skb, &ip) ? to_local_pod(skb, settings) : TC_ACT_UNSPEC;
}

/* The fence on the way out: after the deadline nothing from a floating IP leaves, whoever made or queued it (G2). */
int uplink_egress(struct __sk_buff *skb)
{
    struct arp arp;
    struct ipv4 ip;
    __be32 source;

    if (skb->protocol == bpf_htons(ETHERTYPE_ARP)) {
        if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &arp, sizeof(arp)) < 0 || !is_ipv4_arp(&arp))
            return TC_ACT_UNSPEC;
        source = arp.sender_ip;
    } else if (skb->protocol == bpf_htons(ETHERTYPE_IPV4) && load_ipv4(skb, &ip)) {
        source = ip.source;
    } else {
        return TC_ACT_UNSPEC;
    }
    if (floating_ips.lookup(&source) && !is_lease_live(source))
        return drop(skb, DROP_LEASE_EXPIRED_EGRESS, source);
    return TC_ACT_UNSPEC;
}
