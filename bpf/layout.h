/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Keys and values of every map: the contract with service/datapath/layout.py, byte for byte.
 * Addresses and ports are in network byte order, everything else in the host's. Padding is explicit and zero: keys are
 * compared as bytes. A change here needs a new LAYOUT_VERSION there, because maps outlive the agent as pins. */
#pragma once

#define MAC_BYTES 6

struct config {
    __u32 mark;        /* the one mark bit (rule W6) */
    __u32 egw_ifindex; /* the steering device */
    __u8 egw_mac[MAC_BYTES];
    __be16 tunnel_port; /* UDP; 0: nobody asks (a former agent's) */
};
_Static_assert(sizeof(struct config) == 16, "config");

/* Classified pods of this node. Selected ones have two rows: with the pod's device, and with ifindex 0 for lookups behind
 * the bridge. Those that no policy selects have the first alone (rule W11). */
struct selected_key {
    __be32 pod_ip;
    __u32 ifindex;
};
struct selected_value {
    __u64 rule_set;
    __u32 state;
    __u32 pod; /* another number for another pod UID or device: nobody inherits a flow (rule B2) */
};
#define SELECTED_STEER 1
#define SELECTED_CHANGING 3 /* dropped before netfilter, so that no connection-tracking entry is made (rule W10) */
#define SELECTED_NOT 4      /* classified, and left alone */
_Static_assert(sizeof(struct selected_key) == 8, "selected_key");
_Static_assert(sizeof(struct selected_value) == 16, "selected_value");

/* What pod_ingress gives a packet of a classified pod as its priority, for netfilter to know it by (rule W11): no device's
 * nor bridge's name tells that there, a pod cannot set it, and forwarding overwrites it. */
#define CLASSIFIED_PRIORITY 0x45470004

/* {rule set, destination} -> what to do. prefixlen counts the 64 bits of the rule set too. */
struct rule_key {
    __u32 prefixlen;
    __u32 rule_set_high;
    __u32 rule_set_low;
    __be32 destination;
};
struct rule_value {
    __be32 floating_ip;
    __u32 action;
};
#define RULE_STEER 1
#define RULE_EXCLUDED 2
#define RULE_SET_BITS 64
_Static_assert(sizeof(struct rule_key) == 16, "rule_key");
_Static_assert(sizeof(struct rule_value) == 8, "rule_value");

/* In-cluster and never-steered destinations. */
struct cluster_key {
    __u32 prefixlen;
    __be32 address;
};
_Static_assert(sizeof(struct cluster_key) == 8, "cluster_key");
#define CLUSTER_POD 1
#define CLUSTER_SERVICE 2
#define CLUSTER_NODE 4

/* floating IP -> the way to its holder (rule W1). */
struct way {
    __u64 token;
    __u32 kind;
    __u32 ifindex;
    __u8 own_mac[MAC_BYTES];
    __u8 gateway_mac[MAC_BYTES];
    __be32 node; /* by the tunnel: the holder's own address */
};
#define WAY_L2 1
#define WAY_LOCAL 2
#define WAY_TUNNEL 3
_Static_assert(sizeof(struct way) == 32, "way");

/* floating IP -> a way that only gratuitous ARP has told of (rule W2): under the token of the authenticated way it stands
 * in for, 0 where there is none. Not in force where `until_ns` (CLOCK_BOOTTIME) is 0. */
struct way_hint {
    struct way way;
    __u64 until_ns;
};
_Static_assert(sizeof(struct way_hint) == 40, "way_hint");
#define HINT_NS 500000000ULL
/* An agent whose last beat is older hears no authenticated word: hints then stay in force. */
#define AGENT_AWAY_NS 3000000000ULL

/* Every floating IP of the spec, with this node's interface on its segment (ifindex 0: none). */
struct floating_ip {
    __u32 ifindex;
    __u8 mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct floating_ip) == 12, "floating_ip");

/* Written by the lease keeper alone: the dead-man switch (rule G2). */
struct lease {
    __u64 deadline_ns; /* CLOCK_BOOTTIME */
    __u64 token;
};
_Static_assert(sizeof(struct lease) == 16, "lease");

/* floating IP -> the tenure that ends, or has just ended, on purpose (rule R4). Its holder's keeper writes it on its own
 * node, the programs elsewhere, when they hear of it. */
struct handover {
    __u64 token;
    __u64 since_ns; /* CLOCK_BOOTTIME */
};
#define HANDOVER_NS 100000000ULL   /* so long at most what pods send waits for the successor */
#define HANDED_ON_NS 1500000000ULL /* so long the former holder hands on what still comes to it from outside */
_Static_assert(sizeof(struct handover) == 16, "handover");

/* Where packets wait for a successor (rule R4). */
struct handover_device {
    __u32 ifindex; /* 0: nowhere */
    __u8 mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct handover_device) == 12, "handover_device");

/* MACs of members per interface -> the member's number on this node, never 0 (rules W2, H1). */
struct member_key {
    __u32 ifindex;
    __u8 mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct member_key) == 12, "member_key");

/* Ports (and ICMP ids) from FIRST_PORT on, in blocks (rule Q1). */
#define FIRST_PORT 1024
#define PORTS_PER_BLOCK 64
#define BLOCKS 1008
#define OWN_WORDS 16
#define OWN_BITS 1024

/* floating IP -> the blocks from which this node may take ports for new flows, a bit for each (rule Q3). */
struct own_blocks {
    __u64 bits[OWN_WORDS];
};
_Static_assert(sizeof(struct own_blocks) == 128, "own_blocks");

/* On the holder and its successor: which member a block of a floating IP belongs to, and how that one is reached. */
struct block_key {
    __be32 floating_ip;
    __u32 block;
};
struct block {
    __u64 seen_ns; /* CLOCK_MONOTONIC; the kernel writes it, when a packet of the block goes out (rule Q5) */
    __u32 member; /* 0: this node */
    union {
        __u32 ifindex;
        __be32 node; /* by the tunnel: the member's own address */
    };
    __u8 own_mac[MAC_BYTES];
    __u8 mac[MAC_BYTES];
    __u32 kind;
};
#define BLOCK_L2 1
#define BLOCK_LOCAL 2
#define BLOCK_TUNNEL 3
_Static_assert(sizeof(struct block_key) == 8, "block_key");
_Static_assert(sizeof(struct block) == 32, "block");

/* What the agent notes of its machines of blocks; no program reads it. */
#define OWNER_NAME_BYTES 256
struct gateway_row {
    __u64 stamp;
    __u64 is_resting;
    __u8 owner[OWNER_NAME_BYTES]; /* ends with zeros; all zeros: nobody */
};
struct owner_row {
    __u64 stamp;
    __u64 contact_ns; /* CLOCK_BOOTTIME; 0: never */
};
_Static_assert(sizeof(struct gateway_row) == 272, "gateway_row");
_Static_assert(sizeof(struct owner_row) == 16, "owner_row");

/* A packet of a member whose block this was not: the agent tells it (rule Q3). */
struct refused_key {
    __be32 floating_ip;
    __u32 block;
    __u32 member;
};
_Static_assert(sizeof(struct refused_key) == 12, "refused_key");

/* Lifetimes and quota by rule set; the row of rule set 0 is the node's settings (rules B3, B4). */
struct limits {
    __u32 tcp_open_s;
    __u32 tcp_new_s;
    __u32 tcp_closing_s;
    __u32 udp_s;
    __u32 udp_new_s;
    __u32 icmp_s;
    __u32 flows_per_pod;
    __u32 _pad;
};
_Static_assert(sizeof(struct limits) == 32, "limits");

/* What an agent sets once. */
struct flow_settings {
    __u64 seed;              /* of where the search for a port starts: another one after a reboot (rule Q4) */
    __u16 ephemeral_first;   /* host order (rule D4) */
    __u16 ephemeral_last;
    __u32 is_direct; /* whether there is a direct path at all (rule F2) */
};
_Static_assert(sizeof(struct flow_settings) == 16, "flow_settings");

/* A flow as it is at egw0, after DNAT (rule B1). ICMP echo: the id is the pod's port, and there is no remote port. */
struct flow_key {
    __be32 pod_ip;
    __be32 remote_ip;
    __be16 pod_port;
    __be16 remote_port;
    __u8 protocol;
    __u8 _pad[3];
};
struct flow {
    __u64 rule_set; /* under which it was judged (rule E1) */
    __u64 last_ns;  /* CLOCK_MONOTONIC, coarse: of the last packet either way */
    __u32 life_s;   /* without a packet, in its present state */
    __u32 pod;      /* the row's number when the flow was made */
    __u32 ifindex;  /* where it came in from */
    __be32 floating_ip;
    __u32 acked;    /* the pod's last ACK, in host order: the only sequence at which a RST is believed (rule B3) */
    __be16 nat_port;
    __u8 state;
    __u8 is_ended; /* another verdict: drops both ways (rule E2) */
    /* What passed, for the agent to add up (rule B6). The value is one cache line, which last_ns dirties anyway. */
    __u32 out_packets; /* from the pod; they may wrap */
    __u32 in_packets;
    __u64 out_bytes;
    __u64 in_bytes;
    __u64 out_until_ns;  /* CLOCK_MONOTONIC, coarse: so long netfilter need not be asked of each packet (rule F2) */
    __u64 back_until_ns; /* the same of replies */
    __u32 back_ifindex;  /* the pod's device, and the MACs of what comes to the pod by it */
    __u8 pod_mac[MAC_BYTES];
    __u8 node_mac[MAC_BYTES];
};
#define ENDED_RESET 2 /* in is_ended: the pod was told, so what the remote sends its stack answers with a reset */
#define APPROVED_NS 500000000ULL
_Static_assert(sizeof(struct flow_key) == 16, "flow_key");
_Static_assert(sizeof(struct flow) == 96, "flow");

/* In the lowest byte of skb->hash, above it 24 bits of a keyed hash of the flow: our program at the pod's device, or at the
 * uplink, has seen the packet as it still is (rule F1). */
#define SEEN_FROM_POD 0x5a
#define SEEN_FOR_POD 0xa5

/* The mirror of a flow, for replies: the reservation of its NAT port. It names the flow (rule Q4). */
struct mirror_key {
    __be32 remote_ip;
    __be32 floating_ip;
    __be16 remote_port;
    __be16 nat_port;
    __u8 protocol;
    __u8 _pad[3];
};
struct mirror {
    __u64 made_ns;
    __be32 pod_ip;
    __be16 pod_port;
    __u16 _pad;
};
_Static_assert(sizeof(struct mirror_key) == 16, "mirror_key");
_Static_assert(sizeof(struct mirror) == 16, "mirror");

/* {floating IP, block, remote} -> a bit for each port that is probably taken, or was until lately. Block FULL_BLOCKS + i:
 * a bit for each of the 64 blocks from 64 * i on that has no clear bit. NO_BLOCK: when a search of the ports themselves
 * last found nothing, in ns, and in the lowest ten bits the block that the next one begins with. Only hints: what decides is the mirror (rule Q4). */
struct hint_key {
    __be32 remote_ip;
    __be32 floating_ip;
    __be16 remote_port;
    __u16 block;
    __u8 protocol;
    __u8 _pad[3];
};
#define FULL_BLOCKS 0x8000
#define NO_BLOCK 0xffff
_Static_assert(sizeof(struct hint_key) == 16, "hint_key");

/* Flows of a pod: what the program made, and ended. What the LRUs evict and the agent sweeps is in pod_spares. */
struct pod_key {
    __be32 pod_ip;
    __u32 pod;
};
struct pod_load {
    __u64 made;
    __u64 ended;
};
_Static_assert(sizeof(struct pod_key) == 8, "pod_key");
_Static_assert(sizeof(struct pod_load) == 16, "pod_load");

/* Of a policy and a floating IP, for the next agent; no program reads it (rule B6). `total` is what it has said, `closed`
 * what of that is of flows that are no more in the table. */
struct traffic_key {
    __u64 policy; /* a hash of its name; 0: of no policy that is known */
    __be32 floating_ip;
    __u32 _pad;
};
struct traffic {
    __u64 total[5]; /* packets and bytes of the pods, packets and bytes back, flows */
    __s64 closed[5];
};
_Static_assert(sizeof(struct traffic_key) == 16, "traffic_key");
_Static_assert(sizeof(struct traffic) == 80, "traffic");

/* {destination, uplink} -> the next hop, for half a second (rule H1). */
struct next_hop_key {
    __be32 destination;
    __u32 ifindex;
};
struct next_hop {
    __u64 until_ns; /* CLOCK_MONOTONIC */
    __u8 mac[MAC_BYTES];
    __u8 own_mac[MAC_BYTES];
    __u16 mtu;
    __u16 _pad;
};
#define NEXT_HOP_NS 500000000ULL
_Static_assert(sizeof(struct next_hop_key) == 8, "next_hop_key");
_Static_assert(sizeof(struct next_hop) == 24, "next_hop");

/* A node's address -> how outer packets of the tunnel reach it, for half a second (rules X3, X4). */
struct tunnel_hop {
    __u64 until_ns; /* CLOCK_MONOTONIC */
    __u32 mtu;      /* of what is in the tunnel */
    __u32 ifindex;  /* the uplink; 0: only the stack knows the way */
    __be32 source;  /* this node's own address there */
    __u32 is_due;   /* the next packet goes by the stack, so that it looks after the neighbour */
    __u8 mac[MAC_BYTES];
    __u8 own_mac[MAC_BYTES];
    __u32 _pad;
};
_Static_assert(sizeof(struct tunnel_hop) == 40, "tunnel_hop");

/* First fragments, so that the later ones follow. `stage` tells the steps of one node apart. */
struct fragment_key {
    __be32 source;
    __be32 destination;
    __be16 id;
    __u8 protocol;
    __u8 stage;
};
#define STAGE_STEER 1   /* value: the floating IP */
#define STAGE_OUT 2     /* value: the member */
#define STAGE_BACK 3    /* value: the block */
#define STAGE_DELIVER 4 /* value: the pod */
struct fragment {
    __u64 until_ns;
    __u32 value;
    __u32 _pad;
};
_Static_assert(sizeof(struct fragment_key) == 12, "fragment_key");
_Static_assert(sizeof(struct fragment) == 16, "fragment");

/* Questions over the data path, whether a segment lets frames of a floating IP pass (rule X1): UDP between the floating IP
 * and an address outside that is nobody's (RFC 2544). Those that arrive go up to the agent, which has this address. */
struct probe_target {
    __be32 address; /* 0: none are asked */
    __be16 port;
    __u16 _pad;
};
#define PROBE_OUTSIDE 0xc6120001 /* 198.18.0.1, host order */
_Static_assert(sizeof(struct probe_target) == 8, "probe_target");

/* Whom an error has been told, for its rate: when the next one is due (CLOCK_MONOTONIC), which may be past. */
struct error_key {
    __u32 side;
    __u32 who;
};
#define SIDE_POD 1     /* a pod of this node; who: its address */
#define SIDE_MEMBER 2  /* back to a member, for a pod of it; who: the member's number, 0 for this node itself */
#define SIDE_OUTSIDE 3 /* back to the outside; who: 0, all of it together */
#define SIDE_REMOTE 4  /* to the outside as a pod's own error, by the holder; who: 0 */
_Static_assert(sizeof(struct error_key) == 8, "error_key");

/* pod_ingress writes it into skb->priority of a live flow's packet, and netfilter reads it before it asks connection
 * tracking for the direction (rule D1). */
#define FLOW_PRIORITY 0x45470001
#define ENDED_PRIORITY 0x45470002     /* of an ended TCP flow: netfilter answers with a reset (rule E2) */
#define CANDIDATE_PRIORITY 0x45470003 /* of no flow yet: with a mark and none of these, somebody else has marked it (W6) */

/* How often rows have changed that verdicts are made of (rule F5): two counters, each with one who raises it. */
#define GENERATION_AGENT 0
#define GENERATION_PROGRAM 1

struct drop_key {
    __be32 floating_ip; /* 0 where none is known yet */
    __u32 reason;
};
struct tally {
    __u64 packets;
    __u64 bytes;
};
_Static_assert(sizeof(struct drop_key) == 8, "drop_key");
_Static_assert(sizeof(struct tally) == 16, "tally");

enum counter {
    COUNT_MARKED,
    COUNT_STEERED,
    COUNT_FORWARDED,
    COUNT_RETURNED,
    COUNT_REVERSED,
    COUNT_ARP_ANSWERED,
    COUNT_ECHO_ANSWERED,
    COUNT_WAY_LEARNED,
    COUNT_FLOWS_MADE,
    COUNT_FLOWS_ENDED,
    COUNT_OPEN_FLOWS_FULL,
    COUNT_DIRECT_OUT,
    COUNT_DIRECT_BACK,
    COUNT_ERRORS_MADE,
    COUNT_WAITED,
    COUNTERS,
};

/* In skb->cb[0], beside our mark, of a packet that a program of ours has just judged and sends by bpf_redirect: the fence
 * follows in the same breath and need not judge it again. What goes to the kernel's neighbour code, where it may wait, has
 * the mark alone. */
#define JUST_JUDGED 0x45470003
