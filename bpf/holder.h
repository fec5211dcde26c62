/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The holder of a floating IP: it checks and forwards, without state of any flow or pod (rules H1, H2). */
#pragma once

#define ECHO_REPLY_TTL 64
#define HANDING_ON 2 /* not held any more, and known to be so by few */

/* Whose packet it is, by the port of this side: source port, ICMP id, or the port that an error of a pod quotes. */
static inline u32 port_of_sender(struct __sk_buff *skb, const struct packet *packet, __be16 *port)
{
    struct packet quoted = {};
    u32 reason;

    if (!is_error(packet)) {
        *port = packet->source_port;
        if (packet->protocol == PROTOCOL_ICMP && packet->icmp_type != ICMP_ECHO_REQUEST)
            return DROP_UNSUPPORTED_PROTOCOL;
        return DROP_NONE;
    }
    reason = load_quoted(skb, packet, &quoted);
    if (reason == DROP_NONE && quoted.destination != packet->source)
        return DROP_MALFORMED;
    *port = quoted.protocol == PROTOCOL_ICMP ? quoted.source_port : quoted.destination_port;
    return reason;
}

/* The same for what comes from outside. */
static inline u32 port_of_receiver(struct __sk_buff *skb, const struct packet *packet, __be16 *port)
{
    struct packet quoted = {};
    u32 reason;

    if (!is_error(packet)) {
        *port = packet->protocol == PROTOCOL_ICMP ? packet->source_port : packet->destination_port;
        if (packet->protocol == PROTOCOL_ICMP && packet->icmp_type != ICMP_ECHO_REPLY)
            return DROP_UNSUPPORTED_PROTOCOL;
        return DROP_NONE;
    }
    reason = load_quoted(skb, packet, &quoted);
    if (reason == DROP_NONE && quoted.source != packet->destination)
        return DROP_MALFORMED;
    *port = quoted.source_port;
    return reason;
}

/* The kernel's own neighbour code: it asks for a next hop that is not resolved, and asks again for one that it has not
 * heard of for long, which a look at its tables alone would not. Safe here: the packet has no route of its own to fall
 * back to (rule G7). It may wait there, so the fence judges it again. */
static inline int send_by_neighbour(struct __sk_buff *skb, u32 ifindex, const struct config *settings)
{
    skb->mark = skb->mark | settings->mark;
    skb->cb[0] = 0;
    return redirect_neigh(ifindex, NULL, 0, 0);
}

/* By the route of this node, out of the floating IP's own uplink and no other device. What was found holds for half a
 * second; whether it was, or the kernel is to be asked for the MAC too. Returns < 0 where there is no route. */
static inline int find_next_hop(struct __sk_buff *skb, const struct packet *packet, u32 ifindex, u64 now_ns,
                                struct next_hop *hop)
{
    struct next_hop_key key = {.destination = packet->destination, .ifindex = ifindex};
    struct bpf_fib_lookup route = {
        .family = ETHERNET_FAMILY_IPV4,
        .l4_protocol = packet->protocol,
        .tot_len = 1, /* so that the answer has the route's MTU in its place */
        .ifindex = ifindex,
        .ipv4_src = packet->source,
        .ipv4_dst = packet->destination,
    };
    struct next_hop *known = next_hops.lookup(&key);
    long answer;
    u32 mtu;

    if (known && now_ns < known->until_ns) {
        *hop = *known;
        return 1;
    }
    answer = bpf_fib_lookup(skb, &route, sizeof(route), BPF_FIB_LOOKUP_OUTPUT);
    /* On a device that does not forward the kernel looks for no route here, but on the slower way it does. */
    if ((answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH &&
         answer != BPF_FIB_LKUP_RET_FWD_DISABLED) ||
        route.ifindex != ifindex)
        return -1;
    if (answer != BPF_FIB_LKUP_RET_SUCCESS) {
        /* The kernel has written its answer over the question. */
        route.family = ETHERNET_FAMILY_IPV4;
        route.tos = 0;
        route.ipv4_dst = packet->destination;
        mtu = answer == BPF_FIB_LKUP_RET_NO_NEIGH ? route_mtu(skb, &route, BPF_FIB_LOOKUP_OUTPUT) : 0;
        hop->mtu = mtu ? mtu : device_mtu(skb, ifindex);
        return 0;
    }
    hop->until_ns = now_ns + NEXT_HOP_NS;
    hop->mtu = route.tot_len;
    copy_mac(hop->mac, route.dmac);
    copy_mac(hop->own_mac, route.smac);
    next_hops.update(&key, hop);
    return 0;
}

/* For as long as the next hop, so that the kernel looks after the neighbour. */
static inline void keep_hop(struct __sk_buff *skb, const struct packet *packet, u32 ifindex, const struct next_hop *hop)
{
    u64 token = trusted_token(packet->source);
    struct known_verdict *known;

    known = token ? keep_passage(skb, packet, VERDICT_FORWARD, skb->cb[1], ifindex, hop) : NULL;
    if (known)
        known->token = token;
}

/* `member`: who sent it here, 0 for this node's own pod. With the first packet of each half second the kernel looks after
 * the neighbour. */
static inline int send_outside(struct __sk_buff *skb, const struct packet *packet, u32 ifindex, u32 member, u64 now_ns,
                               const struct config *settings)
{
    struct next_hop hop = {};
    int is_known = find_next_hop(skb, packet, ifindex, now_ns, &hop);

    if (is_known < 0)
        return drop(skb, DROP_NO_ROUTE, packet->source);
    if (is_too_big(skb, packet, hop.mtu))
        return fault(packet, SIDE_MEMBER, member, DROP_TOO_BIG, packet->source, hop.mtu);
    if (is_known && member && hop.mtu)
        keep_hop(skb, packet, ifindex, &hop);
    if (is_known && write_macs(skb, hop.mac, hop.own_mac) < 0)
        return drop(skb, DROP_MALFORMED, packet->source);
    count(COUNT_FORWARDED);
    return is_known ? send_judged(skb, ifindex, settings) : send_by_neighbour(skb, ifindex, settings);
}

/* An error, to where the packet that it is about came from (rule X3). To a floating IP that is held here it goes in once
 * more by its uplink, like anything for it from outside: to the node of the block, by whatever transport. */
static inline int send_back(struct __sk_buff *skb, __be32 destination, const struct config *settings)
{
    struct floating_ip *floating = floating_ips.lookup(&destination);
    u8 macs[2 * MAC_BYTES];
    u32 ifindex;

    if (floating && is_lease_live(destination)) {
        ifindex = floating->ifindex;
        if (!ifindex || write_macs(skb, floating->mac, floating->mac) < 0)
            return TC_ACT_SHOT;
        return bpf_redirect(ifindex, BPF_F_INGRESS);
    }
    if (skb->ifindex == settings->egw_ifindex || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0 || write_macs(skb, macs + MAC_BYTES, macs) < 0)
        return TC_ACT_SHOT;
    return send_judged(skb, skb->ifindex, settings);
}

static inline int refuse_block(struct __sk_buff *skb, __be32 floating_ip, __be16 port, u32 member)
{
    struct refused_key key = {
        .floating_ip = floating_ip,
        .block = (u32)(bpf_ntohs(port) - FIRST_PORT) / PORTS_PER_BLOCK,
        .member = member,
    };
    u64 now_ns = flow_clock_ns();

    if (bpf_ntohs(port) >= FIRST_PORT)
        refused_blocks.update(&key, &now_ns);
    return drop(skb, DROP_WRONG_BLOCK, floating_ip);
}

/* What members send from a floating IP that is held here; `member` 0: a pod of this node (rule H1). By which transport
 * it comes does not matter: that may change while the flow lives. */
static inline int forward(struct __sk_buff *skb, const struct packet *packet, const struct floating_ip *floating,
                          u32 member, int by, const struct config *settings)
{
    __be32 floating_ip = packet->source;
    struct block *block;
    __be16 port = 0;
    u32 reason = DROP_NONE;
    u64 now_ns = flow_clock_ns();
    u32 ifindex;

    if (by != BY_ITSELF && !member)
        return drop(skb, DROP_WRONG_NODE, floating_ip);
    if (!floating->ifindex)
        return drop(skb, DROP_NO_GATEWAY, floating_ip);
    ifindex = floating->ifindex;
    if (packet->fragment == FRAGMENT_LATER) {
        if (recall_fragment(packet, STAGE_OUT) != member + 1)
            reason = DROP_FRAGMENT;
    } else {
        reason = port_of_sender(skb, packet, &port);
    }
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    if (packet->fragment != FRAGMENT_LATER) {
        block = find_block(floating_ip, port);
        if (!block || block->member != member)
            return refuse_block(skb, floating_ip, port, member);
        if (now_ns > block->seen_ns + SECOND_NS)
            block->seen_ns = now_ns;
        remember_fragment(packet, STAGE_OUT, member + 1);
    }
    /* This node's forwarding has counted the hop of its own pod's packet (rule X3). */
    if (by != BY_ITSELF && packet->ttl <= 1)
        return fault(packet, SIDE_MEMBER, member, DROP_TTL_EXPIRED, floating_ip, 0);
    if (by != BY_ITSELF && write_ttl(skb, packet->ttl - 1) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    return send_outside(skb, packet, ifindex, member, now_ns, settings);
}

/* Ping of the floating IP itself: answered here, because no interface has the address (rule G1). */
static inline int answer_echo(struct __sk_buff *skb, const struct packet *packet, const struct config *settings)
{
    u8 macs[2 * MAC_BYTES];
    u8 reply = ICMP_ECHO_REPLY;
    __be32 addresses[2] = {packet->destination, packet->source};

    if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0)
        return TC_ACT_SHOT;
    if (bpf_l4_csum_replace(skb, packet->l4 + 2, bpf_htons(ICMP_ECHO_REQUEST << 8), 0, 2) < 0 ||
        bpf_skb_store_bytes(skb, ETHERNET_BYTES + 12, addresses, sizeof(addresses), 0) < 0 ||
        bpf_skb_store_bytes(skb, packet->l4, &reply, 1, 0) < 0 || write_ttl(skb, ECHO_REPLY_TTL) < 0 ||
        write_macs(skb, macs + MAC_BYTES, macs) < 0)
        return TC_ACT_SHOT;
    count(COUNT_ECHO_ANSWERED);
    return send_judged(skb, skb->ifindex, settings);
}

static inline void keep_return(struct __sk_buff *skb, const struct packet *packet, const struct block *block, u32 mtu)
{
    struct next_hop hop = {.until_ns = flow_clock_ns() + VERDICT_NS, .mtu = mtu};
    u64 token = trusted_token(packet->destination);
    struct known_verdict *known;

    copy_mac(hop.mac, block->mac);
    copy_mac(hop.own_mac, block->own_mac);
    known = token ? keep_passage(skb, packet, VERDICT_RETURN, skb->cb[1], block->ifindex, &hop) : NULL;
    if (known)
        known->token = token;
}

/* What came for a floating IP that is held here goes to the node of its block, the destination as it is (rule H2). Of
 * what this node itself sent no hop is to be counted. */
static inline int return_to_node(struct __sk_buff *skb, const struct packet *packet, int by,
                                 const struct config *settings)
{
    __be32 floating_ip = packet->destination;
    struct block *block;
    __be16 port = 0;
    u32 reason = DROP_NONE;
    u32 ifindex;
    __be32 node;
    u32 kind;
    u32 mtu;

    if (packet->fragment == FRAGMENT_LATER) {
        port = recall_fragment(packet, STAGE_BACK);
        reason = port ? DROP_NONE : DROP_FRAGMENT;
    } else {
        reason = port_of_receiver(skb, packet, &port);
    }
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    block = find_block(floating_ip, port);
    if (!block)
        return drop(skb, DROP_NO_FLOW, floating_ip);
    remember_fragment(packet, STAGE_BACK, port);
    kind = block->kind;
    if (kind == BLOCK_LOCAL)
        return deliver(skb, packet, by, settings);
    if (kind != BLOCK_L2 && kind != BLOCK_TUNNEL)
        return drop(skb, DROP_NO_TRANSPORT, floating_ip);
    ifindex = block->ifindex;
    node = block->node;
    if (by != BY_ITSELF && packet->ttl <= 1)
        return fault(packet, SIDE_OUTSIDE, 0, DROP_TTL_EXPIRED, floating_ip, 0);
    mtu = kind == BLOCK_TUNNEL ? tunnel_mtu(skb, node, settings) : device_mtu(skb, ifindex);
    if (is_too_big(skb, packet, mtu))
        return fault(packet, SIDE_OUTSIDE, 0, DROP_TOO_BIG, floating_ip, mtu);
    if (kind == BLOCK_L2 && mtu && by == BY_WIRE)
        keep_return(skb, packet, block, mtu);
    if ((by != BY_ITSELF && write_ttl(skb, packet->ttl - 1) < 0) ||
        (kind == BLOCK_L2 && write_macs(skb, block->mac, block->own_mac) < 0))
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_RETURNED);
    return kind == BLOCK_TUNNEL ? send_by_tunnel(skb, node, floating_ip, settings)
                                : send_judged(skb, ifindex, settings);
}

/* What came for a floating IP; `member` sent it, 0: no member. Nothing of it ever reaches the stack but what a flow of
 * this node waits for. */
static inline int take_floating(struct __sk_buff *skb, const struct ipv4 *ip, u32 member, int by,
                                const struct config *settings)
{
    __be32 floating_ip = ip->destination;
    int is_held = is_lease_live(floating_ip);
    struct packet *packet = arrived_packet();
    u32 reason;

    if (!is_held && !member && by == BY_WIRE)
        is_held = is_handing_on(floating_ip) ? HANDING_ON : 0;
    /* The former holder still hands on, and this one has not vouched yet for whose ports are whose (rules R3, R4). */
    if (is_held && member && by != BY_ITSELF && !is_trusted(floating_ip))
        is_held = 0;
    /* Sent on by its holder, for a flow of this node. */
    if (!is_held && (by == BY_ITSELF || !member))
        return drop(skb, DROP_LEASE_EXPIRED_INGRESS, floating_ip);
    if (!packet)
        return TC_ACT_SHOT;
    reason = load_packet(skb, ip, packet);
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    if (!is_held)
        return deliver(skb, packet, by, settings);
    if (packet->protocol == PROTOCOL_ICMP && packet->icmp_type == ICMP_ECHO_REQUEST &&
        packet->fragment != FRAGMENT_LATER)
        return by != BY_WIRE || is_held == HANDING_ON ? drop(skb, DROP_UNSUPPORTED_PROTOCOL, floating_ip)
                                                      : answer_echo(skb, packet, settings);
    return return_to_node(skb, packet, by, settings);
}

static inline int is_from_holder(struct __sk_buff *skb, __be32 floating_ip)
{
    struct way *way = find_way(floating_ip);
    u8 source[MAC_BYTES];

    return way && way->kind == WAY_L2 && way->ifindex == skb->ifindex &&
           bpf_skb_load_bytes(skb, MAC_BYTES, source, MAC_BYTES) == 0 && same_mac(source, way->gateway_mac);
}

/* What came from a floating IP. By itself: with our mark, by steer_egress of this node (rule H4). */
static inline int take_from_floating(struct __sk_buff *skb, const struct ipv4 *ip, const struct floating_ip *floating,
                                     u32 member, int by, const struct config *settings)
{
    __be32 floating_ip = ip->source;
    struct packet *packet = arrived_packet();
    u32 reason;

    if (!is_lease_live(floating_ip)) {
        /* From its holder, or by a router, it is ordinary traffic: a pod of another node talks to an address of this one.
         * From another member it was steered to a node that is the holder no more. */
        if (by == BY_WIRE && (!member || is_from_holder(skb, floating_ip)))
            return TC_ACT_UNSPEC;
        return drop(skb, DROP_LEASE_EXPIRED_INGRESS, floating_ip);
    }
    if (!packet)
        return TC_ACT_SHOT;
    reason = load_packet(skb, ip, packet);
    if (reason != DROP_NONE)
        return drop(skb, reason, floating_ip);
    return forward(skb, packet, floating, member, by, settings);
}
