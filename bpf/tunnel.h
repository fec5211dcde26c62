/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Between nodes that share no segment, or whose segment swallows frames of a floating IP (rules X1, X2): the same packet,
 * a floating IP as its source or destination, within VXLAN of the steering device. The programs put the outer headers on and
 * take them off where they know all that the node's own stack would (rule X4); else that does. Never in pieces. */
#pragma once

#define TUNNEL_ID 0x4547
#define TUNNEL_TTL 64
#define TUNNEL_BYTES 50 /* IPv4, UDP, VXLAN and the inner Ethernet header */
#define TUNNEL_KEY_BYTES __builtin_offsetof(struct bpf_tunnel_key, local_ipv4) /* what Linux before 6.0 knows too */

#define FROM_NO_TUNNEL (-22) /* EINVAL */

/* Linux 5.13; an older kernel refuses it. */
#define ADJ_ROOM_ENCAP_L2_ETH (1ULL << 6)

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

/* What is asked of the kernel and found. Not on the stack, where there is no room for it. */
struct tunnel_scratch {
    struct bpf_fib_lookup route;
    struct tunnel_hop found;
};
BPF_TABLE("percpu_array", u32, struct tunnel_scratch, tunnel_scratches, 1);

/* A question for the way of outer packets. With a length of 1 the kernel does not compare this packet, which is another
 * one, with the device. */
static inline void ask_for_node(struct bpf_fib_lookup *route, __be32 node, u16 length, const struct config *settings)
{
    __builtin_memset(route, 0, sizeof(*route));
    route->family = ETHERNET_FAMILY_IPV4;
    route->l4_protocol = PROTOCOL_UDP;
    route->tot_len = length;
    route->ifindex = settings->egw_ifindex;
    route->ipv4_dst = node;
}

/* Where outer packets to a node leave, if that is an uplink and the node's rules say the same as the main table, by which
 * the stack sends what has our mark (rule 96). Else nothing is noted, and the stack sends them. */
static inline void find_tunnel_link(struct __sk_buff *skb, __be32 node, struct tunnel_scratch *scratch,
                                    const struct config *settings)
{
    struct bpf_fib_lookup *route = &scratch->route;
    struct tunnel_hop *hop = &scratch->found;
    __be32 *own;
    u32 ifindex;

    ask_for_node(route, node, 1, settings);
    if (bpf_fib_lookup(skb, route, sizeof(*route), 0) != BPF_FIB_LKUP_RET_SUCCESS)
        return;
    ifindex = route->ifindex;
    copy_mac(hop->mac, route->dmac);
    copy_mac(hop->own_mac, route->smac);
    /* The kernel has written its answer over the question. */
    ask_for_node(route, node, 1, settings);
    if (bpf_fib_lookup(skb, route, sizeof(*route), BPF_FIB_LOOKUP_DIRECT) != BPF_FIB_LKUP_RET_SUCCESS ||
        route->ifindex != ifindex || !same_mac(hop->mac, route->dmac))
        return;
    own = uplink_addresses.lookup(&ifindex);
    if (!own)
        return;
    hop->source = *own;
    hop->ifindex = ifindex;
}

/* How outer packets to a node go, and how big a packet in them may be (rule X3): by their route, with what the path has
 * said of itself. NULL where there is no route now. */
static inline struct tunnel_hop *find_tunnel_hop(struct __sk_buff *skb, __be32 node, const struct config *settings)
{
    struct tunnel_hop *known = tunnel_hops.lookup(&node);
    u64 now_ns = flow_clock_ns();
    struct tunnel_scratch *scratch;
    u32 zero = 0;
    u32 mtu;

    if (known && now_ns < known->until_ns)
        return known;
    scratch = tunnel_scratches.lookup(&zero);
    if (!scratch)
        return NULL;
    ask_for_node(&scratch->route, node, 0, settings);
    mtu = route_mtu(skb, &scratch->route, 0);
    if (mtu <= TUNNEL_BYTES)
        return NULL;
    __builtin_memset(&scratch->found, 0, sizeof(scratch->found));
    scratch->found.is_due = 1;
    scratch->found.until_ns = now_ns + NEXT_HOP_NS;
    scratch->found.mtu = mtu - TUNNEL_BYTES;
    if (is_plain(settings->egw_ifindex))
        find_tunnel_link(skb, node, scratch, settings);
    tunnel_hops.update(&node, &scratch->found);
    return tunnel_hops.lookup(&node);
}

static inline u32 tunnel_mtu(struct __sk_buff *skb, __be32 node, const struct config *settings)
{
    struct tunnel_hop *hop = find_tunnel_hop(skb, node, settings);

    return hop ? hop->mtu : 0;
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

/* Of all addresses and ports of the packet within, so that whoever chooses a link by those of the outer one keeps the
 * packets of a flow in order and those of many flows apart: one of the dynamic ports (RFC 7348, 5). */
static inline u16 tunnel_port_of(const struct ipv4 *ip, const void *end)
{
    u64 mixed = ((u64)ip->source << 32 | ip->destination) + ip->protocol;

    if (ip->version_ihl == 0x45 && !(ip->fragment & bpf_htons(0x3fff)) && ip->protocol != PROTOCOL_ICMP &&
        (void *)(ip + 1) + sizeof(u32) <= end)
        mixed ^= *(u32 *)(ip + 1) * 0x9e3779b97f4a7c15ULL;
    mixed *= 0xbf58476d1ce4e5b9ULL;
    return 0xc000 | mixed >> 50;
}

static inline u16 header_checksum(const struct ipv4 *ip)
{
    const u16 *words = (const u16 *)ip;
    u32 sum = 0;
    int i;

#pragma unroll
    for (i = 0; i < IPV4_BYTES / 2; i++)
        sum += words[i];
    return ~folded(sum);
}

/* All but the Ethernet header of the outer packet. */
static inline void write_tunnel_head(struct __sk_buff *skb, struct tunnel_head *head, __be32 source, __be32 destination,
                                     u16 port, u8 tos, const u8 *inner_mac, const struct config *settings)
{
    u32 length = skb->len - ETHERNET_BYTES;
    const u16 *words = (const u16 *)&head->source_port;
    u32 sum = 0;
    int i;

    head->ip.version_ihl = 0x45;
    head->ip.tos = tos;
    head->ip.length = bpf_htons(length);
    head->ip.id = 0; /* nobody may cut it (RFC 6864) */
    head->ip.fragment = bpf_htons(0x4000);
    head->ip.ttl = TUNNEL_TTL;
    head->ip.protocol = PROTOCOL_UDP;
    head->ip.checksum = 0;
    head->ip.source = source;
    head->ip.destination = destination;
    head->ip.checksum = header_checksum(&head->ip);
    head->source_port = bpf_htons(port);
    head->destination_port = settings->tunnel_port;
    head->length = bpf_htons(length - IPV4_BYTES);
    head->checksum = 0;
    head->flags = bpf_htonl(VXLAN_HAS_ID);
    head->id = bpf_htonl(TUNNEL_ID << 8);
    __builtin_memset(head->inner.destination, 0, MAC_BYTES);
    copy_mac(head->inner.source, inner_mac);
    head->inner.type = bpf_htons(ETHERTYPE_IPV4);
    /* Where a device has summed up the whole frame. An IP header adds nothing. */
#pragma unroll
    for (i = 0; i < (TUNNEL_BYTES - IPV4_BYTES) / 2; i++)
        sum += words[i];
    bpf_csum_update(skb, sum);
}

/* Put the outer headers on, as the steering device and the stack would (rule X4). Returns < 0, with nothing changed, where
 * the kernel does not let it: an older one, a packet in a tunnel already, segments that it could not cut. */
static inline int put_into_tunnel(struct __sk_buff *skb, const struct tunnel_hop *hop, __be32 node,
                                  const struct config *settings)
{
    struct ipv4 *ip = frame_start(skb) + ETHERNET_BYTES;
    struct tunnel_head *head;
    u16 port;
    u8 tos;

    if ((void *)(ip + 1) > frame_end(skb) || skb->vlan_present || skb->len + TUNNEL_BYTES - ETHERNET_BYTES > 0xffff)
        return -1;
    port = tunnel_port_of(ip, frame_end(skb));
    /* Congestion is told outside as inside, but not what was met before (RFC 6040, 4.1). */
    tos = ip->tos & 3;
    if (tos == 3)
        tos = 2;
    if (bpf_skb_adjust_room(skb, TUNNEL_BYTES, BPF_ADJ_ROOM_MAC,
                            BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
                                ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETHERNET_BYTES)) < 0)
        return -1;
    head = frame_start(skb);
    if ((void *)(head + 1) > frame_end(skb))
        return -1;
    copy_mac(head->link.destination, hop->mac);
    copy_mac(head->link.source, hop->own_mac);
    head->link.type = bpf_htons(ETHERTYPE_IPV4);
    write_tunnel_head(skb, head, hop->source, node, port, tos, settings->egw_mac, settings);
    return 0;
}

/* From another device than the steering device: this is where it was judged. Past the stack where the next hop is known
 * (rule X4), but for the first packet of each half second, with which the kernel looks after the neighbour; else through
 * the steering device, past what that judges. */
static inline int send_by_tunnel(struct __sk_buff *skb, __be32 node, __be32 floating_ip, const struct config *settings)
{
    struct tunnel_hop *hop = tunnel_hops.lookup(&node);

    if (hop && hop->ifindex) {
        u32 ifindex = hop->ifindex;

        if (hop->is_due)
            hop->is_due = 0;
        else if (put_into_tunnel(skb, hop, node, settings) == 0)
            return send_judged(skb, ifindex, settings);
    }
    if (enter_tunnel(skb, node, settings) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    return send_judged(skb, settings->egw_ifindex, settings);
}

/* Take a packet out of the tunnel at an uplink (rule X4): the number of the member that it came from, 0 where it is left
 * as it is, to the stack. Whatever the stack or the steering device would treat otherwise than to hand over what is in it
 * is left to them: it must come by the device by which this node would answer, because no rp_filter is asked. */
static inline u32 leave_tunnel(struct __sk_buff *skb, const struct ipv4 *outer, const struct config *settings)
{
    struct tunnel_head *head;
    struct tunnel_hop *hop;
    struct ipv4 *ip;
    __be32 source = outer->source;
    u32 ifindex = skb->ifindex;
    u32 *number;
    __be32 *own;

    if (outer->protocol != PROTOCOL_UDP || outer->version_ihl != 0x45 ||
        (outer->fragment & bpf_htons(0x3fff)) || skb->gso_size || skb->vlan_present)
        return 0;
    head = frame_start(skb);
    ip = (struct ipv4 *)(head + 1);
    if ((void *)(ip + 1) > frame_end(skb) || head->destination_port != settings->tunnel_port ||
        bpf_ntohs(head->ip.length) != skb->len - ETHERNET_BYTES ||
        bpf_ntohs(head->length) != skb->len - ETHERNET_BYTES - IPV4_BYTES || head->checksum ||
        head->flags != bpf_htonl(VXLAN_HAS_ID) || head->id != bpf_htonl(TUNNEL_ID << 8) ||
        head->inner.type != bpf_htons(ETHERTYPE_IPV4) || same_mac(head->inner.source, settings->egw_mac) ||
        header_checksum(&head->ip) || ((head->ip.tos & 1) && ((head->ip.tos ^ ip->tos) & 3)))
        return 0;
    own = uplink_addresses.lookup(&ifindex);
    number = tunnel_members.lookup(&source);
    if (!own || *own != outer->destination || !number)
        return 0;
    hop = find_tunnel_hop(skb, source, settings);
    if (!hop || hop->ifindex != ifindex || bpf_skb_adjust_room(skb, -TUNNEL_BYTES, BPF_ADJ_ROOM_MAC, 0) < 0)
        return 0;
    return *number;
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

/* A packet that was taken out of the tunnel and cannot go on is put back as it came, for the steering device to make the
 * error about it: of one that some device or kernel calls a tunnel's yet, the kernel lets nobody cut the tail. */
static inline int return_to_tunnel(struct __sk_buff *skb, __be32 outer_source, const struct config *settings)
{
    struct ipv4 *ip = frame_start(skb) + ETHERNET_BYTES;
    u32 ifindex = skb->ifindex;
    __be32 *own = uplink_addresses.lookup(&ifindex);
    u32 zero = 0;
    struct fault *fault = faults.lookup(&zero);
    struct tunnel_head *head;
    u8 sender[MAC_BYTES];
    u8 tos;

    if (!own || !fault || write_ttl(skb, fault->packet.ttl) < 0 || (void *)(ip + 1) > frame_end(skb))
        return TC_ACT_SHOT;
    tos = ip->tos & 3;
    if (bpf_skb_adjust_room(skb, TUNNEL_BYTES, BPF_ADJ_ROOM_MAC, 0) < 0)
        return TC_ACT_SHOT;
    head = frame_start(skb);
    if ((void *)(head + 1) > frame_end(skb))
        return TC_ACT_SHOT;
    copy_mac(sender, head->link.source);
    write_tunnel_head(skb, head, outer_source, *own, 0xc000, tos, sender, settings);
    return TC_ACT_UNSPEC;
}
