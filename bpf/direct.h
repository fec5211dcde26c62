/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The direct path outwards (rules F3, F4): from the pod's device to the holder, past the stack. */
#pragma once

static inline int pass_on(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key, struct flow *flow,
                          u64 now_ns)
{
    __be32 floating_ip = flow->floating_ip;
    __be16 nat_port = flow->nat_port;

    advance_flow(key, flow, packet, 1, now_ns);
    count(COUNT_DIRECT_OUT);
    /* In the place of this node's forwarding (rule X3). */
    return write_ttl(skb, packet->ttl - 1) < 0 || translate(skb, packet, 1, floating_ip, nat_port) < 0 ? -1 : 0;
}

/* As the packet before it (rule F5): neither the port's reservation nor the way is looked up. */
static inline int send_as_before(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key,
                                 struct flow *flow, const struct known_verdict *known, u64 now_ns,
                                 const struct config *settings)
{
    __be32 floating_ip = flow->floating_ip;

    if (pass_on(skb, packet, key, flow, now_ns) < 0 || write_macs(skb, known->out.mac, known->out.own_mac) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_STEERED);
    return send_judged(skb, known->out.ifindex, settings);
}

/* A packet of a live flow at its pod's device, under the row of the pod (rule F4). TC_ACT_UNSPEC: by the policy path, where
 * the stack or steer_egress answers what does not fit. */
static inline int send_direct(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key, struct flow *flow,
                              u64 now_ns, const struct config *settings)
{
    __be32 floating_ip = flow->floating_ip;
    struct tuple tuple = tuple_of(packet);
    struct known_verdict *known;
    struct way *way;
    u32 generation;
    int verdict;
    u64 token;
    u32 mtu;

    if (!is_approved(flow, packet, flow->out_until_ns, now_ns))
        return TC_ACT_UNSPEC;
    generation = present_generation();
    known = find_verdict(&tuple, 0, generation, now_ns);
    if (known && known->kind == VERDICT_OUT && known->floating_ip == floating_ip &&
        !is_too_big(skb, packet, known->mtu))
        return send_as_before(skb, packet, key, flow, known, now_ns, settings);
    if (!keeps_port(key, flow, now_ns))
        return TC_ACT_UNSPEC;
    way = find_way(floating_ip);
    if (!way)
        return TC_ACT_UNSPEC;
    mtu = way_mtu(skb, way, settings);
    if (is_too_big(skb, packet, mtu))
        return TC_ACT_UNSPEC;
    token = handover_token(floating_ip, way);
    if (!token)
        keep_way(skb, packet, floating_ip, way, mtu, generation, now_ns);
    if (pass_on(skb, packet, key, flow, now_ns) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    if (token && (verdict = wait_for_successor(skb, floating_ip, token)) != TC_ACT_UNSPEC)
        return verdict;
    if (way->kind != WAY_TUNNEL)
        return send_to_holder(skb, floating_ip, way, settings);
    count(COUNT_STEERED);
    return send_by_tunnel(skb, way->node, floating_ip, settings);
}
