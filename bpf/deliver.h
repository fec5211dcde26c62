/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The pod's node, inwards: what the holder sends here for a floating IP is of a live flow, or is dropped (rule H2). */
#pragma once

/* To the pod by the stack, as its request went: netfilter must see both directions. By the steering device: the main
 * table may route the remote by another uplink, and a strict rp_filter would drop the reply here. Our mark is what
 * steer_ingress takes it for (rule D2). */
static inline int to_pod(struct __sk_buff *skb, const struct config *settings, __be32 floating_ip)
{
    if (write_macs(skb, settings->egw_mac, settings->egw_mac) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    skb->mark = skb->mark | settings->mark;
    return bpf_redirect(settings->egw_ifindex, BPF_F_INGRESS);
}

/* The live flow that a mirror names, if its pod is still the one that made it (rules B2, Q4). */
static inline struct flow *live_flow(struct mirror_key *mirror_key, struct flow_key *key, u64 now_ns)
{
    struct mirror *mirror = find_mirror(mirror_key);
    struct selected_key row_key = {};
    struct selected_value *row;
    struct flow *flow;

    if (!mirror)
        return NULL;
    *key = flow_of(mirror_key, mirror);
    row_key.pod_ip = key->pod_ip;
    row = selected.lookup(&row_key);
    flow = find_flow(key);
    if (!row || !flow || flow->pod != row->pod || is_flow_over(flow, now_ns) ||
        flow->floating_ip != mirror_key->floating_ip || flow->nat_port != mirror_key->nat_port)
        return NULL;
    if (flow->rule_set != row->rule_set && judge_again(key, flow, row))
        return NULL;
    return flow;
}

/* An ICMP error about a packet of a flow (RFC 5508 REQ-4). It proves nothing of the flow's life, since anybody may send
 * one: the flow is neither refreshed nor changed. */
static inline u32 translate_error_back(struct __sk_buff *skb, const struct packet *error)
{
    struct packet quoted = {};
    struct mirror_key mirror = {.floating_ip = error->destination};
    struct flow_key key = {};
    struct flow *flow;
    u32 reason = load_quoted(skb, error, &quoted);

    if (reason == DROP_NONE && quoted.source != error->destination)
        reason = DROP_MALFORMED;
    if (reason != DROP_NONE)
        return reason;
    mirror.remote_ip = quoted.destination;
    mirror.remote_port = quoted.destination_port;
    mirror.nat_port = quoted.source_port;
    mirror.protocol = quoted.protocol;
    flow = live_flow(&mirror, &key, flow_clock_ns());
    if (!flow)
        return DROP_NO_FLOW;
    if (flow->is_ended)
        return DROP_FLOW_ENDED;
    if (translate_quoted(skb, error, &quoted, 1, key.pod_ip, key.pod_port) < 0 || write_address(skb, 0, key.pod_ip) < 0)
        return DROP_MALFORMED;
    return DROP_NONE;
}

/* What the stack is to tell about a reply would quote the pod's address: what it could not bring to the pod's device
 * is judged here, before anything is changed (rule X3). `mtu` is of that device. What may be cut the stack does cut. */
static inline u32 judge_last_hop(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow, u32 *mtu)
{
    if (packet->ttl <= 1)
        return DROP_TTL_EXPIRED;
    *mtu = packet->is_whole ? device_mtu(skb, flow->ifindex) : 0;
    return is_too_big(skb, packet, *mtu) ? DROP_TOO_BIG : DROP_NONE;
}

/* Whose a reply is. Past the stack to the pod's own device; not where `back_ifindex` is 0. */
struct delivery {
    u32 back_ifindex;
    u8 pod_mac[MAC_BYTES];
    u8 node_mac[MAC_BYTES];
    u32 ifindex; /* where the flow came in from */
    u32 pod;     /* 0: its next reply is to be judged anew */
    __be32 pod_ip;
    __be16 pod_port;
};

static inline u32 translate_reply(struct __sk_buff *skb, const struct packet *packet, struct delivery *delivery, u32 *mtu)
{
    struct mirror_key mirror = {
        .remote_ip = packet->source,
        .floating_ip = packet->destination,
        .remote_port = packet->source_port,
        .nat_port = packet->destination_port,
        .protocol = packet->protocol,
    };
    u64 now_ns = flow_clock_ns();
    struct flow_key key = {};
    struct flow *flow;
    u32 reason;

    if (packet->protocol == PROTOCOL_ICMP) {
        if (packet->icmp_type != ICMP_ECHO_REPLY)
            return DROP_UNSUPPORTED_PROTOCOL;
        mirror.nat_port = packet->source_port;
        mirror.remote_port = 0;
    }
    flow = live_flow(&mirror, &key, now_ns);
    if (!flow)
        return DROP_NO_FLOW;
    if (flow->is_ended && flow->is_ended != ENDED_RESET)
        return DROP_FLOW_ENDED;
    reason = judge_last_hop(skb, packet, flow, mtu);
    if (reason != DROP_NONE)
        return reason;
    if (is_approved(flow, packet, flow->back_until_ns, now_ns)) {
        delivery->back_ifindex = flow->back_ifindex;
        copy_mac(delivery->pod_mac, flow->pod_mac);
        copy_mac(delivery->node_mac, flow->node_mac);
    }
    delivery->ifindex = flow->ifindex;
    delivery->pod = flow->is_ended || is_always_asked(packet) ? 0 : flow->pod;
    delivery->pod_ip = key.pod_ip;
    delivery->pod_port = key.pod_port;
    mark_seen(skb, packet, &key, SEEN_FOR_POD);
    if (!flow->is_ended && !is_stray_reset(flow, packet))
        advance_flow(&key, flow, packet, 0, now_ns);
    remember_fragment(packet, STAGE_DELIVER, key.pod_ip);
    return translate(skb, packet, 0, key.pod_ip, key.pod_port) < 0 ? DROP_MALFORMED : DROP_NONE;
}

/* In the place of this node's forwarding, by the device that the last reply which came through it left by (rule F4). */
static inline int to_pod_directly(struct __sk_buff *skb, const struct packet *packet, const struct delivery *delivery)
{
    if (write_ttl(skb, packet->ttl - 1) < 0 || write_macs(skb, delivery->pod_mac, delivery->node_mac) < 0)
        return drop(skb, DROP_MALFORMED, packet->destination);
    count(COUNT_DIRECT_BACK);
    return bpf_redirect_peer(delivery->back_ifindex, 0);
}

/* Whoever sent it, and under which lease if it is held here: else its holder did. */
static inline void keep_delivery(struct __sk_buff *skb, const struct packet *packet, const struct delivery *delivery)
{
    u32 back_ifindex = delivery->back_ifindex;
    u32 mtu = device_mtu(skb, delivery->ifindex);
    u32 last_mtu = back_ifindex ? device_mtu(skb, back_ifindex) : mtu;
    struct known_verdict *known;

    /* What is too big for either is judged by the rows. */
    if (!mtu || !last_mtu)
        return;
    known = keep_verdict(skb, packet, VERDICT_DELIVER, skb->cb[1], flow_clock_ns() + VERDICT_NS);
    if (!known)
        return;
    known->token = is_lease_live(packet->destination) ? trusted_token(packet->destination) : 0;
    known->mtu = mtu < last_mtu ? mtu : last_mtu;
    known->deliver.back_ifindex = back_ifindex;
    known->deliver.pod = delivery->pod;
    known->deliver.pod_ip = delivery->pod_ip;
    known->pod_port = delivery->pod_port;
}

/* What this node itself sends is on its way out, where no device of a pod can be reached. */
static inline int deliver(struct __sk_buff *skb, const struct packet *packet, int by, const struct config *settings)
{
    __be32 floating_ip = packet->destination;
    struct delivery delivery = {};
    u32 mtu = 0;
    u32 reason;

    if (packet->fragment == FRAGMENT_LATER) {
        __be32 pod_ip = recall_fragment(packet, STAGE_DELIVER);

        reason = !pod_ip ? DROP_FRAGMENT : write_address(skb, 0, pod_ip) < 0 ? DROP_MALFORMED : DROP_NONE;
    } else if (is_error(packet)) {
        reason = translate_error_back(skb, packet);
    } else {
        reason = translate_reply(skb, packet, &delivery, &mtu);
        if (reason == DROP_NONE && by == BY_WIRE && delivery.pod)
            keep_delivery(skb, packet, &delivery);
        if (reason == DROP_NONE && by != BY_ITSELF && delivery.back_ifindex &&
            !is_too_big(skb, packet, device_mtu(skb, delivery.back_ifindex)))
            return to_pod_directly(skb, packet, &delivery);
    }
    if (reason == DROP_TTL_EXPIRED || reason == DROP_TOO_BIG)
        return fault(packet, SIDE_REMOTE, 0, reason, floating_ip, mtu);
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    count(COUNT_REVERSED);
    return to_pod(skb, settings, floating_ip);
}
