/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* A floating IP that moves on purpose (rule R4). Its holder tells the segment before it lets go, so that what pods send
 * waits on their own nodes until the successor speaks. It waits where the kernel keeps what it has no MAC for: at a
 * neighbour of the handover device that nobody answers for until then. */
#pragma once

#define HANDOVER_ASKED_MAX 1024

/* Neighbours that packets wait at, and for which floating IP. Not pinned: they are asked for within milliseconds. */
BPF_TABLE("lru_hash", __be32, __be32, handover_neighbours, HANDOVER_ASKED_MAX);

/* One for each tenure that ends: an old one is known to the kernel already, and nothing would wait there. */
static inline __be32 handover_neighbour(__be32 floating_ip, u64 token)
{
    u64 mixed = (token ^ (u64)floating_ip << 32) * 0x9e3779b97f4a7c15ULL;

    return bpf_htonl(0xf0000000 | (u32)(mixed >> 36));
}

/* The tenure that ends on purpose, where a packet by this way has to wait for the next one; 0: it need not. The holder by
 * this way has said that it lets go, and nobody has spoken since; or the successor is this node, which would drop what it
 * is sent before it knows whose ports are whose. */
static inline u64 handover_token(__be32 floating_ip, const struct way *way)
{
    struct handover *handover = handovers.lookup(&floating_ip);
    u64 held = live_token(floating_ip);
    int waits;

    if (!handover || bpf_ktime_get_boot_ns() >= handover->since_ns + HANDOVER_NS)
        return 0;
    if (held)
        waits = held != handover->token && !is_trusted(floating_ip);
    else
        waits = handover->token == way->token && ways.lookup(&floating_ip) == way;
    return waits ? handover->token : 0;
}

/* A translated packet waits. TC_ACT_UNSPEC: there is nowhere to wait. */
static inline int wait_for_successor(struct __sk_buff *skb, __be32 floating_ip, u64 token)
{
    u32 zero = 0;
    struct handover_device *device = handover_device.lookup(&zero);
    __be32 address = handover_neighbour(floating_ip, token);
    struct next_neighbour neighbour = {.family = ETHERNET_FAMILY_IPV4, .address = address};

    if (!device || !device->ifindex)
        return TC_ACT_UNSPEC;
    handover_neighbours.update(&address, &floating_ip);
    count(COUNT_WAITED);
    return redirect_neigh(device->ifindex, &neighbour, sizeof(neighbour), 0);
}

/* Ask the stack's ARP, by the frame at hand, to let everything go that waits; the frame is as it was afterwards. */
static inline void end_waiting(struct __sk_buff *skb, const struct arp *arp, __be32 floating_ip)
{
    struct handover *handover = handovers.lookup(&floating_ip);
    u32 zero = 0;
    struct handover_device *device = handover_device.lookup(&zero);
    u8 macs[2 * MAC_BYTES];
    struct arp reply;

    if (!handover || !device || !device->ifindex || bpf_ktime_get_boot_ns() >= handover->since_ns + HANDOVER_NS ||
        bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0)
        return;
    reply = *arp;
    reply.operation = bpf_htons(ARP_REPLY);
    reply.sender_ip = handover_neighbour(floating_ip, handover->token);
    copy_mac(reply.target_mac, device->mac);
    if (bpf_skb_store_bytes(skb, ETHERNET_BYTES, &reply, sizeof(reply), 0) < 0 ||
        bpf_skb_store_bytes(skb, 0, device->mac, MAC_BYTES, 0) < 0)
        return;
    bpf_clone_redirect(skb, device->ifindex, BPF_F_INGRESS);
    bpf_skb_store_bytes(skb, ETHERNET_BYTES, arp, sizeof(*arp), 0);
    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

/* What the stack asks for every few milliseconds while something waits. */
static inline int answer_waiting(struct __sk_buff *skb)
{
    __be32 *floating_ip;
    struct arp question;
    struct way *way;
    struct arp reply;
    __be32 address;

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &question, sizeof(question)) < 0 || !is_ipv4_arp(&question) ||
        question.operation != bpf_htons(ARP_REQUEST))
        return TC_ACT_SHOT;
    address = question.target_ip;
    floating_ip = handover_neighbours.lookup(&address);
    if (!floating_ip)
        return TC_ACT_SHOT;
    address = *floating_ip;
    way = find_way(address);
    if (!way || handover_token(address, way))
        return TC_ACT_SHOT;
    reply = question;
    reply.operation = bpf_htons(ARP_REPLY);
    reply.sender_ip = question.target_ip;
    copy_mac(reply.target_mac, question.sender_mac);
    reply.target_ip = address;
    if (bpf_skb_store_bytes(skb, ETHERNET_BYTES, &reply, sizeof(reply), 0) < 0 ||
        write_macs(skb, question.sender_mac, question.sender_mac) < 0)
        return TC_ACT_SHOT;
    return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* By the way as it is now. */
static inline int send_on(struct __sk_buff *skb, __be32 floating_ip, const struct config *settings)
{
    struct packet *packet = arrived_packet();
    struct way *way = find_way(floating_ip);
    struct ipv4 ip;

    if (!way || handover_token(floating_ip, way))
        return drop(skb, DROP_NO_GATEWAY, floating_ip);
    if (!packet || !load_ipv4(skb, &ip) || load_packet(skb, &ip, packet) != DROP_NONE)
        return drop(skb, DROP_MALFORMED, floating_ip);
    if (is_too_big(skb, packet, way_mtu(skb, way, settings)))
        return drop(skb, DROP_TOO_BIG, floating_ip);
    return send_to_holder(skb, floating_ip, way, settings);
}

/* What a holder tells its segment before it lets go, in a frame of its own type: nobody else heeds it. Believed of the
 * MAC that the authenticated word names, and once for each tenure: a forged one delays for less than a failover takes. */
static inline int hear_handover(struct __sk_buff *skb)
{
    struct handover fresh = {.since_ns = bpf_ktime_get_boot_ns()};
    struct handover_notice notice;
    struct handover *present;
    __be32 floating_ip;
    u8 sender[MAC_BYTES];
    struct way *way;

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &notice, sizeof(notice)) < 0 ||
        notice.magic != bpf_htonl(HANDOVER_MAGIC) || bpf_skb_load_bytes(skb, MAC_BYTES, sender, sizeof(sender)) < 0)
        return TC_ACT_UNSPEC;
    floating_ip = notice.floating_ip;
    fresh.token = (u64)bpf_ntohl(notice.token_high) << 32 | bpf_ntohl(notice.token_low);
    way = ways.lookup(&floating_ip);
    if (!way || way->kind != WAY_L2 || way->ifindex != skb->ifindex || way->token != fresh.token ||
        !same_mac(sender, way->gateway_mac) || is_lease_live(floating_ip))
        return TC_ACT_SHOT;
    present = handovers.lookup(&floating_ip);
    if (present && present->token == fresh.token)
        return TC_ACT_SHOT;
    handovers.update(&floating_ip, &fresh);
    begin_generation();
    return TC_ACT_SHOT;
}
