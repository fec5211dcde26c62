/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The direct path (rules F3, F4): from the pod's device to the holder, and from the uplink to the pod, past the stack. */
#pragma once

/* By which device a pod's packet leaves; 0 where that is not known, or is nothing for the direct path. */
static inline u32 way_out(const struct way *way, __be32 floating_ip)
{
    struct floating_ip *floating;

    if (way->kind == WAY_L2)
        return way->ifindex;
    floating = way->kind == WAY_LOCAL ? floating_ips.lookup(&floating_ip) : NULL;
    return floating ? floating->ifindex : 0;
}

/* A packet of a live flow at its pod's device, under the row of the pod (rule F4). TC_ACT_UNSPEC: by the policy path. */
static inline int send_direct(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key, struct flow *flow,
                              u64 now_ns, const struct config *settings)
{
    __be32 floating_ip = flow->floating_ip;
    __be16 nat_port = flow->nat_port;
    struct way *way;
    u32 ifindex;

    if (!is_approved(flow, packet, flow->out_until_ns, now_ns) || !keeps_port(key, flow, now_ns))
        return TC_ACT_UNSPEC;
    way = find_way(floating_ip);
    ifindex = way ? way_out(way, floating_ip) : 0;
    if (!ifindex || !fits(skb, ifindex))
        return TC_ACT_UNSPEC;
    advance_flow(key, flow, packet, 1, now_ns);
    /* In the place of this node's forwarding (rule X3). */
    if (write_ttl(skb, packet->ttl - 1) < 0 || translate(skb, packet, 1, floating_ip, nat_port) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_DIRECT_OUT);
    return send_to_holder(skb, floating_ip, way, settings);
}
