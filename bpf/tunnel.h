/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Between nodes that share no segment, or whose segment swallows frames of a floating IP (rules X1, X2): the same packet,
 * a floating IP as its source or destination, within VXLAN of the steering device. The node's own stack sends the outer
 * packet, never in pieces. */
#pragma once

#define TUNNEL_ID 0x4547
#define TUNNEL_TTL 64
#define TUNNEL_BYTES 50 /* IPv4, UDP, VXLAN and the inner Ethernet header */
#define TUNNEL_KEY_BYTES __builtin_offsetof(struct bpf_tunnel_key, local_ipv4) /* what Linux before 6.0 knows too */

#define FROM_NO_TUNNEL (-22) /* EINVAL */

/* The number of the member that a packet came from by the tunnel, 0 for one of nobody's (rule X2). In `error`:
 * FROM_NO_TUNNEL where it came by none. */
static inline u32 tunnel_sender(struct __sk_buff *skb, long *error)
{
    struct bpf_tunnel_key key = {};
    __be32 source;
    u32 *number;

    *error = bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, 0);
    source = bpf_htonl(key.remote_ipv4);
    number = tunnel_members.lookup(&source);
    return *error == 0 && key.tunnel_id == TUNNEL_ID && number ? *number : 0;
}

/* How big a packet in the tunnel to a node may be (rule X3): by the route of the outer one, with what the path has said
 * of itself; 0 where there is no route now. */
static inline u32 tunnel_mtu(struct __sk_buff *skb, __be32 node, const struct config *settings)
{
    struct next_hop_key key = {.destination = node};
    struct bpf_fib_lookup route = {
        .family = ETHERNET_FAMILY_IPV4,
        .l4_protocol = PROTOCOL_UDP,
        .ifindex = settings->egw_ifindex,
        .ipv4_dst = node,
    };
    struct next_hop *known = next_hops.lookup(&key);
    struct next_hop found = {};
    u64 now_ns = flow_clock_ns();
    u32 mtu;

    if (known && now_ns < known->until_ns)
        return known->mtu;
    mtu = route_mtu(skb, &route, 0);
    if (mtu <= TUNNEL_BYTES)
        return 0;
    found.until_ns = now_ns + NEXT_HOP_NS;
    found.mtu = mtu - TUNNEL_BYTES;
    next_hops.update(&key, &found);
    return found.mtu;
}

/* Say to the steering device where a packet is to go. Each node's device has another MAC: with its own as the source it
 * drops a frame. */
static inline int enter_tunnel(struct __sk_buff *skb, __be32 node, const struct config *settings)
{
    struct bpf_tunnel_key key = {.tunnel_id = TUNNEL_ID, .remote_ipv4 = bpf_ntohl(node), .tunnel_ttl = TUNNEL_TTL};
    u8 nobody[MAC_BYTES] = {};

    if (write_macs(skb, nobody, settings->egw_mac) < 0)
        return -1;
    return bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT);
}

/* From another device than the steering device, past what that judges: this is where it was judged. */
static inline int send_by_tunnel(struct __sk_buff *skb, __be32 node, __be32 floating_ip, const struct config *settings)
{
    if (enter_tunnel(skb, node, settings) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    return send_judged(skb, settings->egw_ifindex, settings);
}

/* Whether an IPv4 packet is for the tunnel's port: only the steering device of a node makes such (rule H5). Of fragments
 * the first tells. */
static inline int is_for_tunnel(struct __sk_buff *skb, u32 at, const struct config *settings)
{
    struct ipv4 ip;
    __be16 port;

    if (!settings->tunnel_port || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || ip.protocol != PROTOCOL_UDP ||
        (ip.fragment & bpf_htons(0x1fff)))
        return 0;
    return bpf_skb_load_bytes(skb, at + (ip.version_ihl & 0x0f) * 4 + 2, &port, sizeof(port)) == 0 &&
           port == settings->tunnel_port;
}
