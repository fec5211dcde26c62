/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Reading a frame. */
#pragma once

/* Where a frame begins and ends. Not skb->data: the compiler would load it in halves of one branch and widen it in
 * another, and the verifier then sees a number and no pointer. */
static inline void *frame_start(struct __sk_buff *skb)
{
    void *data;

    asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(data) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
    return data;
}

static inline void *frame_end(struct __sk_buff *skb)
{
    void *end;

    asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data_end)));
    return end;
}

/* The IPv4 header behind the Ethernet header; 0 where it is not a whole IPv4 header. */
static inline int load_ipv4(struct __sk_buff *skb, struct ipv4 *ip)
{
    void *data = frame_start(skb);
    void *end = frame_end(skb);

    if (data + ETHERNET_BYTES + sizeof(*ip) <= end)
        __builtin_memcpy(ip, data + ETHERNET_BYTES, sizeof(*ip));
    else if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, ip, sizeof(*ip)) < 0)
        return 0;
    return (ip->version_ihl >> 4) == 4 && (ip->version_ihl & 0x0f) >= 5;
}

static inline void read_ports(const u8 *header, struct packet *packet)
{
    if (packet->protocol == PROTOCOL_ICMP) {
        packet->icmp_type = header[0];
        packet->source_port = *(__be16 *)&header[4];
        return;
    }
    packet->source_port = *(__be16 *)&header[0];
    packet->destination_port = *(__be16 *)&header[2];
}

/* The beginning of the transport header: directly where the IP header has no options and both lie together. */
static inline int load_l4(struct __sk_buff *skb, u32 at, u8 *header, u32 bytes)
{
    u8 *data = frame_start(skb);

    if (at == ETHERNET_BYTES + IPV4_BYTES && (void *)data + ETHERNET_BYTES + IPV4_BYTES + bytes <= frame_end(skb)) {
        __builtin_memcpy(header, data + ETHERNET_BYTES + IPV4_BYTES, bytes);
        return 0;
    }
    return bpf_skb_load_bytes(skb, at, header, bytes);
}

static inline void read_tcp(const u8 *header, struct packet *packet)
{
    packet->sequence = bpf_ntohl(*(__be32 *)&header[4]);
    packet->acked = bpf_ntohl(*(__be32 *)&header[8]);
    packet->tcp_flags = header[13];
    packet->l4_bytes = (header[12] >> 4) * 4;
    packet->has_data = packet->length > packet->l4 - ETHERNET_BYTES + packet->l4_bytes;
}

static inline void read_segments(struct __sk_buff *skb, const u8 *header, struct packet *packet)
{
    u32 segments = skb->gso_segs;
    u32 bytes = packet->protocol == PROTOCOL_TCP ? (header[12] >> 4) * 4 : UDP_BYTES;

    if (segments < 2)
        return;
    packet->segments = segments - 1;
    packet->headers = (segments - 1) * (packet->l4 - ETHERNET_BYTES + bytes);
}

/* Fill in ports, flags and types; returns a drop reason, DROP_NONE where NAT can translate it. A fragment that is not
 * the first has no ports. */
static inline u32 load_packet(struct __sk_buff *skb, const struct ipv4 *ip, struct packet *packet)
{
    u8 header[TCP_BYTES];

    packet->source = ip->source;
    packet->destination = ip->destination;
    packet->protocol = ip->protocol;
    packet->ttl = ip->ttl;
    packet->id = ip->id;
    packet->length = bpf_ntohs(ip->length);
    packet->l4 = ETHERNET_BYTES + (ip->version_ihl & 0x0f) * 4;
    packet->l4_bytes = ICMP_BYTES;
    packet->is_whole = (ip->fragment & bpf_htons(0x4000)) != 0;
    if (packet->length > skb->len - ETHERNET_BYTES) /* cut on the way, or lying about how big it is */
        return DROP_MALFORMED;
    if (ip->protocol != PROTOCOL_TCP && ip->protocol != PROTOCOL_UDP && ip->protocol != PROTOCOL_ICMP)
        return DROP_UNSUPPORTED_PROTOCOL;
    if (ip->fragment & bpf_htons(0x1fff)) {
        packet->fragment = FRAGMENT_LATER;
        return DROP_NONE;
    }
    if (ip->fragment & bpf_htons(0x2000))
        packet->fragment = FRAGMENT_FIRST;
    if (ip->protocol == PROTOCOL_TCP) {
        if (load_l4(skb, packet->l4, header, TCP_BYTES) < 0)
            return DROP_MALFORMED;
        read_tcp(header, packet);
    } else if (load_l4(skb, packet->l4, header, ICMP_BYTES) < 0) {
        return DROP_MALFORMED;
    }
    read_ports(header, packet);
    if (packet->length > SINGLE_BYTES)
        read_segments(skb, header, packet);
    return DROP_NONE;
}

/* The header that an ICMP error quotes: whole IPv4 header, at least 8 bytes behind it (RFC 792). */
static inline u32 load_quoted(struct __sk_buff *skb, const struct packet *error, struct packet *quoted)
{
    u32 at = error->l4 + ICMP_BYTES;
    struct ipv4 ip;
    u8 header[ICMP_BYTES];

    if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || (ip.version_ihl >> 4) != 4 || (ip.version_ihl & 0x0f) < 5)
        return DROP_MALFORMED;
    if (ip.fragment & bpf_htons(0x1fff)) /* only the first fragment has ports */
        return DROP_FRAGMENT;
    quoted->source = ip.source;
    quoted->destination = ip.destination;
    quoted->protocol = ip.protocol;
    quoted->l4 = at + (ip.version_ihl & 0x0f) * 4;
    if (bpf_skb_load_bytes(skb, quoted->l4, header, sizeof(header)) < 0)
        return DROP_MALFORMED;
    if (ip.protocol != PROTOCOL_TCP && ip.protocol != PROTOCOL_UDP && ip.protocol != PROTOCOL_ICMP)
        return DROP_UNSUPPORTED_PROTOCOL;
    read_ports(header, quoted);
    return DROP_NONE;
}

/* Whether a frame has a VLAN tag that this device does not strip: then it is not for this device (rule H5). A tag with
 * VLAN 0 has a priority only. */
static inline int is_tagged(struct __sk_buff *skb)
{
    return skb->vlan_present && (skb->vlan_tci & VLAN_ID_BITS);
}

/* Where the payload begins, behind up to two tags in the frame, and of which type it is (rule H5). */
static inline u32 skip_tags(struct __sk_buff *skb, __be16 *type)
{
    u32 at = ETHERNET_BYTES;
    u32 tags;

    *type = skb->protocol;
    for (tags = 0; tags < 2; tags++) {
        if (!is_vlan(*type))
            break;
        if (bpf_skb_load_bytes(skb, at + 2, type, sizeof(*type)) < 0)
            *type = 0;
        at += VLAN_BYTES;
    }
    return at;
}

/* Whom an IPv4 packet or ARP message says it is from, looked for behind tags too, and which of both it is; 0: neither. */
static inline __be32 claimed_source(struct __sk_buff *skb, __be16 *type)
{
    u32 at = skip_tags(skb, type);
    __be32 source = 0;

    if (*type == bpf_htons(ETHERTYPE_IPV4))
        at += 12;
    else if (*type == bpf_htons(ETHERTYPE_ARP))
        at += 14;
    else
        return 0;
    return bpf_skb_load_bytes(skb, at, &source, sizeof(source)) < 0 ? 0 : source;
}
