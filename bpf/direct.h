/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The direct path outwards (rules F3, F4): from the pod's device to the holder, past the stack. */
#pragma once

/* A packet of a live flow at its pod's device, under the row of the pod (rule F4). TC_ACT_UNSPEC: by the policy path, where
 * the stack or steer_egress answers what does not fit. */
static inline int send_direct(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key, struct flow *flow,
                              u64 now_ns, const struct config *settings)
{
    __be32 floating_ip = flow->floating_ip;
    __be16 nat_port = flow->nat_port;
    struct way *way;

    if (!is_approved(flow, packet, flow->out_until_ns, now_ns) || !keeps_port(key, flow, now_ns))
        return TC_ACT_UNSPEC;
    way = find_way(floating_ip);
    if (!way || is_too_big(skb, packet, way_mtu(skb, way, settings)))
        return TC_ACT_UNSPEC;
    advance_flow(key, flow, packet, 1, now_ns);
    /* In the place of this node's forwarding (rule X3). */
    if (write_ttl(skb, packet->ttl - 1) < 0 || translate(skb, packet, 1, floating_ip, nat_port) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_DIRECT_OUT);
    if (way->kind != WAY_TUNNEL)
        return send_to_holder(skb, floating_ip, way, settings);
    count(COUNT_STEERED);
    return send_by_tunnel(skb, way->node, floating_ip, settings);
}
