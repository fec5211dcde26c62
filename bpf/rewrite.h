/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Writing a frame. Checksums are corrected by the difference, never computed anew. Transport checksums only by the
 * kernel's helper: it alone knows of a checksum that the device is yet to complete. What lies at a known offset is
 * written directly. */
#pragma once

static inline int write_macs(struct __sk_buff *skb, const __u8 *destination, const __u8 *source)
{
    u8 *data = frame_start(skb);
    void *end = frame_end(skb);

    if ((void *)data + 2 * MAC_BYTES > end)
        return -1;
    copy_mac(data, destination);
    copy_mac(data + MAC_BYTES, source);
    return 0;
}

/* Source or destination in the IP header. */
static inline int write_address(struct __sk_buff *skb, int is_source, __be32 address)
{
    struct ipv4 *ip = frame_start(skb) + ETHERNET_BYTES;
    void *end = frame_end(skb);

    if ((void *)(ip + 1) > end) {
        if (bpf_skb_pull_data(skb, ETHERNET_BYTES + IPV4_BYTES) < 0)
            return -1;
        ip = frame_start(skb) + ETHERNET_BYTES;
        end = frame_end(skb);
        if ((void *)(ip + 1) > end)
            return -1;
    }
    ip->checksum = adjusted_checksum(ip->checksum, is_source ? ip->source : ip->destination, address);
    if (is_source)
        ip->source = address;
    else
        ip->destination = address;
    return 0;
}

static inline int write_ttl(struct __sk_buff *skb, u8 ttl)
{
    struct ipv4 *ip = frame_start(skb) + ETHERNET_BYTES;
    void *end = frame_end(skb);

    if ((void *)(ip + 1) > end)
        return -1;
    ip->checksum = adjusted_checksum(ip->checksum, bpf_htons((u16)ip->ttl << 8), bpf_htons((u16)ttl << 8));
    ip->ttl = ttl;
    return 0;
}

/* At its place in a transport header; without options before that it is at hand. */
static inline int write_port(struct __sk_buff *skb, const struct packet *packet, int is_source, __be16 port)
{
    u8 *l4 = frame_start(skb) + ETHERNET_BYTES + IPV4_BYTES;

    if (packet->l4 != ETHERNET_BYTES + IPV4_BYTES || packet->protocol == PROTOCOL_ICMP ||
        (void *)l4 + 4 > frame_end(skb))
        return bpf_skb_store_bytes(skb, port_offset(packet, is_source), &port, 2, 0);
    *(__be16 *)(is_source ? l4 : l4 + 2) = port;
    return 0;
}

/* Rewrite one address and one port and every checksum they are part of. */
static inline int translate(struct __sk_buff *skb, const struct packet *packet, int is_source, __be32 address,
                            __be16 port)
{
    __be32 old_address = is_source ? packet->source : packet->destination;
    __be16 old_port = is_source || packet->protocol == PROTOCOL_ICMP ? packet->source_port : packet->destination_port;
    u32 checksum_at = checksum_offset(packet);
    u64 flags = checksum_flags(packet);

    if (packet->protocol != PROTOCOL_ICMP &&
        bpf_l4_csum_replace(skb, checksum_at, old_address, address, BPF_F_PSEUDO_HDR | flags | 4) < 0)
        return -1;
    if (old_port != port && (bpf_l4_csum_replace(skb, checksum_at, old_port, port, flags | 2) < 0 ||
                             write_port(skb, packet, is_source, port) < 0))
        return -1;
    return write_address(skb, is_source, address);
}

/* The same in the packet that an ICMP error quotes. Each change that the quoted checksums do not cancel goes into the
 * error's own. A quote may end before its checksum (RFC 792: 8 bytes). */
static inline int translate_quoted(struct __sk_buff *skb, const struct packet *error, const struct packet *quoted,
                                   int is_source, __be32 address, __be16 port)
{
    u32 ip_at = error->l4 + ICMP_BYTES;
    u32 error_at = checksum_offset(error);
    u32 quoted_at = checksum_offset(quoted);
    u64 flags = checksum_flags(quoted);
    __be32 old_address = is_source ? quoted->source : quoted->destination;
    __be16 old_port = is_source || quoted->protocol == PROTOCOL_ICMP ? quoted->source_port : quoted->destination_port;
    __be16 before = 0;
    __be16 after;

    if (bpf_l3_csum_replace(skb, ip_at + 10, old_address, address, 4) < 0 ||
        bpf_skb_store_bytes(skb, ip_at + (is_source ? 12 : 16), &address, 4, 0) < 0 ||
        bpf_skb_store_bytes(skb, port_offset(quoted, is_source), &port, 2, 0) < 0 ||
        bpf_l4_csum_replace(skb, error_at, old_port, port, 2) < 0)
        return -1;
    if (bpf_skb_load_bytes(skb, quoted_at, &before, 2) < 0)
        return 0;
    if (quoted->protocol != PROTOCOL_ICMP &&
        bpf_l4_csum_replace(skb, quoted_at, old_address, address, flags | 4) < 0)
        return -1;
    if (bpf_l4_csum_replace(skb, quoted_at, old_port, port, flags | 2) < 0 ||
        bpf_skb_load_bytes(skb, quoted_at, &after, 2) < 0)
        return -1;
    return bpf_l4_csum_replace(skb, error_at, before, after, 2);
}
