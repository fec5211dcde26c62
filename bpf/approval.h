/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Approval (rules F1, F2): for half a second after a packet has come through netfilter and the stack, packets of the same
 * flow and direction need not. */
#pragma once

/* What says at the end of the policy path that the packet is the one that was seen at its beginning: neither its tuple nor
 * who sent it has changed in between. */
static inline u32 seen_hash(const struct flow_key *key, u64 seed, u32 tag)
{
    u64 mixed = (seed ^ ((u64)key->pod_ip << 32 | key->remote_ip)) * 0x9e3779b97f4a7c15ULL;

    mixed ^= mixed >> 29;
    mixed ^= (u64)key->pod_port << 32 | (u64)key->remote_port << 16 | key->protocol;
    mixed *= 0xbf58476d1ce4e5b9ULL;
    return ((u32)(mixed >> 32) & ~0xffU) | tag;
}

/* Connection tracking has to see how a connection begins and ends (rule F2), and an error is of no flow. */
static inline int is_always_asked(const struct packet *packet)
{
    return packet->fragment || is_error(packet) ||
           (packet->protocol == PROTOCOL_TCP && (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
}

/* A pod may have set it: nobody else's word counts. */
static inline void clear_seen(struct __sk_buff *skb)
{
    u32 tag = skb->hash & 0xff;

    if (tag == SEEN_FROM_POD || tag == SEEN_FOR_POD)
        bpf_set_hash(skb, skb->hash + 1);
}

/* Where nothing but netfilter has a say, so that nothing but it is asked less often: what a shaper should hold back must not
 * go past it. */
static inline int is_plain(u32 ifindex)
{
    return direct_devices.lookup(&ifindex) != NULL;
}

/* Before the policy path. */
static inline void mark_seen(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *key, u32 tag)
{
    u32 zero = 0;
    struct flow_settings *settings = flow_settings.lookup(&zero);

    if (!settings || !settings->is_direct || is_always_asked(packet))
        return;
    if (tag == SEEN_FOR_POD || is_plain(skb->ingress_ifindex))
        bpf_set_hash(skb, seen_hash(key, settings->seed, tag));
}

/* Behind the policy path: netfilter has let it pass, to where it was sent. */
static inline int was_seen(struct __sk_buff *skb, const struct flow_key *key, u32 tag)
{
    u32 zero = 0;
    struct flow_settings *settings;

    if ((skb->hash & 0xff) != tag)
        return 0;
    settings = flow_settings.lookup(&zero);
    return settings && skb->hash == seen_hash(key, settings->seed, tag);
}

/* Whether a packet of a flow may go without asking: `until_ns` of its direction. */
static inline int is_approved(const struct flow *flow, const struct packet *packet, u64 until_ns, u64 now_ns)
{
    return now_ns < until_ns && !flow->is_ended && !is_always_asked(packet) && packet->ttl > 1 &&
           (packet->protocol != PROTOCOL_TCP || is_open_tcp(packet->protocol, flow->state));
}

/* Behind the policy path, inwards: the reply leaves for the pod, by the pod's own device (rule B1). */
static inline void approve_back(struct __sk_buff *skb, struct flow_key *key, u64 now_ns)
{
    struct selected_key row_key = {.pod_ip = key->pod_ip, .ifindex = skb->ifindex};
    struct selected_value *row;
    struct flow *flow;
    u32 ifindex = skb->ifindex;
    u8 macs[2 * MAC_BYTES];

    if (!was_seen(skb, key, SEEN_FOR_POD) || !is_plain(ifindex) ||
        bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0)
        return;
    row = selected.lookup(&row_key);
    flow = find_flow(key);
    if (!row || !flow || flow->pod != row->pod)
        return;
    copy_mac(flow->pod_mac, macs);
    copy_mac(flow->node_mac, macs + MAC_BYTES);
    flow->back_ifindex = ifindex;
    flow->back_until_ns = now_ns + APPROVED_NS;
}
