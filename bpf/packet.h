/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Headers as they lie on the wire, and questions about them that have no side effects. No map is touched here. */
#pragma once

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERNET_BYTES 14

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17

#define ICMP_BYTES 8
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3 /* code 4: fragmentation needed, which path MTU discovery lives on */
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11

#define TCP_BYTES 20 /* without options */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct ethernet {
    __u8 destination[MAC_BYTES];
    __u8 source[MAC_BYTES];
    __be16 type;
} __attribute__((packed));

struct ipv4 {
    __u8 version_ihl;
    __u8 tos;
    __be16 length;
    __be16 id;
    __be16 fragment;
    __u8 ttl;
    __u8 protocol;
    __u16 checksum;
    __be32 source;
    __be32 destination;
};

struct arp {
    __be16 hardware;
    __be16 protocol;
    __u8 hardware_bytes;
    __u8 protocol_bytes;
    __be16 operation;
    __u8 sender_mac[MAC_BYTES];
    __be32 sender_ip;
    __u8 target_mac[MAC_BYTES];
    __be32 target_ip;
} __attribute__((packed));
#define ARP_REQUEST 1
#define ARP_REPLY 2

/* What NAT needs of a packet. */
struct flow {
    __be32 source;
    __be32 destination;
    __be16 source_port; /* ICMP echo: the id */
    __be16 destination_port; /* ICMP echo: 0 */
    __u8 protocol;
    __u8 ttl;
    __u8 tcp_flags;
    __u8 icmp_type;
    __u32 l4; /* offset of the transport header in the frame */
};

static inline int is_fragment(const struct ipv4 *ip)
{
    return (ip->fragment & bpf_htons(0x3fff)) != 0; /* more fragments, or an offset */
}

static inline int is_icmp_error(__u8 type)
{
    return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED;
}

static inline int is_ipv4_arp(const struct arp *arp)
{
    return arp->hardware == bpf_htons(1) && arp->protocol == bpf_htons(ETHERTYPE_IPV4) &&
           arp->hardware_bytes == MAC_BYTES && arp->protocol_bytes == 4;
}

static inline int same_mac(const __u8 *left, const __u8 *right)
{
    return left[0] == right[0] && left[1] == right[1] && left[2] == right[2] && left[3] == right[3] &&
           left[4] == right[4] && left[5] == right[5];
}

static inline void copy_mac(__u8 *to, const __u8 *from)
{
    to[0] = from[0]; to[1] = from[1]; to[2] = from[2];
    to[3] = from[3]; to[4] = from[4]; to[5] = from[5];
}

/* Where the port that NAT rewrites lies; `is_source` for SNAT, else for reverse SNAT. */
static inline __u32 port_offset(const struct flow *flow, int is_source)
{
    if (flow->protocol == PROTOCOL_ICMP)
        return flow->l4 + 4;
    return flow->l4 + (is_source ? 0 : 2);
}

static inline __u32 checksum_offset(const struct flow *flow)
{
    if (flow->protocol == PROTOCOL_TCP)
        return flow->l4 + 16;
    if (flow->protocol == PROTOCOL_UDP)
        return flow->l4 + 6;
    return flow->l4 + 2;
}

/* BPF_F_* flags for the transport checksum: ICMPv4 has no pseudo header, a zero UDP checksum stays zero (RFC 768). */
static inline __u64 checksum_flags(const struct flow *flow)
{
    if (flow->protocol == PROTOCOL_UDP)
        return BPF_F_MARK_MANGLED_0;
    return 0;
}
