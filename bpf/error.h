/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* ICMP errors about packets that cannot go on (rules H2, X3): made of the packet itself, which becomes the quote.
 *
 * "Too big" is said in the name of the packet's destination, as load balancers do it: that address passes wherever the
 * answers pass, through rp_filter, a NetworkPolicy or a provider's filter, and a gateway's own may not. "Time exceeded" is
 * said in the node's own name, because that is what traceroute asks for. */
#pragma once

#define ERROR_TTL 64
#define ERROR_TOS 0xc0 /* internetwork control (RFC 1812, 4.3.2.5) */
#define ERROR_GAP_NS 1000000ULL /* on the average, for each whom it concerns */
#define ERROR_BURST_NS (100 * ERROR_GAP_NS)
#define ICMP_TOO_BIG_CODE 4

/* Everything in front of the quote. */
struct error_head {
    struct ipv4 ip;
    __u8 type;
    __u8 code;
    __u16 checksum;
    __be16 unused;
    __be16 mtu; /* RFC 1191 */
};

/* A packet that cannot go on. It is noted where that is found and answered at one place in each program: the verifier
 * would else follow the making of an error from each of them. */
struct fault {
    struct packet packet;
    __be32 floating_ip;
    __u32 reason; /* DROP_TTL_EXPIRED or DROP_TOO_BIG */
    __u32 mtu;
    __u32 side;
    __u32 who;
};
BPF_TABLE("percpu_array", u32, struct fault, faults, 1);
#define VERDICT_FAULT 0x100 /* beside the verdicts of tc: look into `faults` */

/* How big a packet is on the wire: one that is yet to be cut into segments, by the size of one. */
static inline u32 wire_length(struct __sk_buff *skb, const struct packet *packet)
{
    u32 segment = packet->l4 - ETHERNET_BYTES + packet->l4_bytes + skb->gso_size;

    return skb->gso_size && segment < packet->length ? segment : packet->length;
}

static inline int is_too_big(struct __sk_buff *skb, const struct packet *packet, u32 mtu)
{
    return mtu && wire_length(skb, packet) > mtu;
}

/* As it is now; 0 where there is no such device. */
static inline u32 device_mtu(struct __sk_buff *skb, u32 ifindex)
{
    u32 mtu = 1; /* a length that fits anywhere: it is the answer that is asked for */

    if (!ifindex || bpf_check_mtu(skb, ifindex, &mtu, 0, 0) < 0)
        return 0;
    return mtu;
}

/* By a route, whether or not its next hop is known: too big for any route, so the answer is its MTU, and nobody is asked
 * for a MAC. 0 where there is no route now. */
static inline u32 route_mtu(struct __sk_buff *skb, struct bpf_fib_lookup *route, u32 flags)
{
    route->tot_len = 0xffff;
    return bpf_fib_lookup(skb, route, sizeof(*route), flags) == BPF_FIB_LKUP_RET_FRAG_NEEDED ? route->tot_len : 0;
}

static inline u16 folded(u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

/* Nobody is told about a later fragment, which has no ports, another error, or what did not come from one host (RFC 1122,
 * 3.2.2). */
static inline int may_be_told(const struct packet *packet)
{
    u32 network = bpf_ntohl(packet->source) >> 24;

    return packet->fragment != FRAGMENT_LATER && !is_error(packet) && network != 0 && network != 127 && network < 224;
}

/* The rate of errors is bounded for each pod, for the pods of each member, and for all the outside together. */
static inline int is_time_to_tell(u32 side, u32 who)
{
    struct error_key key = {.side = side, .who = who};
    u64 now_ns = flow_clock_ns();
    u64 *due_ns = error_times.lookup(&key);
    u64 next_ns = due_ns && *due_ns > now_ns ? *due_ns : now_ns;

    if (next_ns > now_ns + ERROR_BURST_NS)
        return 0;
    next_ns += ERROR_GAP_NS;
    error_times.update(&key, &next_ns);
    return 1;
}

/* The quoted transport checksum. Where the sender left it to a device to complete, it is the sum of the pseudo header yet,
 * and the device may still complete it, over the quote and within the ICMP checksum. So it gets the value that completing
 * leaves as it is: half of what is missing to all ones. `sum` is of the whole quote. Returns whether it is to be written. */
static inline int settle_checksum(const struct packet *packet, __be16 present, u32 *sum, __be16 *settled)
{
    u32 pseudo = (packet->source & 0xffff) + (packet->source >> 16) + (packet->destination & 0xffff) +
                 (packet->destination >> 16) + bpf_htons(packet->protocol) +
                 bpf_htons(packet->length - (packet->l4 - ETHERNET_BYTES));
    u16 rest = folded(*sum + (u16)~present);
    u16 missing = ~rest;

    if (packet->protocol == PROTOCOL_ICMP || present != folded(pseudo))
        return 0;
    *settled = missing >> 1 | missing << 15;
    *sum = rest + *settled;
    return 1;
}

/* Turn a packet into the error about it. The quote is the IP header and the beginning of what is behind it, as much as
 * any NAT on the way has to look at. The MACs stay. Returns < 0 where the kernel does not let it. */
static inline int make_error(struct __sk_buff *skb, const struct fault *fault, __be32 teller)
{
    const struct packet *packet = &fault->packet;
    int is_expired = fault->reason == DROP_TTL_EXPIRED;
    u32 quoted = packet->protocol == PROTOCOL_TCP ? TCP_BYTES : ICMP_BYTES;
    __be16 l4[TCP_BYTES / 2] = {};
    struct error_head head = {
        .ip = {
            .version_ihl = 0x45,
            .tos = ERROR_TOS,
            .length = bpf_htons(sizeof(struct error_head) + packet->l4 - ETHERNET_BYTES + quoted),
            .fragment = bpf_htons(0x4000),
            .ttl = ERROR_TTL,
            .protocol = PROTOCOL_ICMP,
            .source = teller,
            .destination = packet->source,
        },
        .type = is_expired ? ICMP_TIME_EXCEEDED : ICMP_UNREACHABLE,
        .code = is_expired ? 0 : ICMP_TOO_BIG_CODE,
        .mtu = is_expired ? 0 : bpf_htons(fault->mtu),
    };
    __be16 settled;
    u32 sum;

    if (bpf_skb_load_bytes(skb, packet->l4, l4, ICMP_BYTES) < 0 ||
        (quoted == TCP_BYTES && bpf_skb_load_bytes(skb, packet->l4 + ICMP_BYTES, l4 + ICMP_BYTES / 2,
                                                   TCP_BYTES - ICMP_BYTES) < 0) ||
        bpf_skb_change_tail(skb, packet->l4 + quoted, 0) < 0)
        return -1;
    sum = folded(bpf_csum_diff(NULL, 0, l4, sizeof(l4), 0));
    if (settle_checksum(packet, quoted == TCP_BYTES ? l4[8] : l4[3], &sum, &settled) &&
        bpf_skb_store_bytes(skb, checksum_offset(packet), &settled, sizeof(settled), BPF_F_RECOMPUTE_CSUM) < 0)
        return -1;
    head.ip.checksum = ~folded(bpf_csum_diff(NULL, 0, &head.ip, sizeof(head.ip), 0));
    /* The quoted IP header with its own checksum adds nothing. */
    head.checksum = ~folded(sum + bpf_htons(head.type << 8 | head.code) + head.mtu);
    if (bpf_skb_adjust_room(skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) < 0)
        return -1;
    return bpf_skb_store_bytes(skb, ETHERNET_BYTES, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM);
}

static inline int fault(const struct packet *packet, u32 side, u32 who, u32 reason, __be32 floating_ip, u32 mtu)
{
    u32 zero = 0;
    struct fault *fault = faults.lookup(&zero);

    if (!fault)
        return TC_ACT_SHOT;
    __builtin_memcpy(&fault->packet, packet, sizeof(*packet));
    fault->floating_ip = floating_ip;
    fault->reason = reason;
    fault->mtu = mtu;
    fault->side = side;
    fault->who = who;
    return VERDICT_FAULT;
}

/* Who tells it; 0: nobody. By which device the packet came does not matter: a gateway has one address on the segment of
 * the floating IP. */
static inline __be32 teller_of(const struct fault *fault)
{
    __be32 floating_ip = fault->floating_ip;
    struct floating_ip *floating;
    __be32 *own;
    u32 ifindex;

    if (fault->reason != DROP_TTL_EXPIRED || fault->side == SIDE_REMOTE)
        return fault->packet.destination;
    floating = floating_ips.lookup(&floating_ip);
    if (!floating)
        return 0;
    ifindex = floating->ifindex;
    own = uplink_addresses.lookup(&ifindex);
    return own ? *own : 0;
}

/* Count the packet that cannot go on, and turn it into the error about it. NULL where there is none to be sent. */
static inline const struct fault *complain(struct __sk_buff *skb)
{
    u32 zero = 0;
    struct fault *fault = faults.lookup(&zero);
    __be32 teller;

    if (!fault)
        return NULL;
    drop(skb, fault->reason, fault->floating_ip);
    teller = teller_of(fault);
    if (!teller || !may_be_told(&fault->packet) || !is_time_to_tell(fault->side, fault->who) ||
        make_error(skb, fault, teller) < 0)
        return NULL;
    count(COUNT_ERRORS_MADE);
    return fault;
}
