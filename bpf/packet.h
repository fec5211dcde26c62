/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Headers as they lie on the wire, and questions about them that have no side effects. No map is touched here. */
#pragma once

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8
#define ETHERTYPE_HANDOVER 0x88b5 /* local experimental (IEEE 802) */
#define ETHERNET_BYTES 14
#define VLAN_BYTES 4
#define VLAN_ID_BITS 0x0fff

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17

#define ETHERNET_FAMILY_IPV4 2 /* AF_INET */
#define IPV4_BYTES 20 /* without options */
#define ICMP_BYTES 8
#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3 /* code 4: fragmentation needed, which path MTU discovery lives on */
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11

#define TCP_BYTES 20 /* without options */
#define UDP_BYTES 8
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

/* A packet of the tunnel (RFC 7348) up to where the packet within it begins. */
struct tunnel_head {
    struct ethernet link;
    struct ipv4 ip;
    __be16 source_port;
    __be16 destination_port;
    __be16 length; /* of the datagram */
    __u16 checksum; /* 0: none */
    __be32 flags;
    __be32 id; /* above the lowest byte */
    struct ethernet inner;
} __attribute__((packed));
#define VXLAN_HAS_ID 0x08000000

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

/* Behind the Ethernet header (rule R4). */
struct handover_notice {
    __be32 magic;
    __be32 floating_ip;
    __be32 token_high;
    __be32 token_low;
} __attribute__((packed));
#define HANDOVER_MAGIC 0x45474831

/* The kernel's struct bpf_redir_neigh, which BCC's headers may not have. */
struct next_neighbour {
    __u32 family;
    __be32 address;
    __u32 rest[3];
};
#define ARP_REQUEST 1
#define ARP_REPLY 2

/* A longer packet may be several segments that the kernel holds together. Shorter ones are not asked: that lies in a cache
 * line of its own. */
#define SINGLE_BYTES 1500

#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

/* What NAT needs of a packet. */
struct packet {
    __be32 source;
    __be32 destination;
    __be16 source_port; /* ICMP echo: the id */
    __be16 destination_port; /* ICMP echo: 0 */
    __be16 id;
    __u16 length; /* of the IP packet, host order */
    __u8 protocol;
    __u8 ttl;
    __u8 tcp_flags;
    __u8 icmp_type;
    __u8 fragment;  /* 0, or FRAGMENT_* */
    __u8 has_data;  /* TCP: anything behind the header */
    __u8 l4_bytes;  /* of the transport header */
    __u8 is_whole;  /* nobody may cut it: DF */
    __u8 _pad[3];
    __u16 segments; /* beyond the first one, which the kernel holds together in this packet */
    __u32 sequence; /* TCP, host order */
    __u32 acked;
    __u32 l4; /* offset of the transport header in the frame */
    __u32 headers; /* bytes of the headers that those segments will have on the wire */
};

static inline int is_icmp_error(__u8 type)
{
    return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED;
}

static inline int is_error(const struct packet *packet)
{
    return packet->protocol == PROTOCOL_ICMP && packet->fragment != FRAGMENT_LATER && is_icmp_error(packet->icmp_type);
}

static inline int is_ipv4_arp(const struct arp *arp)
{
    return arp->hardware == bpf_htons(1) && arp->protocol == bpf_htons(ETHERTYPE_IPV4) &&
           arp->hardware_bytes == MAC_BYTES && arp->protocol_bytes == 4;
}

static inline int is_vlan(__be16 type)
{
    return type == bpf_htons(ETHERTYPE_VLAN) || type == bpf_htons(ETHERTYPE_QINQ);
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
static inline __u32 port_offset(const struct packet *packet, int is_source)
{
    if (packet->protocol == PROTOCOL_ICMP)
        return packet->l4 + 4;
    return packet->l4 + (is_source ? 0 : 2);
}

static inline __u32 checksum_offset(const struct packet *packet)
{
    if (packet->protocol == PROTOCOL_TCP)
        return packet->l4 + 16;
    if (packet->protocol == PROTOCOL_UDP)
        return packet->l4 + 6;
    return packet->l4 + 2;
}

/* BPF_F_* flags for the transport checksum: ICMPv4 has no pseudo header, a zero UDP checksum stays zero (RFC 768). */
static inline __u64 checksum_flags(const struct packet *packet)
{
    if (packet->protocol == PROTOCOL_UDP)
        return BPF_F_MARK_MANGLED_0;
    return 0;
}

/* A checksum after one 32-bit word under it changed (RFC 1624). All in network order. */
static inline __u16 adjusted_checksum(__u16 checksum, __u32 from, __u32 to)
{
    __u32 sum = (__u16)~checksum;

    sum += (__u16)~(from & 0xffff);
    sum += (__u16)~(from >> 16);
    sum += to & 0xffff;
    sum += to >> 16;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (__u16)~sum;
}
